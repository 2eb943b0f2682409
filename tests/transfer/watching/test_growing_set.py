"""`transfer preserve --set`: what a watch found joins the set, versions follow one another, cases never leave."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from prune.data.dataset import open_dataset
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from transfer import compress, preserve
from transfer.__main__ import main
from transfer.compression import journal
from transfer.compression.preservation_versions import later_path, open_preservation
from transfer.evaluation.target_splits import kept_rows
from transfer.pages import compress_page


@pytest.fixture(scope="session")
def first(world, tmp_path_factory):
    """Version 1: six images of each class."""
    out = tmp_path_factory.mktemp("first") / "set.index.npz"
    return preserve.run(preserve.Config(train=world.known, model=world.original, size=18, floor=4, out=out))


def grow(world, first, out, **more):
    given = {"train": world.known, "model": world.original, "set": first, "size": 24, "floor": 4, **more}
    preserve.run(preserve.Config(out=out, **given))
    return open_preservation(out, open_dataset(world.known).manifest)


def changes(place):
    return PrunedIndex.load(place).provenance[-1]["changes"]


def watched(world, folder, each, seed, *, labels=True, **more):
    """The CSV that a watch of new images writes, beside them."""
    rows = world.draw(folder, each, seed, **more)
    images = world.listed(folder / "new.csv", rows, ("path", "label") if labels else ("path",))
    assert main(["watch", "--run", str(world.run), "--images", str(images), "--out", str(folder / "seen.csv")]) == 0
    return folder / "seen.csv"


def test_what_a_watch_found_joins_the_set_with_the_reason_and_whose_label_it_is(world, first, tmp_path):
    seen = watched(world, tmp_path / "new", 2, 1)
    found = grow(world, first, tmp_path / "second.index.npz", add=seen)
    assert (found.version, len(found), len(found.later)) == (2, 24, 6)
    came = changes(tmp_path / "second.index.npz")["came"]
    assert {(one["class"], one["why"], one["stays"]) for one in came} == {
        ("blue", "coverage", False), ("green", "coverage", False), ("red", "lost answer", True),
    }  # fmt: skip
    assert {one["label"] for one in came} == {"given"}
    assert list(found.stays.values()) == ["lost answer"] * 2
    # The parent is named by its checksum, and is as it was.
    parent = open_preservation(first, open_dataset(world.known).manifest)
    assert PrunedIndex.load(tmp_path / "second.index.npz").provenance[-1]["parent"] == parent.checksum
    assert (parent.version, parent.later, parent.record["images"]) == (1, None, 18)
    seen = watched(world, tmp_path / "more", 1, 2, labels=False)
    third = grow(world, tmp_path / "second.index.npz", tmp_path / "third.index.npz", add=seen, size=40)
    assert third.version == 3
    assert {(one["label"], one["why"]) for one in changes(tmp_path / "third.index.npz")["came"]} == {
        ("original's answer", "coverage"), ("original's answer", "the models disagreed"),
    }  # fmt: skip
    images, labels = third.read_later(12, 1.0)
    assert images.shape == (9, 12, 12, 3)
    # Red images are red, whatever beton they came from.
    assert (images[labels == 2].mean((0, 1, 2)) > [150, 0, 0]).all()


def test_a_set_that_grows_keeps_its_size_where_none_is_given(world, first, tmp_path, capsys):
    seen, out = watched(world, tmp_path / "new", 2, 1), tmp_path / "second.index.npz"
    assert len(grow(world, first, out, add=seen, size=None)) == 18
    assert len(grow(world, first, tmp_path / "larger.index.npz", add=seen, size=21)) == 21
    capsys.readouterr()
    grow(world, first, tmp_path / "larger.index.npz", add=seen, size=None)  # an output that exists keeps its own
    assert "up to date" in capsys.readouterr().err


def test_a_set_without_later_images_is_what_it_was_downstream(world, first):
    manifest = open_dataset(world.known).manifest
    rows, fingerprint = kept_rows(manifest, first)
    found = open_preservation(first, manifest)
    assert found.rows.tolist() == rows.tolist()
    assert found.fingerprint == fingerprint


def test_the_same_command_gives_the_same_bytes_and_a_second_call_is_up_to_date(world, first, tmp_path, capsys):
    seen = watched(world, tmp_path / "new", 2, 1)
    for name in ("a", "b"):
        grow(world, first, tmp_path / name / "x.index.npz", add=seen)
    for name in ("x.index.npz", "x.later.beton", "x.later.manifest.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (tmp_path / "b" / "x.index.npz").unlink()  # killed between the beton and the index
    grow(world, first, tmp_path / "b" / "x.index.npz", add=seen)
    assert (tmp_path / "a" / "x.index.npz").read_bytes() == (tmp_path / "b" / "x.index.npz").read_bytes()
    grow(world, first, tmp_path / "a" / "x.index.npz", add=seen)
    assert "up to date" in capsys.readouterr().err


def test_cases_never_leave_and_the_others_make_room_by_coverage(world, first, tmp_path):
    second = tmp_path / "second.index.npz"
    cases = set(grow(world, first, second, add=watched(world, tmp_path / "new", 2, 1)).stays)
    assert len(cases) == 2
    third = tmp_path / "third.index.npz"
    found = grow(world, second, third, add=watched(world, tmp_path / "more", 12, 2), size=18)
    assert len(found) == 18
    manifest = open_dataset(world.known).manifest
    assert cases <= set(found.ids(manifest))
    assert len(changes(third)["left"]) > 5
    # Half of red's share of six are cases: the two that never leave, and one more.
    assert len([one for one in changes(third)["came"] if one["stays"]]) == 1
    with pytest.raises(InputError, match=r"--size 8: floors of 1 images and the 3 cases that never leave|--size 2"):
        grow(world, third, tmp_path / "x.index.npz", add=watched(world, tmp_path / "last", 1, 3), size=2, floor=1)


def test_what_a_rejected_step_lost_never_leaves(world, first, tmp_path):
    manifest = open_dataset(world.known).manifest
    members = open_preservation(first, manifest)
    run = shutil.copytree(world.run, tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"preserve": members.fingerprint}))
    entries = journal.read_journal(run)
    entries.append({**entries[2], "step": 3, "base": 2, "verdict": "rolled-back", "broke": [0, 17]})
    journal.write_journal(run, entries)
    found = grow(world, first, tmp_path / "x.index.npz", runs=(run,), size=6, floor=1)
    ids = members.ids(manifest)
    assert found.stays == {ids[0]: "rejected step 3", ids[17]: "rejected step 3"}
    assert len(found) == 6
    index = PrunedIndex.load(tmp_path / "x.index.npz")
    protected = np.array(index.reason_names)[index.reasons] == "protected"
    assert sorted(bytes(one).decode() for one in np.asarray(index.ids)[protected]) == [ids[0], ids[17]]
    with pytest.raises(InputError, match="was tested on another preservation set than version 2"):
        grow(world, tmp_path / "x.index.npz", tmp_path / "y.index.npz", runs=(run,))


def test_images_unlike_the_set_wait_for_a_person_and_enter_once_they_have_a_label(world, first, tmp_path):
    white = {"blue": (255, 255, 255)}
    seen = watched(world, tmp_path / "new", 3, 7, labels=False, colours=white)
    second, proposed = tmp_path / "second.index.npz", tmp_path / "unlike.csv"
    # Nine held-out members: the fifth distance is the threshold, which white squares exceed.
    found = grow(world, first, second, add=seen, propose=proposed, false_alarms=0.5)
    assert found.later is None
    with open(proposed, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert [float(row["distance"]) > float(row["threshold"]) for row in rows] == [True] * 3
    assert {row["label"] for row in rows} == {""}
    world.listed(proposed, [(row["path"], "green", row["original"]) for row in rows], ("path", "label", "original"))
    third = tmp_path / "third.index.npz"
    grow(world, second, third, add=proposed, root=tmp_path / "new", false_alarms=0.5)
    assert {(one["class"], one["label"], one["why"]) for one in changes(third)["came"]} == {
        ("green", "given", "unlike the set")
    }


def test_images_that_are_known_already_are_not_added_twice(world, first, tmp_path, capsys):
    folder = tmp_path / "new"
    rows = world.draw(folder, 1, 1)
    shutil.copyfile(folder / rows[0][0], folder / "copy.png")
    known = next((world.root / "known" / "green").iterdir())
    listed = world.listed(folder / "new.csv", [*rows, ("copy.png", "blue"), (str(known), "green")])
    found = grow(world, first, tmp_path / "x.index.npz", add=listed)
    assert len(found.later) == 3
    assert "2 images skipped: known already" in capsys.readouterr().err


BAD = {
    "nothing": ({}, "give --add or --runs"),
    "model": ({"add": "new.csv", "model": None}, "give --model"),
    "size": ({"add": "new.csv", "size": 0}, "needs room"),
    "same": ({"add": "new.csv", "out": "set"}, "stays as it is; give another"),
    "list": ({"add": "new.csv", "list": "x.txt"}, "does not go with --set"),
    "rate": ({"add": "new.csv", "false_alarms": 1.0}, "a share in"),
    "absent": ({"add": "none.csv"}, "no such file"),
    "class": ({"add": "purple.csv"}, "line 2: column label: there is no class 'purple'"),
    "neither": ({"add": "neither.csv"}, "line 2: has neither a label nor"),
    "elsewhere": ({"add": "elsewhere.csv"}, "give the folder of their paths with --root"),
    "another": ({"add": "another.csv"}, "answers 2 of 2 images otherwise"),
    "empty": ({"add": "empty.csv"}, "lists no image"),
    "run": ({"runs": (".",)}, "not a run of `transfer compress`"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_bad_input_gets_one_line_and_leaves_nothing(world, first, tmp_path, what):
    rows = world.draw(tmp_path, 1, 5)
    for name, label in (("new", "red"), ("purple", "purple"), ("neither", "")):
        world.listed(tmp_path / f"{name}.csv", [(rows[0][0], label)])
    world.listed(tmp_path / "elsewhere.csv", [("gone/a.png", "red")])
    world.listed(tmp_path / "empty.csv", [])
    # Blue and green images of which the CSV says that the original called them red.
    world.listed(tmp_path / "another.csv", [(path, "red") for path, _ in rows[:2]], ("path", "original"))
    more, said = BAD[what]
    more = {**more, **{key: tmp_path / more[key] for key in ("add", "list") if key in more}}
    more |= {"runs": (tmp_path,)} if "runs" in more else {}
    out = first if more.pop("out", None) else tmp_path / "x.index.npz"
    with pytest.raises(InputError, match=said) as error:
        grow(world, first, out, **more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.index.npz").exists()
    with pytest.raises(InputError, match="give --set"):
        preserve.run(preserve.Config(train=world.known, model=world.original, out=out, add=tmp_path / "new.csv"))


def test_later_images_that_are_missing_or_others_are_refused(world, first, tmp_path):
    manifest = open_dataset(world.known).manifest
    one, two = tmp_path / "one.index.npz", tmp_path / "two.index.npz"
    grow(world, first, one, add=watched(world, tmp_path / "new", 1, 1))
    grow(world, first, two, add=watched(world, tmp_path / "more", 1, 2))
    for suffix in (".beton", ".manifest.npz"):
        name = later_path(one).name.removesuffix(".beton") + suffix
        shutil.copyfile(two.parent / f"two.later{suffix}", one.parent / name)
    with pytest.raises(InputError, match="holds other images than version 2"):
        open_preservation(one, manifest)
    later_path(one).unlink()
    with pytest.raises(InputError, match="no such file; it holds the later images"):
        open_preservation(one, manifest)
    damaged = PrunedIndex.load(two)
    damaged.provenance[-1]["version"] = 7
    damaged.save(tmp_path / "three.index.npz")
    with pytest.raises(InputError, match="its record of version 2 is damaged"):
        open_preservation(tmp_path / "three.index.npz", manifest)


def test_compress_tests_on_later_images_names_the_version_and_what_a_rejected_step_broke(world, first, tmp_path):
    second = tmp_path / "second.index.npz"
    members = grow(world, first, second, add=watched(world, tmp_path / "new", 2, 1))
    config = compress.Config(
        model=world.original,
        train=world.known,
        preserve=second,
        out=tmp_path / "run",
        kinds=("channels",),
        ratio=0.9,
        steps=1,
        recovery_epochs=0.0,
        latency="none",
    )
    compress.run(config)
    entries = journal.read_journal(tmp_path / "run")
    assert entries[0]["what"]["preserve"] == members.record
    assert members.record["version"] == 2
    # All 24 images were tested, 8 of each class.
    assert round(24 * entries[0]["accuracy"]) == pytest.approx(24 * entries[0]["accuracy"])
    assert entries[1]["verdict"] == "rolled-back"
    assert entries[1]["broke"]
    third = grow(world, second, tmp_path / "third.index.npz", runs=(tmp_path / "run",))
    ids = members.ids(open_dataset(world.known).manifest)
    assert {ids[place] for place in entries[1]["broke"]} <= set(third.stays)
    assert "version 2, 24 images" in compress_page.step_texts("run", entries[0], entries)[-1]
