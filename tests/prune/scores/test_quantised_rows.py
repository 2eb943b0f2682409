"""8-bit features: how far they are off, that every reader reads the same numbers, and that damage is found."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from prune import extrapolate, leaks, score, selection
from prune.index.joined_rows import JoinedRows
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, open_meta, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError, read_json
from prune.scores.feature_files import FORMAT, open_features, write_features
from prune.scores.quantised_rows import QuantisedRows, as_stored, quantised, widened
from prune.scores.streaming import read_rows, read_scattered

CLASSES = [f"c{k}" for k in range(5)]
MODEL = {"arch": "any", "classes": CLASSES, "fingerprint": "any"}
tables = arrays_of.arrays(
    np.float32, st.tuples(st.integers(0, 6), st.integers(1, 9)), elements=st.floats(-65504, 65504, width=32)
)


@settings(max_examples=200)
@given(tables)
def test_no_number_is_farther_off_than_half_a_step_of_its_row(x):
    codes, steps = quantised(x)
    assert (codes.dtype, steps.dtype) == (np.int8, np.float32)
    off = np.abs(widened(codes, steps).astype(np.float64) - x).max(axis=1, initial=0)
    half = np.ptp(x.astype(np.float64), axis=1) / 510 if len(x) else np.zeros(0)
    assert (off <= half * 1.001 + 1e-6 * np.abs(x).max(axis=1, initial=0)).all()


def test_codes_and_steps_are_those_worked_out_by_hand():
    # From -1 to 50 in 255 steps of 0.2: 0 is 5 steps above the least, 24.53 is nearest to the 128th, which code 0 is.
    codes, steps = quantised(np.array([[-1.0, 0.0, 24.53, 50.0], [7.0, 7.0, 7.0, 7.0]]))
    assert codes.tolist()[0] == [-128, -123, 0, 127]
    assert steps[0] == pytest.approx([0.2, 24.6])
    assert widened(codes, steps)[1].tolist() == [7.0] * 4


def test_an_image_has_the_same_numbers_in_any_company():
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    whole = quantised(x)
    for row in range(20):
        assert all(np.array_equal(a[row], b[0]) for a, b in zip(whole, quantised(x[row : row + 1])))


def test_rows_are_read_by_slice_row_mask_and_file_and_joined_with_others(tmp_path):
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    save_arrays(tmp_path / "x.npz", dict(zip(("codes", "steps"), quantised(x))), {"format": "any/1"})
    held = open_arrays(tmp_path / "x.npz", "any/1")[0]
    rows, whole = QuantisedRows(held["codes"], held["steps"]), widened(held["codes"], held["steps"])
    some, mask = np.array([3, 4, 40, 0]), np.arange(50) % 3 == 0
    assert (rows.shape, rows.ndim, rows.dtype, len(rows)) == ((50, 6), 2, np.float32, 50)
    assert np.array_equal(np.asarray(rows), whole)
    for which in (some, mask, slice(5, 9), slice(None, None, -2), 7):
        assert np.array_equal(rows[which], whole[which])
    assert np.array_equal(read_rows(rows, slice(10, 30)), whole[10:30])
    assert np.array_equal(read_scattered(rows, some), whole[some])
    both = JoinedRows([rows, x[:5].astype(np.float16)], np.array([54, 2, 0]))
    assert np.array_equal(read_scattered(both, np.arange(3)), [x[4].astype(np.float16), whole[2], whole[0]])
    with pytest.raises(TypeError):
        rows[:, 0]


def test_features_are_stored_as_the_flag_says():
    x = np.array([[1e6, -1e6, 0.1]], np.float32)
    assert as_stored(x, "float16")[0].tolist() == np.array([[65504, -65504, 0.1]], np.float16).tolist()
    assert np.array_equal(as_stored(x, "float32")[0], x)
    assert [a.dtype for a in as_stored(x, "int8")] == [np.int8, np.float32]


def write(folder, name, x, labels, logits, kind):
    n, small = len(x), np.full(len(x), 8, np.int32)
    ids = np.array([f"{name}/{i:04d}.jpg".encode() for i in range(n)])
    place = folder / f"{name}.manifest.npz"
    digests = np.arange(n, dtype="u8") + 1000 * len(name)
    Manifest(ids, labels.astype("i4"), small, small, small, digests, small.astype("u4"), CLASSES).save(place)
    stored = QuantisedRows(*quantised(x))
    features = stored if kind == "int8" else np.asarray(stored)
    out = folder / f"{name}.features.npz"
    write_features(out, features, logits.astype(np.float16), Manifest.load(place), place, MODEL)
    return out


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A source with near-duplicates, a target and its test images: in 8 bits, and the same numbers as float32."""
    found = {}
    for kind in ("int8", "float32"):
        rng = np.random.default_rng(0)
        folder = tmp_path_factory.mktemp(kind)
        labels, middle = np.arange(500) % 5, 3 * rng.normal(size=(5, 16))
        x = middle[labels] + rng.normal(size=(500, 16))
        x[400:420] = x[300:320] + 0.01 * rng.normal(size=(20, 16))
        wanted = middle[:2][np.arange(200) % 2] + rng.normal(size=(200, 16))
        test = np.r_[x[50:60] + 0.001, rng.normal(size=(10, 16))]
        head = rng.normal(size=(16, 5))
        files = {"s": (x, labels), "t.train": (wanted, np.arange(200) % 2), "t.test": (test, np.arange(20) % 2)}
        places = [write(folder, name, z, y, z @ head, kind) for name, (z, y) in files.items()]
        found[kind] = SimpleNamespace(folder=folder, source=places[0], target=places[1], test=places[2])
    return found


@pytest.fixture(scope="module")
def scores(case):
    """Scores of both by everything that reads features."""
    for one in case.values():
        also = ("balance", "domain", "duplicates", "influence", "moderate", "prototype", "self-prototype", "zcore")
        score.run(
            score.Config(
                (one.source,), one.folder / "scores.npz", (one.target,), also=also, leaks=(one.test,), workers=1
            )
        )
    return {kind: open_arrays(one.folder / "scores.npz", "winnow-scores/9")[0] for kind, one in case.items()}


def test_every_score_of_8_bits_is_that_of_the_numbers_that_they_stand_for(scores):
    assert scores["int8"].keys() == scores["float32"].keys()
    for name, values in scores["int8"].items():
        assert np.array_equal(values, scores["float32"][name], equal_nan=values.dtype.kind == "f"), name
    assert (scores["int8"]["duplicate_of"] >= 0).sum() == 20
    assert scores["int8"]["leak/t.test"].sum() == 10


@pytest.mark.parametrize("method", ["winnow", "k-center", "herding"])
def test_a_selection_from_8_bits_is_that_of_the_numbers_that_they_stand_for(case, scores, method):
    kept = []
    for one in case.values():
        out = one.folder / f"{method}.index.npz"
        selection.run(selection.Config(out, one.folder / "scores.npz", method=method, keep=(0.2,)))
        kept.append(PrunedIndex.load(out).positions.tolist())
    assert kept[0] == kept[1]
    assert len(kept[0]) == 100


def test_leaks_and_predicted_scores_of_8_bits_are_those_of_their_numbers(case, scores):
    said, predicted = [], []
    for one in case.values():
        leaks.run(leaks.Config(one.source, (one.test,), one.folder / "leaks.json"))
        said.append(read_json(one.folder / "leaks.json")["tests"]["t.test"]["pairs"])
        arrays, meta = open_arrays(one.folder / "scores.npz", "winnow-scores/9")
        part = np.where(np.arange(500) % 4 == 0, np.nan, arrays["sample/prototype"]).astype("<f4")
        kept = {"sample/prototype": part, "label": arrays["label"], "position": arrays["position"]}
        save_arrays(one.folder / "part.scores.npz", kept, meta)
        extrapolate.run(extrapolate.Config(one.folder / "part.scores.npz", one.source, one.folder / "all.npz"))
        predicted.append(open_arrays(one.folder / "all.npz", "winnow-scores/9")[0]["sample/prototype"])
    assert said[0] == said[1]
    assert len(said[0]) == 10
    assert np.array_equal(*predicted)


def test_only_8_bit_files_have_the_new_format_and_take_a_quarter_of_float32(case):
    assert open_meta(case["int8"].source, FORMAT)["format"] == "winnow-features/2"
    assert open_meta(case["float32"].source, FORMAT)["format"] == "winnow-features/1"
    found = open_arrays(case["int8"].source, FORMAT)[0]
    assert (found["features"].nbytes, found["steps"].nbytes) == (500 * 16, 500 * 8)


def test_damaged_steps_are_one_line(case, tmp_path):
    arrays, meta = open_arrays(case["int8"].source, FORMAT, mapped=False)
    for steps in (arrays["steps"][:-1], arrays["steps"].astype(np.float64)):
        save_arrays(tmp_path / "s.features.npz", {**arrays, "steps": steps}, meta)
        with pytest.raises(InputError, match="steps of the 8-bit features are damaged"):
            open_features(tmp_path / "s.features.npz")
    del arrays["steps"]
    save_arrays(tmp_path / "s.features.npz", arrays, meta)
    with pytest.raises(InputError, match="'features' is missing or has the wrong shape or type"):
        open_features(tmp_path / "s.features.npz")
