"""Counters over rows that merge: a block is counted by any process, and the sum is the same."""

import dataclasses
import functools
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from marker_lm.data.example import Example
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy

GIVEN = "the row itself"  # origin of a marker that the row has nothing to say about
CONFIDENCE_BINS = 10
_STEPS = 4  # bins of a length histogram in each doubling


def length_bin(length: int) -> int:
    """Number of the histogram bin of a length: 0 for 0, then four bins a doubling."""
    return 0 if length < 1 else 1 + math.floor(_STEPS * math.log2(length) + 1e-9)


def bin_start(number: int) -> int:
    """The least length of a bin; the bin ends where the next one starts.

    Where this is the same number, the lengths are so small that the bin holds none.
    """
    return 0 if number < 1 else math.ceil(2 ** ((number - 1) / _STEPS) - 1e-9)


@dataclasses.dataclass(frozen=True)
class Row:
    """What is counted of an Example: small, since it travels between processes."""

    id: str
    prompt: str
    completion: str
    markers: Mapping[str, Any]
    info: Any

    @classmethod
    def of(cls, example: Example) -> "Row":
        found = example.marker_info.items()
        info = {category: one._asdict() for category, one in found if one.origin != "row"}
        return cls(example.id, example.prompt, example.completion, example.markers, info)


@dataclasses.dataclass(frozen=True)
class Ruler:
    """What tokens are measured with.

    Attributes:
      taxonomy: of the rows.
      tokenizer: of the texts.
      codecs: template -> codec, for the templates that this tokenizer can write.
    """

    taxonomy: Taxonomy
    tokenizer: Tokenizer
    codecs: Mapping[str, MarkerCodec]

    @functools.cached_property
    def closed(self) -> tuple[str, ...]:
        """Categories with a known set of values."""
        return tuple(c.name for c in self.taxonomy.categories.values() if c.is_closed)


def values_of(value: Any) -> tuple:
    """The values of one marker: most have one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _counters() -> defaultdict:
    return defaultdict(Counter)


@dataclasses.dataclass
class Tally:
    """Sums over rows. Memory depends on the taxonomy and not on the number of rows.

    Attributes:
      rows: how many.
      marked: category -> rows that have it.
      values: closed category -> value -> rows.
      numbers: number category -> bin of `length_bin` -> rows (negative ones count as 0).
      joint: (category, category) -> (value, value) -> rows, closed categories in taxonomy order.
      sets: set of categories, as a tuple in taxonomy order -> rows that have just these.
      marker_tokens: template -> category -> tokens of all its markers, borders of the list apart.
      text_tokens: 'prompt' and 'completion' -> tokens.
      lengths: 'prompt' and 'completion' -> bin of `length_bin` in tokens -> rows.
      origins: category -> origin -> markers.
      confidences: category -> tenth of the confidence (0..9) -> markers that have one.
      wordless: rows whose completion has no letter and no digit.
      fingerprint: sum of hashes of (id, markers), modulo 2 ** 64: in any order the same.
    """

    rows: int = 0
    marked: Counter = dataclasses.field(default_factory=Counter)
    values: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    numbers: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    joint: dict[tuple, Counter] = dataclasses.field(default_factory=_counters)
    sets: Counter = dataclasses.field(default_factory=Counter)
    marker_tokens: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    text_tokens: Counter = dataclasses.field(default_factory=Counter)
    lengths: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    origins: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    confidences: dict[str, Counter] = dataclasses.field(default_factory=_counters)
    wordless: int = 0
    fingerprint: int = 0

    def merge(self, other: "Tally") -> None:
        """Adds what another Tally has counted."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, dict):
                for key, counter in theirs.items():
                    mine[key].update(counter)
            else:
                setattr(self, field.name, mine + theirs)
        self.fingerprint %= 2**64


def count(rows: Iterable[Row], ruler: Ruler) -> Tally:
    """The Tally of a block of rows."""
    rows, tally = list(rows), Tally()
    tally.rows = len(rows)
    _count_texts(rows, ruler, tally)
    _count_markers(rows, ruler, tally)
    keys = [json.dumps([row.id, row.markers], sort_keys=True) for row in rows]
    tally.fingerprint = int(np.sum(hash_ids(keys), dtype=np.uint64)) if rows else 0
    return tally


def _count_texts(rows: list[Row], ruler: Ruler, tally: Tally) -> None:
    for side in ("prompt", "completion"):
        sizes = [len(ids) for ids in ruler.tokenizer.encode_batch([getattr(r, side) for r in rows])]
        tally.text_tokens[side] = sum(sizes)
        tally.lengths[side].update(map(length_bin, sizes))
    tally.wordless = sum(not any(map(str.isalnum, row.completion)) for row in rows)


def _count_markers(rows: list[Row], ruler: Ruler, tally: Tally) -> None:
    numbers = [c for c in ruler.taxonomy.categories if c not in ruler.closed]
    # Many rows have the same closed markers: what is slow is done once for each combination.
    combinations = Counter(
        tuple((c, values_of(row.markers[c])) for c in ruler.closed if c in row.markers)
        for row in rows
    )
    for combination, n in combinations.items():
        for category, values in combination:
            for value in values:
                tally.values[category][value] += n
        for (a, values_a), (b, values_b) in itertools.combinations(combination, 2):
            for pair in itertools.product(values_a, values_b):
                tally.joint[a, b][pair] += n
    for row in rows:
        tally.sets[tuple(row.markers)] += 1
        tally.marked.update(row.markers.keys())
        for category in numbers:
            if category in row.markers:
                for value in values_of(row.markers[category]):
                    tally.numbers[category][length_bin(value)] += 1
        for template, codec in ruler.codecs.items():
            tokens = tally.marker_tokens[template]
            for category, value in row.markers.items():
                tokens[category] += _marker_length(codec, category, _hashable(value))
        _count_info(row, tally)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(1 << 16)
def _marker_length(codec: MarkerCodec, category: str, value: Any) -> int:
    return len(codec.marker(category, value))


def _count_info(row: Row, tally: Tally) -> None:
    if not isinstance(row.info, Mapping):
        for category in row.markers:
            tally.origins[category][GIVEN] += 1
        return
    for category in row.markers:
        about = row.info.get(category)
        about = about if isinstance(about, Mapping) else {}
        tally.origins[category][str(about.get("origin") or GIVEN)] += 1
        confidence = about.get("confidence")
        if isinstance(confidence, int | float) and 0 <= confidence <= 1:
            tenth = min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)
            tally.confidences[category][tenth] += 1
