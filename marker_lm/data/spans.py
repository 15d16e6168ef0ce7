"""Token spans of examples, their length index, and the bytes of one cache record."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.markers.category import Category
from marker_lm.markers.dropout import hash_ids

MAX_MARKER = np.iinfo(np.int16).max  # tokens; the index keeps their lengths in 16 bits
ABSENT = -1  # in `Index.value_NxC`
_HEAD = 4  # words of a record before its markers


@dataclasses.dataclass
class Spans:
    """One tokenized example. Spans hold no eos, bos or list borders: assembly adds those.

    id: unique name of the example, utf-8 text
    prompt, completion: int32[length]
    markers: category -> int32[length] token span; only the categories that are present,
      in the order of the taxonomy
    values: category -> `value_number` of its value; only closed categories
    begins: whether it begins a conversation; else it is the next turn of the one before it
    apart: of the first turn, whether the conversation's text as one piece has other tokens
    """

    id: str
    prompt: np.ndarray
    completion: np.ndarray
    markers: dict[str, np.ndarray]
    values: dict[str, int] = dataclasses.field(default_factory=dict)
    begins: bool = True
    apart: bool = False

    def tokens(self) -> int:
        """Tokens of all spans together."""
        return len(self.prompt) + len(self.completion) + sum(map(len, self.markers.values()))


@dataclasses.dataclass(frozen=True)
class Index:
    """Lengths of every example of a cache: all that a plan needs, without reading a token.

    It takes 16 + 4 C bytes a row. A conversation of several turns is as many rows, one after the
    other; they are drawn, packed and cut together.

    categories: names of the columns C
    example_hash_N: uint64, `hash_ids` of the example ids
    prompt_len_N, completion_len_N: int32, tokens
    marker_len_NxC: int16, tokens; 0 = the example does not have this category
    value_NxC: int16, `value_number` of the value; ABSENT where the example does not have
      the category, or where it is no closed one
    begins_N: bool, whether the row begins a conversation; None where every row does
    """

    categories: tuple[str, ...]
    example_hash_N: np.ndarray
    prompt_len_N: np.ndarray
    completion_len_N: np.ndarray
    marker_len_NxC: np.ndarray
    value_NxC: np.ndarray
    begins_N: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.example_hash_N)

    @functools.cached_property
    def first_U(self) -> np.ndarray | range:
        """The first row of each conversation, integers."""
        return range(len(self)) if self.begins_N is None else np.flatnonzero(self.begins_N)

    @functools.cached_property
    def _turns_U(self) -> np.ndarray:
        return np.diff(self.first_U, append=len(self))

    def conversations(self, number_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of some conversations, and how many of them each one has.

        Args:
          number_D: int64, conversations by their place in the cache.

        Returns:
          rows_E, int64, one conversation after the other; turns_D, int64.
        """
        if self.begins_N is None:
            return number_D, np.ones(len(number_D), np.int64)
        turns_D = self._turns_U[number_D]
        return ranges(self.first_U[number_D], turns_D), turns_D

    def take(self, indices: np.ndarray) -> "Index":
        """The same index for the chosen rows only, in the order given."""
        return Index(self.categories, *(column[indices] for column in self.columns().values()))

    def columns(self) -> dict[str, np.ndarray]:
        """Name -> array of each column, as they stand in a file."""
        names = [field.name for field in dataclasses.fields(self)[1:]]
        columns = {name: getattr(self, name) for name in names}
        return {name: column for name, column in columns.items() if column is not None}


def ranges(begin_R: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """int64: begin, begin + 1, ... of each run, one run after the other."""
    before_R = np.cumsum(length_R) - length_R
    return np.repeat(begin_R - before_R, length_R) + np.arange(length_R.sum())


def value_number(category: Category, value: Any) -> int:
    """The number of a canonical value in its category, of several values of the first.

    ABSENT for a category that is not closed.
    """
    if not category.is_closed:
        return ABSENT
    return list(category.values).index(value[0] if isinstance(value, tuple) else value)


def build_index(spans: Iterable[Spans], categories: Sequence[str]) -> Index:
    """The Index of examples that are in memory."""
    rows = list(spans)
    column = {name: c for c, name in enumerate(categories)}
    marker_len_NxC = np.zeros((len(rows), len(column)), np.int16)
    value_NxC = np.full((len(rows), len(column)), ABSENT, np.int16)
    for n, one in enumerate(rows):
        for category, span in one.markers.items():
            if not 0 < len(span) <= MAX_MARKER:
                raise ValueError(
                    f"the marker '{category}' of example '{one.id}' has {len(span)} tokens; it may "
                    f"have 1 to {MAX_MARKER}, and an absent marker is left out of `markers`"
                )
            marker_len_NxC[n, column[category]] = len(span)
        for category, value in one.values.items():
            value_NxC[n, column[category]] = value
    return Index(
        tuple(categories),
        hash_ids([one.id for one in rows]),
        np.array([len(one.prompt) for one in rows], np.int32),
        np.array([len(one.completion) for one in rows], np.int32),
        marker_len_NxC,
        value_NxC,
        None if all(one.begins for one in rows) else np.array([one.begins for one in rows], bool),
    )


def encode_record(spans: Spans, column: Mapping[str, int]) -> bytes:
    """Spans as bytes. `column` maps a category to its number in the cache's list.

    Layout, all in little-endian 32-bit words: bytes of the id, prompt tokens, completion tokens,
    count of markers; per marker, by rising column, its column and its tokens; then the tokens of
    prompt, completion and markers; last the id in utf-8, padded by zero bytes to whole words.
    """
    name = spans.id.encode("utf-8")
    markers = sorted((column[category], span) for category, span in spans.markers.items())
    head = [len(name), len(spans.prompt), len(spans.completion), len(markers)]
    for number, span in markers:
        head += [number, len(span)]
    words = np.concatenate([head, spans.prompt, spans.completion, *(s for _, s in markers)])
    return words.astype("<i4").tobytes() + name + bytes(-len(name) % 4)


def decode_record(data: bytes, categories: Sequence[str]) -> Spans:
    """The spans that `encode_record` wrote; arrays are read-only views of `data`.

    `values`, `begins` and `apart` are not in a record.
    """
    words = np.frombuffer(data, "<i4")
    name_size, prompt_len, completion_len, count = words[:_HEAD].tolist()
    numbers, sizes = words[_HEAD : _HEAD + 2 * count].reshape(count, 2).T.tolist()
    bounds = np.cumsum([_HEAD + 2 * count, prompt_len, completion_len, *sizes])
    prompt, completion, *markers = np.split(words[: bounds[-1]], bounds[:-1])[1:]
    name = data[4 * bounds[-1] : 4 * bounds[-1] + name_size].decode("utf-8")
    found = {categories[c]: span for c, span in zip(numbers, markers, strict=True)}
    return Spans(name, prompt, completion, found)


@dataclasses.dataclass(frozen=True)
class FlatSpans:
    """Spans of N examples in one buffer; what assembly reads, without a Python object a row.

    categories: names of the columns C
    words: int32, where all the spans stand, and other words between them
    prompt_at_N, completion_at_N, marker_at_NxC: int64, where in `words` each span begins
    prompt_len_N, completion_len_N, marker_len_NxC: integers, its tokens
    """

    categories: tuple[str, ...]
    words: np.ndarray
    prompt_at_N: np.ndarray
    completion_at_N: np.ndarray
    marker_at_NxC: np.ndarray
    prompt_len_N: np.ndarray
    completion_len_N: np.ndarray
    marker_len_NxC: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_len_N)

    def take(self, which: slice) -> "FlatSpans":
        """Some of the rows; the words stay where they are."""
        columns = [getattr(self, field.name)[which] for field in dataclasses.fields(self)[2:]]
        return FlatSpans(self.categories, self.words, *columns)


def flatten_spans(spans: Sequence[Spans], categories: Sequence[str]) -> FlatSpans:
    """The spans of examples that are in memory as FlatSpans; markers of `categories` only."""
    column = {category: c for c, category in enumerate(categories)}
    rows = []
    for one in spans:
        markers = {c: span for c, span in one.markers.items() if c in column}
        rows.append(Spans(one.id, one.prompt, one.completion, markers))
    return flatten_records([encode_record(one, column) for one in rows], build_index(rows, column))


def flatten_records(records: Sequence[bytes], index: Index) -> FlatSpans:
    """Records, as `encode_record` wrote them, as FlatSpans.

    Args:
      index: of the same rows; it holds all lengths, so that no record need be parsed by itself.

    Raises:
      ValueError: a record does not hold what the index says.
    """
    words = np.frombuffer(b"".join(records), "<i4")
    size_N = np.fromiter(map(len, records), np.int64, len(records)) // 4
    end_N = np.cumsum(size_N)
    first_N = end_N - size_N
    marker_len_NxC = index.marker_len_NxC.astype(np.int64)
    prompt_at_N = first_N + _HEAD + 2 * np.count_nonzero(marker_len_NxC, axis=1)
    completion_at_N = prompt_at_N + index.prompt_len_N
    markers_at_N = completion_at_N + index.completion_len_N
    id_at_N = markers_at_N + marker_len_NxC.sum(1)
    id_words_N = (words[first_N] + 3) // 4
    if (id_at_N + id_words_N != end_N).any() or (words[first_N + 1] != index.prompt_len_N).any():
        raise ValueError("a record does not hold what the index says")
    return FlatSpans(
        index.categories,
        words,
        prompt_at_N,
        completion_at_N,
        markers_at_N[:, None] + np.cumsum(marker_len_NxC, axis=1) - marker_len_NxC,
        index.prompt_len_N,
        index.completion_len_N,
        marker_len_NxC,
    )
