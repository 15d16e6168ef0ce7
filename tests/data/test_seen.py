"""Ids that came before, in sorted blocks."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.data.seen import SeenIds


@given(st.lists(st.lists(st.integers(0, 30) | st.integers(0, 2**64 - 1), max_size=40), max_size=12))
def test_the_same_as_a_set(parts):
    seen, known = SeenIds(), set()
    for part in parts:
        expected = []
        for one in part:
            expected.append(one not in known)
            known.add(one)
        assert seen.add(np.asarray(part, np.uint64)).tolist() == expected
    assert len(seen) == len(known)


def test_memory_is_eight_bytes_a_row():
    rows, block = 1_000_000, 512
    random = np.random.default_rng(0)
    tracemalloc.start()
    seen = SeenIds()
    for _ in range(rows // block):
        assert seen.add(random.integers(0, 2**64, block, np.uint64)).all()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == rows // block * block
    assert held < 8.1 * rows
    assert peak < 24.1 * rows  # two blocks, and the one that they become
