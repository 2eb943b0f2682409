"""A study at a given total compute, trained for real on generated images: what runs, for how long, what it says."""

from __future__ import annotations

import pytest

from prune.runs.files import read_json
from transfer.__main__ import main
from transfer.verdicts.analysis import analyse
from transfer.verdicts.results_file import load_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lamps(tmp_path_factory):
    from prune.__main__ import main as prune

    out = tmp_path_factory.mktemp("lamps")
    few = ["--per-class", "16", "--irrelevant", "4", "--target-train", "8", "--target-test", "10"]
    assert prune(["generate", "--world", "lamps", *few, "--duplicates", "0", "--out", str(out)]) == 0
    return out


def study(lamps, out, *more, methods=("full", "winnow")):
    return main(
        ["study", "--source", str(lamps / "source/train"), "--targets", f"signs={lamps / 'signs'}", "--methods",
         *methods, "--recipe", "lamps", "--surrogate-recipe", "lamps", "--loader", "torch", "--seeds", "0",
         "--epochs", "4", "--surrogate-epochs", "1", "--out", str(out), *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(lamps, tmp_path_factory):
    out = tmp_path_factory.mktemp("compute") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # these networks are too small for two
        assert study(lamps, out, "--compute", "0.5", "--ladder", "0.25", "0.5", "--price", "2") == 0
    return out


def test_every_pruned_run_costs_the_given_share_with_its_surrogate(done):
    analysis = analyse(load_results(done), done)
    rows = {(row["method"], row["keep"]): row for row in analysis["ledger"]["rows"]}
    steps = read_json(done / "backbones/full-s0/provenance.json")["steps"]
    pruned = [row for (method, _), row in rows.items() if method == "winnow"]
    assert len(pruned) >= 2
    for row in pruned:
        assert 0.5 <= row["total_flops"] < 0.5 + 1.5 / steps
        assert row["pretraining"]["flops"] < row["total_flops"] * analysis["ledger"]["full"]["flops"]
    assert rows["full-length", 0.5]["total_flops"] == pytest.approx(0.5, abs=1.5 / steps)


def test_the_best_keep_that_was_tried_is_better_than_its_neighbours_on_the_ladder(done):
    analysis = analyse(load_results(done), done)
    tried = dict(analysis["search"]["confirmed"])
    assert set(tried) == {row["keep"] for row in analysis["rows"] if row["method"] == "winnow"}
    best = max(tried, key=lambda keep: tried[keep])
    ladder = [0.25, 0.5]
    place = ladder.index(best)
    assert {ladder[k] for k in (place - 1, place + 1) if 0 <= k < 2} <= set(tried)
    assert analysis["search"]["compute"] == 0.5


def test_show_says_what_was_searched_and_the_study_what_it_would_cost(lamps, done, tmp_path, capsys):
    assert main(["show", "--study", str(done)]) == 0
    text = capsys.readouterr().out
    assert (
        "For 50 % of the compute of full pretraining, everything counted, the keep was searched on the ladder" in text
    )
    assert "times the epochs of full data." in text
    assert study(lamps, tmp_path / "new", "--compute", "0.5", "--price", "2", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Still to run: about ")
    assert not (tmp_path / "new").exists()


def test_a_finished_study_repeats_nothing_and_names_its_command(done, capsys):
    before = (done / "results.json").read_bytes()
    assert main(["study", "--out", str(done)]) == 0
    assert "Still to run" not in capsys.readouterr().err
    assert (done / "results.json").read_bytes() == before
    assert "--compute 0.5 --ladder 0.25 0.5" in (done / "report.html").read_text(encoding="utf-8")
    assert main(["study", "--out", str(done), "--compute", "0.25"]) == 2
    assert "compute: 0.5 -> 0.25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compute", "0.5", "--keep", "auto"), "--compute: searches the keep by itself"),
        (("--ladder", "0.5"), "--ladder: is for --keep auto and --compute"),
        (("--compute", "0.02"), "--compute 0.02: surrogate and features alone would cost 0.17 of a full pretraining"),
        (("--price", "-1"), "--price -1.0: 0 or more is needed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(lamps, tmp_path, capsys, flags, message):
    assert study(lamps, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
