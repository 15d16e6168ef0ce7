"""Token spans of an example, their length index, and the bytes of one cache record."""

import dataclasses
import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from marker_lm.markers.dropout import hash_ids

_HEAD = struct.Struct("<IIII")  # bytes of the id, prompt tokens, completion tokens, markers
_MARKER = struct.Struct("<HI")  # index of the category, tokens


@dataclasses.dataclass
class Spans:
    """One tokenized example. Spans hold no eos, bos or list borders: assembly adds those.

    id: unique name of the example, utf-8 text
    prompt, completion: int32[length]
    markers: category -> int32[length] token span; only the categories that are present,
      in the order of the taxonomy
    """

    id: str
    prompt: np.ndarray
    completion: np.ndarray
    markers: dict[str, np.ndarray]

    def tokens(self) -> int:
        """Tokens of all spans together."""
        return len(self.prompt) + len(self.completion) + sum(map(len, self.markers.values()))


@dataclasses.dataclass(frozen=True)
class Index:
    """Lengths of every example of a cache: all that a plan needs, without reading a token.

    categories: names of the columns C
    example_hash_N: uint64, `hash_ids` of the example ids
    prompt_len_N, completion_len_N: int32, tokens
    marker_len_NxC: int32, tokens; 0 = the example does not have this category
    """

    categories: tuple[str, ...]
    example_hash_N: np.ndarray
    prompt_len_N: np.ndarray
    completion_len_N: np.ndarray
    marker_len_NxC: np.ndarray

    def __len__(self) -> int:
        return len(self.example_hash_N)

    def take(self, indices: np.ndarray) -> "Index":
        """The same index for the chosen rows only, in the order given."""
        return Index(
            self.categories,
            self.example_hash_N[indices],
            self.prompt_len_N[indices],
            self.completion_len_N[indices],
            self.marker_len_NxC[indices],
        )


class IndexBuilder:
    """Grows an Index row by row; about 24 + 4 C bytes a row."""

    _BLOCK = 65536

    def __init__(self, categories: Sequence[str]):
        self.categories = tuple(categories)
        self._column = {name: c for c, name in enumerate(self.categories)}
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self._ids: list[str] = []
        self._lengths: list[list[int]] = []

    def add(self, spans: Spans) -> None:
        row = [0] * (2 + len(self.categories))
        row[0], row[1] = len(spans.prompt), len(spans.completion)
        for category, span in spans.markers.items():
            if len(span) == 0:
                raise ValueError(
                    f"the marker '{category}' of example '{spans.id}' has no tokens; "
                    "leave an absent marker out of `markers`"
                )
            row[2 + self._column[category]] = len(span)
        self._ids.append(spans.id)
        self._lengths.append(row)
        if len(self._ids) == self._BLOCK:
            self._flush()

    def _flush(self) -> None:
        shape = (len(self._ids), 2 + len(self.categories))
        lengths = np.asarray(self._lengths, np.int32).reshape(shape)
        self._blocks.append((np.asarray(hash_ids(self._ids), np.uint64), lengths))
        self._ids, self._lengths = [], []

    def build(self) -> Index:
        self._flush()
        hash_N = np.concatenate([block[0] for block in self._blocks])
        lengths = np.concatenate([block[1] for block in self._blocks])
        return Index(
            self.categories,
            hash_N,
            np.ascontiguousarray(lengths[:, 0]),
            np.ascontiguousarray(lengths[:, 1]),
            np.ascontiguousarray(lengths[:, 2:]),
        )


def build_index(spans: Iterable[Spans], categories: Sequence[str]) -> Index:
    """The Index of examples that are in memory."""
    builder = IndexBuilder(categories)
    for one in spans:
        builder.add(one)
    return builder.build()


def encode_record(spans: Spans, column: Mapping[str, int]) -> bytes:
    """Spans as bytes. `column` maps a category to its number in the cache's list.

    Layout, little-endian: 4 counts (uint32), per marker its column (uint16) and length
    (uint32), the id in utf-8, then all tokens as int32: prompt, completion, markers.
    """
    name = spans.id.encode("utf-8")
    head = [_HEAD.pack(len(name), len(spans.prompt), len(spans.completion), len(spans.markers))]
    tokens = [spans.prompt, spans.completion]
    for category, span in spans.markers.items():
        head.append(_MARKER.pack(column[category], len(span)))
        tokens.append(span)
    return b"".join(head) + name + np.concatenate(tokens).astype("<i4").tobytes()


def decode_record(data: bytes, categories: Sequence[str]) -> Spans:
    """The reverse of `encode_record`; arrays are read-only views of `data`."""
    name_size, prompt_len, completion_len, count = _HEAD.unpack_from(data)
    at = _HEAD.size
    sizes = [_MARKER.unpack_from(data, at + i * _MARKER.size) for i in range(count)]
    at += count * _MARKER.size
    name = data[at : at + name_size].decode("utf-8")
    tokens = np.frombuffer(data, "<i4", offset=at + name_size)
    prompt, completion = tokens[:prompt_len], tokens[prompt_len : prompt_len + completion_len]
    markers, start = {}, prompt_len + completion_len
    for column, size in sizes:
        markers[categories[column]] = tokens[start : start + size]
        start += size
    return Spans(name, prompt, completion, markers)
