"""What an annotator is: from rows to markers, each with a confidence."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from marker_lm.data.example import Example


@dataclasses.dataclass(frozen=True)
class Found:
    """A marker that an annotator found.

    Attributes:
      value: one that the taxonomy allows.
      confidence: probability in 0..1 that it is right, as far as the annotator can tell; 1 for
        what is counted or read and not guessed.
    """

    value: Any
    confidence: float = 1.0


@runtime_checkable
class Annotator(Protocol):
    """Fills some categories of rows that lack them.

    A file of an annotator has `make(config, taxonomy)`, which gives an Annotator or a Learner from
    the annotator's own section of the config (a plain mapping).

    Attributes:
      name: stands beside each marker as its origin.
      categories: those it can fill.
    """

    name: str
    categories: tuple[str, ...]

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        """For each example what was found; a category that is left out is an abstention.

        The result for an example depends on this example alone, never on its neighbours.
        """


@runtime_checkable
class Learner(Protocol):
    """An annotator that must see all rows once before it can annotate one.

    Parts of the rows may be seen by different processes, in any order: `merge` must make the same
    of them, to the bit, as one pass over all.
    """

    name: str
    categories: tuple[str, ...]

    def add(self, example: Example) -> None:
        """Takes one row in."""

    def merge(self, other: "Learner") -> None:
        """Takes in what another one of the same kind has seen."""

    def finish(self) -> Annotator:
        """The annotator, when all rows have been seen."""
