"""A validated row, and the error that says why a row is none."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from marker_lm.data.chat import Turn

INFO_FIELD = "marker_info"  # of a row: {category: {"origin", "confidence"}}
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


def check_unicode(text: str, what: str) -> None:
    """Raises RowError for a text that UTF-8 can't hold; `what` names it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{what} holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
            f"{error.start}), which is not a character",
            "lone surrogate",
        ) from None


def json_type(value: Any) -> str:
    """What JSON calls a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = ((str, "string"), (int, "number"), (float, "number"), (Mapping, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "list")


def short(value: Any, limit: int = 60) -> str:
    """A value for messages, cut where it is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
