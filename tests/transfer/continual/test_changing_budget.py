"""A budget that changes while a stream runs: never above that of the moment, and the last good one holds."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prune.runs.files import InputError
from transfer.continual.changing_budget import ChangingBudget, read_schedule
from transfer.continual.exemplar_form import Form
from transfer.continual.stream_memory import StreamMemory

SIDE = 16
RAW = 3 * SIDE * SIDE
LADDER = [Form("raw", 0, SIDE), Form("jpeg", 75, SIDE), Form("jpeg", 20, SIDE)]
FIXED = sum(form.fixed for form in LADDER)


def image(seed: int) -> np.ndarray:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def really_held(memory: StreamMemory) -> int:
    return memory.fixed + sum(map(len, memory.data)) + memory.word * len(memory)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.none() | st.integers(0, 2000), st.integers(1, 4)), max_size=6),
    st.sampled_from([LADDER, LADDER[:1], LADDER[2:]]),
)
def test_the_memory_is_never_above_the_budget_of_the_moment_nor_the_writes_above_their_limit(rounds, ladder):
    fixed = sum(form.fixed for form in ladder)
    memory, row = StreamMemory(ladder, fixed + 3000, seed=0), 0
    for room, limit, arrivals in rounds:
        before = dict(zip(memory.rows.tolist(), memory.data))
        memory.begin_round(fixed + room, limit)
        assert memory.budget == fixed + room
        for _ in range(arrivals):
            assert really_held(memory) == memory.used <= memory.budget
            memory.offer(image(row), row % 3, row)
            row += 1
        assert really_held(memory) == memory.used <= memory.budget
        if limit is not None:
            assert memory.write_left is not None
            assert memory.write_left >= 0
            # What is held and was not there before has been written in this round.
            new = [len(d) + memory.word for key, d in zip(memory.rows.tolist(), memory.data) if before.get(key) != d]
            assert sum(new) <= limit - memory.write_left <= limit


def test_a_smaller_budget_compresses_first_and_a_larger_one_is_for_what_arrives():
    memory = StreamMemory(LADDER, FIXED + 4 * (RAW + 4), seed=0)
    for row in range(4):
        memory.offer(image(row), 0, row)
    assert memory.levels.tolist() == [0] * 4
    memory.begin_round(FIXED + 2 * (RAW + 4))
    assert len(memory) == 4
    assert memory.levels.max() > 0
    held = list(memory.data)
    memory.begin_round(FIXED + 9 * (RAW + 4))
    assert memory.data == held  # what was compressed stays so
    memory.offer(image(9), 0, 9)
    assert memory.levels[-1] == 0


def test_without_bytes_to_write_a_smaller_budget_drops_and_nothing_new_is_stored():
    memory = StreamMemory(LADDER, FIXED + 4 * (RAW + 4), seed=0)
    for row in range(4):
        memory.offer(image(row), 0, row)
    memory.begin_round(FIXED + 2 * (RAW + 4), write_limit=0)
    assert memory.levels.tolist() == [0, 0]
    assert not memory.offer(image(9), 0, 9)
    # With 200 bytes a newcomer is stored as coarsely as they allow.
    memory.begin_round(FIXED + 4 * (RAW + 4), write_limit=200)
    assert memory.offer(image(9), 0, 9)
    assert memory.levels.tolist() == [0, 0, 1]


def test_the_budget_of_a_stopped_run_comes_back_with_its_memory(tmp_path):
    memory = StreamMemory(LADDER, FIXED + 9000, seed=0)
    memory.begin_round(FIXED + 5000)
    memory.save(tmp_path / "m.npz")
    other = StreamMemory(LADDER, FIXED + 9000, seed=0)
    other.restore(tmp_path / "m.npz")
    assert other.budget == FIXED + 5000


def test_a_schedule_holds_from_its_number_of_samples_on():
    budget = ChangingBudget(read_schedule(["100:2kB", "300:5raw"], 10))
    assert [budget.at(n, 9000, 10) for n in (0, 99, 100, 299, 300, 999)] == [9000, 9000, 2000, 2000, 1500, 1500]


@pytest.mark.parametrize("texts", [["100"], ["x:2kB"], ["-5:2kB"], ["100:-2kB"], ["100:2kB", "50:3kB"], ["1:1", "1:2"]])
def test_a_schedule_that_makes_no_sense_is_refused(texts):
    with pytest.raises(InputError, match="--budget-schedule"):
        read_schedule(texts, 10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "'empty' is no amount"),
        (b"-5MB", "'-5MB' is no amount"),
        (b"6M\xff", "not a text"),
        (b"nonsense" * 99, "is no amount"),
        (b"10", "10 bytes do not hold the 100 bytes of shared headers"),
    ],
)
def test_the_last_good_budget_holds_while_the_file_is_gone_cut_or_negative(tmp_path, capsys, content, reason):
    place = tmp_path / "budget"
    place.write_text("7kB\n")
    budget = ChangingBudget((), place, 10)
    now = budget.at(0, 5000, 100)
    assert now == 7000
    if content is None:
        place.unlink()
    else:
        place.write_bytes(content)
    capsys.readouterr()
    assert budget.at(50, now, 100) == 7000
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    place.write_text("3kB")
    assert budget.at(100, now, 100) == 3000


def test_what_a_file_said_outlasts_the_schedule_s_earlier_steps_when_it_is_gone(tmp_path):
    place = tmp_path / "budget"
    place.write_text("7kB")
    budget = ChangingBudget(read_schedule(["100:2kB", "300:3kB"], 10), place, 10)
    now = budget.at(100, 9000, 100, 0)
    assert now == 7000
    place.unlink()
    assert budget.at(200, now, 100, 100) == 7000
    assert budget.at(300, now, 100, 200) == 3000  # the schedule's next step is newer


def test_a_pipe_as_a_budget_file_is_no_file_and_is_not_waited_for(tmp_path, capsys):
    place = tmp_path / "budget"
    os.mkfifo(place)
    with pytest.raises(InputError, match="not a regular file"):
        ChangingBudget((), place, SIDE).checked()
    assert ChangingBudget((), place, SIDE).at(50, 5000, 100) == 5000
    assert "not a regular file; the last good budget holds, 5,000 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"lots"])
def test_a_file_without_an_amount_is_refused_before_a_stream_begins(tmp_path, content):
    place = tmp_path / "budget"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(InputError, match=r"--budget-file .*budget: "):
        ChangingBudget((), place, SIDE).checked()
    place.write_text("500kB\n")
    assert ChangingBudget((), place, SIDE).checked().at(0, 10**6, 0) == 500_000
