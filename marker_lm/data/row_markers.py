"""The markers of one row: found, mapped, checked, and where they come from."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from marker_lm.data.example import INFO_FIELD, MarkerInfo, RowError, check_unicode, json_type, short
from marker_lm.data.row_format import RowFormat, lookup
from marker_lm.markers.category import is_absent
from marker_lm.markers.taxonomy import MarkerError, Taxonomy


def read_markers(
    row: Mapping,
    row_format: RowFormat,
    taxonomy: Taxonomy,
    left_out: Counter[str] | None,
    untrusted: Counter[str] | None,
    own: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, MarkerInfo]]:
    """Canonical markers of a row and where they come from; `own` of a message go first."""
    given = {}
    if isinstance(row_format.markers, str):
        origin = MarkerInfo("row")
        given = _given_info(row)
        found = lookup(row, row_format.markers)
        found = {} if found is None else found
        if not isinstance(found, Mapping):
            raise RowError(
                f"the markers (field '{row_format.markers}') are a {json_type(found)}, "
                f"not an object of category: value: {short(found)}",
                "markers are not an object",
            )
    else:
        origin = MarkerInfo("metadata")
        found = {c: lookup(row, path) for c, path in row_format.markers.items()}
    found = {c: v for c, v in found.items() if not is_absent(v)}
    info = {c: given.get(c, origin) for c in found}
    for category, value in (own or {}).items():
        if not is_absent(value):
            found[category], info[category] = value, MarkerInfo("row")
    for category, value in row_format.defaults.items():
        if category not in found:
            found[category], info[category] = value, MarkerInfo("default")
    checked: dict[str, Any] = {}
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
    fill_buckets(checked, info, taxonomy)
    order = [category for category in taxonomy.categories if category in checked]
    markers, info = {c: checked[c] for c in order}, {c: info[c] for c in order}
    if row_format.trust:
        _drop_untrusted(markers, info, row_format.trust, untrusted)
    return markers, info


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
        check_unicode(value, f"the marker '{category}'")
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


def _given_info(row: Mapping) -> dict[str, MarkerInfo]:
    """What the row itself says about where its markers come from."""
    given = row.get(INFO_FIELD)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RowError(
            f"the {INFO_FIELD} is a {json_type(given)}, not an object of category: "
            "{'origin', 'confidence'}: " + short(given),
            f"bad {INFO_FIELD}",
        )
    return {c: _one_info(c, entry) for c, entry in given.items() if entry is not None}


def _one_info(category: str, entry: Any) -> MarkerInfo:
    origin, confidence = (lookup(entry, key) for key in ("origin", "confidence"))
    is_number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    # A comparison with NaN is false, so NaN is refused too.
    if not isinstance(origin, str) or not is_number or not 0 <= confidence <= 1:
        raise RowError(
            f"the {INFO_FIELD} of '{category}' is {short(entry)}, not an object with 'origin', "
            "a string, and 'confidence', a number from 0 to 1",
            f"bad {INFO_FIELD}",
        )
    return MarkerInfo(origin, float(confidence))


def fill_buckets(markers: dict[str, Any], info: dict[str, MarkerInfo], taxonomy: Taxonomy) -> None:
    """Adds the buckets, by edges, of numbers that are there; with the numbers' origin.

    Raises RowError for a bucket that contradicts its number.
    """
    for name, category in taxonomy.categories.items():
        if not category.edges or category.of not in markers:
            continue
        bucket = taxonomy.bucket(name, markers[category.of])
        if name not in markers:
            markers[name], info[name] = bucket, info[category.of]
        elif markers[name] != bucket:
            raise RowError(
                f"{name} is {markers[name]!r}, but {category.of}={markers[category.of]} makes it "
                f"{bucket!r}; mend one of the two or leave {name} out",
                f"bad value of {name}",
            )


def _drop_untrusted(
    markers: dict[str, Any],
    info: dict[str, MarkerInfo],
    trust: Mapping[str, float],
    untrusted: Counter[str] | None,
) -> None:
    for category, (origin, confidence) in list(info.items()):
        if confidence < max(trust.get(origin, 0.0), trust.get(category, 0.0)):
            del markers[category], info[category]
            if untrusted is not None:
                untrusted[category] += 1


def _mapped(value: Any, value_map: Mapping | None) -> Any:
    if value_map is None or not isinstance(value, str | int | float):
        return value
    if value in value_map:
        return value_map[value]
    return value_map.get(str(value), value)
