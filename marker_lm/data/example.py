"""One row of a file becomes one Example, or a RowError that says why not."""

import dataclasses
import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.markers.category import is_absent
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+)\]")
_MISSING = object()
UNKNOWN_VALUES = ("reject", "leave_out")


@dataclasses.dataclass
class Example:
    """A validated row.

    id: unique within its task
    prompt, completion: text, not blank
    markers: category -> canonical value, in the order of the taxonomy
    extra: all other fields of the row, kept for evaluation
    """

    id: str
    prompt: str
    completion: str
    markers: dict[str, Any]
    extra: dict[str, Any]


class RowError(ValueError):
    """A row that cannot be used: one sentence, and the kind it is counted under."""

    def __init__(self, reason: str, kind: str):
        super().__init__(reason)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """Where a row keeps what an Example needs. All parts are plain config types.

    prompt, completion: a field path ('output', 'turns[0].text'), or several, whose texts are
      joined by a blank line; absent and blank ones of several are skipped
    markers: the field that holds a mapping category -> value, or a mapping category -> field path
    id: the field with the row's name; a row without it is named 'file:line'
    value_maps: category -> {value in the row: value of the taxonomy}; others stay as they are
    cut_at: category -> text; of a value such as 'Trivia -> music' only what stands before it counts
    defaults: category -> value for rows that do not have it; null and [] are not having it
    unknown_values: 'reject' the row, or 'leave_out' the one marker and count it, when the value
      is not one that the taxonomy allows
    Of a category that allows several values, value_maps, cut_at and unknown_values hold for each
    value of a row's list by itself.
    """

    prompt: str | tuple[str, ...] = "prompt"
    completion: str | tuple[str, ...] = "completion"
    markers: str | Mapping[str, str] = "markers"
    id: str = "id"
    value_maps: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)
    cut_at: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unknown_values: str = "reject"

    def __post_init__(self):
        if self.unknown_values not in UNKNOWN_VALUES:
            raise ValueError(
                f"unknown_values is {self.unknown_values!r}; it must be 'reject' or 'leave_out'"
            )
        for name in ("prompt", "completion"):
            paths = getattr(self, name)
            if not isinstance(paths, str):
                object.__setattr__(self, name, tuple(paths))
            if not paths:
                raise ValueError(f"the row format names no field for the {name}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "RowFormat":
        """From a plain mapping (also an ml_collections ConfigDict); an unknown key is an error."""
        names = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
                raise ValueError(f"the row format has no key '{key}'; {hint}")
        return cls(**{key: _plain(config[key]) for key in config})

    def check(self, taxonomy: Taxonomy) -> None:
        """Raises MarkerError when the taxonomy lacks a category that is named here."""
        mapped = {} if isinstance(self.markers, str) else self.markers
        for part in (mapped, self.value_maps, self.cut_at, self.defaults):
            for category in part:
                taxonomy.category(category)


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list | tuple) else value


def parse_row(
    row: Any,
    taxonomy: Taxonomy,
    fields: RowFormat | Mapping[str, Any] | None = None,
    line_id: str = "row",
    left_out: Counter[str] | None = None,
) -> Example:
    """Validates one decoded JSON row.

    Args:
      fields: a RowFormat, or the mapping of its keys.
      line_id: the row's name when it has no id, 'file:line'.
      left_out: counts "category='value'" of markers left out under unknown_values='leave_out'.
    Raises:
      RowError with a one-sentence reason.
    """
    row_format = fields if isinstance(fields, RowFormat) else RowFormat.from_config(fields or {})
    if not isinstance(row, Mapping):
        raise RowError(f"the row is a {_json_type(row)}, not an object", "not an object")
    prompt = _text(row, row_format.prompt, "prompt")
    completion = _text(row, row_format.completion, "completion")
    name = _row_id(row, row_format.id, line_id)
    markers = _markers(row, row_format, taxonomy, left_out)
    used = {row_format.id}
    for paths in (row_format.prompt, row_format.completion, row_format.markers):
        if not isinstance(paths, Mapping):
            used.update([paths] if isinstance(paths, str) else paths)
    extra = {key: value for key, value in row.items() if key not in used}
    return Example(name, prompt, completion, markers, extra)


def lookup(row: Any, path: str, default: Any = None) -> Any:
    """The value at a field path such as 'domain[0]' or 'meta.lang'; `default` where there is none.

    A field whose very name is the path comes first.
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    for name, number in _STEP.findall(path):
        if name and isinstance(row, Mapping) and name in row:
            row = row[name]
        elif number and isinstance(row, Sequence) and not isinstance(row, str):
            if not -len(row) <= int(number) < len(row):
                return default
            row = row[int(number)]
        else:
            return default
    return row


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = ((str, "string"), (int, "number"), (float, "number"), (Mapping, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "list")


def _text(row: Mapping, paths: str | tuple[str, ...], what: str) -> str:
    parts = []
    several = not isinstance(paths, str)
    for path in paths if several else (paths,):
        value = lookup(row, path, _MISSING)
        if value is _MISSING or value is None:
            continue
        if not isinstance(value, str):
            raise RowError(
                f"the {what} (field '{path}') is a {_json_type(value)}, not a string: "
                f"{_short(value)}",
                f"{what} is not a string",
            )
        if value.strip():
            parts.append(value)
        elif not several:
            raise RowError(f"the {what} (field '{path}') is blank", f"{what} is blank")
    if not parts:
        names = "', '".join(paths) if several else paths
        near = difflib.get_close_matches(paths[0] if several else paths, list(row), n=1)
        hint = f"the nearest is '{near[0]}'" if near else f"it has: {', '.join(row) or 'nothing'}"
        raise RowError(f"the row has no {what} (field '{names}'); {hint}", f"{what} is missing")
    text = "\n\n".join(parts)
    _check_unicode(text, f"the {what}")
    return text


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{what} holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
            f"{error.start}), which is not a character",
            "lone surrogate",
        ) from None


def _row_id(row: Mapping, field: str, line_id: str) -> str:
    value = lookup(row, field)
    if value is None:
        return line_id
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError(
            f"the id (field '{field}') is {_short(value)}; it must be a string or an integer",
            "id is not usable",
        )
    _check_unicode(str(value), "the id")
    return str(value)


def _markers(
    row: Mapping, row_format: RowFormat, taxonomy: Taxonomy, left_out: Counter[str] | None
) -> dict[str, Any]:
    if isinstance(row_format.markers, str):
        found = lookup(row, row_format.markers)
        found = {} if found is None else found
        if not isinstance(found, Mapping):
            raise RowError(
                f"the markers (field '{row_format.markers}') are a {_json_type(found)}, "
                f"not an object of category: value: {_short(found)}",
                "markers are not an object",
            )
    else:
        found = {c: lookup(row, path) for c, path in row_format.markers.items()}
    found = {**row_format.defaults, **{c: v for c, v in found.items() if not is_absent(v)}}
    checked = {}
    for category, value in found.items():
        known = taxonomy.categories.get(category)
        if known and known.several and isinstance(value, list | tuple):
            parts = [_marker(category, one, row_format, taxonomy, left_out) for one in value]
            kept = [one for part in parts if part for one in part]
            value = taxonomy.check(category, kept) if kept else None
        else:
            value = _marker(category, value, row_format, taxonomy, left_out)
        if value is not None:
            checked[category] = value
    _fill_buckets(checked, taxonomy)
    return {category: checked[category] for category in taxonomy.categories if category in checked}


def _marker(
    category: str,
    value: Any,
    row_format: RowFormat,
    taxonomy: Taxonomy,
    left_out: Counter[str] | None,
) -> Any:
    """The canonical value of one marker of a row; None where it is left out."""
    value = _mapped(value, row_format.value_maps.get(category))
    if isinstance(value, str):
        value = (
            value.split(row_format.cut_at[category])[0] if category in row_format.cut_at else value
        )
        _check_unicode(value, f"the marker '{category}'")
    key = f"{category}={value!r}"
    if left_out is not None and key in left_out:  # known to be wrong: finding why is slow
        left_out[key] += 1
        return None
    try:
        return taxonomy.check(category, value)
    except MarkerError as error:
        if category not in taxonomy.categories:
            raise RowError(str(error), "unknown category") from None
        if row_format.unknown_values == "reject":
            raise RowError(str(error), f"bad value of {category}") from None
        if left_out is not None:
            left_out[key] += 1
        return None


def _fill_buckets(markers: dict[str, Any], taxonomy: Taxonomy) -> None:
    """Adds the buckets of numbers that the row has; one that contradicts its number is wrong."""
    for name, category in taxonomy.categories.items():
        if not category.edges or category.of not in markers:
            continue
        bucket = taxonomy.bucket(name, markers[category.of])
        if markers.setdefault(name, bucket) != bucket:
            raise RowError(
                f"{name} is {markers[name]!r}, but {category.of}={markers[category.of]} makes it "
                f"{bucket!r}; mend one of the two or leave {name} out",
                f"bad value of {name}",
            )


def _mapped(value: Any, value_map: Mapping | None) -> Any:
    if value_map is None or not isinstance(value, str | int | float):
        return value
    if value in value_map:
        return value_map[value]
    return value_map.get(str(value), value)


def _short(value: Any, limit: int = 60) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
