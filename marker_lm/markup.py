"""HTML pages and their pieces: escaped text, tables, figures. A string of type Html is safe."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

STRUCTURED_FORMATS = {"json", "xml", "tabular", "table", "csv", "tsv", "yaml", "code", "markdown"}
# Control characters that no HTML parser shows: they get their visible pictures (U+2400 on).
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}


class Html(str):
    """Markup that is inserted as it is; any other string is escaped."""


def text(value: Any) -> Html:
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).replace("\r\n", "\n").translate(_PICTURES)))


def tag(name: str, content: Any = "", **attributes: str) -> Html:
    """`css` is the class attribute; values of attributes are escaped."""
    inside = "".join(
        f' {"class" if key == "css" else key}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value
    )
    return Html(f"<{name}{inside}>{text(content)}</{name}>")


def join(parts: Sequence[Any], between: str = "\n") -> Html:
    return Html(between.join(text(part) for part in parts))


def paragraph(content: Any, soft: bool = False) -> Html:
    return tag("p", content, css="soft" if soft else "")


def bullets(items: Sequence[Any]) -> Html:
    return tag("ul", join([tag("li", item) for item in items]))


def table(
    head: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    numbers: Sequence[int] = (),
    css: str = "",
) -> Html:
    """A table whose columns `numbers` are right-aligned. A cell may be a (content, css) pair."""

    def cell(name: str, i: int, value: Any) -> Html:
        content, css = value if isinstance(value, tuple) else (value, "")
        classes = " ".join(filter(None, ["number" if i in numbers else "", css]))
        return tag(name, content, css=classes)

    def line(name: str, cells: Sequence[Any]) -> Html:
        return tag("tr", join([cell(name, i, value) for i, value in enumerate(cells)], ""))

    body = tag("tbody", join([line("td", row) for row in rows]))
    return tag(
        "div", tag("table", join([tag("thead", line("th", head)), body]), css=css), css="wide"
    )


def pivot(
    head: Sequence[str],
    rows: Sequence[dict],
    row_key: Callable[[dict], tuple],
    column_key: Callable[[dict], str],
    columns: Sequence[str],
    cell: Callable[[dict], Any],
) -> Html:
    """One line per distinct `row_key`, one column per name in `columns`, '–' where nothing is. A
    key's first part is left blank where it repeats the line above."""
    lines: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        lines.setdefault(row_key(row), {})[column_key(row)] = cell(row)
    body, above = [], None
    for key, cells in lines.items():
        first = "" if key[0] == above else key[0]
        body.append([first, *key[1:], *(cells.get(name, "–") for name in columns)])
        above = key[0]
    return table(head, body, numbers=range(len(head) - len(columns), len(head)))


def with_note(content: str, *notes: str) -> Html:
    """Content with small lines below it; empty notes are left out."""
    return join([content, *(tag("span", note, css="soft") for note in notes if note)], "")


def plot(figure: go.Figure | None, caption: str = "", broad: bool = False) -> Html:
    if figure is None:
        return Html("")
    # The template is Plotly's default look, which the page replaces.
    data = json.loads(figure.to_json())
    data["layout"].pop("template", None)
    # Inside a script element only '<' could end it.
    payload = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    height = f"height:{figure.layout.height}px"
    canvas = tag("div", css="canvas", style=height)
    script = Html(f'<script type="application/json">{payload}</script>')
    inside = [tag("div", join([canvas, script]), css="plot")]
    if caption:
        inside.insert(0, tag("figcaption", caption, css="soft"))
    return tag("figure", join(inside), css="broad" if broad else "")


def sample_text(content: str, markers: dict) -> Html:
    """A generated text: right-to-left scripts by their first strong letter, structured formats in
    a fixed pitch with their line breaks kept."""
    form = str(markers.get("format", "")).lower()
    structured = form in STRUCTURED_FORMATS or bool(re.match(r"\s*([{\[<|]|```)", content))
    code = str(markers.get("lang", ""))
    language = code if re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*", code) else ""
    return tag(
        "div",
        content if content else tag("span", "(empty)", css="soft"),
        css="text mono" if structured else "text",
        dir="auto",
        lang=language.replace("_", "-"),
    )


def page(
    title: str,
    subtitle: Any,
    sections: Mapping[str, Html],
    footer: str,
    summary: Html | None = None,
    style: str = "",
    plots: bool = True,
) -> str:
    """A whole page that needs nothing but itself: sections by their titles, with links to them.

    Args:
      summary: stands in a box above the sections.
      style: further CSS rules.
      plots: whether there are figures, which take 5 MB of JavaScript.
    """
    anchors = {heading: f"s{i}" for i, heading in enumerate(sections)}
    body = [
        tag("section", join([tag("h2", heading), content]), id=anchors[heading])
        for heading, content in sections.items()
    ]
    if summary is not None:
        body.insert(0, tag("section", summary, css="summary"))
    links = [tag("a", heading, href=f"#{anchor}") for heading, anchor in anchors.items()]
    note = "The plots need JavaScript; the tables hold the main numbers without it."
    template = resources.files("marker_lm").joinpath("page_template.html")
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=text(title),
        subtitle=text(subtitle),
        navigation=join(links),
        plotly=get_plotlyjs() if plots else "",
        noscript=tag("noscript", paragraph(note)) if plots else "",
        style=style,
        body=join(body),
        footer=text(footer),
    )
