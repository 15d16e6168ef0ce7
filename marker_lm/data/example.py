"""One row of a file becomes one Example, or a RowError that says why not."""

import dataclasses
import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from marker_lm.data.chat import Chat, ChatError, Turn, check_messages
from marker_lm.markers.category import is_absent, mend
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+)\]")
_MISSING = object()
INFO_FIELD = "marker_info"  # of a row: {category: {"origin", "confidence"}}
UNKNOWN_VALUES = ("reject", "leave_out")
# Who can have given a marker: the row itself, its other fields by the rules of a RowFormat, the
# RowFormat's defaults, and the annotators (annotate/registry.py; a test compares the two lists).
ANNOTATORS = ("lang", "lengths", "code_type", "format", "quality", "classifier", "llm")
ORIGINS = ("row", "metadata", "default", *ANNOTATORS)


class MarkerInfo(NamedTuple):
    """Where a marker comes from: one of ORIGINS, and the probability in 0..1 that it is right."""

    origin: str
    confidence: float = 1.0


@dataclasses.dataclass
class Example:
    """A validated row.

    id: unique within its task
    prompt, completion: text, not blank
    markers: category -> canonical value, in the order of the taxonomy
    extra: all other fields of the row, kept for evaluation
    marker_info: category -> where its marker comes from, for each of `markers`
    messages: of a row that has them; then `prompt` is the last text of the user, and `completion`
      and `markers` are those of the last answer
    turns: every answer with what stands before it, as the chat template writes it; () without one
    """

    id: str
    prompt: str
    completion: str
    markers: dict[str, Any]
    extra: dict[str, Any]
    marker_info: dict[str, MarkerInfo] = dataclasses.field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()
    turns: Sequence[Turn] = ()


class RowError(ValueError):
    """A row that cannot be used: one sentence, the kind it is counted under, the row's beginning.

    `excerpt` is filled in by those who have the row.
    """

    def __init__(self, reason: str, kind: str, excerpt: str = ""):
        super().__init__(reason)
        self.kind = kind
        self.excerpt = excerpt


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """Where a row keeps what an Example needs. All parts are plain config types.

    prompt, completion: a field path ('output', 'turns[0].text'), or several, whose texts are
      joined by a blank line; absent and blank ones of several are skipped
    markers: the field that holds a mapping category -> value, or a mapping category -> field path
    messages: the field with a list of {"role", "content"}, in rows that have it instead of prompt
      and completion; a message of the role 'assistant' may have `markers` of its own, and those of
      the row hold for every answer that does not name the category itself
    id: the field with the row's name; a row without it is named 'file:line'
    value_maps: category -> {value in the row: value of the taxonomy}; others stay as they are
    cut_at: category -> text; of a value such as 'Trivia -> music' only what stands before it counts
    defaults: category -> value for rows that do not have it; null and [] are not having it
    unknown_values: 'reject' the row, or 'leave_out' the one marker and count it, when the value
      is not one that the taxonomy allows
    Of a category that allows several values, value_maps, cut_at and unknown_values hold for each
    value of a row's list by itself.
    trust: origin or category -> least confidence; a marker must reach both, else it is left out
      and counted. Where markers come from stands in the row's field 'marker_info', {category:
      {'origin', 'confidence'}}, as `marker-lm annotate` writes it; those that it does not name
      have the origin 'row' ('metadata' where `markers` is a mapping) and the confidence 1.
    """

    prompt: str | tuple[str, ...] = "prompt"
    completion: str | tuple[str, ...] = "completion"
    markers: str | Mapping[str, str] = "markers"
    messages: str = "messages"
    id: str = "id"
    value_maps: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)
    cut_at: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unknown_values: str = "reject"
    trust: Mapping[str, float] = dataclasses.field(default_factory=dict)

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
        for name, least in self.trust.items():
            if not isinstance(least, int | float) or not 0 <= least <= 1:
                raise ValueError(f"trust of {name} is {least!r}; give a confidence from 0 to 1")

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
        known = [*ORIGINS, *taxonomy.categories]
        for name in self.trust:
            if name not in known:
                raise MarkerError(
                    f"trust names '{name}', which is neither an origin nor a category; "
                    f"{mend(name, known)}"
                )


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
    untrusted: Counter[str] | None = None,
    chat: Chat | None = None,
) -> Example:
    """Validates one decoded row.

    Args:
      fields: a RowFormat, or the mapping of its keys.
      line_id: the row's name when it has no id, 'file:line'.
      left_out: counts "category='value'" of markers left out under unknown_values='leave_out'.
      untrusted: counts categories of markers left out under `trust`.
      chat: writes the turns of the example.
    Raises:
      RowError with a one-sentence reason.
    """
    row_format = fields if isinstance(fields, RowFormat) else RowFormat.from_config(fields or {})
    if not isinstance(row, Mapping):
        raise RowError(f"the row is a {_json_type(row)}, not an object", "not an object")
    name = _row_id(row, row_format.id, line_id)
    used = {row_format.id, row_format.messages, INFO_FIELD}
    for paths in (row_format.prompt, row_format.completion, row_format.markers):
        if not isinstance(paths, Mapping):
            used.update([paths] if isinstance(paths, str) else paths)
    extra = {key: value for key, value in row.items() if key not in used}
    try:
        if row_format.messages and lookup(row, row_format.messages) is not None:
            example = _conversation(row, row_format, taxonomy, left_out, untrusted, chat)
        else:
            prompt = _text(row, row_format.prompt, "prompt")
            completion = _text(row, row_format.completion, "completion")
            markers, info = _markers(row, row_format, taxonomy, left_out, untrusted)
            example = Example("", prompt, completion, markers, {}, info)
            if chat is not None:
                [turn] = chat.turns(chat.plain(prompt, completion))
                example.turns = (dataclasses.replace(turn, markers=markers),)
    except ChatError as error:
        raise RowError(str(error), error.kind) from None
    example.id, example.extra = name, extra
    return example


def _conversation(
    row: Mapping,
    row_format: RowFormat,
    taxonomy: Taxonomy,
    left_out: Counter[str] | None,
    untrusted: Counter[str] | None,
    chat: Chat | None,
) -> Example:
    """The Example of a row that has messages, but for its id and extra."""
    for what in ("prompt", "completion"):
        paths = getattr(row_format, what)
        for path in (paths,) if isinstance(paths, str) else paths:
            if lookup(row, path) is not None:
                raise RowError(
                    f"the row has messages (field '{row_format.messages}') and a {what} (field "
                    f"'{path}'); leave one of the two out",
                    "messages and a prompt",
                )
    messages = check_messages(lookup(row, row_format.messages))
    found = []
    for number, message in enumerate(messages, 1):
        _check_unicode(message["content"], f"message {number}")
        if message["role"] != "assistant":
            continue
        own = message.get("markers", {})
        try:
            found.append(_markers(row, row_format, taxonomy, left_out, untrusted, own))
        except RowError as error:
            raise RowError(f"message {number}: {error}", error.kind) from None
    asked = [m["content"] for m in messages if m["role"] == "user"] or [messages[0]["content"]]
    example = Example("", asked[-1], messages[-1]["content"], found[-1][0], {}, found[-1][1])
    example.messages = messages
    if chat is not None:
        example.turns = [
            dataclasses.replace(turn, markers=markers)
            for turn, (markers, _) in zip(chat.turns(messages), found, strict=True)
        ]
    return example


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
                f"the markers (field '{row_format.markers}') are a {_json_type(found)}, "
                f"not an object of category: value: {_short(found)}",
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


def _given_info(row: Mapping) -> dict[str, MarkerInfo]:
    """What the row itself says about where its markers come from."""
    given = row.get(INFO_FIELD)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RowError(
            f"the {INFO_FIELD} is a {_json_type(given)}, not an object of category: "
            "{'origin', 'confidence'}: " + _short(given),
            f"bad {INFO_FIELD}",
        )
    return {c: _one_info(c, entry) for c, entry in given.items() if entry is not None}


def _one_info(category: str, entry: Any) -> MarkerInfo:
    origin, confidence = (lookup(entry, key) for key in ("origin", "confidence"))
    is_number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    # A comparison with NaN is false, so NaN is refused too.
    if not isinstance(origin, str) or not is_number or not 0 <= confidence <= 1:
        raise RowError(
            f"the {INFO_FIELD} of '{category}' is {_short(entry)}, not an object with 'origin', "
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


def _short(value: Any, limit: int = 60) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
