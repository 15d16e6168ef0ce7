"""Where a row keeps what an Example needs."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.data.example import ORIGINS
from marker_lm.markers.category import mend
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+)\]")
UNKNOWN_VALUES = ("reject", "leave_out")


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
    named: category -> a sentence with '{}', such as 'Answer in {}.', that is written below a prompt
      which does not name the row's own value; '{}' is the value's definition in the taxonomy. So
      that a model without markers is told what the marker would tell. Not for rows of messages.
    named_where: field path -> values of the rows that this is done for; {} is all of them
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
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)
    named_where: Mapping[str, tuple] = dataclasses.field(default_factory=dict)

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
        for part in (mapped, self.value_maps, self.cut_at, self.defaults, self.named):
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
