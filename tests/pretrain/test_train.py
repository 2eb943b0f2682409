"""`pretrain.train.run`, in this process: what it leaves, what it refuses, and that runs do not touch each other."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain import train, training_flops, training_loop, training_run
from pretrain.learner import Learner
from pretrain.plan import adapted, check
from pretrain.recipe import Attack
from pretrain.recipes import RECIPES
from prune.index.manifest import Manifest, manifest_path
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.models.networks import load_model
from prune.runs.files import InputError, read_json, write_json


@pytest.fixture
def settings(beton, tmp_path) -> train.Config:
    return train.Config(beton, tmp_path / "run", "tiny", epochs=1, loader="torch", workers=1, threads=1)


@pytest.fixture
def index(beton, tmp_path):
    """The first 100 images, as an index."""
    manifest = Manifest.load(manifest_path(beton))
    path = tmp_path / "part.index.npz"
    PrunedIndex.from_rows(manifest, np.arange(100), provenance=[{"step": "test"}]).save(path)
    return path


def lines(config: train.Config) -> list[dict]:
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def weights(config: train.Config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def test_a_run_leaves_a_model_metrics_and_provenance_and_the_same_command_returns_at_once(settings, val_beton):
    config = replace(settings, val=val_beton, epochs=2)
    before = (torch.get_num_threads(), torch.random.get_rng_state().clone(), threading.active_count())
    train.run(config)
    assert before[0] == torch.get_num_threads()
    assert torch.equal(before[1], torch.random.get_rng_state())
    assert before[2] == threading.active_count()
    assert sorted(p.name for p in config.out.iterdir()) == [
        "DONE",
        "config.json",
        "metrics.jsonl",
        "model.json",
        "model.safetensors",
        "provenance.json",
    ]
    found = lines(config)
    assert [line["epoch"] for line in found] == [1, 2]
    assert [line["samples"] for line in found] == [256, 256]  # 300 images are four whole batches of 64
    assert 0 <= found[1]["val_top1"] <= 1
    provenance = read_json(config.out / "provenance.json")
    assert (provenance["samples"], provenance["steps"], provenance["rows"]) == (512, 8, 300)
    assert provenance["seconds"] == pytest.approx(sum(line["seconds"] for line in found), abs=0.01)
    assert provenance["source"] == Manifest.load(manifest_path(config.beton)).fingerprint
    _, spec = load_model(config.out)
    assert (spec["classes"], spec["resolution"], spec["index"]) == (["c0", "c1", "c2", "c3"], 32, None)
    stamp = (config.out / "model.safetensors").stat().st_mtime_ns
    train.run(config)
    assert (config.out / "model.safetensors").stat().st_mtime_ns == stamp


def test_flops_are_counted_forwards_and_backwards():
    # A convolution of stride 2 at 32 px gives 16 * 16 places * 16 channels * 27 multiply-adds, 2 FLOPs each: 221,184
    # forwards and as much for the gradient of the weights; images need none. The linear layer behind it needs both
    # gradients: 3 * 2 * 4096 * 4.
    convolution = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    network = nn.Sequential(convolution, nn.Flatten(), nn.Linear(4096, 4, bias=False))
    whole = 2 * 221_184 + 3 * 2 * 4096 * 4
    assert training_flops.per_image(network, RECIPES["tiny"], 32) == whole
    robust = replace(RECIPES["tiny"], attack=Attack("pgd", steps=3))
    assert training_flops.per_image(network, robust, 32) == pytest.approx(whole * 3)  # 1 + 3 * 2/3
    free = replace(RECIPES["tiny"], attack=Attack("free", steps=4))
    assert training_flops.per_image(network, free, 32) == pytest.approx(whole * 4)
    assert not any(p.is_meta or p.grad is not None for p in network.parameters())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(settings, tmp_path):
    configs = [replace(settings, out=tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for config in configs:
        train.run(config)
    assert weights(configs[0]) == weights(configs[1]) != weights(configs[2])


def test_an_index_is_trained_on_and_named_in_the_model(settings, index):
    config = replace(settings, index=index, dynamics=True, epochs=2)
    train.run(config)
    assert [line["samples"] for line in lines(config)] == [64, 64]
    arrays, meta = open_arrays(config.out / "dynamics.npz", "winnow-dynamics/1")
    assert arrays["position"].tolist() == list(range(100))
    assert arrays["label"].tolist() == [row % 4 for row in range(100)]
    assert {name: arrays[name].dtype.str for name in ("probability", "margin", "correct")} == {
        "probability": "<f4",
        "margin": "<f4",
        "correct": "|u1",
    }
    assert np.isnan(arrays["probability"]).sum(axis=1).tolist() == [36, 36]  # the images that wait for another epoch
    assert ((arrays["correct"] == 2) == np.isnan(arrays["margin"])).all()
    assert len(meta["classes"]) == 4
    assert load_model(config.out)[1]["index"] == PrunedIndex.load(index).fingerprint


def test_folds_leave_out_each_image_once_and_the_model_says_which(settings, index):
    everything = np.arange(len(check(settings).source))
    parts = [check(replace(settings, fold=f"{k}/3")).rows for k in (1, 2, 3)]
    left_out = [np.setdiff1d(everything, rows) for rows in parts]
    assert sorted(np.concatenate(left_out).tolist()) == everything.tolist()
    assert min(map(len, left_out)) > 0
    part = check(replace(settings, fold="1/3", index=index)).rows
    assert part.tolist() == [row for row in range(100) if row not in left_out[0]]
    with pytest.raises(InputError, match="--fold 4/3: give K/N"):
        check(replace(settings, fold="4/3"))
    config = replace(settings, fold="2/3", steps=1, epochs=None)
    train.run(config)
    assert load_model(config.out)[1]["fold"] == "2/3"
    with pytest.raises(InputError, match="fold: '2/3' -> None"):
        train.run(replace(config, fold=None))


def test_a_block_order_trains_on_every_image_and_is_part_of_what_identifies_a_run(settings):
    config = replace(settings, order="block", batch_size=50, dynamics=True)
    train.run(config)
    arrays, _ = open_arrays(config.out / "dynamics.npz", "winnow-dynamics/1")
    assert not np.isnan(arrays["probability"]).any()  # 300 images, 6 batches
    with pytest.raises(InputError, match="order: 'block' -> 'random'"):
        train.run(replace(config, order="random"))


def test_another_config_in_the_same_directory_is_refused_by_name(settings):
    train.run(settings)
    with pytest.raises(InputError, match="seed: 0 -> 5"):
        train.run(replace(settings, seed=5))


@pytest.mark.parametrize(("budget", "steps"), [({"steps": 6}, 6), ({"epochs": 0.5}, 2), ({"seconds": 0.001}, 1)])
def test_a_budget_ends_the_run_inside_an_epoch(settings, budget, steps):
    config = replace(settings, **{"epochs": None, **budget})
    train.run(config)
    found = lines(config)
    assert found[-1]["step"] == steps
    assert sum(line["samples"] for line in found) == 64 * steps
    assert len(found) == -(-steps // 4)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_budget_that_ends_inside_an_epoch_leaves_no_thread_of_the_ffcv_loader(settings):
    config = replace(settings, epochs=None, steps=1, loader="ffcv")  # three batches stand ready, and nobody takes them
    before = threading.active_count()
    train.run(config)
    assert lines(config)[0]["samples"] == 64
    assert threading.active_count() == before


def test_infobatch_leaves_images_out_and_the_last_eighth_sees_all(settings):
    config = replace(settings, infobatch=0.8, epochs=8)
    train.run(config)
    samples = [line["samples"] for line in lines(config)]
    assert samples[0] == 256
    assert min(samples[1:7]) < 256
    assert samples[7] == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"attack": Attack("pgd", steps=2)},
        {"attack": Attack("free", steps=2, ramp=0.5), "clip": 1.0},
        {"attack": Attack("fast", "l2", 0.5, ramp=0.5)},
        {"ema": 0.9, "optimiser": "adamw", "lr": 1e-3, "mixup": 0.2, "cutmix": 1.0, "clip": 1.0},
        {"resolution": 48, "start_resolution": 32, "grow": (0.0, 0.5), "crop": "resized", "evaluation": 40},
    ],
)
def test_every_option_of_a_recipe_trains_to_a_finite_loss(settings, monkeypatch, changes, val_beton):
    monkeypatch.setitem(RECIPES, "changed", replace(RECIPES["tiny"], **changes))
    config = replace(settings, recipe="changed", epochs=2, val=val_beton)
    train.run(config)
    assert all(np.isfinite(line["loss"]) and np.isfinite(line["val_loss"]) for line in lines(config))
    if "start_resolution" in changes:
        assert [line["resolution"] for line in lines(config)] == [32, 48]


@pytest.mark.slow
def test_simsiam_learns_without_labels_and_leaves_a_plain_model(settings, monkeypatch, val_beton):
    monkeypatch.setitem(RECIPES, "alone", replace(RECIPES["tiny"], method="simsiam", crop="resized", lr=0.05))
    config = replace(settings, recipe="alone", epochs=2, val=val_beton)
    train.run(config)
    network, spec = load_model(config.out)
    assert spec["arch"] == "resnet18"
    assert not any("projector" in name for name in network.state_dict())
    assert all(np.isfinite(line["val_loss"]) for line in lines(config))


def test_images_grow_a_batch_smaller_than_the_recipes_scales_the_rate(settings):
    assert adapted("tiny", batch_size=32).lr == pytest.approx(RECIPES["tiny"].lr / 2)
    wide = adapted("rn50-16ep", resolution=96)
    assert (wide.resolution, wide.start_resolution, wide.evaluation) == (96, 80, 128)  # 160/192 and 256/192 of 96
    assert adapted("tiny", adversarial="pgd").attack.kind == "pgd"


@pytest.mark.slow
def test_a_sample_smaller_than_a_batch_still_trains(settings):
    config = replace(settings, sample=0.1, epochs=2)
    train.run(config)
    assert [line["samples"] for line in lines(config)] == [30, 30]


@pytest.mark.slow
def test_warm_start_takes_the_weights_and_scratch_does_not(settings, tmp_path):
    train.run(replace(settings, epochs=4))
    warm = replace(settings, out=tmp_path / "warm", init=settings.out, steps=1, epochs=None)
    cold = replace(settings, out=tmp_path / "cold", steps=1, epochs=None)
    train.run(warm)
    train.run(cold)
    assert lines(warm)[0]["loss"] < lines(cold)[0]["loss"]


def changed_model(source, out, **changes):
    """A copy of a model directory with other entries in model.json."""
    shutil.copytree(source, out)
    spec = {**read_json(out / "model.json"), **changes}
    write_json(out / "model.json", spec)
    return out


@pytest.mark.slow
def test_a_head_of_other_classes_is_drawn_anew_even_when_there_are_as_many(settings, tmp_path, capsys):
    train.run(settings)
    classes = read_json(settings.out / "model.json")["classes"]
    for name, given, new in (("same", classes, False), ("other", [f"{c} seen" for c in classes], True)):
        start = changed_model(settings.out, tmp_path / f"{name}-model", classes=given)
        capsys.readouterr()
        train.run(replace(settings, out=tmp_path / name, init=start, steps=1, epochs=None))
        assert ("no weights for fc.bias, fc.weight" in capsys.readouterr().err) == new


def test_weights_of_another_width_are_refused_and_those_of_a_compressed_model(settings, tmp_path):
    train.run(settings)
    for name, changes, words in (
        ("narrow", {"kwargs": {"channels": [8, 8, 8, 8]}}, r"its channels is \[8, 8, 8, 8\]"),
        ("pruned", {"widths": {"conv1": [8, 3]}}, "is a compressed model"),
    ):
        config = replace(settings, out=tmp_path / "out", init=changed_model(settings.out, tmp_path / name, **changes))
        with pytest.raises(InputError, match=words):
            train.run(config)
    (tmp_path / "list").mkdir()
    write_json(tmp_path / "list/model.json", [])
    with pytest.raises(InputError, match="does not describe a model"):
        train.run(replace(settings, out=tmp_path / "out", init=tmp_path / "list"))
    write_json(tmp_path / "list/model.json", read_json(settings.out / "model.json"))
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        train.run(replace(settings, out=tmp_path / "out", init=tmp_path / "list"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_ran_out_of_memory_resumes_with_smaller_micro_batches(settings, monkeypatch, capsys):
    config = replace(settings, checkpoint_minutes=0.0)
    step, sizes = Learner.step, []

    def too_large(self, *values, **named):
        sizes.append(named["micro_batch"])
        if named["number"] == 2 and named["micro_batch"] > 32:
            raise torch.OutOfMemoryError
        step(self, *values, **named)

    monkeypatch.setattr(Learner, "step", too_large)
    with pytest.raises(InputError, match="out of memory with 64 images in one forward pass: try --micro-batch 32"):
        train.run(config)
    train.run(replace(config, micro_batch=32))
    assert sizes == [64, 64, 64, 32, 32]
    assert "resuming from step 2" in capsys.readouterr().err
    assert lines(config)[-1]["step"] == 4


def test_a_validation_loss_that_is_not_finite_leaves_no_model(settings, val_beton, monkeypatch):
    monkeypatch.setattr(training_run.validation, "evaluate", lambda *_: {"top1": 0.25, "loss": float("nan")})
    config = replace(settings, val=val_beton)
    with pytest.raises(InputError, match="the validation loss after epoch 1 is not finite"):
        train.run(config)
    assert not (config.out / "model.safetensors").exists()


def test_images_too_small_for_right_gradients_are_refused_in_bf16_on_the_cpu(settings):
    # Stem and stages of `tiny` halve 8 px to 4, 2 and 1; the last stage's stride then meets one pixel.
    with pytest.raises(InputError, match="images of 8 px are too small for resnet18 in bf16"):
        train.run(replace(settings, resolution=8, precision="bf16"))
    assert not settings.out.exists()
    train.run(replace(settings, resolution=8, precision="fp32", steps=1, epochs=None))
    assert all(bool(torch.isfinite(p).all()) for p in load_model(settings.out)[0].parameters())


def test_a_batch_that_cannot_be_shared_or_normalised_is_refused(settings, monkeypatch):
    with pytest.raises(InputError, match="batch norm cannot learn from one image alone"):
        train.run(replace(settings, batch_size=1, resolution=16, steps=1, epochs=None))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="1 images a step cannot feed 2 processes"):
        check(replace(settings, batch_size=1))


def test_a_non_finite_loss_names_the_step_and_leaves_no_model(settings, monkeypatch):
    monkeypatch.setitem(RECIPES, "wild", replace(RECIPES["tiny"], lr=1e20, warmup=0.0))
    config = replace(settings, recipe="wild", checkpoint_minutes=0.0)
    with pytest.raises(InputError, match=r"the loss at step 2 is not finite; the last good checkpoint is .*000000001"):
        train.run(config)
    assert not (config.out / "DONE").exists()
    assert not (config.out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "rn5"}, "no such recipe; the recipes are .*rn50-16ep"),
        ({"beton": "missing.beton"}, "missing.beton: no such file"),
        ({"val": "missing.beton"}, "missing.beton: no such file"),
        ({"index": "missing.index.npz"}, "missing.index.npz"),
        ({"init": "missing"}, "missing/model.json: no such file"),
        ({"sample": 0.0}, r"--sample 0.0: a share in \(0, 1\]"),
        ({"sample": 1.5}, "--sample 1.5"),
        ({"resolution": 7}, "--resolution 7: at least 8"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"micro_batch": 0}, "--micro-batch 0"),
        ({"steps": 5}, "--epochs and --steps: give one budget"),
        ({"epochs": 0.0}, "--epochs 0.0: a positive number"),
        ({"epochs": float("nan")}, "--epochs nan"),
        ({"infobatch": 1.0}, "--infobatch 1.0"),
        ({"seed": -1}, "--seed -1"),
        ({"workers": 0}, "--workers 0"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes -1.0"),
        ({"precision": "fp16"}, "--precision fp16 needs CUDA"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(settings, tmp_path, changes, message):
    if "precision" in changes and torch.cuda.is_available():
        pytest.skip("fp16 is fine on CUDA")
    places = {k: tmp_path / v for k, v in changes.items() if k in ("beton", "val", "index", "init")}
    with pytest.raises(InputError, match=message) as caught:
        train.run(replace(settings, **{**changes, **places}))
    assert "\n" not in str(caught.value)
    assert not settings.out.exists()


def test_running_out_of_memory_says_which_batch_to_try(settings, monkeypatch):
    def full(*values, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_loop, "train", full)
    with pytest.raises(InputError, match="out of memory with 64 images in one forward pass: try --micro-batch 32"):
        train.run(settings)
    with pytest.raises(InputError, match="out of memory with 5 images in one forward pass: try --micro-batch 2"):
        train.run(replace(settings, out=settings.out.with_name("other"), micro_batch=5))


def test_memory_that_no_processor_has_is_one_line_too(settings, monkeypatch):
    monkeypatch.setattr(training_loop, "train", lambda *values, **named: torch.empty(1 << 60))
    with pytest.raises(InputError, match="try --micro-batch 32"):
        train.run(settings)


def test_what_a_run_leaves_can_be_read_by_whom_the_umask_lets(settings):
    before = os.umask(0o022)
    try:
        train.run(replace(settings, steps=1, epochs=None))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in settings.out.iterdir()} == {0o644}


def test_tensorboard_reads_back_what_the_tracker_wrote(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train.run(replace(settings, tracker="tensorboard", epochs=2))
    events = EventAccumulator(str(settings.out / "winnow")).Reload()
    found = lines(settings)
    for name in ("loss", "top1", "lr", "images_per_second"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx([line[name] for line in found])
        assert [event.step for event in events.Scalars(name)] == [4, 8]


def test_an_index_of_another_source_is_used_only_with_allow_changed(settings, index, write_beton, tmp_path):
    # Images are drawn one after the other from the seed: the first 70 are the same, 30 of the index's 100 are missing.
    part = replace(settings, beton=write_beton(tmp_path / "part.beton", 70), index=index, epochs=1)
    with pytest.raises(InputError, match=r"100 samples 30 are missing here .*--allow-changed uses the others"):
        train.run(part)
    assert not part.out.exists()
    train.run(replace(part, allow_changed=True))
    provenance = read_json(part.out / "provenance.json")
    assert provenance["rows"] == 70
    assert (provenance["changed"]["missing"], provenance["changed"]["other_bytes"]) == (30, 0)
    assert provenance["changed"]["inputs"]["from"] == PrunedIndex.load(index).source
    with pytest.raises(InputError, match="--allow-changed: needs --index"):
        check(replace(settings, allow_changed=True))


def test_an_index_of_another_source_and_a_val_with_other_classes_are_refused(
    settings, index, val_beton, write_beton, tmp_path
):
    with pytest.raises(InputError, match="source"):
        check(replace(settings, beton=val_beton, index=index))
    other = write_beton(tmp_path / "other.beton", 20, classes=5)
    with pytest.raises(InputError, match=r"its classes are not those of .* 'c4' is not in both"):
        check(replace(settings, val=other))
