"""Counts of markers by category and origin, exact in any order of adding."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from marker_lm.data.example import MarkerInfo
from marker_lm.markers.taxonomy import Taxonomy

_UNITS = 10_000  # a confidence is written with four digits, so its sum in these units is exact


@dataclasses.dataclass
class OriginCounts:
    """How many rows there are, and how many have a marker of each category and origin.

    rows: count of annotated rows
    counts: (category, origin) -> rows with such a marker
    confidence: (category, origin) -> sum of their confidences, in ten-thousandths
    """

    rows: int = 0
    counts: Counter = dataclasses.field(default_factory=Counter)
    confidence: Counter = dataclasses.field(default_factory=Counter)

    def add(self, marker_info: Mapping[str, MarkerInfo], times: int = 1) -> None:
        """Counts a row; with times=-1 it is taken back."""
        self.rows += times
        for category, (origin, confidence) in marker_info.items():
            self.counts[category, origin] += times
            self.confidence[category, origin] += times * round(confidence * _UNITS)

    def merge(self, other: "OriginCounts") -> None:
        """Adds another one's counts."""
        self.rows += other.rows
        self.counts.update(other.counts)
        self.confidence.update(other.confidence)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: rows, and (category, origin, count, sum of confidences) of each."""
        cells = [[*key, n, self.confidence[key]] for key, n in sorted(self.counts.items()) if n]
        return {"rows": self.rows, "cells": cells}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "OriginCounts":
        """What `to_dict` gave."""
        counts = Counter({(c, o): n for c, o, n, _ in data["cells"]})
        confidence = Counter({(c, o): total for c, o, _, total in data["cells"]})
        return cls(data["rows"], counts, confidence)

    def table(self, taxonomy: Taxonomy, asked: Iterable[str]) -> dict[str, dict[str, Any]]:
        """For each category: rows that have it, by origin, mean confidence, abstentions.

        asked: categories that have an annotator; of these a row without a marker is an abstention.
        """
        asked = set(asked)
        table = {}
        for category in taxonomy.categories:
            origins = {o: n for (c, o), n in sorted(self.counts.items()) if c == category and n}
            have = sum(origins.values())
            total = sum(t for (c, _), t in self.confidence.items() if c == category)
            table[category] = {
                "rows": have,
                "share": have / self.rows if self.rows else 0.0,
                "origins": origins,
                "mean_confidence": total / _UNITS / have if have else None,
                "abstained": self.rows - have if category in asked else None,
            }
        return table


def asked_categories(names: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Categories that have an annotator."""
    return [category for category, annotators in names.items() if annotators]
