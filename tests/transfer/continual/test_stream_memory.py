"""A memory for a stream: the budget is never exceeded, the cheapest change is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.continual.exemplar_form import Form
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


def test_importance_falls_with_the_place_in_the_class():
    # Class 0 has places 0, 1 of 2: 1 - 0 and 1 - 0.5 / 2; class 1 alone: 1.
    assert importance_of(np.array([1, 0, 0]), np.array([0, 0, 1])).tolist() == [0.75, 1.0, 1.0]


def test_headers_alone_must_fit():
    with pytest.raises(ValueError, match="shared headers"):
        StreamMemory(LADDER, 10, seed=0)
