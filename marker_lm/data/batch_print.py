"""Batches in colours: for a terminal, as plain text with names in brackets, and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from marker_lm import markup
from marker_lm.data.assembly import Kind
from marker_lm.data.batch_view import Packed, Span, Turn
from marker_lm.markup import Html, join, tag

STYLES = {
    Kind.PADDING: "dim",
    Kind.PROMPT: "",
    Kind.PROMPT_MARKERS: "cyan",
    Kind.COMPLETION_MARKERS: "magenta",
    Kind.COMPLETION: "green",
}
_BORDER = "·"  # between tokens
# Line breaks and other control characters, made visible.
_VISIBLE = {code: 0x2400 + code for code in range(32)} | {10: "↵", 9: "→", 0x7F: 0x2421}

PAGE_STYLE = """
.token { border-radius: 3px; padding: 1px 2px; margin-right: 1px; }
.line { margin: 3px 0 3px 14px; overflow-wrap: anywhere; white-space: pre-wrap; line-height: 1.75;
  font: 13.5px/1.7 ui-monospace, SFMono-Regular, Menlo, Consolas, "Noto Sans Mono", monospace; }
.name { color: var(--soft); font-size: 12px; margin-right: 8px; }
.segment { border-left: 3px solid var(--line); padding: 2px 0 6px; margin: 10px 0; }
.weighted .token { text-decoration: underline; text-underline-offset: 4px; }
.kind_prompt .token { background: #8a8f9826; }
.kind_prompt_markers .token { background: #2f7fc433; }
.kind_completion_markers .token { background: #a04fc433; }
.kind_completion .token { background: #2f9a5a33; }
.fault { color: var(--bad); font-weight: 600; }
del { color: var(--bad); margin-right: 10px; }
"""


def visible(text: str) -> str:
    """Text on one line: line breaks as ↵, tabs as →, other control characters as pictures."""
    return text.translate(_VISIBLE)


def head_line(step: int, steps: int, batch: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """The summary of a whole batch, one fact after the other."""
    rows, length = batch["tokens"].shape
    kinds = ", ".join(f"{name} {n:,}" for name, n in counts["targets"].items() if name != "padding")
    weight = ", ".join(f"{name} {w:,.6g}" for name, w in counts["weight"].items() if w)
    facts = [
        f"step {step} of {steps}: {rows} sequences of {length} slots, "
        f"{100 * counts['used'] / counts['slots']:.2f} % filled, {counts['segments']} segments"
        + (f" with {counts['turns']} turns" if counts["turns"] > counts["segments"] else ""),
        f"targets: {kinds}, padding {counts['targets']['padding']:,}",
        f"loss weight: {sum(counts['weight'].values()):,.6g} ({weight or 'none'})",
    ]
    if counts["shown"] + counts["dropped"]:
        facts.append(
            f"prompt-side markers: {counts['shown']:,} shown, {counts['dropped']:,} dropped; "
            f"{counts['bare']:,} turns show none of theirs"
        )
    if counts["faults"]:
        facts.append(f"FAULTS: {counts['faults']:,}")
    return "\n".join(facts)


def lines(row: int, packed: Packed, borders: bool = False) -> Iterator[Text]:
    """A sequence, line by line; `plain` of each reads well without colours.

    Args:
      row: its number in the batch.
      borders: whether to mark where tokens end.
    """
    yield Text(_title(row, packed), style="bold")
    for number, segment in enumerate(packed.segments, 1):
        yield Text(f"  segment {number}: slots {segment.first}-{segment.end - 1}", style="bold dim")
        for fault in segment.faults:
            yield Text(f"    [FAULT] {fault}", style="bold red")
        for turn in segment.turns:
            for place, span in enumerate(turn.spans):
                if turn.dropped and place == _dropped_at(turn):
                    yield _dropped_line(turn)
                style = STYLES[span.kind] + (" bold" if span.weight else "")
                line = Text(f"    {_label(span)} ", style="dim")
                yield line.append(visible(_content(span, borders)), style=f"not dim {style}")
    if packed.used < packed.length:
        yield Text(f"  [padding w=0 n={packed.length - packed.used}]", style=STYLES[Kind.PADDING])


def _title(row: int, packed: Packed) -> str:
    return (
        f"sequence {row}: {packed.used} of {packed.length} slots, {len(packed.segments)} segments"
    )


def _label(span: Span) -> str:
    return f"[{span.kind.name.lower()} w={span.weight:g} n={len(span.pieces)}]"


def _content(span: Span, borders: bool) -> str:
    return _BORDER.join(span.pieces) if borders else span.text


def _dropped_at(turn: Turn) -> int:
    """Before which span the dropped markers would stand: the first one of the completion side."""
    prompt = (Kind.PROMPT, Kind.PROMPT_MARKERS)
    return sum(span.kind in prompt for span in turn.spans)


def _dropped_line(turn: Turn) -> Text:
    line = Text("    [dropped] ", style="dim")
    for place, (category, value) in enumerate(turn.dropped.items()):
        line.append(", " if place else "", style="not dim")
        line.append(f"{category}={value}", style="not dim red strike")
    return line


def page(title: str, summary: str, sequences: Sequence[Packed], borders: bool = False) -> str:
    """The same as a page of its own."""
    legend = "Underlined tokens have a weight in the loss; struck-out markers were dropped."
    return markup.page(
        title=title,
        subtitle=legend,
        sections={_title(row, one): _section(one, borders) for row, one in enumerate(sequences)},
        footer="Nothing on this page is fetched from a network.",
        summary=markup.bullets(summary.split("\n")),
        style=PAGE_STYLE,
        plots=False,
    )


def _section(packed: Packed, borders: bool) -> Html:
    parts = []
    for number, segment in enumerate(packed.segments, 1):
        where = f"segment {number}: slots {segment.first}-{segment.end - 1}"
        inside = [tag("div", where, css="name")]
        inside += [tag("div", fault, css="fault") for fault in segment.faults]
        for turn in segment.turns:
            for place, span in enumerate(turn.spans):
                if turn.dropped and place == _dropped_at(turn):
                    gone = [tag("del", f"{c}={v}") for c, v in turn.dropped.items()]
                    name = tag("span", "[dropped]", css="name")
                    inside.append(tag("div", join([name, *gone], ""), css="line"))
                inside.append(_line(span, borders))
        parts.append(tag("div", join(inside, ""), css="segment"))
    if packed.used < packed.length:
        parts.append(tag("div", f"[padding w=0 n={packed.length - packed.used}]", css="name"))
    return join(parts)


def _line(span: Span, borders: bool) -> Html:
    texts = span.pieces if borders else [span.text]
    tokens = [tag("span", visible(text).replace("↵", "↵\n"), css="token") for text in texts]
    name = tag("span", _label(span), css="name")
    css = f"line kind_{span.kind.name.lower()}{' weighted' if span.weight else ''}"
    return tag("div", join([name, *tokens], ""), css=css, dir="auto")
