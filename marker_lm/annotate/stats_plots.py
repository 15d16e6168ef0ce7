"""Figures of stats.html, without colours of their own but for what tells head and tail apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from marker_lm.figures import HEAD, TAIL, escape, laid_out

SIDES = {"prompt": "#4c7fc4", "completion": "#d0863c"}
# Head and tail can be told apart without colours.
_PATTERN = {
    "head": {"shape": ""},
    "tail": {"shape": "/", "fillmode": "overlay", "solidity": 0.2, "size": 6},
}
_LABELLED = 60  # more values than this don't all fit under the axis


def long_tail(category: Mapping, threshold: float) -> go.Figure:
    """Rows of each value on a log scale, and the share that the most frequent values hold."""
    counts: dict[str, int] = category["values"]
    figure = make_subplots(
        cols=2,
        column_widths=[0.74, 0.26],
        horizontal_spacing=0.08,
        subplot_titles=("Rows of each value (log scale)", "Share of the n most frequent"),
    )
    total = sum(counts.values())
    for name, colour in (("head", HEAD), ("tail", TAIL)):
        values = category[name]
        figure.add_bar(
            x=[escape(value) for value in values],
            y=[counts[value] for value in values],
            customdata=[
                [counts[value] / total, category["heldout"].get(value, 0)] for value in values
            ],
            name=f"{name}: {'at least' if name == 'head' else 'under'} {100 * threshold:g} %",
            marker={"color": colour, "pattern": _PATTERN[name]},
            hovertemplate="%{x}: %{y:,} rows, %{customdata[0]:.3~p}; %{customdata[1]:,} held out"
            "<extra></extra>",
            row=1,
            col=1,
        )
    cumulative = list(itertools.accumulate(n / total for n in counts.values()))
    figure.add_scatter(
        x=list(range(1, len(counts) + 1)),
        y=cumulative,
        text=[escape(value) for value in counts],
        mode="lines+markers" if len(counts) <= _LABELLED else "lines",
        line={"color": HEAD, "width": 2},
        marker={"size": 5},
        showlegend=False,
        hovertemplate="with %{text} (%{x}): %{y:.1%}<extra></extra>",
        row=1,
        col=2,
    )
    figure.add_vline(
        x=len(category["head"]) + 0.5, line={"width": 1, "dash": "dot", "color": "#888"}, col=2
    )
    labels = [escape(value) for value in counts]
    figure.update_xaxes(type="category", categoryarray=labels, showgrid=False, row=1, col=1)
    few = len(counts) <= 8
    figure.update_xaxes(tickangle=0 if few else -60, tickfont_size=12 if few else 11, row=1, col=1)
    if len(counts) <= _LABELLED:
        figure.update_xaxes(dtick=1, row=1, col=1)
    top = math.log10(max(counts.values())) + 0.1
    figure.update_yaxes(type="log", dtick=1, tickformat=",d", range=[-0.1, top], row=1, col=1)
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", row=1, col=2)
    figure.update_xaxes(title_text="values", rangemode="tozero", row=1, col=2)
    figure.update_layout(bargap=0.15)
    # Slanted labels take their room from the bars.
    label = 0 if few else min(max(map(len, labels)), 30)
    return laid_out(figure, height=340 + 5 * label, legend_y=1.09, top=64)


def association(pairs: Sequence[Mapping], names: Sequence[str]) -> go.Figure | None:
    """Normalized mutual information of each two categories."""
    known = {tuple(pair["categories"]): pair for pair in pairs}
    cells = [
        [known.get((a, b)) or known.get((b, a)) if a != b else None for b in names] for a in names
    ]
    nmi = [[cell and cell["nmi"] for cell in row] for row in cells]
    if len(names) < 2 or all(value is None for row in nmi for value in row):
        return None
    figure = go.Figure(
        go.Heatmap(
            x=[escape(name) for name in names],
            y=[escape(name) for name in names],
            z=nmi,
            text=[["" if value is None else f"{value:.2f}" for value in row] for row in nmi],
            customdata=[[f"{cell['rows']:,}" if cell else "" for cell in row] for row in cells],
            texttemplate="%{text}",
            textfont_size=13,
            xgap=2,
            ygap=2,
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="%{y} and %{x}: %{z:.3f} over %{customdata} rows<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, dtick=1, tickangle=0)
    figure.update_yaxes(type="category", showgrid=False, dtick=1, autorange="reversed")
    if len(names) > 6:
        figure.update_xaxes(tickangle=-45)
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "showscale": False})
    return laid_out(figure, height=110 + 44 * len(names), top=8)


def lengths(histograms: Mapping[str, Sequence], unit: str) -> go.Figure | None:
    """Rows by the length of prompt and completion, bins growing with the length."""
    if not any(histograms.values()):
        return None
    figure = go.Figure()
    for side, bins in histograms.items():
        figure.add_scatter(
            x=[max(start, 0.8) for start, _ in bins],
            y=[rows for _, rows in bins],
            name=side,
            mode="lines",
            line={"color": SIDES[side], "shape": "hv", "width": 2},
            line_dash="solid" if side == "prompt" else "dot",
            fill="tozeroy",
            fillcolor=SIDES[side] + "26",
            hovertemplate=f"{side} from %{{x:,.0f}} {unit}: %{{y:,}} rows<extra></extra>",
        )
    figure.update_xaxes(type="log", title_text=f"{unit} (log scale)", dtick=1, tickformat=",~r")
    figure.update_yaxes(title_text="rows in a bin", tickformat=",d", rangemode="tozero")
    return laid_out(figure, height=300)
