"""Near-duplicate rows: MinHash sketches of character n-grams, locality-sensitive hashing, a check.

A row's sketch is the set of its smallest n-gram hashes (bottom-k: Broder 1997). Text that very many
rows share, such as the instruction of a task, is taken out of the sketches first: two rows that
differ in a short input alone would else pass for duplicates. Buckets are bands of MinHash values
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4); a pair from a bucket
counts only when the Jaccard similarity of its two sketches reaches the threshold.

Memory is about 150 bytes a row and 100 MB of tables (measured by tests/benchmarks/long_tail.py);
sketches, at most 1 KB a row, and excerpts lie in temporary files. At most `MAX_ROWS` rows are
searched, the first ones, so 0.9 GB is the bound; the result says how many were left out.
"""

import json
import tempfile
from array import array
from typing import Any

import numpy as np

from marker_lm.annotate.sketches import SKETCH, Sketches, first_of_equals
from marker_lm.markers.dropout import hash_mix

MAX_ROWS = 5_000_000
BANDS, ROWS_A_BAND = 12, 4  # a pair of similarity 0.8 shares a bucket with probability 0.998
SIMILAR = 0.8
LEAST = 16  # n-grams that are not shared by very many rows; with fewer only equal rows count
_COMMON_SHARE, _COMMON_ROWS = 1 / 2000, 20
_TABLE_BITS = 24
_CHUNK = 1 << 22  # hashes worked on together


def _distinct(hashes: array) -> int:
    # np.unique is ten times slower than a sort.
    return int(first_of_equals(np.sort(np.frombuffer(hashes, np.uint64))).sum())


class DuplicateSearch:
    """Takes Sketches in, then finds groups of rows that are much the same. A context manager."""

    def __init__(self, max_rows: int = MAX_ROWS):
        self.max_rows = max_rows
        self.rows = 0
        self.left_out = 0
        self._lengths, self._content, self._prompts = array("i"), array("Q"), array("Q")
        self._line_ends = array("Q", [0])

    def __enter__(self) -> "DuplicateSearch":
        self._hashes = tempfile.TemporaryFile()
        self._lines = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_) -> None:
        self._hashes.close()
        self._lines.close()

    def add(self, block: Sketches) -> None:
        """Takes a block in; rows are numbered in the order of the calls."""
        n = min(len(block.excerpts), self.max_rows - self.rows)
        self.left_out += len(block.excerpts) - n
        self._hashes.write(block.hashes[: int(block.lengths_N[:n].sum())].tobytes())
        self._lengths.extend(block.lengths_N[:n].tolist())
        self._content.extend(block.content_N[:n].tolist())
        self._prompts.extend(block.prompt_N[:n].tolist())
        for line in block.excerpts[:n]:
            self._lines.write(line)
            self._line_ends.append(self._line_ends[-1] + len(line))
        self.rows += n

    def labels(self) -> np.ndarray:
        """int64[rows]: equal numbers for rows of one group; it is the first row of the group."""
        label_N = np.arange(self.rows)
        for a, b in _neighbours(np.frombuffer(self._content, np.uint64), label_N):
            _join(label_N, a, b)
        if self.rows < 2 or not any(self._lengths):
            return label_N
        self._hashes.flush()
        hashes = np.memmap(self._hashes, np.uint32, "r")
        end_N = np.cumsum(np.frombuffer(self._lengths, np.int32), dtype=np.int64)
        start_N = np.concatenate([[0], end_N[:-1]])
        common = _common(hashes, self.rows)
        with tempfile.TemporaryFile() as file:
            shape = (BANDS, self.rows)
            key_BxN = np.memmap(file, np.uint64, "w+", shape=shape)
            usable_N = _bands(hashes, start_N, end_N, common, key_BxN)
            usable = np.flatnonzero(usable_N)
            for key_N in key_BxN:
                for a, b in _neighbours(np.asarray(key_N)[usable], usable):
                    apart = label_N[a] != label_N[b]
                    a, b = a[apart], b[apart]
                    alike = _alike(hashes, start_N, end_N, common, a, b)
                    _join(label_N, a[alike], b[alike])
        return label_N

    def equal_rows(self) -> int:
        """Rows whose whole normalized text a row before them has."""
        return self.rows - _distinct(self._content)

    def further_answers(self) -> int:
        """Different rows that share their prompt with a row before them."""
        return _distinct(self._content) - _distinct(self._prompts)

    def excerpt(self, row: int) -> dict[str, str]:
        """id, prompt and completion of a row, long texts cut."""
        first, end = self._line_ends[row], self._line_ends[row + 1]
        self._lines.seek(first)
        name, prompt, completion = json.loads(self._lines.read(end - first))
        return {"id": name, "prompt": prompt, "completion": completion}


def _common(hashes: np.ndarray, rows: int) -> np.ndarray:
    """bool[2 ** _TABLE_BITS]: n-grams, by the upper bits of their hash, that very many rows have.

    Two n-grams that share their bits count together: with 150 hashes a row this adds less than a
    fiftieth of the limit.
    """
    counts = np.zeros(1 << _TABLE_BITS, np.uint32)
    for at in range(0, len(hashes), _CHUNK):
        np.add.at(counts, hashes[at : at + _CHUNK] >> np.uint32(32 - _TABLE_BITS), 1)
    return counts > max(_COMMON_ROWS, rows * _COMMON_SHARE)


def _rare(chunk: np.ndarray, common: np.ndarray) -> np.ndarray:
    return ~common[chunk >> np.uint32(32 - _TABLE_BITS)]


def _bands(hashes, start_N, end_N, common, key_BxN) -> np.ndarray:
    """Fills in the bucket of each row in each band; returns which rows have enough n-grams."""
    random = np.random.default_rng(0)
    factors = random.integers(1, 2**63, BANDS * ROWS_A_BAND, np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**63, BANDS * ROWS_A_BAND, np.uint64)
    usable_N = np.zeros(len(start_N), bool)
    edges = np.searchsorted(end_N, np.arange(0, end_N[-1], _CHUNK), side="right")
    for first, last in zip(edges, [*edges[1:], len(start_N)], strict=True):
        if first == last:
            continue
        chunk = hashes[start_N[first] : end_N[last - 1]]
        rare = _rare(chunk, common)
        row_of = np.repeat(np.arange(last - first), (end_N - start_N)[first:last])[rare]
        counts = np.bincount(row_of, minlength=last - first)
        usable_N[first:last] = counts >= LEAST
        kept = usable_N[first:last][row_of]
        values = chunk[rare][kept].astype(np.uint64)
        places = np.flatnonzero(usable_N[first:last])
        if not len(places):
            continue
        starts = np.cumsum(counts[places]) - counts[places]
        for band in range(BANDS):
            lowest = [
                # Multiply-shift hashing (Dietzfelbinger and others, 1997).
                np.minimum.reduceat((values * factors[i] + offsets[i]) >> np.uint64(32), starts)
                for i in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND)
            ]
            key_BxN[band, first + places] = hash_mix(band, *lowest)
    return usable_N


def _neighbours(keys: np.ndarray, rows: np.ndarray):
    """Pairs (a, b), a < b, from rows with equal keys: each with the one before and the first."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1]) + 1
    yield rows[order[same - 1]], rows[order[same]]
    starts = np.where(first_of_equals(sorted_keys), np.arange(len(keys)), 0)
    first = np.maximum.accumulate(starts)
    far = same[first[same] < same - 1]
    yield rows[order[first[far]]], rows[order[far]]


def _alike(hashes, start_N, end_N, common, a_P, b_P) -> np.ndarray:
    """bool[P]: whether the Jaccard similarity of two rows reaches `SIMILAR`."""
    result = np.zeros(len(a_P), bool)
    step = _CHUNK // (2 * SKETCH)
    for at in range(0, len(a_P), step):
        a, b = a_P[at : at + step], b_P[at : at + step]
        pair = np.arange(len(a))
        own_a, values_a, top_a = _gather(hashes, start_N, end_N, a)
        own_b, values_b, top_b = _gather(hashes, start_N, end_N, b)
        # A full sketch knows nothing of hashes above its largest: there the two can't be compared.
        top = np.minimum(top_a, top_b)
        keys = []
        for own, values in ((own_a, values_a), (own_b, values_b)):
            kept = (values <= top[own]) & _rare(values, common)
            keys.append((own[kept].astype(np.uint64) << np.uint64(32)) | values[kept])
        both = np.sort(np.concatenate(keys))
        shared = np.bincount(
            (both[1:][both[1:] == both[:-1]] >> np.uint64(32)).astype(np.int64), minlength=len(pair)
        )
        total = np.bincount((both >> np.uint64(32)).astype(np.int64), minlength=len(pair)) - shared
        result[at : at + step] = shared >= SIMILAR * np.maximum(total, 1)
    return result


def _gather(hashes, start_N, end_N, rows_P) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair number and hash of all hashes of the rows, and up to which hash a sketch is complete."""
    lengths = (end_N - start_N)[rows_P]
    own = np.repeat(np.arange(len(rows_P)), lengths)
    within = np.arange(len(own)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = hashes[start_N[rows_P][own] + within]
    top = np.where(lengths < SKETCH, np.uint32(2**32 - 1), hashes[end_N[rows_P] - 1])
    return own, values, top


def _join(label_N: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Makes one group of the groups of a and b, pair by pair; each is named by its first row."""
    while len(a) and np.any(label_N[a] != label_N[b]):
        low = np.minimum(label_N[a], label_N[b])
        np.minimum.at(label_N, label_N[a], low)
        np.minimum.at(label_N, label_N[b], low)
        label_N[:] = label_N[label_N]


def report(found: DuplicateSearch, heldout: int, most: int) -> dict[str, Any]:
    """What the search found, as plain JSON values.

    Args:
      found: all rows taken in, the held-out ones first.
      heldout: how many those are.
      most: groups that are listed.

    Returns:
      rows: searched; left_out: not searched, beyond `max_rows`;
      equal: rows that are the same as one before, apart from case and white space;
      near: further rows that are much the same as one before;
      groups: how many groups there are, with sizes {size: groups};
      further_answers: different rows that share their prompt with one before;
      heldout_in_train: held-out rows that have an equal or near duplicate among the training rows;
      largest: [{rows, examples: first and last row of the group}].
    """
    label_N = found.labels()
    equal = found.equal_rows()
    sizes_N = np.bincount(label_N, minlength=found.rows)
    first = np.flatnonzero(sizes_N > 1)
    largest = first[np.argsort(-sizes_N[first], kind="stable")[:most]]
    sizes, groups = np.unique(sizes_N[first], return_counts=True)
    in_train = np.zeros(found.rows, bool)
    in_train[label_N[heldout:]] = True
    examples = []
    for label in largest:
        members = np.flatnonzero(label_N == label)
        examples.append(
            {
                "rows": len(members),
                "examples": [found.excerpt(int(row)) for row in (members[0], members[-1])],
            }
        )
    return {
        "similarity": SIMILAR,
        "rows": found.rows,
        "left_out": found.left_out,
        "equal": equal,
        "near": int(np.sum(label_N != np.arange(found.rows))) - equal,
        "groups": len(first),
        "sizes": {int(size): int(n) for size, n in zip(sizes, groups, strict=True)},
        "further_answers": found.further_answers(),
        "heldout_in_train": int(np.sum(in_train[label_N[:heldout]])),
        "largest": examples,
    }
