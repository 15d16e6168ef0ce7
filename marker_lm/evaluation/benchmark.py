"""What an evaluation needs of a data set: items, strata, and programs that check an answer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.markers.dropout import hash_ids


@dataclasses.dataclass(frozen=True)
class Item:
    """One held-out row.

    Attributes:
      id, prompt: of the row.
      key: the exact answer for the row's own markers.
      markers: the row's own.
      determined: categories whose value the prompt fixes; None when that is not known.
      open: lever -> the values that the prompt leaves open.
      fact: what `Benchmark.key` needs to answer the prompt under other levers; None when it can't.
      split: 'heldout', or 'unseen' for combinations that training never had.
      natural: whether it is of the part that has head and tail in the shares of the training rows;
        figures over 'all' are over that part, those of the tail over every tail item.
    """

    id: str
    prompt: str
    key: str
    markers: Mapping[str, Any]
    determined: frozenset[str] | None = None
    open: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    fact: Any = None
    split: str = "heldout"
    natural: bool = True


# A check gives the value of its category that an answer shows, or None where nothing can be told.
# It gets the answer and the markers that were asked for.
Check = Callable[[str, Mapping[str, Any]], str | None]


@dataclasses.dataclass(frozen=True)
class Bar:
    """A demand on the marked model: `measure` is 'control' or 'inference'."""

    measure: str
    category: str
    check: str
    least: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set as an evaluation sees it.

    Attributes:
      items: held-out rows.
      strata: the 'strata' section of a report: rule, category, head, tail, train_share.
      checks: category -> Check.
      bars: demands, printed beside what was measured.
      key: (item, levers) -> the exact answer under other levers, where the data can tell.
      avoid: levers -> whether no lever may be moved so that they come together.
      notes: what a reader must know to read the figures rightly.
    """

    items: Sequence[Item]
    strata: Mapping[str, Any]
    checks: Mapping[str, Check]
    bars: Sequence[Bar] = ()
    key: Callable[[Item, Mapping[str, str]], str] | None = None
    avoid: Callable[[Mapping[str, str]], bool] = lambda levers: False
    notes: Sequence[str] = ()

    def stratum(self, item: Item) -> str:
        """'head' or 'tail', by the item's own value of the strata's category."""
        return self.stratum_of(item.markers)

    def stratum_of(self, markers: Mapping[str, Any]) -> str:
        """The same for any markers, such as those that were asked for."""
        return "tail" if markers.get(self.strata["category"]) in self.tail else "head"

    @property
    def tail(self) -> frozenset[str]:
        return frozenset(self.strata["tail"])


def by_hash(items: Sequence[Item]) -> list[Item]:
    """Items in an order that follows from their ids alone, as good as a random one."""
    order = np.argsort(hash_ids([item.id for item in items]), kind="stable") if items else []
    return [items[i] for i in order]


def choose_items(
    items: Sequence[Item], stratum: Callable[[Item], str], most: int, tail_share: float
) -> list[Item]:
    """At most `most` items a split and stratum, by the hash of their id: always the same ones.

    The tail is rare, so it is sampled more densely than the head; `natural` marks the largest part
    of each split in which it has its `tail_share` of the training rows.
    """
    cells: dict[tuple[str, str], list[Item]] = {}
    for item in by_hash(items):
        cells.setdefault((item.split, stratum(item)), []).append(item)
    chosen = []
    for split in dict.fromkeys(item.split for item in items):
        head, tail = (cells.get((split, name), [])[:most] for name in ("head", "tail"))
        wholes = [(len(head), 1 - tail_share), (len(tail), tail_share)]
        total = min((n / share for n, share in wholes if n and share > 0), default=0)
        for group, (_, share) in zip((head, tail), wholes, strict=True):
            natural = round(total * share) if share > 0 else 0
            chosen += [
                dataclasses.replace(item, natural=n < natural) for n, item in enumerate(group)
            ]
    return chosen


def moved(
    item: Item, seed: int, avoid: Callable[[Mapping[str, str]], bool] = lambda levers: False
) -> dict[str, str]:
    """One value for each lever that the prompt leaves open, another than the row's own.

    A lever stays out of the result where each other value of it is one to `avoid`, together with
    the row's own markers and the levers moved before.
    """
    draws = np.random.default_rng([seed, int(hash_ids([item.id])[0])])
    asked: dict[str, str] = {}
    for category, values in sorted(item.open.items()):
        others = [
            value
            for value in values
            if value != item.markers.get(category)
            and not avoid({**item.markers, **asked, category: value})
        ]
        if others:
            asked[category] = others[int(draws.integers(len(others)))]
    return asked
