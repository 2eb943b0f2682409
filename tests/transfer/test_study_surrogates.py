"""A study that chooses its surrogate, trained for real on generated images: what runs before and after the choice."""

from __future__ import annotations

import json

import pytest

from prune.runs.files import read_json
from transfer.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    from prune.__main__ import main as prune

    root = tmp_path_factory.mktemp("choice")
    few = ["--per-class", "12", "--irrelevant", "2", "--target-train", "8", "--target-test", "8"]
    assert prune(["generate", "--world", "lamps", *few, "--duplicates", "0", "--out", str(root / "lamps")]) == 0
    flags = ["--source", str(root / "lamps/source/train"), "--targets", f"signs={root / 'lamps/signs'}"]
    flags += ["--methods", "full", "winnow", "--keeps", "0.5", "--seeds", "0", "--surrogates", "none", "0.5"]
    flags += ["--recipe", "lamps", "--surrogate-recipe", "lamps", "--epochs", "2", "--surrogate-epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["study", *flags, "--loader", "torch", "--out", str(root / "study")]) == 0
    return root / "study"


def test_the_study_chooses_and_trains_the_backbone_on_what_the_chosen_surrogate_selects(done, capsys):
    text = read_json(done / "study.json")["surrogate"]
    found = read_json(done / "results.json")["surrogates"]
    assert found[0]["surrogate"] == text
    assert {one["surrogate"] for one in found} == {"none", "0.5"}
    prepared = {one["surrogate"]: one["preparation"] for one in found}
    # Batches of 8: 32 of 36 images for 2 epochs, a third of it for features of 72 + 32 images; the full run sees 144.
    assert prepared["none"] == 0
    assert prepared["0.5"] == pytest.approx((64 + 104 / 3) / 144, rel=0.02)
    method = "gate" if text == "none" else "winnow"
    assert {one["method"] for one in read_json(done / "results.json")["cells"]} == {"full", method}
    assert main(["show", "--study", str(done)]) == 0
    assert f"the study chose {text}: predicted speed-up" in capsys.readouterr().out


def test_the_search_is_listed_among_the_costs_and_enters_no_factor(done, capsys):
    assert main(["show", "--study", str(done), "--json"]) == 0
    ledger = json.loads(capsys.readouterr().out)["ledger"]
    search = next(stage for stage in ledger["stages"] if stage["stage"] == "search")
    assert search["flops"] > 0
    (row,) = ledger["rows"]
    alone = {"gate": 64 / 144, "winnow": (64 + 64 + 104 / 3) / 144}  # whole batches of 8 out of 36 images
    assert row["total_flops"] == pytest.approx(alone[row["method"]], rel=0.03)


def test_a_study_that_has_chosen_repeats_nothing(done, capsys):
    before = (done / "results.json").read_bytes()
    assert main(["study", "--out", str(done)]) == 0
    assert "Still to run" not in capsys.readouterr().err
    assert (done / "results.json").read_bytes() == before
