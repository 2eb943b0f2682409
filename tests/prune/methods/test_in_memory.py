"""`prune.select` on arrays: the rows that the files' way keeps, and clear errors."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

import prune
from prune import score, selection
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.methods.presets import NAMES, PRESETS
from prune.scores.feature_files import write_features

CLASSES = ["ant", "bee", "cat", "dog"]
SIZES = [40, 30, 20, 10]
DYNAMIC = ("forgetting", "aum", "tdds", "dual", "dyn-unc", "variance", "el2n-early")
ALSO = ("prototype", "duplicates", "self-prototype", "affinity", "influence", "zcore", "balance")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A source of 100 images in four classes, a target like bees and cats, and the same as files."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(4), SIZES)).astype(np.int32)
    like = np.array([1] * 9 + [2] * 3)
    head = rng.normal(size=(8, 4))
    head[:4] += 2 * np.eye(4)
    x = (6 * np.eye(4, 8)[label] + rng.normal(size=(100, 8))).astype(np.float16)
    y = (6 * np.eye(4, 8)[like] + 0.1 * rng.normal(size=(12, 8))).astype(np.float16)
    ids = np.array([f"{CLASSES[k]}/{i:03d}.jpg".encode() for i, k in enumerate(label)])
    arrays = {"features": x, "logits": (x @ head).astype(np.float16), "target": y, "target_logits": y @ head}
    arrays["target_labels"] = like - 1
    model = {"arch": "toy", "classes": CLASSES, "fingerprint": "m"}
    for name, table, logits, labels, names, keys in (
        ("s", x, arrays["logits"], label, CLASSES, ids),
        ("t", y, arrays["target_logits"].astype(np.float16), (like - 1).astype(np.int32), ["x", "y"], ids[:12]),
    ):
        n = len(labels)
        sizes = {key: np.full(n, 8, np.int32) for key in ("nbytes", "width", "height")}
        crc = np.arange(n, dtype=np.uint32)
        held = Manifest(ids=keys, labels=labels, digests=crc.astype("u8"), crc32=crc, classes=names, **sizes)
        held.save(folder / f"{name}.manifest.npz")
        place = folder / f"{name}.manifest.npz"
        write_features(folder / f"{name}.features.npz", table, logits, held, place, model)
    return folder, label, ids, arrays


def by_files(folder, also, **settings):
    scores = folder / f"{'-'.join(sorted(also))}.scores.npz"
    files = {"source": (folder / "s.features.npz",), "targets": (folder / "t.features.npz",)}
    score.run(score.Config(**files, out=scores, also=also))
    out = folder / "x.index.npz"
    out.unlink(missing_ok=True)
    selection.run(selection.Config(scores=scores, out=out, **settings))
    return PrunedIndex.load(out).positions


def by_arrays(case, **settings):
    _, label, ids, arrays = case
    return prune.select(
        arrays["features"],
        label,
        targets={"t": arrays["target"]},
        logits=arrays["logits"],
        target_logits={"t": arrays["target_logits"]},
        target_labels={"t": arrays["target_labels"]},
        target_ids={"t": ids[:12]},
        classes=CLASSES,
        ids=ids,
        **settings,
    )


@pytest.mark.parametrize("method", [name for name in NAMES if name not in DYNAMIC and name != "gate"])
def test_every_method_keeps_the_rows_that_the_files_keep(case, method):
    settings = {"method": method, "keep": 0.23, "floor": 1.0}
    assert by_arrays(case, **settings).tolist() == by_files(case[0], ALSO, **settings).tolist()


def test_a_gate_a_mix_and_a_protected_class_keep_the_rows_that_the_files_keep(case):
    also = ("prototype", "duplicates", "domain")
    for settings in (
        {"method": "winnow", "keep": 0.3, "gate": "domain:0.5"},
        {"mix": "lm:0.5,domain:0.5", "keep": 0.3, "gate": "auto"},
        {"method": "el2n", "budget": 17, "protect": ("dog",)},
    ):
        assert by_arrays(case, **settings).tolist() == by_files(case[0], also, **settings).tolist()


def test_near_duplicates_that_the_budget_needs_are_counted_in_a_warning_at_the_callers_line():
    features = np.random.default_rng(0).normal(size=(100, 64))
    features[1] = features[0]
    settings = {"labels": np.zeros(100, int), "method": "semdedup"}
    with pytest.warns(UserWarning, match=r"^1 near-duplicate is kept, .* is keep 0.99 \(budget 99\)$") as said:
        prune.select(features, keep=1.0, **settings)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(prune.select(features, keep=0.99, **settings)) == 99


def test_labels_may_be_names_and_the_source_without_logits_or_targets(case):
    _, label, ids, arrays = case
    names = np.array(CLASSES)[label]
    rows = prune.select(arrays["features"], names, keep=0.2, method="random", ids=ids)
    assert np.bincount(label[rows]).tolist() == [8, 6, 4, 2]
    numbers = prune.select(arrays["features"], label, keep=0.2, method="random", ids=ids, classes=CLASSES)
    assert rows.tolist() == numbers.tolist()
    never = label == 0
    kept = prune.select(arrays["features"], label, keep=0.5, method="class-random", never=never, always=label == 3)
    assert np.bincount(label[kept], minlength=4).tolist()[0] == 0
    assert (label[kept] == 3).sum() == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": None}, "give either keep or budget"),
        ({"keep": 2.0}, "^keep 2.0 is outside"),
        ({"floor": 40.0}, "^floor 40 needs 100 samples"),
        ({"protect": ("eel",)}, "^protect eel: no such class"),
        ({"keep": None, "budget": 101}, "budget 101 is outside 1 to 100"),
        ({"labels": np.zeros((100, 2))}, "labels: an array of float64"),
        ({"labels": np.zeros(99, int)}, r"features: an array of float16 and the shape \(100, 8\); 99 rows"),
        ({"targets": np.zeros((5, 7))}, r"\(m, 8\) is needed"),
        ({"targets": np.full((5, 8), np.nan)}, "not finite, first in row 0"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"method": "dual"}, "needs training dynamics .`pretrain --dynamics`"),
        ({"method": "el2n"}, "el2n"),
        ({"method": "dp4tl-fm", "targets": None}, "class votes need targets"),
        ({"never": np.zeros(3, bool)}, "never: a mask of 100 booleans"),
        ({"ids": ["a"] * 100}, "100 different ones are needed"),
    ],
)
def test_what_does_not_fit_is_a_value_error_that_says_what(case, change, words):
    _, label, _, arrays = case
    given = {"labels": label, "targets": arrays["target"], "keep": 0.2} | change
    with pytest.raises(ValueError, match=words):
        prune.select(arrays["features"], given.pop("labels"), **given)


def test_importing_prune_imports_no_numpy():
    program = "import prune, sys; assert 'numpy' not in sys.modules; assert 'select' in prune.__all__"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert set(DYNAMIC) <= set(PRESETS)
