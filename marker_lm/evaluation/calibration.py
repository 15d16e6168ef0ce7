"""Is a probability right as often as it says? Calibration error, reliability table and plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from rich import box
from rich.table import Table

from marker_lm import markup
from marker_lm.evaluation.statistics import (
    Interval,
    binned_error,
    equal_width_bins,
    mean_interval,
    wilson_interval,
)
from marker_lm.figures import HEAD, laid_out

DRAWS = 200  # of outcomes, for the error that chance alone makes


@dataclasses.dataclass(frozen=True)
class Bin:
    """Items of nearly one probability.

    Attributes:
      low, high: the least and the greatest probability among them.
      confidence: their mean probability.
      right: share of them that are right, with Wilson's interval.
    """

    low: float
    high: float
    confidence: float
    right: Interval


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How probabilities compare with outcomes.

    Attributes:
      equal: what the bins have in common: 'mass' (as many items each, as far as equal probabilities
        allow) or 'width'.
      right: share of right items, with its interval.
      confidence: mean probability.
      error: expected calibration error, the mean over items of |share right - mean probability| of
        their bin (Guo et al. 2017, arXiv:1706.04599, equation 3).
      chance: what `error` would be on average if every probability were true: with few items a bin
        is off by chance alone, and the error is never 0.
      brier: mean of (probability - outcome)^2 (Brier 1950); 0 is best.
      bins: from the lowest probability to the highest, empty ones left out.
    """

    equal: str
    right: Interval
    confidence: float
    error: float
    chance: float
    brier: float
    bins: tuple[Bin, ...]

    @property
    def n(self) -> int:
        return self.right.n

    def summary(self) -> str:
        """One line of the figures."""
        right = self.right
        return (
            f"{self.n} rows: right {right.mean:.1%} ({right.low:.1%} to {right.high:.1%}), mean "
            f"probability {self.confidence:.1%}, calibration error {self.error:.4f} in bins of "
            f"equal {self.equal} ({self.chance:.4f} by chance alone), Brier score {self.brier:.4f}"
        )


def calibrate(
    probability_N: Sequence[float], right_N: Sequence[float], bins: int = 15, equal: str = "mass"
) -> Calibration:
    """Compares probabilities of N items with whether they are right.

    Args:
      probability_N: 0 to 1, of what was chosen for each item.
      right_N: 0 or 1.
      bins: at most so many.
      equal: 'mass' or 'width', see Calibration.

    Raises:
      ValueError: no items, lengths that differ, a probability outside 0..1, an outcome that is
        neither, or bins that are none.
    """
    p_N, right_N = np.asarray(probability_N, np.float64), np.asarray(right_N, np.float64)
    if p_N.shape != right_N.shape or p_N.ndim != 1 or not p_N.size:
        raise ValueError(
            f"{p_N.size} probabilities and {right_N.size} outcomes; give as many, and some."
        )
    if not ((p_N >= 0) & (p_N <= 1)).all():
        raise ValueError(f"a probability is {p_N[~((p_N >= 0) & (p_N <= 1))][0]}, outside 0..1.")
    if not np.isin(right_N, (0, 1)).all():
        raise ValueError("an outcome is neither 0 (wrong) nor 1 (right).")
    if bins < 1:
        raise ValueError(f"there are {bins} bins; give 1 or more.")
    bin_N = _bins(p_N, bins, equal)
    random = np.random.default_rng(0)
    chance = [binned_error(p_N, random.random(len(p_N)) < p_N, bin_N) for _ in range(DRAWS)]
    found = []
    for number in np.unique(bin_N):
        of_bin, hits = p_N[bin_N == number], right_N[bin_N == number]
        share = wilson_interval(int(hits.sum()), len(hits))
        found.append(Bin(float(of_bin.min()), float(of_bin.max()), float(of_bin.mean()), share))
    return Calibration(
        equal,
        mean_interval(right_N),
        float(p_N.mean()),
        binned_error(p_N, right_N, bin_N),
        float(np.mean(chance)),
        float(np.mean((p_N - right_N) ** 2)),
        tuple(found),
    )


def _bins(p_N: np.ndarray, bins: int, equal: str) -> np.ndarray:
    if equal == "width":
        return equal_width_bins(p_N, bins)
    if equal == "mass":
        # Edges between items, so that equal probabilities share a bin whatever the items' order.
        edges = np.quantile(p_N, np.arange(1, bins) / bins, method="higher")
        return np.searchsorted(np.unique(edges), p_N, side="right")
    raise ValueError(f"bins of equal {equal!r} are not known; choose 'mass' or 'width'.")


def terminal_table(calibration: Calibration) -> Table:
    """One line a bin."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("probability", "mean", "right", "95 % interval", "rows"):
        table.add_column(name, justify="right")
    for line in _lines(calibration):
        table.add_row(*line)
    return table


def _lines(calibration: Calibration) -> list[list[str]]:
    return [
        [
            f"{one.low:.3f} to {one.high:.3f}",
            f"{one.confidence:.1%}",
            f"{one.right.mean:.1%}",
            f"{one.right.low:.1%} to {one.right.high:.1%}",
            str(one.right.n),
        ]
        for one in calibration.bins
    ]


def plot(calibration: Calibration) -> go.Figure:
    """The share of right items against the mean probability of each bin; on the line is right."""
    bins = calibration.bins
    figure = go.Figure()
    line = {"width": 1, "dash": "dot", "color": "#888"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False)
    figure.add_scatter(
        x=[one.confidence for one in bins],
        y=[one.right.mean for one in bins],
        error_y={
            "type": "data",
            "array": [one.right.high - one.right.mean for one in bins],
            "arrayminus": [one.right.mean - one.right.low for one in bins],
            "width": 4,
        },
        mode="markers",
        marker={"color": HEAD, "size": 9},
        customdata=[one.right.n for one in bins],
        hovertemplate="%{x:.1%} said, %{y:.1%} right (n = %{customdata})<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text="mean probability", range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(title_text="share right", range=[0, 1.02], tickformat=".0%")
    return laid_out(figure, height=420)


def page(calibration: Calibration, title: str, command: str) -> str:
    """The plot and the table as one HTML file that needs nothing else."""
    head = ["Probability", "Mean", "Right", "95 % interval", "Rows"]
    table = markup.table(head, _lines(calibration), numbers=range(5))
    content = markup.join(
        [markup.paragraph(calibration.summary() + "."), markup.plot(plot(calibration)), table]
    )
    return markup.page(
        title=title,
        subtitle=markup.tag("code", command),
        sections={"Reliability": content},
        footer="Nothing on this page is fetched from a network.",
    )
