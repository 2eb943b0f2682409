"""A memory for a stream: the budget is never exceeded, the cheapest change is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.continual import stream_run
from transfer.continual.exemplar_form import Form
from transfer.continual.exemplars import misplaced
from transfer.continual.stream_memory import StreamMemory, importance_of

SIDE = 16
FINE = Form("raw", 0, SIDE)
LADDER = [FINE, Form("jpeg", 75, SIDE), Form("jpeg", 20, SIDE)]


def image(seed: int, noise: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if noise:
        return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def really_held(memory: StreamMemory) -> int:
    return memory.fixed + sum(map(len, memory.data)) + memory.word * len(memory)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=25),
    st.integers(0, 6000),
    st.sampled_from([LADDER, LADDER[:1], LADDER[2:]]),
    st.integers(1, 9),
)
def test_the_budget_is_never_exceeded(samples, room, ladder, every):
    memory = StreamMemory(ladder, sum(form.fixed for form in ladder) + room, seed=0)
    for row, (label, noise) in enumerate(samples):
        taken = memory.offer(image(row, noise), label, row)
        assert really_held(memory) == memory.used <= memory.peak <= memory.budget
        assert taken == (row in memory.rows)
        if row % every == 0:
            draw = np.random.default_rng(row)
            memory.set_values(draw.uniform(0.5, 1, len(memory)), draw.random(len(ladder)))
    assert memory.images().shape == (len(memory), SIDE, SIDE, 3)


def test_while_there_is_room_pixels_are_kept():
    memory = StreamMemory(LADDER, 50_000, seed=0)
    for row in range(5):
        assert memory.offer(image(row), 0, row)
    assert memory.levels.tolist() == [0] * 5
    assert (memory.images() == np.stack([image(row) for row in range(5)])).all()


def test_samples_are_compressed_before_any_is_dropped():
    raw = 3 * SIDE * SIDE + 4
    memory = StreamMemory(LADDER, sum(form.fixed for form in LADDER) + 3 * raw, seed=0)
    for row in range(8):
        memory.offer(image(row), row % 2, row)
    assert sorted(memory.rows) == list(range(8))  # three raw ones would fit
    assert memory.levels.max() > 0
    compressed = int(np.flatnonzero(memory.levels == memory.levels.max())[0])
    form = LADDER[memory.levels[compressed]]
    direct = form.round_trip(image(int(memory.rows[compressed]))[None])[0]
    # At most the traces of an earlier, finer quality lie between it and the original's own encoding.
    assert np.abs(memory.images()[compressed].astype(int) - direct).mean() < 8


def test_the_less_important_sample_of_the_larger_class_is_dropped():
    memory = StreamMemory([FINE], 3 * FINE.side**2 * 3, seed=0)  # three raw samples
    for row, label in enumerate([0, 0, 1]):
        memory.offer(image(row), label, row)
    memory.set_values(np.array([1.0, 0.1, 1.0]), np.ones(1))
    # Values: class 0 shares among two, 0.5 x (1 + chance) and 0.05 x (1 + chance); class 1 has one of 1 x (1 + chance).
    # The newcomer of class 2 is worth 0.75 x (1 + chance): row 1 goes.
    assert memory.offer(image(3), 2, 3)
    assert memory.rows.tolist() == [0, 2, 3]


def test_a_memory_resumes_from_its_file_as_if_never_stopped(tmp_path):
    whole, begun = (StreamMemory(LADDER, 4000, seed=3) for _ in range(2))
    for row in range(6):
        whole.offer(image(row), row % 3, row)
        begun.offer(image(row), row % 3, row)
    begun.save(tmp_path / "m.npz")
    again = StreamMemory(LADDER, 4000, seed=3)
    again.restore(tmp_path / "m.npz")
    for row in range(6, 15):
        whole.offer(image(row), row % 3, row)
        again.offer(image(row), row % 3, row)
    assert again.data == whole.data
    assert again.used == whole.used
    assert again.peak == whole.peak
    for name in whole.columns:
        assert (again.columns[name] == whole.columns[name]).all()


def test_the_margin_keeps_an_even_draw_of_all_that_arrived_whatever_their_importance():
    # Eight raw samples fit, half of them in the margin: the four smallest keys of all 40, and four others.
    memory = StreamMemory([FINE], 8 * 3 * SIDE**2, seed=1, margin=0.5)
    keys = [np.random.default_rng((1, row)).random(2)[1] for row in range(40)]
    for row in range(40):
        memory.offer(image(row), 0, row)
        # Importance hates the margin: without it none of its samples would stay.
        memory.set_values(np.where(memory.in_margin(), 1e-6, 1.0), np.ones(1))
    smallest = set(np.argsort(keys)[:4].tolist())
    assert smallest <= set(memory.rows.tolist())
    assert len(memory) == 8
    assert set(memory.rows[memory.in_margin()].tolist()) == smallest
    # A smaller budget has a smaller margin: two of four.
    memory.begin_round(4 * 3 * SIDE**2)
    assert set(np.argsort(keys)[:2].tolist()) <= set(memory.rows.tolist())
    assert len(memory) == 4


@settings(max_examples=15)
@given(st.floats(0, 0.99), st.integers(0, 4000), st.sampled_from([LADDER, LADDER[:1], LADDER[2:]]), st.integers(0, 9))
def test_with_a_margin_and_counted_draws_the_budget_is_never_exceeded(margin, room, ladder, seed):
    memory = StreamMemory(ladder, sum(form.fixed for form in ladder) + room, seed, margin)
    draw = np.random.default_rng(seed)
    for row in range(12):
        memory.offer(image(row, noise=row % 3 == 0), row % 2, row)
        memory.count_draws(draw.integers(0, 9, len(memory)))
        assert really_held(memory) == memory.used <= memory.budget
    memory.begin_round(memory.fixed + room // 2)
    assert really_held(memory) == memory.used <= memory.budget


def test_a_sample_that_is_drawn_often_keeps_more_bytes():
    memory = StreamMemory(LADDER, 50_000, seed=0)
    for row in range(2):
        memory.offer(image(0), 0, row)  # the same image twice
    memory.columns["chance"][:] = 0.0
    memory.count_draws(np.array([3, 0]))
    # Their values, by (1 + u) / (1 + mean u): 4 / 2.5 = 1.6 and 1 / 2.5 = 0.4. Room for one of them as pixels:
    memory.begin_round(memory.fixed + 3 * SIDE**2 + 400)
    assert memory.levels[0] == 0
    assert memory.levels[1] > 0
    # Earlier draws count half: u is now 1.5 and 4, and the second one is worth more.
    memory.count_draws(np.array([0, 4]))
    assert memory.columns["use"].tolist() == [1.5, 4.0]
    before = int(memory.columns["size"][1])
    memory.begin_round(memory.fixed + 600)
    assert memory.levels[0] > 0
    assert memory.columns["size"][1] == before


def test_a_file_without_keys_and_draws_is_read(tmp_path):
    memory = StreamMemory(LADDER, 4000, seed=3)
    for row in range(4):
        memory.offer(image(row), 0, row)
    memory.save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        old = {name: file[name] for name in file.files if name not in ("use", "key")}
    np.savez(tmp_path / "old.npz", **old)
    again = StreamMemory(LADDER, 4000, seed=3)
    again.restore(tmp_path / "old.npz")
    assert (again.columns["key"] == memory.columns["key"]).all()
    assert (again.columns["use"] == -1).all()


def test_draws_are_even_or_in_proportion_to_the_loss():
    assert np.bincount(stream_run.draws(7, 3, None, 0)).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    counts = np.bincount(stream_run.draws(30_000, 2, np.array([1.0, 3.0]), 0))
    assert counts[1] / 30_000 == pytest.approx(0.75, abs=0.01)  # four standard errors


def test_a_share_of_the_ranks_of_each_class_is_exchanged():
    labels = np.repeat([0, 1], 50)
    place = np.tile(np.arange(50), 2)
    assert (misplaced(place, labels, 0.0, 1) == place).all()
    found = misplaced(place, labels, 0.4, 1)
    assert 20 < (found != place).sum() <= 40  # of 20 a class few return to their own
    assert sorted(found[:50]) == sorted(found[50:]) == list(range(50))


def test_importance_falls_with_the_place_in_the_class():
    # Class 0 has places 0, 1 of 2: 1 - 0 and 1 - 0.5 / 2; class 1 alone: 1.
    assert importance_of(np.array([1, 0, 0]), np.array([0, 0, 1])).tolist() == [0.75, 1.0, 1.0]


def test_headers_alone_must_fit():
    with pytest.raises(ValueError, match="shared headers"):
        StreamMemory(LADDER, 10, seed=0)
