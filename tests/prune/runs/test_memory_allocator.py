"""Freed memory stays with the process: the next array of the same size costs no page faults."""

from __future__ import annotations

import resource

import numpy as np

from prune.runs.memory_allocator import keep_freed_memory


def test_the_next_array_of_a_size_costs_no_page_faults():
    assert keep_freed_memory()
    np.ones(8 << 20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(8 << 20, np.uint8)  # 2,048 pages each, were they handed back
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2048
