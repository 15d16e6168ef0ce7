"""The taxonomy: which categories there are, in which order, and what their values mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from marker_lm.markers.category import Category, MarkerError, is_absent, mend, show
from marker_lm.markers.schema import build_categories
from marker_lm.markers.taxonomy_file import read_taxonomy

__all__ = ["Category", "MarkerError", "Taxonomy", "load_taxonomy"]


@dataclass(frozen=True)
class Taxonomy:
    """Categories in order; made by `load_taxonomy` or `Taxonomy.from_dict`, which validate."""

    name: str
    categories: Mapping[str, Category]

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the meaning: definitions count, and so does the order of categories
        and values (it numbers the reserved ids); the taxonomy's name does not."""
        meaning = [category.to_dict() for category in self.categories.values()]
        text = json.dumps(meaning, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def category(self, name: str) -> Category:
        """The category of this name; MarkerError with the nearest name when there is none."""
        if not isinstance(name, str) or name not in self.categories:
            raise MarkerError(
                f"unknown category {show(name)} in taxonomy {self.name!r};"
                f" {mend(name, self.categories)}"
            )
        return self.categories[name]

    def check(self, category: str, value: Any) -> str | tuple[str, ...] | int | float:
        """The canonical value of a marker; MarkerError when category or value is not known.

        '12', 12 and 12.0 are the integer 12; True, 'x', 1.5 and nan are not integers. A closed
        value may be given as an integer (4 is '4') and in any Unicode composition. Of a category
        with `several`, ['B', 'A'] is ('A', 'B') in the order of the taxonomy, and 'A' is ('A',); of
        any other, a list is an error.
        """
        return self.category(category).check(value)

    def check_all(self, markers: Mapping[str, Any]) -> dict[str, Any]:
        """Canonical markers in taxonomy order; None and the empty list mean an absent marker."""
        if not isinstance(markers, Mapping):
            raise MarkerError(f"markers are {show(markers)}, not a mapping of category to value")
        given = {name: value for name, value in markers.items() if not is_absent(value)}
        checked = {name: self.check(name, value) for name, value in given.items()}
        return {name: checked[name] for name in self.categories if name in checked}

    def bucket(self, category: str, x: float) -> str:
        """The value of a bucket for the number x; value i holds for edges[i-1] <= x < edges[i].

        MarkerError when the category is no bucket with edges, or x is no number of its `of`.
        """
        bucket = self.category(category)
        if bucket.type != "bucket":
            raise MarkerError(f"{category} is of type {bucket.type!r}, so it has no buckets")
        if not bucket.edges:
            raise MarkerError(
                f"{category} is a bucket by quantiles per {bucket.quantiles_per},"
                " so its edges come from the data and not from the taxonomy"
            )
        number = self.check(bucket.of, x)
        return list(bucket.values)[int(np.searchsorted(bucket.edges, number, side="right"))]

    def diff(self, other: Taxonomy) -> list[str]:
        """What changes from this taxonomy to the other, one readable line each; [] if nothing."""
        mine, theirs = self.categories, other.categories
        lines = [f"category {name} is removed" for name in mine if name not in theirs]
        lines += [f"category {name} is added" for name in theirs if name not in mine]
        common = [name for name in mine if name in theirs]
        if common != [name for name in theirs if name in mine] or (
            len(common) == len(mine) == len(theirs) and list(mine) != list(theirs)
        ):
            lines.append(f"the order of categories is {', '.join(theirs)}, was {', '.join(mine)}")
        for name in common:
            lines += _diff_category(mine[name], theirs[name])
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; lists where the order matters, so it survives sorted keys."""
        return {
            "name": self.name,
            "categories": [category.to_dict() for category in self.categories.values()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Taxonomy:
        """The taxonomy that `to_dict` wrote, validated; MarkerError when it is damaged."""
        categories: dict[str, Any] = {}
        try:
            name = data["name"]
            for stored in data["categories"]:
                rest = {key: value for key, value in stored.items() if key != "name"}
                if "values" in rest:
                    rest["values"] = dict(rest["values"])
                categories[stored["name"]] = rest
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MarkerError(
                f"a stored taxonomy is damaged ({type(error).__name__}: {error});"
                " write it again with Taxonomy.to_dict"
            ) from error
        if not isinstance(name, str) or len(categories) != len(data["categories"]):
            raise MarkerError("a stored taxonomy is damaged: it has no name or a category twice")
        return cls(name, build_categories(categories, lambda _: f"stored taxonomy {name!r}"))


def _diff_category(mine: Category, theirs: Category) -> list[str]:
    name = mine.name
    lines = []
    for key in (f.name for f in fields(Category) if f.name not in ("name", "values")):
        old, new = getattr(mine, key), getattr(theirs, key)
        if old != new:
            lines.append(f"{name}: {key} is {show(new)}, was {show(old)}")
    lines += [f"{name}: value {v!r} is removed" for v in mine.values if v not in theirs.values]
    lines += [f"{name}: value {v!r} is added" for v in theirs.values if v not in mine.values]
    common = [value for value in mine.values if value in theirs.values]
    for value in common:
        if mine.values[value] != theirs.values[value]:
            lines.append(f"{name}: the definition of {value!r} is {show(theirs.values[value])}")
    if common != [value for value in theirs.values if value in mine.values]:
        lines.append(f"{name}: the order of values is {', '.join(theirs.values)}")
    return lines


def load_taxonomy(name_or_path: str) -> Taxonomy:
    """Reads 'paper', 'atlas' or a YAML file (any path etils.epath knows, such as gs://).

    `extends: paper` (a shipped name, or a path from the file's own folder) takes all categories
    of another taxonomy; categories of the same name are replaced where they stand, new ones are
    added at the end. A closed category with `several: true` allows several values in one example.
    Raises MarkerError with file:line, the key, the value and the mend.
    """
    name, categories, where = read_taxonomy(name_or_path)
    return Taxonomy(name, build_categories(categories, where))
