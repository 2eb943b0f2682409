"""Orders: exact cover, and independence of the number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain import sampling_order

counts = st.integers(1, 200)


@given(counts, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_distinct_rows_in_whole_batches_and_depends_on_seed_and_epoch_alone(n, batch, seed, epoch):
    rows = np.arange(n, dtype=np.int64) * 3
    first = sampling_order.epoch_order(rows, seed, epoch, batch)
    size = min(n, batch)
    assert len(first) == n // size * size == sampling_order.steps_per_epoch(n, batch) * size > 0
    assert len(np.unique(first)) == len(first)
    assert np.isin(first, rows).all()
    assert np.array_equal(first, sampling_order.epoch_order(rows, seed, epoch, batch))


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10))
def test_the_ranks_parts_together_are_the_global_batches_each_image_once(batch, world, steps, start):
    start = min(start, steps)
    whole = np.random.default_rng(0).permutation(batch * steps).astype(np.int64)
    sizes = [sampling_order.rank_batch(batch, r, world) for r in range(world)]
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1
    parts = [sampling_order.rank_order(whole, batch, r, world, start) for r in range(world)]
    for step in range(steps - start):
        seen = np.concatenate([p[step * s : (step + 1) * s] for p, s in zip(parts, sizes)])
        expected = whole[(start + step) * batch : (start + step + 1) * batch]
        assert sorted(seen) == sorted(expected)


def test_two_processes_hold_the_halves_that_one_process_would_accumulate():
    whole = np.arange(12, dtype=np.int64)  # two steps of 6
    assert sampling_order.rank_order(whole, 6, 0, 2).tolist() == [0, 1, 2, 6, 7, 8]
    assert sampling_order.rank_order(whole, 6, 1, 2, start=1).tolist() == [9, 10, 11]


def test_stopping_on_two_processes_and_going_on_with_one_or_three_misses_and_repeats_nothing():
    rows = np.arange(100, dtype=np.int64)
    whole = sampling_order.epoch_order(rows, seed=7, epoch=2, batch=12)  # 8 steps of 12, 4 images wait
    seen = [sampling_order.rank_order(whole[: 3 * 12], 12, r, 2) for r in (0, 1)]
    seen += [sampling_order.rank_order(whole[: 5 * 12], 12, 0, 1, start=3)]
    seen += [sampling_order.rank_order(whole, 12, r, 3, start=5) for r in range(3)]
    assert sorted(np.concatenate(seen)) == sorted(whole)


def test_two_epochs_and_two_seeds_differ():
    rows = np.arange(1000, dtype=np.int64)
    first = sampling_order.epoch_order(rows, 0, 0, 10)
    assert not np.array_equal(first, sampling_order.epoch_order(rows, 0, 1, 10))
    assert not np.array_equal(first, sampling_order.epoch_order(rows, 1, 0, 10))


@given(st.integers(0, 1100), st.integers(1, 7))
def test_evaluation_counts_every_row_exactly_once_whatever_the_number_of_ranks(n, world):
    rows = np.arange(n, dtype=np.int64)
    parts = [sampling_order.evaluation_rows(rows, r, world) for r in range(world)]
    assert sorted(np.concatenate(parts)) == list(range(n))


def test_a_set_smaller_than_the_batch_gives_one_step_instead_of_none():
    assert sampling_order.global_batch(5, 64) == 5
    assert len(sampling_order.epoch_order(np.arange(5), 0, 0, 64)) == 5


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(ValueError, match="3 images a step cannot feed 4 processes"):
        sampling_order.global_batch(3, 64, 4)


def test_a_sample_is_a_sorted_part_that_depends_on_the_seed_and_is_not_the_first_epochs_order():
    rows = np.arange(0, 2000, 2, dtype=np.int64)
    part = sampling_order.sample_rows(rows, 0.25, seed=3)
    assert len(part) == 250
    assert np.all(np.diff(part) > 0)
    assert np.isin(part, rows).all()
    assert not np.array_equal(part, sampling_order.sample_rows(rows, 0.25, seed=4))
    assert not np.array_equal(part, np.sort(sampling_order.epoch_order(rows, 3, 0, 1)[:250]))
    assert sampling_order.sample_rows(rows, 1.0, seed=3) is rows
    assert len(sampling_order.sample_rows(rows[:3], 0.01, seed=0)) == 1


def test_a_block_order_shows_every_image_once_and_mixes_images_of_a_window_of_pages_only():
    rows, page = np.arange(3, 1003), 7  # 7 images a page: 143 pages, of which 10 make a window
    pages = rows // page
    order = sampling_order.epoch_order(rows, 0, 2, 50, pages, window=10)
    assert sorted(order.tolist()) == rows.tolist()
    seen = order // page
    # Windows follow one another: as an image of the next one comes, none of the last one is left.
    last = {int(kind): int(np.flatnonzero(seen == kind)[-1]) for kind in np.unique(seen)}
    first = {int(kind): int(np.flatnonzero(seen == kind)[0]) for kind in np.unique(seen)}
    for at in range(0, 1000, 97):
        open_pages = [kind for kind in first if first[kind] <= at <= last[kind]]
        assert len(open_pages) <= 10
    assert len({int(kind) for kind in seen[:60]}) > 8  # and a window is mixed
    assert np.abs(np.diff(seen[:60])).max() > 20  # of pages from the whole file


def test_a_block_order_depends_on_seed_and_epoch_alone_and_is_shared_like_any_other():
    rows, pages = np.arange(512), np.arange(512) // 5

    def drawn(seed: int, epoch: int) -> list[int]:
        return sampling_order.epoch_order(rows, seed, epoch, 32, pages, window=8).tolist()

    assert drawn(1, 1) == drawn(1, 1)
    assert drawn(1, 1) != drawn(1, 2) != drawn(2, 2)
    order = np.array(drawn(1, 1))
    for world in (1, 2, 3):  # whoever takes part, and wherever a run resumes, the global batches are the same
        parts = [sampling_order.rank_order(order, 32, rank, world, start=4) for rank in range(world)]
        cut = [part.reshape(12, -1) for part in parts]
        assert np.concatenate(cut, axis=1).reshape(-1).tolist() == order[4 * 32 :].tolist()


def test_without_pages_the_order_is_that_of_older_versions():
    rows = np.arange(100)
    assert (
        sampling_order.epoch_order(rows, 3, 4, 10).tolist() == np.random.default_rng((3, 4)).permutation(100).tolist()
    )
