"""Validates plain data as categories; every fault names the place, the key and the mend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from marker_lm.markers.category import (
    DESCRIBES,
    ORIGINS,
    TYPES,
    Category,
    MarkerError,
    mend,
    show,
    to_number,
)
from marker_lm.markers.taxonomy_file import Where, dotted

NAME = re.compile(r"[a-z][a-z0-9_]*")
# Fields of an example and the tag of the block: a category of that name would clash with them.
RESERVED = ("id", "prompt", "completion", "markers", "marker_list", "extra")

_COMMON = ("type", "definition", "origin", "describes")
_REQUIRED = {
    "closed": ("values",),
    "integer": ("unit",),
    "number": ("unit",),
    "bucket": ("values", "of"),
}
_OPTIONAL = {"closed": ("several",), "bucket": ("edges", "quantiles_per")}
_KEYS = (*_COMMON, "values", "unit", "of", "edges", "quantiles_per", "several")


def build_categories(data: Mapping[str, Any], where: Where) -> dict[str, Category]:
    """Validated categories from plain data; MarkerError names the place given by `where`."""
    categories = {name: _category(name, fields, where) for name, fields in data.items()}
    for category in categories.values():
        _check_references(category, categories, where)
    return categories


def _fault(where: Where, path: tuple, message: str) -> MarkerError:
    path = ("categories", *path)
    return MarkerError(f"{where(path)}: {dotted(path)} {message}")


def _category(name: Any, fields: Any, where: Where) -> Category:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _fault(where, (name,), "is no category name; use a-z, 0-9 and _, a letter first")
    if name in RESERVED:
        raise _fault(where, (name,), f"is a reserved name; choose another, such as {name}_kind")
    if not isinstance(fields, Mapping):
        keys = ", ".join(_COMMON)
        raise _fault(where, (name,), f"is {show(fields)}; write a mapping with {keys}")
    kind = _choice(fields, name, "type", TYPES, where)
    required = (*_COMMON, *_REQUIRED[kind])
    for key in fields:
        if key not in _KEYS:
            raise _fault(where, (name, key), f"is an unknown key; {mend(key, _KEYS)}")
        if key not in (*required, *_OPTIONAL.get(kind, ())):
            raise _fault(where, (name, key), f"does not belong to type {kind!r}; remove it")
    for key in required:
        if key not in fields:
            raise _fault(where, (name,), f"has no {key!r}; a category of type {kind!r} needs one")
    values = _values(fields["values"], name, where) if "values" in fields else {}
    return Category(
        name=name,
        type=kind,
        definition=_text(fields["definition"], (name, "definition"), where),
        origin=_choice(fields, name, "origin", ORIGINS, where),
        describes=_choice(fields, name, "describes", DESCRIBES, where),
        values=values,
        of=_text(fields["of"], (name, "of"), where) if "of" in fields else None,
        edges=_edges(fields, name, len(values), where) if kind == "bucket" else (),
        quantiles_per=fields.get("quantiles_per"),
        unit=_text(fields["unit"], (name, "unit"), where) if "unit" in fields else None,
        several=_flag(fields, name, "several", where),
    )


def _choice(fields: Mapping, name: str, key: str, known: tuple[str, ...], where: Where) -> str:
    if key not in fields:
        raise _fault(where, (name,), f"has no {key!r}; {mend('', known)}")
    if fields[key] not in known:
        raise _fault(where, (name, key), f"is {show(fields[key])}; {mend(fields[key], known)}")
    return fields[key]


def _flag(fields: Mapping, name: str, key: str, where: Where) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise _fault(where, (name, key), f"is {show(value)}; write true or false")
    return value


def _text(value: Any, path: tuple, where: Where) -> str:
    """A text in one line: line breaks of the file are layout, not meaning."""
    if not isinstance(value, str) or not value.strip():
        raise _fault(where, path, f"is {show(value)}; write a short text")
    return " ".join(value.split())


def _values(values: Any, name: str, where: Where) -> dict[str, str]:
    path = (name, "values")
    if not isinstance(values, Mapping) or not values:
        raise _fault(where, path, f"is {show(values)}; list each value as 'value: definition'")
    seen: dict[str, str] = {}
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise _fault(where, (*path, value), "is an empty value; a value is a text with letters")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _fault(where, path, f"has {show(value)}, a lone surrogate; remove it") from None
        folded = unicodedata.normalize("NFKC", value).casefold().strip()
        if folded in seen:
            raise _fault(
                where,
                (*path, value),
                f"differs from {show(seen[folded])} in case, blanks or"
                " Unicode form only; keep one of the two",
            )
        seen[folded] = value
    return {value: _text(line, (*path, value), where) for value, line in values.items()}


def _edges(fields: Mapping, name: str, n_values: int, where: Where) -> tuple[float, ...]:
    path = (name, "edges")
    if n_values < 2:
        raise _fault(where, (name, "values"), "has one value; a bucket needs two at least")
    if ("edges" in fields) == ("quantiles_per" in fields):
        raise _fault(where, (name,), "needs either 'edges' or 'quantiles_per', and not both")
    if "quantiles_per" in fields:
        return ()
    edges = fields["edges"]
    if not isinstance(edges, list) or not all(
        isinstance(edge, int | float) and to_number(edge) is not None for edge in edges
    ):
        raise _fault(where, path, f"is {show(edges)}; write a list of numbers such as [300, 1000]")
    if any(left >= right for left, right in zip(edges, edges[1:], strict=False)):
        raise _fault(where, path, f"is {show(edges)}, which does not increase; sort it")
    if len(edges) != n_values - 1:
        raise _fault(
            where, path, f"has {len(edges)} numbers for {n_values} values; give {n_values - 1}"
        )
    return tuple(float(edge) for edge in edges)


def _check_references(category: Category, categories: Mapping[str, Category], where: Where) -> None:
    if category.of is not None:
        numeric = [name for name, other in categories.items() if not other.is_closed]
        if category.of not in numeric:
            what = "is of a closed type" if category.of in categories else "does not exist"
            raise _fault(
                where,
                (category.name, "of"),
                f"is {show(category.of)}, which {what}; {mend(category.of, numeric)}",
            )
    per = category.quantiles_per
    if per is not None:
        closed = [n for n, other in categories.items() if other.type == "closed"]
        single = [n for n in closed if not categories[n].several]
        if per not in single:
            what = "allows several values" if per in closed else "is no closed category"
            raise _fault(
                where,
                (category.name, "quantiles_per"),
                f"is {show(per)}, which {what}; {mend(per, single)}",
            )
