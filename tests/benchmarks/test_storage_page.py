"""The page of the storage benchmark: its sentences about the three policies, and the images that it shows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune import write
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.runs.files import InputError

_SPEC = importlib.util.spec_from_file_location("storage_page", Path(__file__).parent / "storage_page.py")
storage_page = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(storage_page)


def result(policy: str, top1: float, seed: int = 0, budget: float = 0.1, judged: str = "test") -> dict:
    return {
        "judged": judged, "policy": policy, "setting": "any", "budget": budget, "seed": seed, "top1": top1,
        "bytes": 1000, "kept": 20, "quality": {"0": 5, "10": 15},
    }  # fmt: skip


RESULTS = [
    result("drop", 0.2), result("drop", 0.3, 1), result("uniform", 0.4), result("adaptive", 0.43),
    result("adaptive", 0.45, 1), result("adaptive", 0.9, judged="val"), result("uniform", 0.6, budget=0.2),
    result("adaptive", 0.58, budget=0.2),
]  # fmt: skip


def test_rows_are_means_over_seeds_of_the_test_images():
    rows = storage_page.policy_rows(RESULTS)
    assert [(r["policy"], r["budget"], r["seeds"]) for r in rows] == [
        ("drop", 0.1, 2), ("uniform", 0.1, 1), ("uniform", 0.2, 1), ("adaptive", 0.1, 2), ("adaptive", 0.2, 1),
    ]  # fmt: skip
    # (20 + 30) / 2 = 25; deviation sqrt((25 + 25) / 1) = 7.07.
    assert storage_page.row_texts(rows[0]) == ["drop, 10 %", "25.00", "7.07", "2", "20", "1,000", "any"]
    # 44 - 40 = 4 at 10 %, 58 - 60 = -2 at 20 %: 1 on average, best at the first alone.
    assert "+1.0 points on average" in storage_page.summary_sentence(rows)
    assert "best of the three at 1 of 2 budgets" in storage_page.summary_sentence(rows)


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
    (tmp_path / "r.json").write_text(json.dumps({"cells": RESULTS}))
    return tmp_path, [bytes(name).decode() for name in manifest.ids]


def test_the_page_shows_the_images_most_and_least_hurt(files):
    root, names = files
    storage_page.write_page(root / "r.json", root / "p.html", root / "c.npz", root / "s.beton", pictures=1)
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
    assert storage_page.main([str(tmp_path / "r.json"), "--out", str(tmp_path / "p.html")]) == 2
    assert "r.json: not " in capsys.readouterr().err
    with pytest.raises(InputError, match="go together"):
        storage_page.write_page(tmp_path / "r.json", tmp_path / "p.html", tmp_path / "c.npz", None)
