"""Which values the rows of a cache have, so that decoding can tell what a model has never seen."""

from collections.abc import Iterable, Mapping
from typing import Any

from marker_lm.markers.taxonomy import Taxonomy

# Of a closed category {value: rows that have it}, of a number [least, most]; JSON-able. A category
# that no row has is not there.
Counts = dict[str, Any]


def count_markers(rows: Iterable[Mapping[str, Any]], taxonomy: Taxonomy) -> Counts:
    """The values in the canonical markers of some rows. Of several values each one counts."""
    counts: Counts = {}
    for markers in rows:
        for category, value in markers.items():
            if taxonomy.categories[category].is_closed:
                values = value if isinstance(value, tuple) else (value,)
                _add(counts, category, dict.fromkeys(values, 1))
            else:
                _add(counts, category, [value, value])
    return counts


def join_counts(parts: Iterable[Counts], categories: Iterable[str]) -> Counts:
    """The counts of all parts, categories in the given order and values sorted."""
    total: Counts = {}
    for counts in parts:
        for category, found in counts.items():
            _add(total, category, found)
    return {
        category: dict(sorted(total[category].items()))
        if isinstance(total[category], dict)
        else total[category]
        for category in categories
        if category in total
    }


def _add(total: Counts, category: str, found: dict[str, int] | list) -> None:
    if isinstance(found, dict):
        own = total.setdefault(category, {})
        for value, rows in found.items():
            own[value] = own.get(value, 0) + rows
    else:
        least, most = total.get(category, found)
        total[category] = [min(least, found[0]), max(most, found[1])]
