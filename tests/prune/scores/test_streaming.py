"""Rows of mapped files are read by file operations: the values of the map, and none of its pages in this process."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune.index.manifest import Manifest
from prune.scores import streaming
from prune.scores.class_votes import rows_at_once, streamed_votes
from prune.scores.feature_files import write_features
from prune.scores.streaming import read_rows, read_scattered

N, D, K = 150_000, 128, 64


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """(60, 7) numbers in a file, after 8 bytes of others, mapped; and the same in memory."""
    place = tmp_path_factory.mktemp("rows") / "numbers"
    rng = np.random.default_rng(0)
    rng.random((61, 7)).astype(np.float32).tofile(place)
    mapped = np.memmap(place, np.float32, "r", offset=8, shape=(60, 7))
    return mapped, np.array(mapped)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 59), max_size=80), cut=st.integers(0, 30), gap=st.integers(0, 90))
def test_scattered_rows_of_a_map_and_of_its_views_are_its_values(numbers, rows, cut, gap):
    mapped, held = numbers
    rows = np.array(rows, np.int64)
    with pytest.MonkeyPatch.context() as patch:  # rows between the wanted ones are read along up to 3 in a row
        patch.setattr(streaming, "_GAP", gap)
        patch.setattr(streaming, "_SPAN", 500)
        assert np.array_equal(read_scattered(mapped, rows), held[rows])
        assert np.array_equal(read_scattered(mapped, np.unique(rows)), held[np.unique(rows)])
    assert np.array_equal(read_scattered(mapped, rows), held[rows])
    assert np.array_equal(read_scattered(held, rows), held[rows])
    inside = rows[rows < 60 - cut]
    assert np.array_equal(read_scattered(mapped[cut:], inside), held[cut:][inside])
    assert np.array_equal(read_scattered(mapped[:, :3], rows), held[:, :3][rows])
    assert np.array_equal(read_rows(mapped[cut:], slice(2, 9)), held[cut:][2:9])


def test_rows_without_columns_are_read_too():
    assert read_scattered(np.empty((5, 0), np.float16), np.array([0, 3])).shape == (2, 0)


def test_a_file_that_has_become_shorter_is_an_error(tmp_path):
    np.zeros((100, 4096), np.uint8).tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.uint8, "r", shape=(100, 4096))
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(4096 * 50)
    assert (read_scattered(mapped, np.array([49])) == 0).all()
    with pytest.raises(OSError, match="has become shorter"):
        read_scattered(mapped, np.array([49, 50]))


def test_votes_of_very_many_classes_are_taken_in_smaller_blocks():
    seen = []

    def preference(rows: slice) -> np.ndarray:
        seen.append(rows.stop - rows.start)
        return np.zeros((rows.stop - rows.start, 1 << 15)) + np.arange(1 << 15)

    assert [rows_at_once(classes) for classes in (0, 10, 2048, 4096, 1 << 15, 1 << 20)] == [2048] * 3 + [1024, 128, 64]
    hard, soft = streamed_votes(preference, 150, 1.0, rows_at_once(1 << 15))
    assert max(seen) == 128  # of 32,768 classes, 32 MiB
    assert hard[-1] == 150
    assert soft.sum() == pytest.approx(150)


SCORE = """
import json, sys, threading
from pathlib import Path
import scipy.linalg, scipy.optimize, scipy.sparse, scipy.spatial, faiss
from prune import score
place, most, over = Path(sys.argv[1]), {"RssAnon": 0, "RssFile": 0}, threading.Event()
def held():
    lines = (line.split() for line in open("/proc/self/status"))
    return {line[0][:-1]: int(line[1]) / 1024 for line in lines if line[0][:-1] in most}
def look():
    while not over.wait(0.002):
        for name, size in held().items():
            most[name] = max(most[name], size)
sources, targets = (place / "s.features.npz",), (place / "t.train.features.npz",)
score.run(score.Config(sources, place / "warm.npz", targets, also=("domain",), workers=1))  # what is imported and kept
before = held()
watch = threading.Thread(target=look)
watch.start()
score.run(score.Config(sources, place / "x.npz", targets, also=("domain", "influence", "prototype"), workers=1))
over.set()
watch.join()
print(json.dumps({name: most[name] - before[name] for name in most}))
"""


def test_scoring_maps_and_holds_far_less_than_the_files(tmp_path):
    rng = np.random.default_rng(0)
    for name, n in (("s", N), ("t.train", 500)):
        small = np.full(n, 8, np.int32)
        labels = (np.arange(n) % K).astype(np.int32)
        ids = np.array([b"%06d.jpg" % i for i in range(n)])
        classes = [f"c{k}" for k in range(K)]
        Manifest(ids, labels, small, small, small, np.arange(n, dtype="u8"), small.astype("u4"), classes).save(
            tmp_path / f"{name}.manifest.npz"
        )
        held = Manifest.load(tmp_path / f"{name}.manifest.npz")
        model = {"arch": "any", "classes": classes, "fingerprint": "any"}
        features, logits = (rng.standard_normal((n, width), np.float32).astype(np.float16) for width in (D, K))
        write_features(
            tmp_path / f"{name}.features.npz", features, logits, held, tmp_path / f"{name}.manifest.npz", model
        )
    done = subprocess.run([sys.executable, "-c", SCORE, tmp_path], capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout)
    size = N * (D + K) * 2 / 2**20
    assert grown["RssFile"] < size / 2, f"{grown} MiB; the files have {size:.0f}"
    assert grown["RssAnon"] < 100, f"{grown} MiB"  # a block a thread, a sample to fit on
