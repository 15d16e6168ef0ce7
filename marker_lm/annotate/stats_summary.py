"""What statistics of rows come to in a few sentences, and in tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

NBSP = "\u00a0"


def percent(share: float, digits: int = 1) -> str:
    """A share as percent; one that would be rounded to nothing is said to be under the least."""
    least = 10.0**-digits
    if 0 < 100 * share < least:
        return f"<{NBSP}{least:.{digits}f}{NBSP}%"
    return f"{100 * share:.{digits}f}{NBSP}%"


def closed(stats: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The categories with a known set of values of which training rows have any."""
    return {n: c for n, c in stats["categories"].items() if c.get("values")}


def summary(stats: Mapping[str, Any]) -> list[str]:
    """A few sentences, as they stand on top of the page and at the end of the terminal."""
    splits, threshold = stats["splits"], stats["about"]["threshold"]
    rejected = sum(split["rejects"]["rejected"] for split in splits.values())
    rows = " and ".join(f"{s['rows']:,} {name}" for name, s in splits.items())
    lines = [f"{rows} rows; {rejected:,} rows were rejected."]
    for name, category in closed(stats).items():
        if category["tail"]:
            lines.append(
                f"{name}: {len(category['tail'])} of {len(category['values'])} values are under "
                f"{100 * threshold:g}{NBSP}% and hold {percent(category['tail_share'])} together; "
                f"as many as {category['effective_values']:.1f} equally frequent values."
            )
    lines += [_cost_line(name, cost) for name, cost in stats["token_costs"]["templates"].items()]
    if "compact_over_text" in stats["token_costs"]:
        ratio = stats["token_costs"]["compact_over_text"]
        lines.append(f"The compact template adds {percent(ratio)} of what text adds.")
    if stats["duplicates"]:
        lines.append(_duplicate_line(stats["duplicates"]))
        leaked, held = stats["duplicates"]["heldout_in_train"], splits.get("heldout")
        if held:
            lines.append(
                f"{leaked:,} of {held['rows']:,} held-out rows are equal or near to a training row."
            )
    return lines


def _cost_line(name: str, cost: Mapping[str, Any]) -> str:
    return (
        f"Markers add {cost['a_row']:.1f} tokens a row in template {name}: "
        f"{percent(cost['share_of_text'])} on top of prompts and completions."
    )


def _duplicate_line(found: Mapping[str, Any]) -> str:
    doubled = found["equal"] + found["near"]
    return (
        f"{doubled:,} of {found['rows']:,} rows ({percent(doubled / max(found['rows'], 1))}) "
        f"repeat one before: {found['equal']:,} wholly, {found['near']:,} nearly."
    )


def terminal_tables(stats: Mapping[str, Any]) -> list[Table]:
    """Categories with their tails, and the tail strata that could be measured."""
    tails = _table("category", "marked", "values", "effective", "head", "tail", "tail holds")
    for name, category in stats["categories"].items():
        cells = [name, percent(category["coverage"])]
        if category.get("values"):
            cells += [
                f"{len(category['values'])}",
                f"{category['effective_values']:.1f}",
                f"{len(category['head'])}",
                f"{len(category['tail'])}",
                percent(category["tail_share"]),
            ]
        else:
            cells += ["none seen" if not category["rows"] else "numbers", "", "", "", ""]
        tails.add_row(*map(Text, cells))
    pools = _table("tail strata", "values", "training rows", "held out", "shows a difference of")
    for name, found in stats["strata"].items():
        for i, pool in enumerate(found["pools"]):
            cells = [name if i == 0 else "", names(pool["values"], 3), f"{pool['train_rows']:,}"]
            cells += [f"{pool['heldout_rows']:,}", points(pool)]
            pools.add_row(*map(Text, cells))
    return [tails, pools] if pools.row_count else [tails]


def _table(*head: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(head):
        left = i == 0 or (name == "values" and "strata" in head[0])
        made.add_column(Text(name), justify="left" if left else "right", overflow="fold")
    return made


def names(values: list[str], most: int) -> str:
    """The first values, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more


def points(stratum: Mapping[str, Any]) -> str:
    """The least difference that a stratum of `strata.propose` shows."""
    if not stratum["heldout_rows"]:
        return "nothing"
    return f"{100 * stratum['detectable']:.1f}{NBSP}points"
