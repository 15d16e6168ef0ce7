"""Sketches of rows: from text to the smallest hashes of its character n-grams (Broder 1997)."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from marker_lm.markers.dropout import hash_ids, hash_mix

NGRAM = 5  # characters
SKETCH = 256  # hashes of a row that are kept
_EXCERPT = 160


@dataclasses.dataclass(frozen=True)
class Sketches:
    """Of a block of N rows.

    hashes: uint32, ascending within a row, one row after the other; lengths_N: int64.
    content_N, prompt_N: uint64 hashes of the whole normalized row and of its prompt.
    excerpts: a JSON line for each row, [id, prompt, completion], long texts cut.
    """

    hashes: np.ndarray
    lengths_N: np.ndarray
    content_N: np.ndarray
    prompt_N: np.ndarray
    excerpts: list[bytes]


def normalize(text: str) -> str:
    """Case and runs of white space make no difference."""
    return " ".join(text.casefold().split())


def sketch(rows: Sequence[Any]) -> Sketches:
    """Sketches of rows, which have `id`, `prompt` and `completion`."""
    prompts = [normalize(row.prompt) for row in rows]
    texts = [f"{p}\n{normalize(row.completion)}" for p, row in zip(prompts, rows, strict=True)]
    hashes, lengths_N = _bottom_hashes(texts)
    excerpts = [
        json.dumps([row.id, _cut(row.prompt), _cut(row.completion)]).encode() for row in rows
    ]
    return Sketches(hashes, lengths_N, hash_ids(texts), hash_ids(prompts), excerpts)


def _cut(text: str) -> str:
    """Of a long text the start and the end: rows of a task often start alike."""
    return text if len(text) <= _EXCERPT else f"{text[:60]} … {text[60 + 3 - _EXCERPT :]}"


def _bottom_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The `SKETCH` smallest distinct n-gram hashes of each text: (uint32[sum], int64[N])."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    sizes_N = np.array([len(text) for text in texts], np.int64)
    row_of = np.repeat(np.arange(len(texts)), sizes_N)
    count = max(len(codes) - NGRAM + 1, 0)
    polynomial = np.zeros(count, np.uint64)
    for i in range(NGRAM):
        polynomial = polynomial * np.uint64(0x100000001B3) + codes[i : i + count]
    whole = row_of[:count] == row_of[NGRAM - 1 :][:count]  # an n-gram does not span two rows
    hash_32 = hash_mix(0, polynomial[whole]) >> np.uint64(32)
    keys = np.sort((row_of[:count][whole].astype(np.uint64) << np.uint64(32)) | hash_32)
    keys = keys[first_of_equals(keys)]
    row_of = (keys >> np.uint64(32)).astype(np.int64)
    counts_N = np.bincount(row_of, minlength=len(texts))
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
    hashes = keys[rank < SKETCH].astype(np.uint32)
    return hashes, np.minimum(counts_N, SKETCH)


def first_of_equals(ordered: np.ndarray) -> np.ndarray:
    """bool of the same length: where a value stands for the first time in an ordered array."""
    return np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]])
