"""Indices of one source compose, and a smaller sample of an index is part of every larger one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prune.index.manifest import Manifest
from prune.index.matching import proportional_order
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError


def source_of(n: int, classes: int, seed: int) -> Manifest:
    rng = np.random.default_rng(seed)
    return Manifest(
        ids=np.array([b"%d/%d.jpg" % (i % 3, i) for i in rng.permutation(n)]) if n else np.zeros(0, "S1"),
        labels=rng.integers(0, classes, n).astype(np.int32),
        nbytes=rng.integers(1, 99, n).astype(np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=rng.integers(0, 9, n).astype(np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=[f"c{i}" for i in range(classes)],
    )


def index_of(source: Manifest, rows, score: float = 0.0) -> PrunedIndex:
    rows = np.array(sorted(rows), np.int64)
    return PrunedIndex.from_rows(source, rows, score=np.full(len(rows), score), provenance=[])


@st.composite
def three(draw):
    n = draw(st.integers(0, 25))
    source = source_of(n, draw(st.integers(1, 4)), draw(st.integers(0, 1 << 30)))
    subset = st.sets(st.integers(0, n - 1)) if n else st.just(set())
    indices = [index_of(source, draw(subset), score) for score in (1.0, 2.0, 3.0)]
    if draw(st.booleans()):  # an index that knows its samples by name alone
        indices[1] = replace(indices[1], positions=np.full(len(indices[1]), -1))
    return indices


def ids(index: PrunedIndex) -> set:
    assert len(set(index.ids.tolist())) == len(index)
    return set(index.ids.tolist())


@settings(max_examples=500)
@given(indices=three())
def test_indices_obey_the_laws_of_sets(indices):
    a, b, c = indices
    assert ids(a | b) == ids(a) | ids(b)
    assert ids(a & b) == ids(a) & ids(b)
    assert ids(a.without(b)) == ids(a) - ids(b)
    for one, same in (
        (a | b, b | a),
        (a & b, b & a),
        ((a | b) | c, a | (b | c)),
        ((a & b) & c, a & (b & c)),
        (a & (b | c), (a & b) | (a & c)),
        (a.without(b | c), a.without(b).without(c)),
        (a | a, a),
        (a & a, a),
        (a.without(b) | (a & b), a),
    ):
        assert one.fingerprint == same.fingerprint
    for result in (a | b, a & b, a.without(b)):
        result.checked()  # what can be saved can be loaded
        assert result.source == a.source


def test_what_both_keep_is_described_by_the_left_one():
    source = source_of(6, 2, 0)
    a, b = index_of(source, [0, 1], 1.0), index_of(source, [1, 2], 2.0)
    assert (a | b).positions.tolist() == [0, 1, 2]
    assert (a | b).scores.tolist() == [1, 1, 2]
    assert (b | a).scores.tolist() == [1, 2, 2]
    assert (b & a).scores.tolist() == [2]


def test_reasons_of_files_that_number_them_differently_keep_their_names():
    source = source_of(4, 2, 0)
    a = index_of(source, [0])
    b = replace(index_of(source, [1, 2]), reason_names=("taste", "quota"), reasons=np.array([0, 1], np.uint8))
    joined = a | b
    assert [joined.reason_names[code] for code in joined.reasons] == ["quota", "taste", "quota"]
    assert joined.reason_names[: len(a.reason_names)] == a.reason_names


def test_rows_of_two_orders_of_one_source_are_not_trusted_together():
    source = source_of(6, 2, 0)
    order = np.array([1, 0, 2, 3, 4, 5])
    swapped = Manifest(
        source.ids[order], source.labels[order], source.nbytes[order], source.width, source.height,
        source.digests[order], source.crc32, source.classes,
    )  # fmt: skip
    assert swapped.fingerprint == source.fingerprint
    joined = index_of(source, [0, 2]) | index_of(swapped, [0, 3])  # two different samples, both at row 0
    assert joined.positions.tolist() == [-1] * 4
    assert source.ids[joined.rows_in(source)].tolist() == joined.ids.tolist()


def test_indices_of_different_sources_are_refused_with_counts():
    a, b = index_of(source_of(6, 2, 0), [0, 1]), index_of(source_of(7, 2, 1), [0, 6])
    missing = len(ids(b) - ids(a))
    with pytest.raises(
        InputError, match=rf"{a.source} with 6 images and {b.source} with 7; {missing} of 2 .*\(first: '"
    ):
        a | b
    for operation in (PrunedIndex.__and__, PrunedIndex.without):
        with pytest.raises(InputError, match="different sources"):
            operation(a, b)


def test_every_composition_appends_to_the_provenance():
    source = source_of(6, 2, 0)
    a, b = index_of(source, [0, 1, 2]), index_of(source, [1, 2])
    result = (a | b).without(index_of(source, [0])).sample(0.5, seed=3)
    assert [entry["step"] for entry in result.provenance] == ["union", "without", "sample"]
    assert result.provenance[0]["inputs"] == {"left": a.fingerprint, "right": b.fingerprint}
    assert result.provenance[2]["config"] == {"keep": 0.5, "seed": 3}


@st.composite
def one(draw) -> PrunedIndex:
    n = draw(st.integers(1, 60))
    source = source_of(n, draw(st.integers(1, 5)), draw(st.integers(0, 1 << 30)))
    return index_of(source, draw(st.sets(st.integers(0, n - 1), min_size=1)))


@settings(max_examples=1000)
@given(index=one(), low=st.floats(0.01, 1), high=st.floats(0.01, 1), seed=st.integers(0, 3))
def test_a_smaller_sample_is_part_of_a_larger_one(index, low, high, seed):
    low, high = sorted((low, high))
    small, large = index.sample(low, seed=seed), index.sample(high, seed=seed)
    assert ids(small) <= ids(large) <= ids(index)
    assert len(small) == max(1, round(low * len(index)))
    assert small.positions.tolist() == sorted(small.positions.tolist())
    small.checked()


@settings(max_examples=200)
@given(index=one(), keep=st.floats(0.05, 1), seed=st.integers(0, 3))
def test_a_sample_depends_neither_on_the_order_nor_on_what_describes_the_samples(index, keep, seed):
    turned = np.random.default_rng(seed).permutation(len(index))
    columns = {name: getattr(index, name)[turned] for name in ("ids", "labels", "nbytes", "digests")}
    shuffled = replace(index, **columns, scores=index.scores + 1, positions=np.full(len(index), -1))
    assert ids(shuffled.sample(keep, seed=seed)) == ids(index.sample(keep, seed=seed))


@settings(max_examples=300)
@given(index=one(), keep=st.floats(0.01, 1))
def test_a_sample_takes_of_every_class_its_share_and_at_least_one_when_it_can(index, keep):
    before, after = index.per_class()[0], index.sample(keep).per_class()[0]
    asked = int(after.sum())
    present = before > 0
    assume(asked >= present.sum())
    assert (after[present] >= 1).all()
    # A class stays within two of its exact share, or at the one that it is granted.
    share = before * asked / before.sum()
    granted = int(present.sum())
    assert (np.abs(after - share)[present] <= 1 + granted).all()


def test_the_order_of_a_sample_shares_out_as_sainte_lague_does():
    # Class 0 with 4 samples: places 1/8 (first of its class, so -7/8), 3/8, 5/8, 7/8; class 1 with 2: 1/4 (-3/4), 3/4.
    labels, keys = np.array([0, 0, 1, 0, 0, 1]), np.array([5, 3, 1, 4, 2, 9], np.uint64)
    # In class 0 by key: rows 4, 1, 3, 0; in class 1: rows 2, 5.
    # Places: row 4 -7/8, row 2 -3/4, row 1 3/8, row 3 5/8, row 5 3/4, row 0 7/8.
    assert proportional_order(labels, keys).tolist() == [4, 2, 1, 3, 5, 0]


def test_another_seed_gives_another_sample_and_a_keep_outside_its_range_is_refused():
    index = index_of(source_of(60, 3, 0), range(60))
    assert ids(index.sample(0.3, seed=0)) != ids(index.sample(0.3, seed=1))
    for keep in (0, -0.5, 1.01, float("nan")):
        with pytest.raises(InputError, match="is not in"):
            index.sample(keep)
    assert ids(index.sample(1.0)) == ids(index)
