"""The watch over a codec: false alarms by simulation, thresholds by hand, a history that cannot be mistaken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prune.data import image_codecs
from prune.models import networks
from prune.runs.exit_codes import AnswerIsNo
from transfer.__main__ import main
from transfer.watching import codec_watch

SIDE = 16


def test_a_look_without_a_change_alarms_at_most_once_in_a_thousand():
    # Skewed errors, means that wander from look to look, 12 looks of 32 images as reference: 40,000 worlds.
    rng, worlds, m, size = np.random.default_rng(0), 40_000, 12, 32
    alarmed = 0
    for _ in range(worlds // 1000):
        level = rng.normal(0, 0.05, (1000, m + 1, 1))
        fmse = np.exp(rng.normal(-3, 0.9, (1000, m + 1, size)) + level)
        nbytes = np.exp(rng.normal(6, 0.25, (1000, m + 1, size)) + level)
        for one, other in zip(fmse, nbytes):
            found = codec_watch.looks(one.reshape(-1), other.reshape(-1), size)
            allowed = codec_watch.thresholds({name: values[:-1] for name, values in found.items()})
            alarmed += bool(codec_watch.alarms({name: values[-1] for name, values in found.items()}, allowed))
    assert alarmed / worlds <= 1e-3


def test_thresholds_are_the_prediction_interval_worked_out_by_hand():
    # Eight looks of mean 2 and standard deviation sqrt(8/7) (four each of 1 and 3); t(7) at 1 - 1/8000 is 6.814.
    values = np.array([1.0, 3.0] * 4)
    low, high = codec_watch.thresholds({"fmse": values})["fmse"]
    assert (low + high) / 2 == pytest.approx(2)
    assert high - 2 == pytest.approx(6.814 * (8 / 7) ** 0.5 * (9 / 8) ** 0.5, rel=1e-3)
    with pytest.raises(ValueError, match="7 looks, at least 8"):
        codec_watch.thresholds({"fmse": values[:7]})


def test_a_change_is_named_with_its_size():
    allowed = {"fmse": (-0.1, 0.1), "bytes": (-0.1, 0.1)}
    assert codec_watch.alarms({"fmse": np.log(1.5), "bytes": 0.0}, allowed) == ["fmse +50 %"]
    assert codec_watch.alarms({"fmse": 0.0, "bytes": np.log(0.5)}, allowed) == ["bytes -50 %"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model, 80 images, and copies of them at qualities 40 and 5."""
    root = tmp_path_factory.mktemp("watch")
    torch.manual_seed(0)
    spec = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}, "stem": "half", "classes": ["a", "b"],
            "resolution": SIDE, "mean": networks.MEAN, "std": networks.STD}  # fmt: skip
    networks.save_model(root / "model", networks.build(spec), spec)
    coarse = np.random.default_rng(0).integers(0, 256, (80, 4, 4, 3), dtype=np.uint8)
    for i, one in enumerate(coarse):
        image = np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        Image.fromarray(image).save(root / f"{i}.png")
        for quality in (40, 5):
            (root / f"{i}.{quality}.jpg").write_bytes(image_codecs.encode(image, "jpeg", quality))
    for name, rows, quality in (("first", range(64), 40), ("same", range(60, 80), 40), ("worse", range(60, 80), 5)):
        lines = "".join(f"{i}.png,{i}.{quality}.jpg\n" for i in rows)
        (root / f"{name}.csv").write_text("path,stored\n" + lines)
    (root / "plain.csv").write_text("path\n" + "".join(f"{i}.png\n" for i in range(60, 80)))
    return root


def arguments(world: Path, images: str, history: Path) -> list[str]:
    return ["watch-codec", "--model", str(world / "model"), "--reference", str(world / "first.csv"), "--images",
            str(world / images), "--size", "8", "--codec", "jpeg", "--quality", "40",
            "--history", str(history)]  # fmt: skip


def test_a_codec_that_got_worse_ends_with_exit_code_1_and_the_history_keeps_every_look(world, tmp_path, capsys):
    history, page = tmp_path / "h.jsonl", tmp_path / "h.html"
    assert main(arguments(world, "same.csv", history)) == 0
    assert main(arguments(world, "plain.csv", history)) == 0  # compressed here at quality 40: nothing has changed
    capsys.readouterr()
    with pytest.raises(AnswerIsNo) as end:
        main([*arguments(world, "worse.csv", history), "--html", str(page)])
    assert end.value.code == 1
    assert "ALARM: " in (line := capsys.readouterr().out)
    assert line.count("\n") == 1
    records = [json.loads(line) for line in history.read_text().splitlines()[1:]]
    assert [bool(one["alarms"]) for one in records] == [False, False, True]
    assert records[0]["fmse"] == pytest.approx(records[1]["fmse"])
    assert "the last one: alarm: " in page.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--quality", "30"), "begun with another quality (40)"),
        (("--size", "16"), "begun with another size (8)"),
        (("--size", "30"), "first.csv: 64 images; 8 looks of --size 30 need 240: give more, or --size 8"),
        (("--size", "21"), "same.csv: 20 images, a look takes 21: wait for more"),
        (("--history", "h.txt"), "must end in .jsonl"),
        (("--codec", "heic"), "--codec heic: jpeg, webp, avif are possible"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(world, tmp_path, capsys, change, message):
    history = tmp_path / "h.jsonl"
    assert main(arguments(world, "same.csv", history)) == 0
    before = history.read_text()
    capsys.readouterr()
    command = arguments(world, "same.csv", history if change != ("--size", "30") else tmp_path / "new.jsonl")
    command[command.index(change[0]) + 1] = change[1]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert history.read_text() == before


def test_a_look_that_is_refused_announces_no_history(world, tmp_path, capsys):
    assert main(arguments(world, "same.csv", tmp_path / "h.jsonl")) == 0
    assert "h.jsonl: begins with 8 looks of 8 images" in capsys.readouterr().err
    few = world / "few.csv"
    few.write_text("path\n" + "".join(f"{i}.png\n" for i in range(7)))
    for images, change, message in (
        ("few.csv", (), "7 images, a look takes 8"),
        ("gone.csv", (), "absent.png cannot be read"),
        ("same.csv", ("--reference", str(few)), "7 images; 8 looks of --size 8 need 64: give more\n"),
        ("same.csv", ("--quality", "0"), "--quality"),
    ):
        (world / "gone.csv").write_text("path\n" + "absent.png\n" * 8)
        assert main([*arguments(world, images, tmp_path / "n.jsonl"), *change]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "begins with" not in error
        assert not (tmp_path / "n.jsonl").exists()


def test_a_damaged_history_or_a_missing_copy_changes_nothing(world, tmp_path, capsys):
    history = tmp_path / "h.jsonl"
    history.write_text('{"format": "winnow-codec-watch/9"}\n')
    assert main(arguments(world, "same.csv", history)) == 2
    assert "no history of this version" in capsys.readouterr().err
    assert history.read_text() == '{"format": "winnow-codec-watch/9"}\n'
    (world / "gone.csv").write_text("path,stored\n" + "1.png,absent.jpg\n" * 8)
    assert main(arguments(world, "gone.csv", tmp_path / "n.jsonl")) == 2
    assert "line 2: absent.jpg cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "n.jsonl").exists()
