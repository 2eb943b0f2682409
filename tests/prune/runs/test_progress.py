"""`in_order` and how many threads it takes."""

from __future__ import annotations

import os
import threading
import time

import pytest

from prune.runs.cores import in_order, share_of_cores
from prune.runs.files import InputError


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_work_runs_only_so_far_ahead_of_a_slow_reader(ahead):
    begun = []
    lock = threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        return item

    taken = 0
    for item in in_order(work, range(100), workers=3, ahead=ahead):
        assert item == taken  # in order
        taken += 1
        time.sleep(0.001)
        assert len(begun) - taken < 3 * ahead
    assert taken == 100


def test_threads_are_those_that_the_process_may_run_on(monkeypatch):
    monkeypatch.delenv("WINNOW_CORES", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert len(set(in_order(lambda _: threading.get_ident(), range(50)))) == 1


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_thread_are_refused(workers):
    with pytest.raises(InputError, match=f"--workers {workers}"):
        list(in_order(str, range(3), workers))


def test_a_share_of_cores_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("WINNOW_CORES", "all")
    with pytest.raises(InputError, match="WINNOW_CORES=all"):
        share_of_cores()
