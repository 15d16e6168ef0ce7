"""Parsers of the markup that answers come in: JSON, XML, GitHub-flavoured Markdown, CSV.

Each gives None for a text that is not of its kind, and raises for none.
"""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from functools import cache
from typing import Any

import regex
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_LEFT_OVER = regex.compile(r"(?m)^\s*(#+ |-(?!\d)|[*|\[{]|1\. .*\n+2\. )|</?\w+>|\*\*|[\]}|]$")


def json_container(text: str) -> list | dict | None:
    """The array or object that a text is."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None


def leaves(value: Any) -> Iterable[Any]:
    """All values within arrays and objects that are none themselves, in order; no keys."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict | list):
            stack += reversed(list(value.values()) if isinstance(value, dict) else value)
        else:
            yield value


def xml_root(text: str) -> ElementTree.Element | None:
    """The element that a text is."""
    if not text.lstrip().startswith("<"):
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def tree(text: str) -> SyntaxTreeNode:
    """The syntax tree of CommonMark with GFM tables; any text has one."""
    return SyntaxTreeNode(_markdown().parse(text))


def plain_text(node: SyntaxTreeNode) -> str:
    """The text of a part of a tree, without its markup."""
    return "".join(n.content for n in node.walk() if n.type in ("text", "code_inline"))


def list_items(node: SyntaxTreeNode) -> list[str] | None:
    """Texts of a list whose entries are one paragraph each."""
    found = []
    for entry in node.children:
        if [child.type for child in entry.children] != ["paragraph"]:
            return None
        found.append(plain_text(entry))
    return found


def table_cells(node: SyntaxTreeNode) -> list[list[str]]:
    """Rows of cells in the body of a table; [] when it has only a head."""
    if len(node.children) != 2:
        return []
    return [[plain_text(cell) for cell in row.children] for row in node.children[1].children]


def separated_rows(text: str) -> list[list[str]] | None:
    """Rows of a CSV or TSV text: three rows and two columns or more, equally many cells in each.

    Running text has commas, too: a cell must not start with a blank nor be a long one, and the
    cells of the first row differ, as the names of columns do.
    """
    lines = text.strip().splitlines()
    if len(lines) < 3:
        return None
    for delimiter in "\t,;|":
        if delimiter not in lines[0] or delimiter not in lines[-1]:
            continue
        try:
            rows = list(csv.reader(io.StringIO(text.strip()), delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        rows = [row for row in rows if row]
        same = len(rows) >= 3 and len(rows[0]) >= 2 and len({len(row) for row in rows}) == 1
        cells = [cell for row in rows for cell in row]
        if same and all(len(c) <= 60 and not c[:1].isspace() for c in cells):
            if len(set(rows[0])) == len(rows[0]) and all(rows[0]):
                return rows
    return None


def has_markup_left(text: str) -> bool:
    """Whether there are signs of markup, whole or broken: half a table is no plain text."""
    return _LEFT_OVER.search(text) is not None
