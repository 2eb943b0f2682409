"""`prune select --like`: as few changes as the quotas allow; `prune show --against`: what changed, in words."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune import selection, show
from prune.index.index_difference import difference, told
from prune.index.manifest import Manifest
from prune.index.pruned_index import REASONS, PrunedIndex
from prune.methods.choose import FLOOR, PROTECTED, QUOTA, RANDOM, Choice
from prune.methods.continuity import REASON, stay_close
from prune.methods.decision import Decision
from prune.methods.stages import Stage
from prune.runs.files import InputError


def decided(rows, reasons, quotas, place, excluded=()) -> Decision:
    k, n = len(rows), len(place)
    choice = Choice(
        np.array(rows), np.array(reasons, np.uint8), np.arange(k, dtype=np.float32), np.array(quotas),
        np.ones(len(quotas)), np.array(quotas),
    )  # fmt: skip
    gone = np.isin(np.arange(n), excluded)
    return Decision(choice, {"gate": gone}, [Stage("el2n:top", np.array(place), np.array(quotas))])


def test_earlier_samples_come_back_for_the_last_of_the_new_ones_of_their_class():
    # Class 0 is rows 0 to 4, class 1 rows 5 to 7. The rules keep 0, 1, 2 and 5; before, 2, 3, 4, 6 and 7 were kept.
    label = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    like = np.isin(np.arange(8), [2, 3, 4, 6, 7])
    scores = {"el2n": np.arange(8) / 10}
    decision = decided([0, 1, 2, 5], [QUOTA] * 4, [3, 1], [0, 1, 2, 4, 3, 0, 2, 1])
    found = stay_close(decision, like, label, "el2n:top", scores)
    assert found.rows.tolist() == [2, 3, 4, 7]  # both of class 0; of class 1 the one that comes first in the order
    assert [found.reason_names[code] for code in found.reason] == ["quota", REASON, REASON, REASON]
    assert found.score.tolist() == pytest.approx([2, 0.3, 0.4, 0.7])
    # Row 4 may not be kept any more, and row 0 is protected: row 3 takes the place of row 1, the other new one.
    decision = decided([0, 1, 2, 5], [PROTECTED, QUOTA, QUOTA, FLOOR], [3, 1], [0, 1, 2, 4, 3, 0, 2, 1], excluded=[4])
    assert stay_close(decision, like, label, "random", {}).rows.tolist() == [0, 2, 3, 5]


@given(data=st.data())
def test_each_class_keeps_as_many_and_no_selection_with_these_quotas_is_nearer(data):
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    label = rng.integers(0, 3, n)
    kept, like, gone = (rng.random(n) < share for share in rng.random(3))
    kept &= ~gone
    rows = np.flatnonzero(kept)
    quotas = np.bincount(label[rows], minlength=3)
    decision = decided(rows, np.full(len(rows), RANDOM), quotas, rng.permutation(n), np.flatnonzero(gone))
    found = stay_close(decision, like, label, "random", {})
    assert np.bincount(label[found.rows], minlength=3).tolist() == quotas.tolist()
    assert not gone[found.rows].any()
    most = np.minimum(np.bincount(label[like & ~gone], minlength=3), quotas).sum()  # what any such selection can share
    assert like[found.rows].sum() == most


def source_of(n: int, name: str) -> Manifest:
    labels = (np.arange(n) % 3).astype(np.int32)
    small = np.full(n, 8, np.int32)
    ids = np.array([b"%04d.jpg" % i for i in range(n)])
    meta = {"source": name}
    return Manifest(ids, labels, small, small, small, np.arange(n, dtype="u8"), small.astype("u4"), list("abc"), meta)


@pytest.fixture
def grown(tmp_path):
    """A source of 300 images, the same with 60 more, and an index of the first."""
    for name, n in (("old", 300), ("new", 360)):
        source_of(n, name).save(tmp_path / f"{name}.manifest.npz")
    old = tmp_path / "old.index.npz"
    selection.run(selection.Config(old, manifest=tmp_path / "old.manifest.npz", method="random", keep=0.2, seed=1))
    return SimpleNamespace(folder=tmp_path, old=old, manifest=tmp_path / "new.manifest.npz")


def test_a_grown_pool_keeps_what_was_kept_and_the_page_tells_the_difference(grown, capsys):
    place = grown.folder / "new.index.npz"
    plain = selection.Config(grown.folder / "plain.index.npz", manifest=grown.manifest, method="random", keep=0.2)
    selection.run(plain)
    selection.run(selection.Config(place, manifest=grown.manifest, method="random", keep=0.2, like=grown.old))
    old, new = PrunedIndex.load(grown.old), PrunedIndex.load(place)
    assert (len(old), len(new)) == (60, 72)
    assert set(old.ids.tolist()) <= set(new.ids.tolist())
    assert not set(old.ids.tolist()) <= set(PrunedIndex.load(plain.out).ids.tolist())  # the rules alone keep others
    assert new.per_class()[0].tolist() == PrunedIndex.load(plain.out).per_class()[0].tolist()
    capsys.readouterr()
    show.run(show.Config(place, against=grown.old))
    text = " ".join(capsys.readouterr().out.split())
    assert "It keeps 60 of the 60 samples of the other index (100.0%), drops 0 of them, and adds 12." in text
    assert "Their sources differ." in text
    show.run(show.Config(place, against=grown.old, json=True))
    assert json.loads(capsys.readouterr().out)["against"]["added"] == 12
    selection.run(
        selection.Config(place, manifest=grown.manifest, method="random", keep=0.2, like=grown.old)
    )  # is done
    with pytest.raises(InputError, match="like: "):
        selection.run(selection.Config(place, manifest=grown.manifest, method="random", keep=0.2, like=place))


def test_the_difference_counts_by_class_and_equal_selections_are_called_so():
    source = source_of(9, "any")  # classes a, b, c, a, b, c, ...
    one, other = (PrunedIndex.from_rows(source, np.array(rows), provenance=[]) for rows in ([0, 1, 3], [0, 2, 5, 8]))
    found = difference(one, other)
    assert {key: found[key] for key in ("kept", "kept_before", "both", "added", "dropped", "same_source")} == {
        "kept": 3, "kept_before": 4, "both": 1, "added": 2, "dropped": 3, "same_source": True,
    }  # fmt: skip
    assert found["classes"][0] == {"class": "c", "kept": 0, "kept_before": 3, "added": 0, "dropped": 3}
    assert told(found, most=1)[1] == "Most changed: c (+0, -3: 3 to 0), and 2 more classes."
    assert told(difference(one, one)) == ["It keeps the same 3 samples as the other index."]
    assert REASONS[QUOTA] == "quota"


def test_an_index_of_another_source_and_floors_of_groups_are_refused(grown):
    foreign = source_of(9, "foreign")
    foreign.ids[:] = [b"x%03d.jpg" % i for i in range(9)]
    PrunedIndex.from_rows(foreign, np.arange(5), provenance=[]).save(grown.folder / "foreign.index.npz")
    out = grown.folder / "new.index.npz"
    asked = {"manifest": grown.manifest, "method": "random", "keep": 0.2}
    with pytest.raises(InputError, match="none of its 5 samples is in this source"):
        selection.run(selection.Config(out, like=grown.folder / "foreign.index.npz", **asked))
    with pytest.raises(InputError, match="--like and --floor-groups: give one"):
        selection.run(selection.Config(out, like=grown.old, floor_groups=1, groups=grown.folder / "g.csv", **asked))
    assert not out.exists()
