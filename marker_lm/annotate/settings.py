"""An annotator's own section of the config, read into its dataclass."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A section of the config that an annotator can't work with; one sentence."""


def settings_from(kind: type[T], config: Mapping[str, Any], section: str) -> T:
    """A dataclass from a plain mapping; keys that are left out keep their defaults.

    Raises SettingsError for an unknown key (with the nearest one) and for a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in config.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            raise SettingsError(f"{section}: there is no key {key!r}; {hint}")
        default = fields[key].default
        if default is dataclasses.MISSING:
            default = fields[key].default_factory()
        wanted = _accepted(default)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise SettingsError(
                f"{section}: {key} is {value!r}, a {type(value).__name__}; it must be of the kind"
                f" of its default, {default!r}"
            )
    return kind(**config)


def _accepted(default: Any) -> type | tuple[type, ...]:
    if isinstance(default, float):
        return (int, float)
    if isinstance(default, tuple):
        return (list, tuple)
    return Mapping if isinstance(default, dict) else type(default)
