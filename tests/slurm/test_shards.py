"""`slurm/shards.sh`: a task for each shard; one that failed runs again alone; together they are one source."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from prune import features, generate, score, write
from prune.index.npz import open_arrays

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARDS = ROOT / "slurm" / "shards.sh"


def run(*words: object, code: int = 0) -> str:
    """Run the script on this machine; what it printed."""
    done = subprocess.run([SHARDS, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("images") / "data"
    generate.run(generate.Config(out=out, per_class=8, rare=6, target_train=2, target_test=2, duplicates=0))
    return out / "source" / "train"


def stamps(folder: Path, pattern: str) -> dict[str, int]:
    return {place.name: place.stat().st_mtime_ns for place in folder.glob(pattern)}


def test_what_fails_or_is_killed_runs_again_alone_and_the_shards_score_as_one_beton(images, tmp_path):
    betons, described = tmp_path / "photos", tmp_path / "described"
    writing = ["write", "--shards", 2, "--images", images, "--out", betons]
    (betons / "2.beton").mkdir(parents=True)  # the second task cannot write its beton
    assert "failed: shards 2" in run("--here", *writing, code=1)
    first = stamps(betons, "1.beton")
    assert sorted(first) == ["1.beton"]
    (betons / "2.beton").rmdir()
    killed = subprocess.Popen([SHARDS, "--here", *map(str, writing)], start_new_session=True, stderr=subprocess.PIPE)
    time.sleep(0.5)  # wherever it is by now, nothing half-written may be taken for a shard
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    run("--here", *writing)
    assert stamps(betons, "1.beton") == first
    assert sorted(stamps(betons, "*")) == ["1.beton", "1.manifest.npz", "2.beton", "2.manifest.npz"]
    assert "up to date" in run("--here", *writing)

    features.run(features.Config((betons / "1.beton",), described, thumbnail=True))
    made = stamps(described, "*.npz")
    run("--here", "features", "--thumbnail", "--betons", betons, "--out", described)
    again = stamps(described, "*.npz")
    assert sorted(again) == ["1.features.npz", "2.features.npz"]
    assert again["1.features.npz"] == made["1.features.npz"]

    write.run(write.Config(str(images), tmp_path / "whole.beton"))
    features.run(features.Config((tmp_path / "whole.beton",), tmp_path / "one", thumbnail=True))
    found = []
    for source in (tmp_path / "one" / "whole.features.npz", described):
        score.run(score.Config((source,), tmp_path / f"{source.stem}.scores.npz"))
        found.append(open_arrays(tmp_path / f"{source.stem}.scores.npz", score.FORMAT)[0])
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert np.asarray(values).tobytes() == np.asarray(found[1][name]).tobytes(), name


def test_a_dry_run_prints_one_array_of_what_is_not_done_and_queues_nothing(tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    for name in ("2.beton", "2.manifest.npz", "3.beton"):  # the third has no manifest: it is not done
        (out / name).touch()
    text = run("--dry-run", "--limit", 5, "write", "--shards", 1002, "--images", "photos", "--out", out)
    lines = [line for line in text.splitlines() if line.startswith("sbatch")]
    assert len(lines) == 2  # Slurm's array tasks have numbers below 1000
    assert "--array=1,3,4,5," in lines[0]
    assert ",999%5 --export=ALL,WINNOW_OFFSET=0 " in lines[0]
    assert "--array=0,1,2%5 --export=ALL,WINNOW_OFFSET=1000 " in lines[1]
    for line in lines:
        assert f"write.sh --images photos --out {out}/\\{{shard\\}}.beton --shard \\{{shard\\}}/1002" in line
    assert sorted(place.name for place in out.iterdir()) == ["2.beton", "2.manifest.npz", "3.beton"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["write", "--images", "photos", "--out", "x"], "--shards is missing"),
        (["write", "--shards", "many", "--images", "photos", "--out", "x"], "--shards needs a number"),
        (["write", "--shards", "3", "--images", "photos"], "--out is missing"),
        (["features", "--thumbnail", "--betons", "none", "--out", "x"], "--betons none: a folder of shards"),
        (["score", "--out", "x"], "score: write or features is expected"),
        (["write", "--shards", "3", "--imges", "photos", "--out", "x"], "--imges"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in run("--here", *words, code=2)
    assert not list(tmp_path.iterdir())
