"""A study that chooses its surrogate, trained for real on generated images: what runs before and after the choice."""

from __future__ import annotations

import json

import pytest

from prune.runs.files import read_json
from transfer.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from prune.__main__ import main as prune

    root = tmp_path_factory.mktemp("choice")
    few = ["--per-class", "12", "--irrelevant", "2", "--target-train", "8", "--target-test", "8"]
    assert prune(["generate", "--world", "lamps", *few, "--duplicates", "0", "--out", str(root / "lamps")]) == 0
    return root


def study(root, out, *surrogates):
    flags = ["--source", str(root / "lamps/source/train"), "--targets", f"signs={root / 'lamps/signs'}"]
    flags += ["--methods", "full", "winnow", "--keeps", "0.5", "--seeds", "0", "--surrogates", *surrogates]
    flags += ["--recipe", "lamps", "--surrogate-recipe", "lamps", "--epochs", "2", "--surrogate-epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["study", *flags, "--loader", "torch", "--out", str(out)]) == 0


@pytest.fixture(scope="module")
def done(root):
    study(root, root / "study", "none", "0.5")
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


def test_a_model_of_timm_is_a_surrogate_that_costs_its_pass_alone(root, tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    text = f"timm:test_resnet:{tmp_path / 'w.safetensors'}"
    study(root, tmp_path / "study", "none", text)
    found = {one["surrogate"]: one for one in read_json(tmp_path / "study/results.json")["surrogates"]}
    (by_timm,) = (one for name, one in found.items() if name.startswith("timm:test_resnet:"))
    assert by_timm["preparation"] > 0
    assert found["none"]["preparation"] == 0
    surrogate = next((tmp_path / "study/candidates").glob("timm-*")) / "surrogates/s0"
    assert read_json(surrogate / "model.json")["arch"] == "test_resnet"
    assert not (surrogate / "metrics.jsonl").exists()  # nothing was trained
