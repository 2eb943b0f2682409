"""`prune explain` says what the index says: verdicts, thresholds and causes are those of the selection itself."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from prune import __main__ as prune
from prune import explain, selection
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.methods.class_vote_shrinkage import shrunk_shares, vote_limits
from prune.runs.files import InputError

CLASSES = ["ant", "bee", "cat"]
SIZES = [30, 20, 10]
COLUMNS = ("ids", "labels", "digests", "crc32", "nbytes", "width", "height")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Sixty images of three classes with scores by a seed; a target with votes; near-duplicates; a gate at 60 %."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(3)
    label = rng.permutation(np.repeat(np.arange(3), SIZES))
    n = len(label)
    manifest = Manifest(
        ids=np.array([f"{CLASSES[k]}/{i:02d}.jpg".encode() for i, k in enumerate(label)]),
        labels=label.astype(np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.arange(n, dtype=np.uint32),
        classes=CLASSES,
        **{name: np.full(n, 8, np.int32) for name in ("nbytes", "width", "height")},
    )
    manifest.save(folder / "s.manifest.npz")
    votes = {"lm": [1, 9, 2], "fm": [2, 8, 2], "lm-chance": [5, 5, 2], "fm-chance": [6, 4, 2]}
    votes |= {"lm-soft": [2, 8, 2], "fm-soft": [3, 7, 2]}
    copies = np.full(n, -1)
    copies[[1, 2, 31]] = [0, 0, 30]
    arrays = {f"class/{rule}/pets": np.array(values, "<f4") for rule, values in votes.items()}
    arrays |= {f"sample/{name}": rng.normal(size=n).astype("<f4") for name in ("el2n", "entropy", "domain", "margin")}
    arrays["sample/el2n"] = np.round(np.abs(arrays["sample/el2n"]), 1)  # with ties
    save_arrays(
        folder / "scores.npz",
        arrays | {"duplicate_of": copies, "label": manifest.labels, "position": np.arange(n)},
        {
            "format": "winnow-scores/1",
            "fingerprint": manifest.fingerprint,
            "manifest": "s.manifest.npz",
            "features": "s.features.npz",
            "targets": ["pets"],
            "groups": [],
            "gates": {"domain": {"width": 0.6}},
            "votes": {},
        },
    )
    ids = manifest.ids.tolist()
    (folder / "never.txt").write_bytes(b"\n".join(ids[3:6]))
    (folder / "always.txt").write_bytes(b"\n".join(ids[7:9]))
    (folder / "weights.json").write_text(json.dumps({"ant": 1, "bee": 0, "cat": 2}))
    rows = [f"{name.decode()},{'even' if k % 2 else 'odd'},s{k % 7}" for k, name in enumerate(ids)]
    (folder / "groups.csv").write_text("\n".join(["id,camera,site", *rows]) + "\n")
    return SimpleNamespace(folder=folder, scores=folder / "scores.npz", manifest=manifest, arrays=arrays)


SETTINGS = {
    "winnow": {"keep": 0.3},
    "winnow, wide": {"keep": 0.7},
    "dp4tl-lm": {"keep": 0.3, "method": "dp4tl-lm"},
    "evidence, open": {"keep": 0.4, "method": "evidence", "gate": "open"},
    "mix": {"keep": 0.4, "mix": "lm:0.5,el2n:0.3,random:0.2", "protect": ("cat",), "floor": 2.0},
    "floors": {"keep": 0.25, "method": "dp4tl-lm", "floor": 4.0},
    "protect": {"keep": 0.5, "method": "el2n", "protect": ("cat",)},
    "threshold": {"keep": 0.3, "method": "el2n", "floor": 3.0},
    "gate": {"keep": 0.3, "quota": "size", "rank": "el2n:bottom", "gate": "auto", "floor": 2.0},
    "ccs": {"keep": 0.3, "quota": "size", "rank": "el2n:ccs"},
    "middle": {"keep": 0.3, "quota": "equal", "rank": "margin:middle"},
    "duplicates": {"keep": 0.6, "method": "random", "drop_duplicates": True},
    "lists": {"keep": 0.3, "method": "el2n", "never": "never.txt", "always": "always.txt"},
    "weights": {"keep": 0.3, "quota": "weights", "rank": "random", "weights": "weights.json"},
    "groups": {"keep": 0.35, "method": "dp4tl-lm", "groups": "groups.csv", "floor_groups": 3},
    "budget": {"budget": 11, "quota": "soft", "rank": "entropy:top", "seed": 4},
}
FILES = ("never", "always", "groups", "weights")


def selected(case, name):
    out = case.folder / f"{name.replace(', ', '-')}.index.npz"
    given = {key: case.folder / value if key in FILES else value for key, value in SETTINGS[name].items()}
    selection.run(selection.Config(scores=case.scores, out=out, **given))
    return out, {key: value for key, value in given.items() if key in FILES and key != "weights"}


def explained(case, out, capsys, **config):
    capsys.readouterr()
    explain.run(explain.Config(index=out, scores=case.scores, json=True, **config))
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_verdict_on_every_image_is_the_indexs_and_its_threshold_separates_kept_from_dropped(case, name, capsys):
    out, lists = selected(case, name)
    index = PrunedIndex.load(out)
    reasons = {row: index.reason_names[code] for row, code in zip(index.positions.tolist(), index.reasons.tolist())}
    found = explained(case, out, capsys, id=tuple(i.decode() for i in case.manifest.ids), **lists)
    assert len(found) == 60
    for row, one in enumerate(found):
        assert one["kept"] == (row in reasons)
        assert one["reason"] == reasons.get(row)
        assert (one["cause"] is None) == one["kept"]
        taken = [order["taken"] for order in one["orders"]]
        if one["kept"]:
            assert taken.count(True) == 1 or (not taken and one["reason"] in ("protected", "floor"))
        else:
            assert not any(taken)
            assert bool(taken) == (one["cause"] == "rank")
        for order in one["orders"]:
            assert order["taken"] == (order["place"] <= order["quota"])
            if order["threshold"] is not None and order["score"] is not None:
                ahead = order["score"] - order["threshold"]
                ahead = -ahead if order["rank"].endswith(":bottom") else ahead
                assert ahead >= 0 if order["taken"] else ahead <= 0
        if one["gate"] and one["gate"]["least"] is not None and not one["gate"]["passed"]:
            assert one["gate"]["odds"] <= one["gate"]["least"]
        assert one["text"][0].startswith(
            f"{one['id']} (class {one['class']}) is {'kept' if one['kept'] else 'dropped'}"
        )
    for one in explained(case, out, capsys, classes=tuple(CLASSES), **lists):
        counts = one["of_class"]
        assert sum(one["reasons"].values()) == counts["kept"]
        assert sum(one["causes"].values()) == counts["size"] - counts["kept"]


def test_an_image_that_the_gate_shut_out_is_told_its_odds_and_a_copy_its_original(case, capsys):
    out, _ = selected(case, "gate")
    odds = case.arrays["sample/domain"]
    worst = int(np.argmin(odds))
    explain.run(explain.Config(index=out, scores=case.scores, id=(case.manifest.ids[worst].decode(),)))
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("is dropped: the gate shut it out.")
    least = np.sort(odds)[::-1][35]  # of 60 images, 36 pass
    assert f"(domain) are {odds[worst]:.4g}; the gate is at {least:.4g}: it did not pass." in said[1]
    out, _ = selected(case, "duplicates")
    one = explained(case, out, capsys, id=(case.manifest.ids[1].decode(),))[0]
    assert (one["kept"], one["cause"]) == (False, "duplicate")
    assert {copy["id"] for copy in one["duplicates"]} == {case.manifest.ids[k].decode() for k in (0, 2)}


def test_a_class_is_told_its_votes_and_those_by_chance(case, capsys):
    out, _ = selected(case, "dp4tl-lm")
    explain.run(explain.Config(index=out, scores=case.scores, classes=("bee",)))
    said = capsys.readouterr().out
    assert said.startswith(
        "Class bee keeps 18 of 20 images, of which 20 may be kept; it has 9 LM votes of pets (5.0 by"
    )
    assert "in an order drawn at random in class bee, the first 18 of 20 are kept." in said.lower()


def test_a_class_that_keeps_nothing_is_told_its_place_among_the_classes(case, capsys):
    out, _ = selected(case, "floors")  # 15 of 60; bee has 9 of 12 votes, cat 2 and ant 1, and every class a floor of 4
    explain.run(explain.Config(index=out, scores=case.scores, classes=("ant", "bee")))
    said = capsys.readouterr().out
    assert "LM votes: target images that the surrogate takes for this class" in said
    whole = "the budget lasts for 0 whole classes."
    assert f"The quota gives it 8.3 % of the weight, place 3 of 3 classes; {whole}" in said
    assert f"The quota gives it 75 % of the weight, place 1 of 3 classes; {whole}" in said
    out, _ = selected(case, "dp4tl-lm")
    explain.run(explain.Config(index=out, scores=case.scores, classes=("ant",)))
    assert "in class ant, none of 30 is kept." in capsys.readouterr().out


def test_a_class_of_quota_evidence_is_told_why_it_is_not_kept_whole(case, capsys):
    # 20 of 60 are kept. Bee has 17 votes against 9 by chance and comes first: 20 less two floors of 2.
    out = case.folder / "evidence-floor.index.npz"
    flags = {"keep": 1 / 3, "method": "evidence", "gate": "open", "floor": 2.0}
    selection.run(selection.Config(scores=case.scores, out=out, **flags))
    found = {one["class"]: one for one in explained(case, out, capsys, classes=tuple(CLASSES))}
    text = {name: " ".join(one["text"]) for name, one in found.items()}
    assert [found[name]["of_class"]["by_votes"] for name in CLASSES] == [2, 16, 2]
    assert "Quota evidence gives it 16: the budget ends there; its votes beyond chance stand for " in text["bee"]
    why = "Quota evidence gives it its floor of 2 alone: classes with more evidence come first and use up the budget"
    assert why in text["ant"]
    assert why in text["cat"]
    assert "1 LM vote of pets (5.0 by chance), 2 FM votes" in text["ant"]
    # Ten times its share of the votes, of 20: the limits are those of the rule itself.
    votes = [np.array([case.arrays[f"class/{kind}{way}/pets"] for kind in ("lm", "fm")]) for way in ("", "-chance")]
    evidence = vote_limits(np.ones(3), shrunk_shares(*(one.sum(axis=0) for one in votes)), 20)
    assert [found[name]["of_class"]["limit"] for name in CLASSES] == evidence.tolist()
    out, _ = selected(case, "dp4tl-lm")
    assert "Quota evidence" not in " ".join(explained(case, out, capsys, classes=("ant",))[0]["text"])


MISTAKES = {
    "neither": ([], "name images with --id or classes with --class"),
    "id": (["--id", "bee/x.jpg"], "--id 'bee/x.jpg': no such image"),
    "class": (["--class", "eel"], "--class eel: no such class"),
    "list": (["--class", "ant", "--never", "never.txt"], "--never: the index was made without the list of --never"),
    "source": (["--id", "x.jpg", "--scores", "elsewhere.npz"], "--scores elsewhere.npz: of another source"),
    "scores": (["--class", "ant", "--scores", "other.npz"], "not the scores file that the index was made from"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(case, name, capsys, monkeypatch):
    out, _ = selected(case, "dp4tl-lm")
    monkeypatch.chdir(case.folder)
    meta = {"format": "winnow-scores/1", "fingerprint": case.manifest.fingerprint, "manifest": "s.manifest.npz"}
    save_arrays(case.folder / "other.npz", {"sample/el2n": case.arrays["sample/el2n"]}, meta)
    few = Manifest(**{column: getattr(case.manifest, column)[:5] for column in COLUMNS}, classes=case.manifest.classes)
    few.save(case.folder / "few.manifest.npz")
    elsewhere = meta | {"fingerprint": few.fingerprint, "manifest": "few.manifest.npz"}
    save_arrays(case.folder / "elsewhere.npz", {"sample/el2n": case.arrays["sample/el2n"][:5]}, elsewhere)
    arguments, words = MISTAKES[name]
    capsys.readouterr()
    assert prune.main(["explain", "--index", str(out), "--scores", "scores.npz", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert len(said.err.splitlines()) == 1


def test_an_index_that_was_changed_since_or_needs_a_list_is_refused(case):
    out, _ = selected(case, "lists")
    with pytest.raises(InputError, match="made with the list of --never: give it with --never"):
        explain.run(explain.Config(index=out, scores=case.scores, classes=("ant",)))
    part = case.folder / "part.index.npz"
    PrunedIndex.load(out).sample(0.5).save(part)
    with pytest.raises(InputError, match="made by select → sample"):
        explain.run(explain.Config(index=part, scores=case.scores, classes=("ant",)))


def test_an_index_of_a_version_in_which_the_method_meant_something_else_is_explained_as_it_was_made(case, capsys):
    out = case.folder / "old.index.npz"
    selection.run(
        selection.Config(scores=case.scores, out=out, keep=0.3, quota="size", rank="el2n:bottom", gate="open")
    )
    index = PrunedIndex.load(out)
    step = index.provenance[-1]
    config = {key: value for key, value in step["config"].items() if key != "gate"}  # an older version had no gate
    replace(index, provenance=[{**step, "config": {**config, "quota": None, "rank": None}}]).save(out)
    found = explained(case, out, capsys, id=tuple(i.decode() for i in case.manifest.ids))
    assert [one["kept"] for one in found] == [row in index.positions for row in range(60)]
    assert {order["rank"] for one in found for order in one["orders"]} == {"el2n:bottom"}


def test_floors_of_groups_hold_within_the_budget_and_name_the_largest_that_fits(case):
    rows = {}
    for name in ("groups", "dp4tl-lm"):
        index = PrunedIndex.load(selected(case, name)[0])
        rows[name] = index.positions
    kept = rows["groups"]
    assert len(kept) == 21
    assert min(np.bincount(kept % 7, minlength=7)) == 3  # 7 sites of 8 or 9 images, 3 of each and 21 kept
    assert min(np.bincount(kept % 2)) >= 3
    with pytest.raises(InputError, match=r"needs 28 samples for the 7 groups of site .* the largest that fits is 3"):
        selection.run(
            selection.Config(
                scores=case.scores,
                out=case.folder / "x.index.npz",
                keep=0.35,
                groups=case.folder / "groups.csv",
                floor_groups=4,
            )
        )
    assert not (case.folder / "x.index.npz").exists()


def test_the_gallery_says_why_an_image_is_kept_or_dropped(toy, tmp_path, capsys):
    manifest = Manifest.load(toy.source.with_suffix(".manifest.npz"))
    n, scores, page = len(manifest), tmp_path / "scores.npz", tmp_path / "page.html"
    meta = {"format": "winnow-scores/1", "fingerprint": manifest.fingerprint, "targets": []}
    save_arrays(scores, {"sample/el2n": np.arange(n, dtype="<f4")}, meta)
    index = tmp_path / "x.index.npz"
    select = ["--scores", str(scores), "--manifest", str(toy.source), "--method", "el2n", "--keep", "0.5"]
    assert prune.main(["select", *select, "--out", str(index)]) == 0
    show = [str(index), "--html", str(page), "--source", str(toy.source), "--scores", str(scores)]
    assert prune.main(["show", *show]) == 0
    text = page.read_text(encoding="utf-8")
    last = manifest.ids[n - 1].decode()
    assert f"<summary>{n - 1}</summary>{last} (class {manifest.classes[manifest.labels[-1]]}) is kept: reason" in text
    assert "is dropped: its place in the order was not reached." in text
