"""The natural language in a text: code, markup, addresses and formulas are left out."""

import html
import re

from marker_lm.annotate.parsers import json_container, leaves

# What is looked at of a long text. Its language shows long before, and time must not grow with it.
LOOKED_AT = 4000
_FENCED = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1`*~*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(`+)[^`]*\1")
_TAG = re.compile(r"<!--.*?-->|<!\[CDATA\[|\]\]>|<[/!?]?[A-Za-z][^<>]*>", re.DOTALL)
_KEY = re.compile(r'"(?:[^"\\\n]|\\.)*"\s*:')
_FORMULA = re.compile(
    r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\$[^$\s](?:[^$\n]*[^$\s])?\$(?!\d)|\\[A-Za-z]+\*?",
    re.DOTALL,
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|[^\s@]{1,64}@[^\s@]+\.\w+")
# Names in programs, paths and options: words with a sign that no language writes there.
_IDENTIFIER = re.compile(r"\w[_\\=#]\w|\w\(\)|[a-z]/[\w.]+/|[{}<>=\\]|^--?[a-z]")
_LETTER = re.compile(r"[^\W\d_]")


def prose(text: str) -> str:
    """The first LOOKED_AT characters of a text without what is no natural language.

    Left out are fenced and inline code, keys and signs of JSON, tags, formulas and commands of
    LaTeX, URLs, mail addresses, and words that look like names in programs.
    """
    text = _json_strings(text.strip())[:LOOKED_AT]
    if "```" in text or "~~~" in text:
        text = _FENCED.sub("\n", text)
    if "`" in text:
        text = _INLINE.sub(" ", text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text or "$" in text:
        text = _FORMULA.sub(" ", text)
    if "@" in text or "://" in text or "www." in text:
        text = _ADDRESS.sub(" ", text)
    return " ".join(word for word in text.split() if not _IDENTIFIER.search(word))


def count_letters(text: str, enough: int) -> int:
    """How many letters a text has, counted up to `enough`."""
    found = 0
    for _ in _LETTER.finditer(text):
        found += 1
        if found == enough:
            break
    return found


def _json_strings(text: str) -> str:
    """The strings of a JSON array or object, one a line; any other text as it is."""
    if not text.startswith(("{", "[")):
        return text
    value = json_container(text)
    if value is None:
        return _KEY.sub(" ", text[:LOOKED_AT])
    return "\n".join(leaf for leaf in leaves(value) if isinstance(leaf, str))
