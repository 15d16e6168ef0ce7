"""Packing places every example once, never over capacity, and wastes next to nothing."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from marker_lm.data.packing import pack


def unpack(lengths, capacity):
    """The sequences as lists of indices, after the checks that hold for any packing."""
    order, starts = pack(lengths, capacity)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert starts[0] == 0 and starts[-1] == len(lengths) and (np.diff(starts) > 0).all()
    sequences = np.split(order, starts[1:-1]) if len(lengths) else []
    assert all(lengths[sequence].sum() <= capacity for sequence in sequences)
    return sequences


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 70), st.data())
def test_every_example_is_placed_once_and_fits(capacity, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=60)), np.int64)
    sequences = unpack(lengths, capacity)
    least = -(-lengths.sum() // capacity)
    # Any two sequences together hold more than one could: less would have been packed as one.
    sums = sorted(lengths[sequence].sum() for sequence in sequences)
    assert len(sequences) >= least
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_the_best_fitting_sequence_is_taken():
    lengths = np.array([6, 7, 3, 4, 5, 5])
    # 7 and 6 open two sequences, 5 and 5 fill a third, 4 fits only with the 6, 3 only with the 7.
    assert [sorted(lengths[s].tolist()) for s in unpack(lengths, 10)] == [[3, 7], [4, 6], [5, 5]]


def test_no_examples():
    order, starts = pack(np.zeros(0, np.int64), 8)
    assert len(order) == 0
    assert starts.tolist() == [0]


def test_realistic_lengths_fill_99_percent():
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.2, 1.0, 20_000).astype(np.int64), 8, 2048)
    least = -(-lengths.sum() // 2048)
    assert len(unpack(lengths, 2048)) <= least / 0.99
