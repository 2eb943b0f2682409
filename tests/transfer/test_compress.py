"""Compression through its commands: steps, rejections, rollbacks, kills and wrong inputs, on a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pretrain import train
from prune import write
from prune.data.dataset import open_dataset
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.runs.files import InputError
from transfer import compress, rollback
from transfer.compression import compression_loop, journal, recovery_training

pytestmark = pytest.mark.slow

COLOURS = {"blue": (40, 40, 190), "green": (40, 190, 40), "red": (190, 40, 40)}
COUNTS = {"blue": 16, "green": 48, "red": 48}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A beton with a rare class, blue, a preservation set of every fourth image, and a network trained on it."""
    root = tmp_path_factory.mktemp("compress")
    draw = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / "images" / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(COLOURS[name] + draw.normal(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{i:02d}.png")
    write.run(write.Config(images=str(root / "images"), out=root / "pets.train.beton", workers=1))
    manifest = open_dataset(root / "pets.train.beton").manifest
    PrunedIndex.from_rows(manifest, np.arange(0, len(manifest), 4), provenance=[]).save(root / "set.index.npz")
    config = train.Config(root / "pets.train.beton", root / "model", "demo", epochs=6, batch_size=16, resolution=16)
    train.run(replace(config, loader="torch", workers=1, threads=1))
    return root


def config(case, out, **more):
    values = {
        "model": case / "model", "train": case / "pets.train.beton", "preserve": case / "set.index.npz", "out": out,
        "margin": 100.0, "class_margin": 100.0, "kinds": ("channels",), "size": 0.4, "ratio": 0.25, "least": 0.1,
        "batch_size": 16, "importance_images": 24, "latency": "none", "threads": 1, "workers": 1,
        "recovery_epochs": 1.0,
    }  # fmt: skip
    return compress.Config(**{**values, **more})


@pytest.fixture(scope="module")
def done(case):
    """A finished run of a few accepted steps."""
    compress.run(config(case, case / "done"))
    return case / "done"


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name.startswith("model.")}


def test_every_accepted_step_is_a_complete_model_and_smaller_than_the_one_before(case, done):
    lines = journal.read_journal(done)
    assert [line["verdict"] for line in lines] == ["accepted"] * len(lines)
    assert len(lines) >= 3
    assert lines[-1]["params"] <= 0.4 * lines[0]["params"]
    for before, line in zip(lines, lines[1:]):
        model, spec = networks.load_model(journal.step_directory(done, line["step"]))
        assert sum(p.numel() for p in model.parameters()) == line["params"] < before["params"]
        assert line["macs"] < before["macs"]
        assert line["bytes"] == (journal.step_directory(done, line["step"]) / "model.safetensors").stat().st_size
        assert spec["widths"]
    assert files(done) == files(journal.step_directory(done, lines[-1]["step"]))
    result = json.loads((done / "result.json").read_text())
    assert (result["task"], result["step"], result["rolled_back"]) == ("compress", lines[-1]["step"], 0)
    assert files(done / "original") == files(case / "model")
    assert not (done / "work").exists()


def test_the_same_command_again_returns_at_once_and_another_is_refused(case, done, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    compress.run(config(case, done))
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"size: 0\.4 -> 0\.5"):
        compress.run(config(case, done, size=0.5))
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before


def test_removing_the_most_important_channels_hurts_and_removing_the_least_important_does_not(case):
    from prune.data.loader import open_loader
    from transfer.compression import channel_pruning, importance
    from transfer.evaluation.image_arrays import normalised_batches, predictor, read_with

    model, spec = networks.load_model(case / "model")
    dataset = open_dataset(case / "pets.train.beton")
    with closing(open_loader(dataset, resolution=16, batch_size=16, workers=1, loader="torch")) as loader:
        images, labels = read_with(loader, np.arange(len(dataset)), 1.0)
    found = channel_pruning.groups(model, 16)
    values = importance.taylor(model, found, normalised_batches(images, labels, spec))

    def accuracy(network, described):
        return (predictor(network, described, torch.device("cpu"))(images).argmax(1) == labels).mean()

    def without_a_quarter(ranked):
        stays = channel_pruning.most_important(found, ranked, 0.25)
        return accuracy(*channel_pruning.prune_channels(model, spec, found, stays))

    least, most = without_a_quarter(values), without_a_quarter([-v for v in values])
    assert least >= accuracy(model, spec) - 0.15
    assert most <= least - 0.25


def test_the_journal_says_why_each_channel_went(done):
    lines = journal.read_journal(done)
    for line in lines[1:]:
        removed = line["what"]["removed"]
        assert {one["layer"]: len(one["channels"]) for one in removed} == line["what"]["layers"]
        for one in removed:
            count = len(one["channels"])
            assert one["rank"] == list(range(one["of"], one["of"] - count, -1))  # the least important ones
            assert one["importance"] == sorted(one["importance"])
            assert set(one["classes"]) <= set(COUNTS)
            assert set(one["serves"]) <= {None, *COUNTS}
    assert any(one["classes"] for line in lines[1:] for one in line["what"]["removed"])


def spoiler(rare):
    """A step after which no image is predicted as class `rare`, and that changes nothing else."""

    def step(trial, model, spec, scratch, **_):
        with torch.no_grad():
            model.get_classifier().bias[rare] = -100.0
        return model, spec, {"ratio": trial.ratio, "layers": {"made up": 1}}

    return step


def test_a_step_that_ruins_a_rare_class_is_rejected_while_the_mean_rises(case, tmp_path, monkeypatch, capsys):
    # The original predicts blue for many images of frequent classes, so that without blue the mean rises.
    model, spec = networks.load_model(case / "model")
    with torch.no_grad():
        model.get_classifier().bias[0] += 4.0
    networks.save_model(tmp_path / "model", model, spec)
    monkeypatch.setattr(compression_loop, "shrink", spoiler(0))
    out = tmp_path / "run"
    compress.run(config(case, out, model=tmp_path / "model", margin=1.0, class_margin=30.0, steps=2))
    # Said before any step: 28 images of which blue has 4, at 25 points each, which 30 allow.
    said = capsys.readouterr().err
    assert said.index("--margin 1 cannot be tested by a preservation set of 28") < said.index("step 1 channels")
    assert "They resolve a margin of 3.58; for 1, 100 images are needed" in said
    assert "--class-margin" not in said
    first, *tried = journal.read_journal(out)
    assert [line["verdict"] for line in tried] == ["rolled-back"] * 2
    for line in tried:
        assert line["accuracy"] > first["accuracy"] + 0.1
        assert line["per_class"]["blue"] == 0
        assert line["reason"].startswith("blue: ")
        assert line["nearest"] == "blue"
    assert [line["what"]["ratio"] for line in tried] == [0.25, 0.125]  # half the step
    assert files(out) == files(tmp_path / "model")
    assert not (out / "steps").exists()
    # Without a margin for classes the same step is accepted: that margin rejected it.
    compress.run(config(case, tmp_path / "bold", model=tmp_path / "model", margin=1.0, class_margin=None, steps=1))
    assert journal.read_journal(tmp_path / "bold")[1]["verdict"] == "accepted"


def test_a_rejection_that_may_be_due_to_chance_is_reported_and_slack_accepts_it(case, tmp_path, monkeypatch, capsys):
    model, spec = networks.load_model(case / "model")
    with torch.no_grad():
        model.get_classifier().bias[0] += 4.0
    networks.save_model(tmp_path / "model", model, spec)
    monkeypatch.setattr(compression_loop, "shrink", spoiler(0))
    # All four blue images lost: 100 points, of which 90 are allowed, with a standard error of 25.5.
    given = {"model": tmp_path / "model", "margin": None, "class_margin": 90.0, "steps": 1}
    compress.run(config(case, tmp_path / "strict", **given))
    said = capsys.readouterr().err
    assert "blue: 100.0 ± 25.5 points lost, 90 are allowed" in said
    assert "1 of 1 rejections are within one standard error" in said
    assert "was trained on the preservation set too" in said
    assert journal.read_journal(tmp_path / "strict")[1]["beyond"] == pytest.approx(10 / 25.46, abs=1e-3)
    networks.save_model(tmp_path / "model", model, {**spec, "index": "of the others"})
    compress.run(config(case, tmp_path / "slack", **given, slack=1.0))
    assert journal.read_journal(tmp_path / "slack")[1]["verdict"] == "accepted"
    assert "trained on the preservation set" not in capsys.readouterr().err


def test_rolling_back_restores_identical_files_in_both_directions(done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    last = journal.read_journal(run)[-1]["step"]
    for to in (1, 0, last):
        rollback.run(rollback.Config(run, to))
        assert files(run) == files(journal.step_directory(done, to))
        assert journal.current_step(journal.read_journal(run)) == to
        assert json.loads((run / "result.json").read_text())["final"]["step"] == to
    wanted = load_file(done / "original" / "model.safetensors")
    found = load_file(run / "original" / "model.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_rolling_back_names_what_is_wrong_and_changes_nothing(done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    with pytest.raises(InputError, match=r"--to 9: the accepted steps of .* are 0, 1, 2"):
        rollback.run(rollback.Config(run, 9))
    with pytest.raises(InputError, match="not a run of `transfer compress`"):
        rollback.run(rollback.Config(tmp_path, 0))
    begun = tmp_path / "begun"  # killed before its first step
    begun.mkdir()
    shutil.copy(done / "config.json", begun / "config.json")
    with pytest.raises(InputError, match=r"no step yet: .* the same command resumes it"):
        rollback.run(rollback.Config(begun, 0))
    place = run / "steps/01/model.safetensors"
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    before = files(run), journal.read_journal(run)
    with pytest.raises(InputError, match=r"steps/01/model\.safetensors: damaged or replaced"):
        rollback.run(rollback.Config(run, 1))
    assert (files(run), journal.read_journal(run)) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pretrain import checkpoint
from prune.runs.command_line import run_step
save, count = checkpoint.save, [0]
def fatal(*args, **values):
    save(*args, **values)
    count[0] += 1
    if count[0] == 9:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = fatal
sys.exit(run_step("transfer compress", "transfer.compress", sys.argv[1:]))
"""


def test_a_killed_run_resumes_to_the_same_weights_and_says_from_where(case, done, tmp_path, capsys):
    out = tmp_path / "run"
    asked = config(case, out)
    flags = [f"--{k.replace('_', '-')}={getattr(asked, k)}" for k in (
        "model", "train", "preserve", "out", "margin", "class_margin", "kinds", "size", "ratio", "least", "batch_size",
        "importance_images", "latency", "threads", "workers", "recovery_epochs") if k != "kinds"]  # fmt: skip
    flags += ["--kinds", "channels", "--checkpoint-minutes", "0"]
    here = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *flags], cwd=here, env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    # 84 images outside the set, 16 a step: five steps and the epoch's end make six checkpoints; killed in step 2.
    assert len(journal.read_journal(out)) == 2
    assert list((out / "work/2/checkpoint").iterdir())
    capsys.readouterr()
    compress.run(config(case, out, checkpoint_minutes=0.0))
    first, last = journal.read_journal(out)[:2]
    assert (
        f"resuming after step 1 with the model of step 1 ({last['params'] / first['params']:.3f} of the parameters); "
        "next is step 2 channels 0.25, whose training has begun"
    ) in capsys.readouterr().err
    lines, wanted = journal.read_journal(out), journal.read_journal(done)
    assert [line["files"] for line in lines] == [line["files"] for line in wanted]
    assert files(out) == files(done)


SIGNALLED = """
import os, signal, sys
from pretrain import checkpoint
from transfer.__main__ import main
save = checkpoint.save
def signalled(*args, **values):
    save(*args, **values)
    os.kill(os.getpid(), signal.SIGUSR1)
checkpoint.save = signalled
sys.exit(main(["compress", *sys.argv[1:]]))
"""


def test_a_signal_ends_a_recovery_at_a_checkpoint_with_code_85(case, done, tmp_path):
    asked = config(case, tmp_path / "run", checkpoint_minutes=0.0)
    unset = {name for name, value in vars(asked).items() if value is None or value is False or value == ()}
    names = [name for name in vars(asked) if name != "kinds" and name not in unset]
    flags = [f"--{name.replace('_', '-')}={getattr(asked, name)}" for name in names] + ["--kinds", "channels"]
    here = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *flags], cwd=here, env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 85, ended.stderr
    assert "checkpoint of step 2 written; the same command resumes" in ended.stderr
    assert (tmp_path / "run/work/1/checkpoint/000000002").is_dir()
    compress.run(asked)
    assert files(tmp_path / "run") == files(done)


def test_a_signal_between_steps_stops_a_run_without_training(case, tmp_path, monkeypatch, capsys):
    from pretrain import preemption

    asked = config(case, tmp_path / "run", recovery_epochs=0.0, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "stop_requested", lambda: True)
        with pytest.raises(preemption.Requeue):
            compress.run(asked)
    assert len(journal.read_journal(tmp_path / "run")) == 2
    assert "stopping on a signal after step 1; the same command resumes" in capsys.readouterr().err
    compress.run(asked)
    said = capsys.readouterr().err
    assert "with the model of step 1 (" in said
    assert "next is step 2 channels 0.25\n" in said
    assert len(journal.read_journal(tmp_path / "run")) == 3


def test_several_processes_are_refused_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started with 2 processes"):
        compress.run(config(case, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_second_command_on_a_run_at_work_is_refused(case, done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    (run / "DONE").unlink()
    holder = "import sys, time; from pathlib import Path; from prune.runs.run_lock import directory_lock\n"
    holder += "with directory_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    here = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", holder, str(run)], cwd=here, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        for step in (lambda: rollback.run(rollback.Config(run, 1)), lambda: compress.run(config(case, run))):
            with pytest.raises(InputError, match="run: another run is at work there"):
                step()
    finally:
        process.kill()
        process.wait()
    assert journal.read_journal(run) == journal.read_journal(done)
    rollback.run(rollback.Config(run, 1))
    assert journal.current_step(journal.read_journal(run)) == 1


def test_a_model_is_never_where_the_run_writes(case, tmp_path):
    model = tmp_path / "run" / "original"
    model.mkdir(parents=True)
    for name in ("model.safetensors", "model.json"):  # without config.json, as a step of a compression is
        shutil.copyfile(case / "model" / name, model / name)
    (tmp_path / "link").symlink_to(model)
    for out in (model, tmp_path / "link", model / "small"):
        with pytest.raises(InputError, match="lies in the directory of --model"):
            compress.run(config(case, out, model=model))
    with pytest.raises(InputError, match="keeps its own steps"):
        compress.run(config(case, tmp_path / "run", model=model))
    assert files(model) == files(case / "model")
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == ["model.json", "model.safetensors", "original"]


def test_a_step_missing_in_the_journal_is_taken_from_its_directory(case, done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    (run / "DONE").unlink()
    lines = journal.read_journal(run)
    journal.write_journal(run, lines[:-1])
    journal.make_current(run, journal.step_directory(run, 1))
    compress.run(config(case, run))
    assert journal.read_journal(run) == lines
    assert files(run) == files(done)
    assert (run / "DONE").exists()


def test_a_run_resumes_only_from_steps_that_are_complete(case, done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    (run / "DONE").unlink()
    journal.write_journal(run, journal.read_journal(run)[:2])
    shutil.rmtree(run / "steps/02")
    shutil.copyfile(run / "original/model.safetensors", run / "steps/01/model.safetensors")
    with pytest.raises(InputError, match=r"steps/01/model\.safetensors: damaged or replaced"):
        compress.run(config(case, run))


def test_rewinding_leaves_zeros_in_a_network_of_the_same_shape(case, tmp_path):
    compress.run(config(case, tmp_path / "run", kinds=("rewind",), ratio=0.5, size=0.5))
    first, *_, last = journal.read_journal(tmp_path / "run")
    assert last["kind"] == "rewind"
    assert last["params"] <= 0.505 * first["params"]
    weights = load_file(tmp_path / "run" / "model.safetensors")
    dense = load_file(case / "model" / "model.safetensors")
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in dense.items()}
    assert (weights["layer4.0.conv1.weight"] == 0).float().mean() > 0.2


@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_controls_remove_as_many_channels_as_the_data_aware_criterion(case, done, tmp_path, kind):
    compress.run(config(case, tmp_path / "run", importance=kind, recovery_epochs=0.0, steps=1))
    line, wanted = journal.read_journal(tmp_path / "run")[1], journal.read_journal(done)[1]
    assert (line["params"], line["macs"]) == (wanted["params"], wanted["macs"])
    assert line["files"] != wanted["files"]


def test_preservation_images_are_not_trained_on(case, tmp_path, monkeypatch):
    seen = []

    monkeypatch.setattr(
        recovery_training, "augmented", lambda loader, recipe, seed: lambda rows, e, r: _noted(seen, loader, rows)
    )
    compress.run(config(case, tmp_path / "run", steps=1))
    preserved = set(range(0, sum(COUNTS.values()), 4))
    assert set(seen)
    assert not set(seen) & preserved


def _noted(seen, loader, rows):
    seen += rows.tolist()
    yield from loader.epoch(rows)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "images"}, "not a trained model"),
        ({"preserve": "model"}, "model"),
        ({"size": 0.0}, "--size 0.0"),
        ({"ratio": 1.0}, "--ratio 1.0"),
        ({"margin": -1.0}, "--margin -1.0"),
        ({"distil": 2.0}, "--distil 2.0"),
        ({"kinds": ("int8", "channels")}, "int8 comes last"),
        ({"kinds": ("channels", "rewind")}, "rewind removes single weights"),
        ({"recipe": "huge"}, "--recipe: 'huge'"),
        ({"threads": -1}, "--threads -1"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_mistakes_get_one_line_and_nothing_is_written(case, tmp_path, more, said):
    more = {k: case / v if k in ("model", "preserve") else v for k, v in more.items()}
    with pytest.raises(InputError, match=said) as error:
        compress.run(config(case, tmp_path / "run", **more))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_damaged_and_foreign_models_are_refused_in_one_line(case, tmp_path):
    spoilt = shutil.copytree(case / "model", tmp_path / "model")
    data = (spoilt / "model.safetensors").read_bytes()
    (spoilt / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        compress.run(config(case, tmp_path / "run", model=spoilt))
    spec = json.loads((spoilt / "model.json").read_text())
    other = {**spec, "classes": ["x", "y"]}
    networks.save_model(spoilt, networks.build(other), other)
    with pytest.raises(InputError, match="its classes are not those of"):
        compress.run(config(case, tmp_path / "run", model=spoilt))
    assert not (tmp_path / "run").exists()


def test_quantisation_is_a_step_like_any_other(case, tmp_path, capsys):
    out = tmp_path / "run"
    compress.run(config(case, out, kinds=("int8",), latency="onnx"))
    first, line = journal.read_journal(out)
    assert (line["kind"], line["verdict"], line["what"]["mode"]) == ("int8", "accepted", "int8")
    assert line["bytes"] < 0.5 * first["bytes"]
    assert line["latency_ms"] > 0
    is_slower = line["latency_ms"] > 1.1 * first["latency_ms"]
    assert ("times as long as fp32 did here" in capsys.readouterr().err) == is_slower
    assert set(line["files"]) == {"model.safetensors", "model.json", "model.int8.onnx"}
    assert (out / "model.int8.onnx").read_bytes() == (out / "steps/01/model.int8.onnx").read_bytes()
    rollback.run(rollback.Config(out, 0))
    assert not (out / "model.int8.onnx").exists()  # the original was never quantised


def test_int8_that_is_rejected_is_trained_with_the_rounding(case, tmp_path, monkeypatch):
    from transfer.compression import int8_step

    calls = []

    def refuse_first(quantizer, out, images, accepted, most=None):
        quantizer.write(out)
        calls.append(accepted(out))
        return None if len(calls) == 1 else []

    monkeypatch.setattr(int8_step, "quantise_until_accepted", refuse_first)
    compress.run(config(case, tmp_path / "run", kinds=("int8",)))
    _, line = journal.read_journal(tmp_path / "run")
    assert calls == [True, True]
    assert line["what"] == {"mode": "int8", "trained": True, "keep_float": []}
    # The float weights beside the int8 file are those that were trained: a complete model of the original's shape.
    model, _ = networks.load_model(tmp_path / "run")
    before, _ = networks.load_model(case / "model")
    assert model.state_dict().keys() == before.state_dict().keys()
    assert not torch.equal(model.conv1.weight, before.conv1.weight)


VIT = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "classes": list(COUNTS),
    "resolution": 16,
    "mean": networks.MEAN,
    "std": networks.STD,
    "recipe": "tiny-vit",
}


def test_a_vision_transformer_loses_heads_tokens_and_hidden_channels(case, tmp_path):
    torch.manual_seed(0)
    networks.save_model(tmp_path / "vit", networks.build(VIT), VIT)
    compress.run(config(case, tmp_path / "run", model=tmp_path / "vit", kinds=("channels", "inner"), size=0.5))
    lines = journal.read_journal(tmp_path / "run")
    assert lines[-1]["params"] <= 0.5 * lines[0]["params"]
    model, spec = networks.load_model(tmp_path / "run")
    assert {"pos_embed", "blocks.0.attn", "blocks.0.mlp.fc1", "head"} <= spec["widths"].keys()
    assert model.pos_embed.shape[2] < 32
    assert model.blocks[0].attn.head_dim < 16


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rollback --run {case}/images --to 1", "not a run of"),
        (
            "compress --model {case}/images --train {case}/pets.train.beton --preserve {case}/images --out {out}",
            "not a trained",
        ),
        ("preserve --train {case}/pets.train.beton --out {out}/x.index.npz", "choosing images needs a model"),
    ],
)
def test_the_commands_end_with_code_2_and_one_line(case, tmp_path, capsys, command, said):
    from transfer.__main__ import main

    assert main(command.format(case=case, out=tmp_path / "out").split()) == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_recovery_uses_the_recipe_of_the_model_at_a_lower_rate(case):
    from transfer.compression.recovery_training import recovery_recipe

    model, spec = networks.load_model(case / "model")
    # The demo's rate is 0.05 for 32 images: a fifth of it, half of that for 16 images.
    recipe = recovery_recipe(spec, model, None, 2.0, None, 16)
    assert (recipe.lr, recipe.batch, recipe.epochs, recipe.resolution) == (pytest.approx(0.005), 16, 2.0, 16)
    assert recovery_recipe(spec, model, None, 2.0, None, 16).warmup == pytest.approx(0.2)
    # `transfer finetune` names its recipes with a prefix: 0.1 for 64 images.
    assert recovery_recipe({**spec, "recipe": "finetune-medium"}, model, None, 1.0, None, None).lr == pytest.approx(
        0.02
    )
    transformer = recovery_recipe({**VIT, "recipe": "finetune-medium"}, networks.build(VIT), None, 1.0, None, None)
    assert (transformer.optimiser, transformer.lr) == ("adamw", pytest.approx(1e-4))
    assert recovery_recipe(spec, model, None, 1.0, None, 16) != recovery_recipe(spec, model, "tiny", 1.0, None, 16)
    with pytest.raises(InputError, match="trained by 'of my own', which is not a recipe"):
        recovery_recipe({**spec, "recipe": "of my own"}, model, None, 1.0, None, None)
