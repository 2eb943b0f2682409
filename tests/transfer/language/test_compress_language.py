"""A language model's compression through its command: steps, a group that breaks, kills, wrong inputs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pretrain import preemption
from prune.runs.files import InputError
from prune.runs.identity import identity
from transfer import compress_language, explain, rollback
from transfer.__main__ import TRAINING, main
from transfer.compression import journal
from transfer.language import language_onnx, language_steps
from transfer.language.causal_lm import open_language_model

pytestmark = pytest.mark.slow


def config(world, out, **more):
    values = {
        "model": world.model, "text": (world.text,), "prompts": world.prompts, "out": out,
        "kinds": ("channels", "int8"), "size": 0.85, "ratio": 0.25, "least": 0.2, "recovery_steps": 4,
        "batch_size": 8, "importance_windows": 16,
        "held_out_windows": 24, "window": 48, "margin": 20.0, "group_margin": 1.0, "latency": "none", "threads": 1,
        "precision": "fp32", "checkpoint_minutes": 0.0,
    }  # fmt: skip
    return compress_language.Config(**{**values, **more})


def flags(asked):
    """The command line of a config."""
    found = []
    for field in fields(asked):
        value = getattr(asked, field.name)
        if value != field.default and value is not None:
            given = map(str, value) if isinstance(value, tuple) else [str(value)]
            found += [f"--{field.name.replace('_', '-')}", *given]
    return found


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A finished run: accepted steps of channels, and int8."""
    out = tmp_path_factory.mktemp("done") / "run"
    compress_language.run(config(world, out))
    return out


def stopped(asked, monkeypatch):
    """Run as if a signal had come."""
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "stop_requested", lambda: True)
        with pytest.raises(preemption.Requeue) as end:
            compress_language.run(asked)
    assert end.value.code == 85


def files(run):
    """Digests of the run's own model, and of every step's."""
    return [journal.file_digests(run), *(entry["files"] for entry in journal.read_journal(run))]


def test_every_accepted_step_is_a_complete_model_and_the_current_one_runs_in_onnx_runtime(world, done):
    entries = journal.read_journal(done)
    assert [e["kind"] for e in entries] == ["original", *["channels"] * (len(entries) - 2), "int8"]
    assert [e["verdict"] for e in entries] == ["accepted"] * len(entries)
    assert 0.8 < entries[-1]["params"] / entries[0]["params"] <= 0.855
    tokens = world.windows[:3]
    for entry in entries[1:]:
        directory = journal.step_directory(done, entry["step"])
        model = open_language_model(directory)
        assert sum(p.numel() for p in model.network.parameters()) == entry["params"]
        assert (directory / "tokenizer.json").read_bytes() == (world.model / "tokenizer.json").read_bytes()
    assert open_language_model(done).fingerprint == model.fingerprint
    assert (done / "tokenizer.json").is_file()
    with torch.no_grad():
        wanted = model.network(input_ids=torch.from_numpy(tokens), use_cache=False).logits.numpy()
    plain = onnxruntime.InferenceSession(str(done / "export/model.onnx"))
    (got,) = plain.run(["logits"], {"tokens": tokens})
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    (rounded,) = onnxruntime.InferenceSession(str(done / "model.int8.onnx")).run(["logits"], {"tokens": tokens})
    assert 0 < np.abs(rounded - wanted).max() < 0.2 * np.abs(wanted).max()
    assert entries[-1]["bytes"] == (done / "model.int8.onnx").stat().st_size < 0.45 * entries[-2]["bytes"]


def test_the_result_has_the_perplexities_and_the_journal_says_what_went(done, capsys):
    entries = journal.read_journal(done)
    result = json.loads((done / "result.json").read_text())
    assert (result["task"], result["metric"]) == ("compress-language", "perplexity on held-out text")
    assert result["value"] == entries[-1]["perplexity"]
    (test, *groups) = entries[1]["tests"]
    assert test["lost"] == pytest.approx(100 * (test["value"] / test["original"] - 1), abs=1e-4)
    assert [one["test"] for one in groups] == ["docs", "weather"]
    removed = entries[1]["what"]["removed"]
    assert {one["layer"]: len(one["channels"]) for one in removed} == entries[1]["what"]["layers"]
    assert set().union(*(one["classes"] for one in removed)) <= {"docs", "weather"}
    explain.run(explain.Config(done, 1))
    assert "mlp.down_proj" in capsys.readouterr().out


def test_the_head_that_alone_knows_a_group_is_removed_first_and_the_step_is_rolled_back(world, tmp_path, monkeypatch):
    asked = config(world, tmp_path / "run", kinds=("heads",), recovery_steps=0)
    stopped(asked, monkeypatch)  # after the step, as on a signal
    original, heads = journal.read_journal(asked.out)
    assert heads["what"]["layers"]["model.layers.1.self_attn.o_proj"] >= 1
    last = next(one for one in heads["what"]["removed"] if one["layer"] == "model.layers.1.self_attn.o_proj")
    assert (last["channels"][0], last["importance"][0]) == (3, 0)  # nothing in the text needs it
    assert last["serves"][0] == "weather"
    assert (heads["verdict"], heads["nearest"]) == ("rolled-back", "weather")
    assert heads["reason"].startswith("weather: ")
    assert (original["per_class"]["weather"], heads["per_class"]["weather"]) == (1.0, 0.0)
    assert journal.file_digests(asked.out) == original["files"]
    assert [one["holds"] for one in heads["tests"]] == [True, True, False]  # text and other prompts show nothing


def test_the_same_command_returns_at_once_and_another_is_refused(world, done, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    compress_language.run(config(world, done))
    assert "up to date" in capsys.readouterr().err
    asked = config(world, done)
    for name, value in identity(asked).items():
        if name in ("kinds", "importance", "precision"):
            other = {"kinds": ("int8",), "importance": "random", "precision": "bf16"}[name]
        else:
            other = value + 1 if type(value) is int else value / 2 + 0.0123
        with pytest.raises(InputError):
            compress_language.run(replace(asked, **{name: other}))
    (tmp_path / "more.jsonl").write_bytes(world.prompts.read_bytes() + b'{"prompt": "a", "continuation": "b"}\n')
    with pytest.raises(InputError, match="prompts: "):
        compress_language.run(replace(asked, prompts=tmp_path / "more.jsonl"))
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before


KILLED = """
import os, signal, sys
from pretrain import checkpoint
from transfer.__main__ import main
save, count, last = checkpoint.save, [0], int(sys.argv[1])
def fatal(*args, **values):
    save(*args, **values)
    count[0] += 1
    if count[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = fatal
sys.exit(main(["compress-language", *sys.argv[2:]]))
"""


@pytest.mark.processes
def test_a_run_that_was_killed_and_then_signalled_ends_with_the_same_bytes(world, done, tmp_path, monkeypatch, capsys):
    assert "compress-language" in TRAINING  # it listens to signals
    asked, here = config(world, tmp_path / "run"), Path(__file__).parents[3]
    # Four optimiser steps after each step, a checkpoint after each: killed at the second of step 2, then signalled.
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, "6", *flags(asked)], cwd=here, env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(journal.read_journal(asked.out)) == 2
    stopped(asked, monkeypatch)
    said = capsys.readouterr().err
    assert "checkpoint of step 3 written; the same command resumes" in said
    assert "resuming from step 2 of 4\n" in said  # not an epoch: of text there is none
    assert list((asked.out / "work/2/checkpoint").iterdir())
    with monkeypatch.context() as patch:  # to the end of step 2, and no further
        patch.setattr(preemption, "stop_requested", lambda: len(journal.read_journal(asked.out)) == 3)
        with pytest.raises(preemption.Requeue):
            compress_language.run(asked)
    assert not (asked.out / "work").exists()
    assert [e["files"] for e in journal.read_journal(asked.out)] == files(done)[1:4]


class Crash(BaseException):
    """Ends a run at once."""


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (journal, "write_journal", 1),  # a step's directory has its place, the journal does not know it
        (language_onnx, "quantise_weights", 1),
        (language_steps, "save_step", 2),
    ],
)
def test_a_run_that_ends_at_any_other_point_resumes_to_the_same_bytes(
    world, done, tmp_path, monkeypatch, owner, name, calls
):
    run, count, real = tmp_path / "run", [0], getattr(owner, name)
    keep_half(done, run)

    def crash(*args, **values):
        count[0] += 1
        if count[0] == calls:
            raise Crash
        return real(*args, **values)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(Crash):
            compress_language.run(config(world, run))
    compress_language.run(config(world, run))
    assert files(run) == files(done)


def keep_half(done, run):
    """A copy of a finished run, as it was when its last step of channels began."""
    shutil.copytree(done, run)
    entries = journal.read_journal(run)[:-2]
    journal.write_journal(run, entries)
    for step in (len(entries), len(entries) + 1):
        shutil.rmtree(journal.step_directory(run, step))
    for name in ("DONE", "result.json", "provenance.json"):
        (run / name).unlink()


def test_a_rollback_changes_the_current_model_and_the_same_command_exports_it(world, done, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(done, run)
    rollback.run(rollback.Config(run, 1))
    assert not (run / "model.int8.onnx").exists()
    result = json.loads((run / "result.json").read_text())
    assert result["value"] == journal.read_journal(run)[1]["perplexity"]
    compress_language.run(config(world, run))
    weights = journal.file_digests(run)["model.safetensors"]
    assert language_onnx.weights_of(run / "export/model.onnx") == weights


def test_a_gpt2_is_compressed_to_4_bit_weights_and_waits_for_a_person(world, decoders, tmp_path, capsys):
    network = decoders.gpt2(layers=1)
    network.save_pretrained(tmp_path / "model")
    shutil.copyfile(world.model / "tokenizer.json", tmp_path / "model/tokenizer.json")
    asked = config(
        replace_model(world, tmp_path / "model"), tmp_path / "run", kinds=("both", "int4"), ratio=0.5, size=0.9,
        recovery_steps=1, margin=None, group_margin=None, approve=True, latency="onnx",
    )  # fmt: skip
    with pytest.raises(SystemExit) as end:
        compress_language.run(asked)
    assert end.value.code == 75
    assert main(["approve", "--run", str(asked.out)]) == 0
    with contextlib.suppress(SystemExit):  # 4-bit weights wait, too, or are too slow
        compress_language.run(asked)
    four = journal.read_journal(asked.out)
    waiting = asked.out / "waiting/step.json"
    entry = json.loads(waiting.read_text()) if waiting.exists() else four[-1]
    assert entry["kind"] == "int4"
    assert four[1]["kind"] == "both"
    assert {one["unit"] for one in four[1]["what"]["removed"] if "unit" in one} == {"heads"}
    if entry["verdict"] == "accepted":
        assert entry["what"]["time_ratio"] <= 1.1
        assert entry["bytes"] < four[1]["bytes"]
    else:
        assert "is kept" in entry["reason"]


def replace_model(world, model):
    """The same text and prompts, and another model."""
    return type(world)(**{**vars(world), "model": model})


def broken(world, place, **changed):
    """A copy of the model's directory with other values in config.json."""
    shutil.copytree(world.model, place)
    content = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**content, **changed}))
    return place


def test_mistakes_get_one_line_and_code_2_and_nothing_is_written(world, tmp_path, capsys):
    pickled = broken(world, tmp_path / "pickled")
    os.replace(pickled / "model.safetensors", pickled / "pytorch_model.bin")
    untold = broken(world, tmp_path / "untold")
    (untold / "tokenizer.json").unlink()
    short = broken(world, tmp_path / "short")
    (short / "model.safetensors").write_bytes((world.model / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}')
    given = {"model": world.model, "text": world.text, "prompts": world.prompts}
    cases = [
        ({"model": tmp_path / "none"}, "no such file or directory"),
        ({"model": world.model.parent}, "has no config.json"),
        ({"model": broken(world, tmp_path / "code", auto_map={"AutoModel": "x.Y"})}, "'auto_map' asks for code"),
        ({"model": broken(world, tmp_path / "t5", architectures=["T5Model"])}, "the architecture T5Model is not known"),
        ({"model": broken(world, tmp_path / "wide", hidden_size=4096)}, "they do not belong together"),
        ({"model": broken(world, tmp_path / "deep", num_hidden_layers=1)}, "which the network of config.json has not"),
        ({"model": broken(world, tmp_path / "odd", num_attention_heads=7)}, "no network can be built"),
        ({"model": pickled}, "only safetensors are"),
        ({"model": untold}, "tokenizer.json: no such file"),
        ({"model": short}, "damaged, or not safetensors"),
        ({"text": tmp_path / "none.txt"}, "no such file"),
        ({"prompts": tmp_path / "bad.jsonl"}, "line 1"),
        ({"model": short, "prompts": tmp_path / "bad.jsonl"}, "line 1"),  # read before the weights
        ({"model": broken(world, tmp_path / "wordless", vocab_size=None)}, "vocab_size is None"),
        ({"size": 1.5}, "--size 1.5"),
        ({"margin": -1}, "--margin -1"),
        ({"kinds": "int8 both"}, "int8 and then int4 come last"),
        ({"kinds": "int4 int8"}, "int8 and then int4 come last"),
        ({"learning-rate": 0}, "--learning-rate"),
        ({"window": 2}, "--window 2"),
        ({"out": world.model / "run"}, "lies in the directory of --model"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for more, said in cases:
        words = [w for k, v in {**given, "out": tmp_path / "out", **more}.items() for w in (f"--{k}", *str(v).split())]
        capsys.readouterr()
        assert main(["compress-language", *words]) == 2, more
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert said in lines[0]
    assert sorted(tmp_path.rglob("*")) == before
    there = str(world.prompts)  # any file: the model is looked at first
    words = ["--model", str(world.model), "--train", there, "--preserve", there, "--out", str(tmp_path / "z")]
    assert main(["compress", *words]) == 2
    assert "transfer compress-language" in capsys.readouterr().err
