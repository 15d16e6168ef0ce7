"""What the Plotly figures of all pages share: colours, labels, margins.

Page and text colours are set in the page by the reader's light or dark theme.
"""

from __future__ import annotations

import html

import plotly.graph_objects as go

HEAD, TAIL = "#3f8f8a", "#b0568f"


def escape(text: object) -> str:
    """Text for a label: HTML is escaped, and a value that is only blanks stays visible."""
    return html.escape(str(text)) if str(text).strip() else repr(text)


def laid_out(figure: go.Figure, height: int, legend_y: float = 1.0, top: int = 36) -> go.Figure:
    """Sets height in pixels, margins, and a legend above the plot, or below where its y is < 0."""
    below = legend_y < 0
    legend = {"orientation": "h", "x": 0, "y": legend_y, "yanchor": "top" if below else "bottom"}
    figure.update_layout(
        height=height, legend=legend, margin={"l": 12, "r": 12, "t": top, "b": 12}, template="none"
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
