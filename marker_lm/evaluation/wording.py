"""How numbers are written in the report: percent, points, intervals, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

NBSP = "\u00a0"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of items (shown as percent) rather than nats, words, ..."""
    return not any(word in metric.lower() for word in ("nats", "loss", "error", "words", "length"))


def unique(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))


def marker(category: str, value: Any) -> str:
    """'lang = de'; several values of a category with commas."""
    shown = ", ".join(value) if isinstance(value, list | tuple) else value
    return f"{category} = {shown}"


def percent(value: float | None, decimals: int = 1) -> str:
    return "–" if _missing(value) else f"{100 * value:.{decimals}f}{NBSP}%"


def percent_beside(value: float, bar: float) -> str:
    """Percent with as many decimals as keep it on the side of the bar where it is."""
    for decimals in (1, 2, 3):
        rounded = round(100 * value, decimals)
        if (rounded >= 100 * bar) == (value >= bar):
            break
    return percent(value, decimals)


def number(value: float | None, share: bool, signed: bool = False) -> str:
    """A metric's value: a share as percent, its difference in points, else three decimals."""
    if _missing(value):
        return "–"
    text = (
        f"{100 * value:{'+' if signed else ''}.1f}"
        if share
        else f"{value:{'+' if signed else ''}.3f}"
    )
    unit = "" if not share else f"{NBSP}points" if signed else f"{NBSP}%"
    return text.replace("-", "−") + unit


def limits(low: float | None, high: float | None, share: bool, signed: bool = False) -> str:
    """'[93.1, 96.0]', or '' when there is no interval."""
    if _missing(low) or _missing(high):
        return ""
    texts = (number(x, share, signed).split(NBSP)[0] for x in (low, high))
    return f"[{', '.join(texts)}]"


def sign_of(row: dict) -> str:
    """Where the interval of a difference lies: 'above zero', 'below zero' or 'includes zero'."""
    if _missing(row.get("low")) or _missing(row.get("high")):
        return "no interval"
    return "above zero" if row["low"] > 0 else "below zero" if row["high"] < 0 else "includes zero"


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
