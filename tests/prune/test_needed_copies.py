"""Near-duplicates that the budget needs are counted, and what a budget beyond what may be kept is told."""

from __future__ import annotations

import re

import numpy as np
import pytest

from prune import selection
from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import order_fingerprint

CLASSES = ["ant", "bee"]
COPIES = {1: 0, 2: 0, 11: 10, 30: 20}  # rows 1 and 2 duplicate row 0, and so on: 4 of 40, one of them a bee's


@pytest.fixture
def scores(tmp_path):
    label = np.repeat([0, 1], 20)
    manifest = Manifest(
        ids=np.array([f"{CLASSES[k]}/{i:02d}.jpg".encode() for i, k in enumerate(label)]),
        labels=label.astype(np.int32),
        nbytes=np.full(40, 100, np.int32),
        width=np.full(40, 8, np.int32),
        height=np.full(40, 8, np.int32),
        digests=np.arange(40, dtype=np.uint64),
        crc32=np.arange(40, dtype=np.uint32),
        classes=CLASSES,
    )
    manifest.save(tmp_path / "s.manifest.npz")
    of = np.full(40, -1, np.int64)
    of[list(COPIES)] = list(COPIES.values())
    arrays = {"label": label, "position": np.arange(40), "duplicate_of": of, "sample/el2n": np.arange(40, dtype="<f4")}
    facts = {"classes": CLASSES, "groups": [], "fingerprint": manifest.fingerprint, "manifest": "s.manifest.npz"}
    order = order_fingerprint(tmp_path / "s.manifest.npz")
    save_arrays(tmp_path / "scores.npz", arrays, {"format": "winnow-scores/1", "order": order, "targets": [], **facts})
    return tmp_path / "scores.npz"


def select(scores, name="a", **config):
    out = scores.with_name(f"{name}.index.npz")
    selection.run(selection.Config(scores=scores, out=out, **config))
    return PrunedIndex.load(out)


@pytest.mark.parametrize("method", ["semdedup", "winnow"])
def test_copies_that_the_budget_needs_are_counted_and_the_keep_that_is_named_keeps_none(scores, capsys, method):
    index = select(scores, method=method, keep=0.95)  # 38 of 40, of which 36 are no copies
    assert len(set(index.positions) & set(COPIES)) == 2
    said = capsys.readouterr().err
    assert "2 near-duplicates are kept, since the budget needs them" in said
    keep = re.search(r"keeps none is --keep (\S+) \(--budget 36\)", said)
    assert keep
    assert keep[1] == "0.9"
    fits = select(scores, "b", method=method, keep=float(keep[1]))
    assert len(fits) == 36
    assert not set(fits.positions) & set(COPIES)
    assert "near-duplicate" not in capsys.readouterr().err
    assert "near_duplicates" not in fits.provenance[-1]


def test_show_and_explain_count_them_too(scores, capsys):
    select(scores, method="semdedup", keep=1.0)
    index = str(scores.with_name("a.index.npz"))
    assert main(["show", index]) == 0
    assert "4 near-duplicates are kept, since the budget needs them" in capsys.readouterr().out
    assert main(["explain", "--scores", str(scores), "--index", index, "--class", "ant", "bee"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"Near-duplicates that are kept since the budget or a floor needs them: (\d)", said) == ["3", "1"]


def test_copies_of_a_class_that_is_kept_whole_are_kept_at_every_budget(scores, capsys):
    select(scores, method="semdedup", keep=0.6, protect=("ant",))
    said = capsys.readouterr().err
    assert "3 near-duplicates are kept, since a floor or a class that is kept whole needs them" in said
    assert "--keep" not in said


def test_a_budget_beyond_what_may_be_kept_names_what_was_dropped_and_the_largest_keep_that_fits(scores):
    never = scores.with_name("never.txt")
    never.write_text("bee/39.jpg\nbee/38.jpg\n")
    wanted = {"method": "random", "drop_duplicates": True, "never": never}
    with pytest.raises(InputError) as error:
        select(scores, keep=1.0, **wanted)
    assert str(error.value) == (
        "a budget of 40 samples, but 34 are available: of 40, --never drops 2, --drop-duplicates drops 4; "
        "the largest that fits is --keep 0.85 (--budget 34)"
    )
    assert len(select(scores, keep=0.85, **wanted)) == 34


@pytest.mark.parametrize(
    ("out", "example"), [("runs/i.index.npz", "runs/i-{keep}.index.npz"), ("i.npz", "i-{keep}.npz"), ("i", "i-{keep}")]
)
def test_the_example_of_a_name_for_several_keeps_has_the_suffix_given(scores, monkeypatch, capsys, out, example):
    monkeypatch.chdir(scores.parent)
    words = ["select", "--scores", "scores.npz", "--method", "random", "--keep", "0.1", "0.2", "--out"]
    assert main([*words, out]) == 2
    assert f"put {{keep}} into the name, as in {example}\n" in capsys.readouterr().err
    assert main([*words, example]) == 0
