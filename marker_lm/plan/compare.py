"""Pods beside each other: which fit, what they cost, and the least that a token could cost."""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from marker_lm.plan.plan import SPARE, Plan, plan, quiet, with_slices
from marker_lm.plan.topology import Topology
from marker_lm.progress import Progress


@dataclasses.dataclass(frozen=True)
class Row:
    """One pod.

    Attributes:
      topology: the pod.
      price: of an hour of all its chips.
      plan: of the train step; None where the config does not go with the pod.
      error: why it does not; ''.
    """

    topology: Topology
    price: float
    plan: Plan | None
    error: str

    @property
    def fits(self) -> bool:
        return self.plan is not None and self.plan.fits

    @property
    def token_price(self) -> float:
        """Of 10^9 tokens, at the bound of the speed: the real price is higher."""
        return self.price / 3600 / self.plan.train.bounds.tokens_per_second * 1e9

    def to_dict(self) -> dict:
        """JSON-able."""
        return {
            "topology": str(self.topology),
            "price": self.price,
            "fits": self.fits,
            "error": self.error,
            "plan": self.plan.to_dict() if self.plan else None,
        }


def compare(
    config: ConfigDict,
    pods: Sequence[Topology],
    spare: float = SPARE,
    prices: Mapping[str, float] | None = None,
) -> list[Row]:
    """Lays out the train step's memory on each pod.

    The config's mesh must suit all of them: one axis of -1 takes what a pod leaves. mesh.slice
    becomes the pod's number of slices.

    Args:
      config: of the run.
      pods: to compare.
      spare: part of the memory to leave free.
      prices: chip -> price of an hour, instead of those in plan/topology.py.
    """
    rows = []
    with Progress("plan", len(pods)) as progress:
        for number, pod in enumerate(pods):
            progress.update(number, str(pod), force=True)
            price = pod.chips * (prices or {}).get(pod.chip.name, pod.chip.price)
            try:
                made = plan(with_slices(config, pod), str(pod), False, True, spare, quiet)
                rows.append(Row(pod, price, made, ""))
            except ValueError as error:
                rows.append(Row(pod, price, None, str(error)))
            progress.update(number + 1)
    return rows


def print_comparison(rows: Sequence[Row], console: Console) -> None:
    """A table, and the cheapest that fits."""
    table = Table(box=box.SIMPLE)
    for name in (
        *("topology", "chips", "fits", "GB a chip", "of", "price an hour"),
        *("tokens/s at most", "price of 10^9 tokens at least"),
    ):
        table.add_column(name, justify="left" if name == "topology" else "right")
    for row in rows:
        first = (str(row.topology), str(row.topology.chips))
        if row.plan is None:
            table.add_row(*first, "no", "", "", f"{row.price:,.2f}")
            continue
        memory, bounds = row.plan.memory, row.plan.train.bounds
        table.add_row(
            *first,
            "yes" if row.fits else "no",
            f"{memory.need / 1e9:.2f}",
            f"{memory.have / 1e9:.2f}",
            f"{row.price:,.2f}",
            f"{bounds.tokens_per_second:,.0f}",
            f"{row.token_price:,.2f}",
        )
    console.print(table)
    for row in rows:
        if row.error:
            console.print(f"{row.topology}: {row.error}", markup=False)
    fitting = [row for row in rows if row.fits]
    if not fitting:
        console.print("None of them fits.")
        return
    hour = min(fitting, key=lambda row: row.price)
    token = min(fitting, key=lambda row: row.token_price)
    console.print(f"The cheapest that fits: {hour.topology}.", markup=False)
    if token is not hour:
        console.print(
            f"By the bounds of their speed, {token.topology} may cost less a token.", markup=False
        )
