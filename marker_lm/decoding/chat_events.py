"""What happens in a chat session, for those who show it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Said:
    """The session's own words."""

    text: str


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of an answer, as it is made."""

    text: str


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer has ended; `value` is that of a sweep, which gives no pieces."""

    result: Any
    value: str | None = None


@dataclasses.dataclass(frozen=True)
class Lever:
    """A category, its state ('free', 'pinned', 'banned' or 'asked'), the pinned value, and what it
    takes."""

    category: str
    state: str
    value: Any
    takes: str


@dataclasses.dataclass(frozen=True)
class Levers:
    """All of them."""

    levers: tuple[Lever, ...]


Event = Said | Piece | Answered | Levers
