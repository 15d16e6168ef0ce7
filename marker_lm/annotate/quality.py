"""Scores to buckets by quantiles, taken per language or another category.

Scores are counted in bins and not kept. A bin holds the doubles that share sign, exponent and the
first 11 bits of the fraction: scores in one bin differ by less than 2**-11, 0.05 %, of their size,
and integers up to 4096 and small decimals of two digits have bins of their own. What is counted is
exact, so counts of parts add up to those of the whole in any order.

A score's rank is the middle of its bin's ranks, (below + half of those in the bin) / all, and its
bucket the quantile that this rank lies in. So equal scores share a bucket, as they must, and a
bucket can only differ from one by exact ranks where a score shares its bin with the edge between
two quantiles: within 0.05 % of it. Memory is about 100 bytes a bin that is in use, of which scores
within one power of two have 2048.
"""

import bisect
import dataclasses
import itertools
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.settings import SettingsError, settings_from
from marker_lm.data.example import Example
from marker_lm.data.row_format import lookup
from marker_lm.markers.taxonomy import Category, Taxonomy

_BITS = 11
_SHIFT = 52 - _BITS
_SIGN = 1 << 63


@dataclasses.dataclass(frozen=True)
class Settings:
    """field: of the row, that holds the score; "" where scores are markers already.
    min_rows: groups with fewer scored rows stay unmarked: their quantiles say nothing.
    """

    field: str = ""
    min_rows: int = 20


def bin_of(score: float) -> int:
    """The score's bin: a higher score has the same or a higher one."""
    bits = struct.unpack("<Q", struct.pack("<d", score + 0.0))[0]  # -0.0 becomes 0.0
    # Of negative doubles the bits grow with their size, so they are turned around.
    ordered = bits ^ (2**64 - 1) if bits & _SIGN else bits | _SIGN
    return ordered >> _SHIFT


def read_score(example: Example, of: str, field: str) -> float | None | str:
    """The score of a row; None where it has none, 'not a number' where it is none."""
    score = example.markers.get(of)
    if score is None and field:
        score = lookup(example.extra, field)
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return "not a number"
    try:
        score = float(score)
    except OverflowError:
        return "not a number"
    return score if math.isfinite(score) else "not a number"


class QualityLearner:
    """Counts the scores of all rows; a Learner."""

    name = "quality"

    def __init__(self, settings: Settings, taxonomy: Taxonomy):
        self.settings = settings
        self.buckets = [c for c in taxonomy.categories.values() if c.quantiles_per]
        if not self.buckets:
            raise SettingsError(
                f"quality: taxonomy '{taxonomy.name}' has no bucket with quantiles_per"
            )
        numbers = dict.fromkeys(bucket.of for bucket in self.buckets)
        self.categories = (*numbers, *(bucket.name for bucket in self.buckets))
        # bucket -> group (None: the row has none) -> bin -> count
        self.counts: dict[str, dict[str | None, Counter[int]]] = {
            bucket.name: defaultdict(Counter) for bucket in self.buckets
        }
        self.unscored: dict[str, Counter[str]] = {b.name: Counter() for b in self.buckets}

    def add(self, example: Example) -> None:
        for bucket in self.buckets:
            score = read_score(example, bucket.of, self.settings.field)
            if isinstance(score, float):
                group = example.markers.get(bucket.quantiles_per)
                self.counts[bucket.name][group][bin_of(score)] += 1
            else:
                self.unscored[bucket.name][score or "no score"] += 1

    def merge(self, other: "QualityLearner") -> None:
        for bucket, groups in other.counts.items():
            for group, bins in groups.items():
                self.counts[bucket][group].update(bins)
            self.unscored[bucket].update(other.unscored[bucket])

    def finish(self) -> "Quality":
        facts, edges = {}, {}
        for bucket in self.buckets:
            groups = {
                group: bins
                for group, bins in self.counts[bucket.name].items()
                if group is not None and bins.total() >= self.settings.min_rows
            }
            edges[bucket.name] = {
                group: _bucket_of_bin(bins, list(bucket.values)) for group, bins in groups.items()
            }
            facts[bucket.name] = self._count(bucket, groups)
        return Quality(self.settings, self.buckets, edges, facts)

    def _count(self, bucket: Category, groups: Mapping[str, Counter[int]]) -> dict[str, Any]:
        counts, unscored = self.counts[bucket.name], self.unscored[bucket.name]
        small = [n for g, n in counts.items() if g is not None and g not in groups]
        return {
            "no score": unscored["no score"],
            "not a number": unscored["not a number"],
            f"no {bucket.quantiles_per}": counts.get(None, Counter()).total(),
            "in groups too small": sum(bins.total() for bins in small),
            "scored": {group: groups[group].total() for group in sorted(groups)},
        }


def _bucket_of_bin(bins: Mapping[int, int], values: Sequence[str]) -> tuple[list[int], list[str]]:
    """(first bins of the runs that share a bucket, ascending; the bucket of each run)."""
    total, below = sum(bins.values()), 0
    starts: list[int] = []
    buckets: list[str] = []
    for number in sorted(bins):
        # The middle of the bin's ranks as a share of all, in whole numbers.
        place = (2 * below + bins[number]) * len(values) // (2 * total)
        if not buckets or buckets[-1] != values[place]:
            starts.append(number)
            buckets.append(values[place])
        below += bins[number]
    return starts, buckets


class Quality:
    """An Annotator that gives a scored row the bucket of its score; QualityLearner makes it."""

    name = "quality"

    def __init__(
        self, settings: Settings, buckets: Sequence[Category], edges: Mapping, facts: Mapping
    ):
        self._settings = settings
        self._buckets = buckets
        self._edges = edges
        self._facts = facts
        self.categories = tuple(
            itertools.chain(dict.fromkeys(b.of for b in buckets), (b.name for b in buckets))
        )

    def facts(self) -> dict[str, Any]:
        """Bucket -> counts of rows without a usable score, and of scored rows by group."""
        return dict(self._facts)

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        return [self._annotate(example) for example in examples]

    def _annotate(self, example: Example) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for bucket in self._buckets:
            score = read_score(example, bucket.of, self._settings.field)
            if not isinstance(score, float):
                continue
            found[bucket.of] = Found(score)
            group = self._edges[bucket.name].get(example.markers.get(bucket.quantiles_per))
            if group is not None:
                starts, values = group
                place = max(bisect.bisect_right(starts, bin_of(score)) - 1, 0)
                found[bucket.name] = Found(values[place])
        return found


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> QualityLearner:
    """The learner from its section of the config, see Settings. Raises SettingsError."""
    return QualityLearner(settings_from(Settings, config, "quality"), taxonomy)
