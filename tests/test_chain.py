"""The whole chain through its public commands, on a small generated source, with two Accelerate processes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from prune import PrunedIndex
from prune.data.dataset import open_dataset
from prune.index.npz import open_arrays
from prune.runs.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.processes]

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]


def alone(program: str, *arguments) -> None:
    """Run a command in this process, through its public entry: imports and compilation are paid once."""
    assert import_module(f"{program}.__main__").main([str(a) for a in arguments]) == 0


def by_two(*words) -> None:
    """Run a command in two Accelerate processes; fails with what it printed."""
    done = subprocess.run([*TWO, *map(str, words)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def chain(toy, tmp_path_factory):
    """Surrogate, features, scores, index, backbone and probe; the directory that holds them."""
    root = tmp_path_factory.mktemp("chain")
    by_two("pretrain", "--beton", toy.source, "--recipe", "tiny", "--epochs", "2", "--out", root / "surrogate")
    by_two("prune", "features", "--model", root / "surrogate", "--betons", toy.source, toy.train, "--out", root)
    alone("prune", "score", "--source", root / "source.features.npz", "--targets", root / "train.features.npz",
         "--out", root / "scores.npz")  # fmt: skip
    for name in ("a", "b"):
        alone("prune", "select", "--scores", root / "scores.npz", "--method", "winnow", "--keep", "0.3", "--floor", "3",
             "--seed", "5", "--out", root / f"{name}.index.npz")  # fmt: skip
    by_two("pretrain", "--beton", toy.source, "--index", root / "a.index.npz", "--recipe", "tiny", "--epochs", "1",
         "--out", root / "backbone")  # fmt: skip
    alone("transfer", "probe", "--model", root / "backbone", "--train", toy.train, "--test", toy.test,
         "--out", root / "probe")  # fmt: skip
    return root


def test_both_trainings_ran_on_two_processes_and_saw_their_samples(chain, toy):
    n = len(open_dataset(toy.source))
    surrogate, backbone = (read_json(chain / name / "provenance.json") for name in ("surrogate", "backbone"))
    assert surrogate["processes"] == backbone["processes"] == 2
    assert surrogate["rows"] == n
    assert backbone["rows"] == len(PrunedIndex.load(chain / "a.index.npz"))
    assert 0.8 * 2 * n <= surrogate["samples"] <= 2 * n  # the last, unfilled batch of an epoch is left out


def test_the_sum_of_the_selection_is_the_budget_and_every_class_has_its_floor(chain, toy):
    manifest = open_dataset(toy.source).manifest
    index = PrunedIndex.load(chain / "a.index.npz")
    assert len(index) == round(0.3 * len(manifest))
    assert np.bincount(index.labels, minlength=len(manifest.classes)).min() >= 3
    rows = index.rows(manifest.ids)
    assert len(set(rows.tolist())) == len(index)
    np.testing.assert_array_equal(manifest.labels[rows], index.labels)


def test_the_same_seed_gives_the_same_index_byte_for_byte(chain):
    assert (chain / "a.index.npz").read_bytes() == (chain / "b.index.npz").read_bytes()


def test_the_scores_know_every_sample_and_the_target(chain, toy):
    arrays, meta = open_arrays(chain / "scores.npz", "winnow-scores/1")
    n = len(open_dataset(toy.source))
    assert {"sample/el2n", "sample/margin", "class/lm/train", "class/fm/train"} <= set(arrays)
    assert all(len(a) == n for name, a in arrays.items() if name.startswith("sample/"))
    assert arrays["class/lm/train"].sum() == len(open_dataset(toy.train))  # one hard vote for each target image
    assert meta["fingerprint"] == open_dataset(toy.source).manifest.fingerprint


def test_the_probe_judges_every_test_image_once(chain, toy):
    result = read_json(chain / "probe/result.json")
    predictions, _ = open_arrays(chain / "probe/predictions.npz", "winnow-predictions/1")
    test = open_dataset(toy.test).manifest
    assert result["n"] == len(test)
    assert predictions["label"].tolist() == test.labels.tolist()
    assert result["value"] == pytest.approx((predictions["label"] == predictions["predicted"]).mean())


def test_every_step_returns_at_once_when_it_is_done(chain, toy):
    stamps = {p: p.stat().st_mtime_ns for p in chain.rglob("*") if p.is_file()}
    alone("pretrain", "--beton", toy.source, "--recipe", "tiny", "--epochs", "2", "--out", chain / "surrogate")
    alone("prune", "features", "--model", chain / "surrogate", "--betons", toy.source, "--out", chain)
    alone("prune", "score", "--source", chain / "source.features.npz", "--targets", chain / "train.features.npz",
         "--out", chain / "scores.npz")  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in chain.rglob("*") if p.is_file()} == stamps


def test_the_index_is_shown_in_words(chain, capsys):
    alone("prune", "show", chain / "a.index.npz")
    assert "samples to KEEP" in capsys.readouterr().out
