"""How markers are written as text, and the names of the reserved tokens of the compact form.

The text list is the paper's (arXiv 2506.14702, tables 1, 3 and 7):

    <MARKER_LIST>
    <domain>Culture</domain>
    <length_tokens>199</length_tokens>
    </MARKER_LIST>

Of a category that allows several values, each value is a line of its own, one below the other.

The sentence says the same in words, for an experiment that asks what the form is worth:

    About this answer:
    the domain is Culture;
    the length tokens is 199;
    and that is all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marker_lm.markers.category import MarkerError, show
from marker_lm.markers.schema import NAME
from marker_lm.markers.taxonomy import Taxonomy

TEMPLATES = ("text", "compact", "sentence")


@dataclass(frozen=True)
class Form:
    """How a template writes a list as text.

    Attributes:
        open, close: around the list.
        prefix, suffix: around a value; '{}' is the category's name.
        gap: stands before a value that is a text. A number has it at the end of its prefix, since
            the value of a number is written one token a character.
        plain_names: whether '_' in the name is written as a space.
    """

    open: str
    close: str
    prefix: str
    suffix: str
    gap: str = ""
    plain_names: bool = False

    def before(self, category: str, number: bool) -> str:
        """What stands before a value of the category."""
        name = category.replace("_", " ") if self.plain_names else category
        return self.prefix.format(name) + self.gap * number

    def after(self, category: str) -> str:
        """What stands after it."""
        return self.suffix.format(category)


FORMS = {
    "text": Form("<MARKER_LIST>\n", "</MARKER_LIST>\n", "<{}>", "</{}>\n"),
    "sentence": Form(
        "About this answer:\n", "and that is all.\n", "the {} is", ";\n", gap=" ", plain_names=True
    ),
}
OPEN, CLOSE = FORMS["text"].open, FORMS["text"].close

# Only what the list itself is made of is escaped, so ordinary values stand as they are. A lone
# carriage return is one of them, since text files and tokenizers like to turn it into a newline.
_ESCAPES = {"&": "&amp;", "<": "&lt;", "\n": "&#10;", "\r": "&#13;"}
_UNESCAPES = {escape: character for character, escape in _ESCAPES.items()}
_RAW = re.compile(r"[&<\n\r]")
_ESCAPED = re.compile(r"&(?:amp;|lt;|#10;|#13;)?")
_LINE = re.compile(r"<([a-z][a-z0-9_]*)>([^<\n\r]*)</\1>\n")


def escape(value: str) -> str:
    """A value as it stands between its tags; `unescape` is the inverse for every string."""
    return _RAW.sub(lambda found: _ESCAPES[found.group()], value)


def unescape(text: str) -> str:
    """The value of an escaped text; MarkerError on a raw '<' or line break or a stray '&'."""
    raw = re.search(r"[<\n\r]", text)
    if raw:
        raise MarkerError(
            f"marker value {show(text)} holds {raw.group()!r}; write it as {_ESCAPES[raw.group()]}"
        )

    def character(found: re.Match) -> str:
        if found.group() == "&":
            raise MarkerError(f"marker value {show(text)} holds a stray '&'; write it as &amp;")
        return _UNESCAPES[found.group()]

    return _ESCAPED.sub(character, text)


def number_text(value: int | float) -> str:
    """The shortest decimal text that reads back as the same number: '199', '0.1', '-2.0'.

    Never an exponent, so that ten digits, '.' and '-' write every number.
    """
    if isinstance(value, int | np.integer):
        return str(int(value))
    if not math.isfinite(value):
        raise MarkerError(f"{value} is no finite number; leave the marker out")
    return np.format_float_positional(float(value), trim="0")


def value_text(value: Any) -> str:
    """A canonical value (str, int, float) as the text template writes it."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return number_text(value)
    raise MarkerError(f"{show(value)} is no marker value; it must be a text or a number")


class TextTemplate:
    """The paper's list of tags as plain text; `parse(render(m), taxonomy)` gives m back."""

    def render(self, markers: Mapping[str, Any]) -> str:
        """The block of these markers (canonical, see Taxonomy.check_all), in the given order."""
        lines = [OPEN]
        for name, value in markers.items():
            if not NAME.fullmatch(name):
                raise MarkerError(f"{show(name)} is no category name; use a-z, 0-9 and _")
            for one in value if isinstance(value, tuple) else (value,):
                lines.append(f"<{name}>{value_text(one)}</{name}>\n")
        lines.append(CLOSE)
        return "".join(lines)

    def parse(self, text: str, taxonomy: Taxonomy) -> tuple[dict[str, Any], str]:
        """Canonical markers in the order written, and the text after the block.

        Raises MarkerError when the text does not begin with a well-formed block of known markers.
        """
        if not text.startswith(OPEN):
            raise MarkerError(f"a marker block begins with {OPEN!r}, not {show(text[:40])}")
        at = len(OPEN)
        markers: dict[str, Any] = {}
        while not text.startswith(CLOSE, at):
            line = _LINE.match(text, at)
            if line is None:
                raise MarkerError(
                    f"marker block is malformed at character {at}: {show(text[at : at + 40])};"
                    f" a line is '<category>value</category>' and the end is {CLOSE!r}"
                )
            name, text_value = line.groups()
            value = taxonomy.check(name, unescape(text_value))
            if name in markers:
                if not taxonomy.categories[name].several or name != next(reversed(markers)):
                    raise MarkerError(f"category {name} stands twice in a marker block; keep one")
                value = taxonomy.check(name, markers[name] + value)
            markers[name] = value
            at = line.end()
        return markers, text[at + len(CLOSE) :]


def category_token(category: str) -> str:
    """Name of a category's reserved token in the compact template."""
    return f"<|{category}|>"


def value_token(category: str, value: str) -> str:
    """Name of a closed value's reserved token in the compact template."""
    return f"<|{category}={value}|>"


def reserved_tokens(taxonomy: Taxonomy) -> list[str]:
    """Names of the compact template's tokens: open, close, then each category and its values.

    All differ: category names are lower case and hold no '='.
    """
    names = ["<|MARKER_LIST|>", "<|/MARKER_LIST|>"]
    for category in taxonomy.categories.values():
        names.append(category_token(category.name))
        names += [value_token(category.name, value) for value in category.values]
    return names
