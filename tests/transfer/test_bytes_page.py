"""The page of bytes as a budget: what it says of the three policies."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from prune import write
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.runs.files import InputError
from transfer.__main__ import main
from transfer.bytes_report import Config, run
from transfer.pages.bytes_page import cells, headline, summary


def cell(policy: str, top1: float, seed: int = 0, budget: float = 0.1, judged: str = "test") -> dict:
    return {
        "judged": judged, "policy": policy, "setting": "any", "budget": budget, "seed": seed, "top1": top1,
        "bytes": 1000, "kept": 20, "quality": {"0": 5, "10": 15},
    }  # fmt: skip


CELLS = [
    cell("drop", 0.2), cell("drop", 0.3, 1), cell("uniform", 0.4), cell("adaptive", 0.43), cell("adaptive", 0.45, 1),
    cell("adaptive", 0.9, judged="val"), cell("uniform", 0.6, budget=0.2), cell("adaptive", 0.58, budget=0.2),
]  # fmt: skip


def test_rows_are_means_over_seeds_of_the_test_images():
    rows = summary(CELLS)
    assert [(r["policy"], r["budget"], r["seeds"]) for r in rows] == [
        ("drop", 0.1, 2), ("uniform", 0.1, 1), ("uniform", 0.2, 1), ("adaptive", 0.1, 2), ("adaptive", 0.2, 1),
    ]  # fmt: skip
    # (20 + 30) / 2 = 25; deviation sqrt((25 + 25) / 1) = 7.07.
    assert cells(rows[0]) == ["drop, 10 %", "25.00", "7.07", "2", "20", "1,000", "any"]
    # 44 - 40 = 4 at 10 %, 58 - 60 = -2 at 20 %: 1 on average, best at the first alone.
    assert "+1.0 points on average" in headline(rows)
    assert "best of the three at 1 of 2 budgets" in headline(rows)


@pytest.fixture
def files(tmp_path):
    for i in range(4):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (40 * i, 9, 9)).save(folder / f"{i}<b>.png")
    write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "s.beton"))
    manifest = Manifest.load(tmp_path / "s.manifest.npz")
    arrays = {
        "level": np.array([0, 60, 10], np.uint8), "fmse": np.array([[0, 0, i] for i in (3.0, 1, 4, 2)]),
        "dropped": np.full(4, 8.0), "measured": np.ones(4, bool),
    }  # fmt: skip
    meta = {"format": "winnow-curves/1", "fingerprint": manifest.fingerprint}
    save_arrays(tmp_path / "c.npz", arrays, meta)
    (tmp_path / "r.json").write_text(json.dumps({"cells": CELLS}))
    return tmp_path, [bytes(name).decode() for name in manifest.ids]


def test_the_page_shows_the_images_most_and_least_hurt(files):
    root, names = files
    config = Config(root / "r.json", out=root / "p.html", curves=root / "c.npz", source=root / "s.beton", pictures=1)
    run(config)
    text = (root / "p.html").read_text()
    most, least = text.split("<h2>Most hurt</h2>")[1].split("<h2>Least hurt</h2>")
    assert names[2].replace("<b>", "&lt;b&gt;") in most
    assert "50% of its features at quality 10" in most
    assert names[1].replace("<b>", "&lt;b&gt;") in least
    assert text.count("<img") == 2 * 2
    assert "<b>.png" not in text


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"cells": 3}'])
def test_other_files_are_refused(tmp_path, content, capsys):
    (tmp_path / "r.json").write_text(content)
    assert main(["bytes", str(tmp_path / "r.json"), "--out", str(tmp_path / "p.html")]) == 2
    assert "r.json: not " in capsys.readouterr().err
    with pytest.raises(InputError, match="go together"):
        run(Config(tmp_path / "r.json", out=tmp_path / "p.html", curves=tmp_path / "c.npz"))
