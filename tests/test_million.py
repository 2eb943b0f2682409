"""A million images are scored, selected and indexed by a process that may take 230 MiB beyond its imports.

Their features take 256 MB as the floats that are computed with: whoever held all of them would be ended by the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import generated_source
generated_source.classes_of = lambda n: 100
n, place = int(sys.argv[3]), Path(sys.argv[2])
generated_source.make_manifest(n, place)
generated_source.make_features(n, place)
generated_source.make_target(n, place)
"""
WORK = """
import json, resource, sys
from pathlib import Path
import faiss, scipy.linalg, scipy.optimize, scipy.sparse, scipy.spatial
from prune import score, selection
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
place, room = Path(sys.argv[1]), int(sys.argv[2]) << 20
def used():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used() + room,) * 2)
files = (place / "source.features.npz",), place / "scores.npz", (place / "target.train.features.npz",)
score.run(score.Config(*files, also=("domain",), workers=1))
selection.run(selection.Config(place / "kept.index.npz", place / "scores.npz", keep=(0.2,)))
index, manifest = PrunedIndex.open(place / "kept.index.npz"), Manifest.load(place / "source.manifest.npz")
rows = index.rows(manifest.ids)
print(json.dumps([len(manifest), len(index), int((rows[1:] > rows[:-1]).all())]))
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with one thread a library, whose stacks would count."""
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=BENCHMARKS.parents[1])


@pytest.mark.slow
def test_a_million_images_are_scored_selected_and_found_within_a_limit_on_the_process(tmp_path):
    made = run(MAKE, BENCHMARKS, tmp_path, 1_000_000)
    assert made.returncode == 0, made.stderr
    done = run(WORK, tmp_path, 230)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [1_000_000, 200_000, 1]


@pytest.mark.slow
def test_the_limit_ends_a_process_that_holds_the_features(tmp_path):
    code = WORK.split("files =")[0] + "import numpy; held = numpy.ones((1_000_000, 64), numpy.float32); print(1)"
    done = run(code, tmp_path, 230)
    assert "MemoryError" in done.stderr
