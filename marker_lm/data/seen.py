"""Which ids came before, in 8 bytes a row."""

import numpy as np


class SeenIds:
    """A set of 64-bit hashes, kept in sorted NumPy blocks.

    A block is merged with the one before it when it is no shorter than half of that one, so there
    are at most log2(rows) blocks, and a row is moved at most so many times. Memory is 8 bytes a
    row, and 16 for the moment in which the two largest blocks are merged; a Python set takes 70.

    Two different ids have the same hash with a chance of rows**2 / 2**65: 3e-8 for a million rows,
    3 % for a billion. The later of the two is then taken for a repeated id, and reported as such.
    """

    def __init__(self):
        self._blocks: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def add(self, hash_N: np.ndarray) -> np.ndarray:
        """Takes hashes in; bool_N, True where a hash came neither before nor earlier in hash_N."""
        values, first = np.unique(np.asarray(hash_N, np.uint64), return_index=True)
        new = np.ones(len(values), bool)
        for block in self._blocks:
            place = np.searchsorted(block, values)
            new &= block[np.minimum(place, len(block) - 1)] != values
        is_first = np.zeros(len(hash_N), bool)
        is_first[first[new]] = True
        if new.any():
            self._blocks.append(values[new])
        while len(self._blocks) > 1 and 2 * len(self._blocks[-1]) >= len(self._blocks[-2]):
            merged = np.concatenate([self._blocks.pop(), self._blocks.pop()])
            merged.sort(kind="stable")  # two sorted runs: one pass
            self._blocks.append(merged)
        return is_first
