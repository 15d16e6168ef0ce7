"""The plan of an epoch: which rows stand in which sequence, decided without reading a token.

A plan is a pure function of (length index, layouts, dropout, seed, epoch). Because dropout is a
hash and lengths come from the cache's index, the packing of a whole epoch is known before it
starts; batch(step) is then a look-up, resuming needs one integer, and the number of hosts changes
nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from marker_lm.data.assembly import Layout, sequence_lengths
from marker_lm.data.packing import pack
from marker_lm.markers.dropout import Dropout, keep_mask

WINDOW = 32_768  # rows packed together; bounds memory and keeps the shuffle global


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Sequence s of the epoch holds the draws `rows_P[starts[s]:starts[s + 1]]`.

    Attributes:
      rows_P: int64, cache rows, one entry a placed draw.
      visits_P: int64, how often the row had been drawn before (feeds the dropout hash).
      progress_P: float64 in [0, 1), how far training is at that draw (feeds the dropout schedule).
      starts: int64[S + 1].
      too_long: int64, rows that don't fit in a sequence and are left out of the epoch.
      used_slots: tokens placed; `used_slots / (sequences * length)` is the fill.
    """

    rows_P: np.ndarray
    visits_P: np.ndarray
    progress_P: np.ndarray
    starts: np.ndarray
    too_long: np.ndarray
    used_slots: int

    @property
    def sequences(self) -> int:
        return len(self.starts) - 1


def draw_epoch(sizes: Sequence[int], rates: Sequence[float], seed: int, epoch: int):
    """The rows of one epoch of a mixture, shuffled.

    An epoch has as many draws as the tasks have rows together; task t gets its share of them by
    rate and walks through its rows without repetition before it starts over, also across epochs.

    Args:
      sizes: rows of each task; rows are numbered through all tasks in this order.
      rates: relative rate of each task, any positive scale.
      seed: of the shuffle.
      epoch: 0, 1, ...

    Returns:
      rows_N and visits_N, int64: the row and how often it had been drawn before.
    """
    sizes, rates = np.asarray(sizes, np.int64), np.asarray(rates, np.float64)
    share = rates / rates.sum() * sizes.sum()
    first, last = np.floor(share * [[epoch], [epoch + 1]] + 1e-9).astype(np.int64)  # draws so far
    rows, visits = [], []
    for task, size in enumerate(sizes):
        offset = sizes[:task].sum()
        draws = np.arange(first[task], last[task])
        for visit in np.unique(draws // size):
            order = np.random.default_rng([seed, 1, task, int(visit)]).permutation(size)
            chosen = order[draws[draws // size == visit] % size]
            rows.append(offset + chosen)
            visits.append(np.full(len(chosen), visit))
    shuffle = np.random.default_rng([seed, 2, epoch]).permutation(sum(map(len, rows)))
    return np.concatenate(rows)[shuffle], np.concatenate(visits)[shuffle]


def donors(rows: int, seed: int) -> np.ndarray:
    """int64[N]: for each row the other row whose markers it gets where they are shuffled.

    One random cycle through all rows: each row gives once, and none to itself (but for a lone one).
    """
    order_N = np.random.default_rng([seed, 4]).permutation(rows)
    donor_N = np.empty(rows, np.int64)
    donor_N[order_N] = np.roll(order_N, 1)
    return donor_N


def kept_markers(layout: Layout, dropout: Dropout, seed: int, visits_P, example_hash_P, progress_P):
    """bool_PxC: which prompt-side markers of each draw stay, C in the order of `prompt_side`."""
    if not layout.prompt_side:
        # Nothing to drop: rates that the config gives for single categories say nothing here.
        return np.zeros((len(example_hash_P), 0), bool)
    return keep_mask(dropout, seed, visits_P, example_hash_P, layout.prompt_side, progress_P)


def plan_epoch(
    index,
    sizes: Sequence[int],
    rates: Sequence[float],
    layouts: Sequence[Layout],
    dropout: Dropout,
    seed: int,
    epoch: int,
    epochs: float,
    length: int,
) -> EpochPlan:
    """Plans one epoch.

    Args:
      index: the cache's length Index over all tasks.
      sizes, rates: rows and rate of each task, see `draw_epoch`.
      layouts: every layout that must fit into the same packing. Arms of one experiment pass all of
        theirs and so train on the same rows in the same order and steps.
      dropout: of the prompt-side markers.
      seed, epoch: of shuffle and dropout.
      epochs: how many epochs the whole training takes; sets the progress of a dropout schedule.
      length: slots of a sequence.
    """
    rows_N, visits_N = draw_epoch(sizes, rates, seed, epoch)
    progress_N = (epoch + np.arange(len(rows_N)) / max(len(rows_N), 1)) / max(epochs, 1)
    drawn = index.take(rows_N)
    slots_N = np.zeros(len(rows_N), np.int64)
    for layout in layouts:
        kept_NxC = kept_markers(layout, dropout, seed, visits_N, drawn.example_hash_N, progress_N)
        written = drawn
        if layout.shuffled:
            given_NxC = index.marker_len_NxC[donors(len(index), seed)[rows_N]]
            written = dataclasses.replace(drawn, marker_len_NxC=given_NxC)
        slots_N = np.maximum(slots_N, sequence_lengths(layout, written, kept_NxC))
    fits = np.flatnonzero(slots_N <= length)
    draws, starts, placed = [], [np.zeros(1, np.int64)], 0
    for window, at in enumerate(range(0, len(fits), WINDOW)):
        chosen = fits[at : at + WINDOW]
        order, edges = pack(slots_N[chosen], length)
        shuffle = np.random.default_rng([seed, 3, epoch, window]).permutation(len(edges) - 1)
        sequences = np.split(chosen[order], edges[1:-1])
        draws += [sequences[s] for s in shuffle]
        starts.append(placed + np.cumsum(np.diff(edges)[shuffle]))
        placed += len(chosen)
    placed_P = np.concatenate(draws) if draws else np.zeros(0, np.int64)
    return EpochPlan(
        rows_P=rows_N[placed_P],
        visits_P=visits_N[placed_P],
        progress_P=progress_N[placed_P],
        starts=np.concatenate(starts),
        too_long=rows_N[slots_N > length],
        used_slots=int(slots_N[fits].sum()),
    )
