"""The report's figures, as Plotly figures without colours of their own.

Page and text colours are set in the page by the reader's light or dark theme; only what tells
series apart is set here. Labels from data are escaped, for Plotly reads a little HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from marker_lm.evaluation import findings, wording
from marker_lm.figures import HEAD, TAIL, escape, laid_out

COLOURS = ("#4c7fc4", "#d0863c", "#5fa37a", "#a574c4", "#c46a78", "#8a8f98")
# Strata have colours of their own, so that none of them looks like an arm.
STRATA = {
    "all": ("#8a8f98", "circle"),
    "head": (HEAD, "square"),
    "tail": (TAIL, "diamond"),
    "tail minus head": ("#7a68c0", "x"),
}
MAX_POINTS = 1500


def learning_curves(results: dict) -> go.Figure | None:
    """Training loss of the answer (left) and held-out nats per answer token (right)."""
    arms = [a for a in results.get("arms", []) if a.get("curve") or a.get("eval_curve")]
    if not arms:
        return None
    titles = ("Training: loss per answer token", "Held out: nats per answer token")
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.09)
    series = (
        ("curve", "answer_loss", "answer", "solid", 1),
        ("curve", "loss", "answer + markers", "dot", 1),
        ("eval_curve", "answer_nats", "held out", "solid", 2),
    )
    for i, arm in enumerate(arms):
        for key, field, name, dash, column in series:
            curve = arm.get(key) or {}
            if not curve.get(field):
                continue
            keep = slice(None, None, thinning(results) if key == "curve" else 1)
            label = escape(arm.get("label") or arm["name"])
            figure.add_scatter(
                x=curve["step"][keep],
                y=curve[field][keep],
                mode="lines" if column == 1 else "lines+markers",
                line={"color": _colour(i), "dash": dash, "width": 1.5 if dash == "solid" else 1},
                name=label if column == 1 and dash == "solid" else f"{label}: {name}",
                showlegend=column == 1,
                col=column,
                row=1,
            )
    figure.update_xaxes(title_text="step")
    return laid_out(figure, height=380, legend_y=-0.22)


def thinning(results: dict) -> int:
    """Every how many-th point of the curves is drawn; the same for all arms."""
    curves = [arm.get("curve") or {} for arm in results.get("arms", [])]
    longest = max((len(curve.get("step", ())) for curve in curves), default=0)
    return max(1, math.ceil(longest / MAX_POINTS))


def quality_by_stratum(results: dict, metric: str) -> go.Figure | None:
    """Mean of one metric per arm and mode, with head and tail apart."""
    rows = [row for row in results.get("quality", []) if row["metric"] == metric]
    return _dots(results, rows, metric) if rows else None


def differences(results: dict, metric: str) -> go.Figure | None:
    """Paired differences of one metric with their intervals, around a line at zero."""
    rows = [row for row in results.get("differences", []) if row["metric"] == metric]
    if not rows:
        return None
    figure = go.Figure()
    scale = 100 if wording.is_share(metric) else 1
    names = [_pair_label(results, row) for row in rows]
    strata = wording.unique(row["stratum"] for row in rows)
    for stratum in strata:
        _add_dots(figure, rows, names, "diff", stratum, scale)
    figure.add_vline(x=0, line={"width": 1, "dash": "dot", "color": "#888"})
    figure.update_xaxes(title_text="difference" + (" in points" if scale == 100 else ""))
    return laid_out(_grouped(figure, names), height=130 + 22 * len(strata) * len(set(names)))


def train_share(strata: dict) -> go.Figure | None:
    """Share of the training data per value of the stratum category, head and tail apart."""
    share = strata.get("train_share")
    if not share:
        return None
    order = sorted(share, key=lambda value: -(share[value] or 0))
    figure = go.Figure()
    tail = set(strata.get("tail", []))
    for name, member in (("head", False), ("tail", True)):
        values = [value for value in order if (value in tail) == member]
        figure.add_bar(
            x=[escape(value) for value in values],
            y=[share[value] for value in values],
            name=name,
            marker_color=STRATA[name][0],
            hovertemplate="%{x}: %{y:.2%} of training rows<extra></extra>",
        )
    figure.update_yaxes(type="log", tickformat=".3~p", title_text="share (log scale)", dtick=1)
    labels = [escape(value) for value in order]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=labels)
    figure.update_xaxes(showgrid=False, dtick=1, tickangle=-60 if len(order) > 12 else 0)
    return laid_out(figure, height=300)


def guidance(section: dict) -> go.Figure:
    """Share obeyed over the guidance weight, on the rows it is chosen on and on others."""
    figure = go.Figure()
    for i, split in enumerate(("dev", "test")):
        rows = [row for row in section[split] if row["obeyed"] is not None]
        reach = {
            end: [
                abs((row["obeyed"] if row[end] is None else row[end]) - row["obeyed"])
                for row in rows
            ]
            for end in ("low", "high")
        }
        figure.add_scatter(
            x=[row["weight"] for row in rows],
            y=[row["obeyed"] for row in rows],
            error_y={
                "type": "data",
                "array": reach["high"],
                "arrayminus": reach["low"],
                "width": 4,
            },
            mode="lines+markers",
            line={"color": _colour(i), "dash": ("dot", "solid")[i]},
            name=split,
            customdata=[row["n"] for row in rows],
            hovertemplate="w = %{x}: %{y:.1%} obeyed (n = %{customdata})<extra></extra>",
        )
    figure.add_vline(x=section["best"], line={"width": 1, "dash": "dot", "color": "#888"})
    figure.update_xaxes(title_text="guidance weight w")
    figure.update_yaxes(title_text=f"{escape(section['lever'])} obeyed", tickformat=".0%")
    return laid_out(figure, height=320)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    matrix: Sequence[Sequence[int]],
    row_name: str,
    column_name: str,
) -> go.Figure:
    """Counts of row label against column label; the colour is the share within the row.

    Raises ValueError when the matrix does not fit its labels.
    """
    if len(matrix) != len(rows) or any(len(row) != len(columns) for row in matrix):
        shape = f"{len(matrix)} x {len(matrix[0]) if len(matrix) else 0}"
        raise ValueError(f"a {shape} matrix does not fit {len(rows)} x {len(columns)} labels")
    totals = [sum(row) for row in matrix]
    shares = [[c / t if t else None for c in row] for row, t in zip(matrix, totals, strict=True)]
    size = max(len(rows), len(columns))
    figure = go.Figure(
        go.Heatmap(
            x=[escape(label) for label in columns],
            y=[escape(label) for label in rows],
            z=shares,
            text=[[f"{count}" if count else "" for count in row] for row in matrix],
            customdata=[
                [f"{c} of {t}" for c in row] for row, t in zip(matrix, totals, strict=True)
            ],
            texttemplate="%{text}",
            textfont_size=13 if size <= 10 else 11 if size <= 20 else 10,
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
            hovertemplate=f"{row_name} %{{y}}, {column_name} %{{x}}<br>%{{customdata}} (%{{z:.1%}})"
            "<extra></extra>",
        )
    )
    font = 12 if size <= 20 else 11
    figure.update_xaxes(type="category", title_text=column_name, dtick=1, tickfont_size=font)
    figure.update_xaxes(tickangle=-60 if size > 5 else 0, showgrid=False, title_standoff=8)
    figure.update_yaxes(type="category", title_text=row_name, dtick=1, tickfont_size=font)
    figure.update_yaxes(autorange="reversed", showgrid=False, title_standoff=8)
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "showscale": False})
    per_row = 22 if size > 20 else 26 if size > 8 else 38
    return laid_out(figure, height=120 + len(rows) * per_row, top=8)


def _dots(results: dict, rows: list[dict], metric: str) -> go.Figure:
    figure = go.Figure()
    share = wording.is_share(metric)
    names = [escape(findings.side_label(results, f"{r['arm']}/{r['mode']}")) for r in rows]
    strata = wording.unique(row["stratum"] for row in rows)
    for stratum in strata:
        _add_dots(figure, rows, names, "mean", stratum, 100 if share else 1)
    unit = " in percent" if share else ""
    figure.update_xaxes(title_text=escape(metric.replace("_", " ")) + unit)
    return laid_out(_grouped(figure, names), height=130 + 22 * len(strata) * len(set(names)))


def _add_dots(
    figure: go.Figure,
    rows: list[dict],
    names: list[str],
    field: str,
    stratum: str,
    scale: float,
) -> None:
    names = [name for row, name in zip(rows, names, strict=True) if row["stratum"] == stratum]
    rows = [row for row in rows if row["stratum"] == stratum]
    colour, symbol = STRATA.get(stratum, ("#888888", "circle-open"))

    def reach(end: str) -> list[float]:
        gaps = [(r.get(end), r[field]) for r in rows]
        return [0.0 if None in pair else abs(pair[0] - pair[1]) * scale for pair in gaps]

    figure.add_scatter(
        x=[None if row[field] is None else row[field] * scale for row in rows],
        y=names,
        error_x={"type": "data", "array": reach("high"), "arrayminus": reach("low"), "width": 4},
        mode="markers",
        orientation="h",
        name=escape(stratum),
        marker={"color": colour, "size": 9, "symbol": symbol},
        customdata=[row["n"] for row in rows],
        hovertemplate="%{y}: %{x:.2f} (n = %{customdata})<extra>%{fullData.name}</extra>",
    )


def _grouped(figure: go.Figure, names: list[str]) -> go.Figure:
    # From the top down, as in the table: row i has its strata at i - 0.5 .. i + 0.5.
    order = wording.unique(names)
    figure.update_layout(scattermode="group", scattergap=0.3)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(range=[len(order) - 0.5, -0.5], dtick=1)
    return figure


def _pair_label(results: dict, row: dict) -> str:
    a, b = (escape(findings.side_label(results, row[side])) for side in "ab")
    return f"{a}<br>minus {b}"


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]
