"""Six formats of an answer. Content is paragraphs, each a list of items (see facts.content)."""

import json
import re
from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape

Content = list[list[str]]

SEPARATORS = {"Chinese": "、", "Japanese": "、", "Arabic": "، ", "Amharic": "፣ "}


def plain(content: Content, lang: str) -> str:
    """Items joined by the language's comma, paragraphs by a blank line."""
    return "\n\n".join(SEPARATORS.get(lang, ", ").join(items) for items in content)


def as_json(content: Content, lang: str) -> str:
    """One paragraph: an array of strings; several: an array of such arrays."""
    value = content[0] if len(content) == 1 else content
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def xml(content: Content, lang: str) -> str:
    """<list><i>a</i></list>; several paragraphs: a <p> each within it."""
    parts = ["".join(f"<i>{escape(item)}</i>" for item in items) for items in content]
    inner = parts[0] if len(parts) == 1 else "".join(f"<p>{part}</p>" for part in parts)
    return f"<list>{inner}</list>"


def enumeration(content: Content, lang: str) -> str:
    """Numbered lines, counted through; a blank line between paragraphs."""
    blocks, n = [], 0
    for items in content:
        lines = [f"{n + i}. {markdown_escape(item)}" for i, item in enumerate(items, 1)]
        blocks.append("\n".join(lines))
        n += len(items)
    return "\n\n".join(blocks)


def tabular(content: Content, lang: str) -> str:
    """A pipe table: a row for each paragraph, a column for each item, columns headed 1, 2, ..."""
    columns = len(content[0])
    rows = [[str(i) for i in range(1, columns + 1)], ["-"] * columns]
    rows += [[markdown_escape(item) for item in items] for items in content]
    return "\n".join("|" + "|".join(cells) + "|" for cells in rows)


def markdown(content: Content, lang: str) -> str:
    """For each paragraph a heading, its first item, and bullets, the others."""
    return "\n".join(
        "\n".join([f"# {items[0]}", *(f"- {markdown_escape(item)}" for item in items[1:])])
        for items in content
    )


def markdown_escape(item: str) -> str:
    """So that '13. Mai' does not open a list, nor '|' a cell."""
    return re.sub(r"^(\d{1,9})([.)])(?=\s)", r"\1\\\2", re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", item))


FORMATS: Mapping[str, Callable[[Content, str], str]] = {
    "Plain": plain,
    "JSON": as_json,
    "XML": xml,
    "Enumeration": enumeration,
    "Tabular": tabular,
    "Markdown": markdown,
}
