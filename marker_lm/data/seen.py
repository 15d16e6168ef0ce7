"""Which ids came before: exact, in memory that hardly grows with the rows."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

_IN_MEMORY = 1 << 17  # hashes of the largest block that is not in a file
_PAGE = 512  # hashes that are read together: 4 KB
_PIECE = 1 << 16  # hashes of a block that are merged at a time
_NONE = np.zeros(0, np.uint64)


class SeenIds:
    """A set of 64-bit hashes, kept in sorted blocks.

    A block is merged with the one before it when it is no shorter than half of that one, so there
    are at most log2(rows) blocks, and a row is moved at most so many times. Blocks of more than
    131,072 hashes lie in temporary files (in the system's folder for these, which TMPDIR names)
    that go with the set, or with the process: 8 bytes a row, and 16 for the moment in which the two
    largest are merged. Memory is 8 KB for each hash of a call of `add`, 3 MB, and a byte for 64
    rows; a Python set takes 70 a row.

    Two different ids have the same hash with a chance of rows**2 / 2**65: 3e-8 for a million rows,
    3 % for a billion. The later of the two is then taken for a repeated id, and reported as such.
    """

    def __init__(self):
        self._blocks: list[_Block | _FileBlock] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def add(self, hash_N: np.ndarray) -> np.ndarray:
        """Takes hashes in; bool_N, True where a hash came neither before nor earlier in hash_N.

        Raises OSError where there is no room for a temporary file.
        """
        values, first = np.unique(np.asarray(hash_N, np.uint64), return_index=True)
        new = np.ones(len(values), bool)
        for block in self._blocks:
            new &= ~block.has(values)
        is_first = np.zeros(len(hash_N), bool)
        is_first[first[new]] = True
        if new.any():
            self._blocks.append(_Block(values[new]))
        while len(self._blocks) > 1 and 2 * len(self._blocks[-1]) >= len(self._blocks[-2]):
            self._blocks.append(_merge(self._blocks.pop(-2), self._blocks.pop()))
        return is_first


class _Block:
    """Sorted hashes in memory."""

    def __init__(self, hash_N: np.ndarray):
        self._hash_N = hash_N

    def __len__(self) -> int:
        return len(self._hash_N)

    def has(self, values: np.ndarray) -> np.ndarray:
        """bool, whether each of the sorted values is in it."""
        place = np.searchsorted(self._hash_N, values)
        return self._hash_N[np.minimum(place, len(self) - 1)] == values

    def pieces(self) -> Iterator[np.ndarray]:
        """All hashes, in order."""
        yield self._hash_N


class _FileBlock:
    """Sorted hashes in a file; the first one of each page is in memory."""

    def __init__(self, file: Any, first_P: np.ndarray, length: int):
        self._file, self._first_P, self._length = file, first_P, length

    def __len__(self) -> int:
        return self._length

    def has(self, values: np.ndarray) -> np.ndarray:
        pages = np.unique(np.searchsorted(self._first_P, values, "right") - 1)
        found = [self._read(_PAGE * page, _PAGE) for page in pages[pages >= 0].tolist()]
        # Pages are in order, so what was read of them is one sorted block.
        return _Block(np.concatenate(found)).has(values) if found else np.zeros(len(values), bool)

    def pieces(self) -> Iterator[np.ndarray]:
        for start in range(0, self._length, _PIECE):
            yield self._read(start, _PIECE)

    def _read(self, start: int, count: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._file.fileno(), 8 * count, 8 * start), np.uint64)


def _merge(a: _Block | _FileBlock, b: _Block | _FileBlock) -> _Block | _FileBlock:
    length = len(a) + len(b)
    merged = _merged(a.pieces(), b.pieces())
    if length <= _IN_MEMORY:
        return _Block(np.concatenate(list(merged)))
    written, first = 0, []
    try:
        file = tempfile.TemporaryFile()
        for piece in merged:
            file.write(piece.tobytes())
            first.append(piece[-written % _PAGE :: _PAGE].copy())
            written += len(piece)
        file.flush()
    except OSError as error:
        raise OSError(
            f"the hashes of ids could not be written to {tempfile.gettempdir()} "
            f"({error.strerror}); make room there or name another folder in TMPDIR"
        ) from None
    return _FileBlock(file, np.concatenate(first), length)


def _merged(a: Iterator[np.ndarray], b: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The merge of two sorted sequences, which come in pieces; so does it."""
    left, right = next(a, _NONE), next(b, _NONE)
    while len(left) and len(right):
        limit = min(left[-1], right[-1])
        i, j = (int(np.searchsorted(one, limit, "right")) for one in (left, right))
        both = np.concatenate([left[:i], right[:j]])
        both.sort(kind="stable")  # two sorted runs: one pass
        yield both
        left, right = left[i:], right[j:]
        left = left if len(left) else next(a, _NONE)
        right = right if len(right) else next(b, _NONE)
    yield from (one for one in (left, right) if len(one))
    yield from a
    yield from b
