"""One category of a taxonomy: its fields and the check of its values."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TYPES = ("closed", "integer", "number", "bucket")
ORIGINS = ("metadata", "computed", "classified")
DESCRIBES = ("prompt", "completion")

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LISTED = 12


class MarkerError(ValueError):
    """A bad marker or a bad taxonomy; the message is one sentence with the mend."""


def show(value: Any) -> str:
    """`repr` of a value, cut in the middle when it is too long for a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:50]} ... {text[-20:]}"


def mend(word: Any, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest known name, or the known names."""
    known = list(known)
    folded = {name.casefold(): name for name in reversed(known)}
    near = difflib.get_close_matches(str(word)[:200].casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {show(folded[near[0]])}?"
    if not known:
        return "there are none to choose from"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"it must be one of {', '.join(show(name) for name in known[:_LISTED])}{more}"


def is_absent(value: Any) -> bool:
    """Whether this says that there is no such marker: None (JSON's null) or an empty list."""
    return value is None or (isinstance(value, list | tuple) and not value)


@dataclass(frozen=True)
class Category:
    """One property of an example.

    Attributes:
        name: lower-case name, as it stands in the tag.
        type: 'closed' (one of `values`), 'integer', 'number', or 'bucket' (one of `values`,
            decided by the number in category `of`).
        definition: what the category means, in one line.
        origin: who fills it: 'metadata', 'computed' or 'classified'.
        describes: 'prompt' or 'completion'.
        values: value -> one-line definition, in order; empty for numbers. The values of a bucket
            stand in ascending order of the number, for edges and for quantiles alike.
        of: the number category that a bucket is computed from.
        edges: value i of a bucket holds for edges[i-1] <= x < edges[i]; () with quantiles.
        quantiles_per: a bucket by len(values) equal quantiles, taken within each value of this
            category; value 0 is the lowest quantile.
        unit: the named unit of a number.
        several: of a closed category, whether an example may have several of the values at once.
            They stay one marker: written side by side, and dropped, pinned and banned together.
    """

    name: str
    type: str
    definition: str
    origin: str
    describes: str
    values: Mapping[str, str] = field(default_factory=dict)
    of: str | None = None
    edges: tuple[float, ...] = ()
    quantiles_per: str | None = None
    unit: str | None = None
    several: bool = False

    @property
    def is_closed(self) -> bool:
        """True when the value is one of a known set (closed or bucket)."""
        return self.type in ("closed", "bucket")

    def check(self, value: Any) -> str | tuple[str, ...] | int | float:
        """The canonical value: str of the set, int (64 bits) or finite float; else MarkerError.

        Where several are allowed, it is the tuple of the distinct values in the order of `values`,
        one at least; they are given as a list, or a single one by itself.
        """
        if self.several:
            return self._check_several(value)
        if self.is_closed:
            return self._check_closed(value)
        number = _integer(value) if self.type == "integer" else to_number(value)
        if number is None:
            kind = "an integer of at most 64 bits" if self.type == "integer" else "a finite number"
            raise MarkerError(
                f"{self.name}={show(value)} is not {kind}; give a number of {self.unit}"
            )
        return number

    def _check_several(self, value: Any) -> tuple[str, ...]:
        if is_absent(value):
            raise MarkerError(f"{self.name}={show(value)} has no value; leave the marker out")
        given = value if isinstance(value, list | tuple) else (value,)
        known = {self._check_closed(one) for one in given}
        return tuple(one for one in self.values if one in known)

    def _check_closed(self, value: Any) -> str:
        if isinstance(value, list | tuple) and not self.several:
            more = " or set 'several: true' in the taxonomy" if self.type == "closed" else ""
            raise MarkerError(
                f"{self.name}={show(value)} is not a value of this category but a list, and it"
                f" allows one value only; give one{more}"
            )
        text = value
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            text = str(int(value))
        if isinstance(text, str):
            if text in self.values:
                return str(text)
            # Composed and decomposed accents look alike: refusing one would baffle the reader.
            composed = unicodedata.normalize("NFC", text)
            for known in self.values:
                if unicodedata.normalize("NFC", known) == composed:
                    return known
        raise MarkerError(
            f"{self.name}={show(value)} is not a value of this category; {mend(text, self.values)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; pairs and not an object for `values`, since their order matters."""
        fields: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "definition": self.definition,
            "origin": self.origin,
            "describes": self.describes,
        }
        if self.values:
            fields["values"] = [[value, line] for value, line in self.values.items()]
        if self.edges:
            fields["edges"] = list(self.edges)
        for key in ("of", "quantiles_per", "unit"):
            if getattr(self, key) is not None:
                fields[key] = getattr(self, key)
        if self.several:
            fields["several"] = True
        return fields


def _integer(value: Any) -> int | None:
    """The integer that a value stands for, None when it stands for none of 64 bits."""
    number = None
    if isinstance(value, str):
        number = int(value) if _INTEGER.fullmatch(value) else None
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        if math.isfinite(value) and value == int(value):
            number = int(value)
    return number if number is not None and -(2**63) <= number < 2**63 else None


def to_number(value: Any) -> float | None:
    """The finite float that a value (a number or its text) stands for, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value) + 0.0  # -0.0 becomes 0.0
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
