"""Program checks of Atlas answers: format by a parser, language by CLDR's words, length, exactness.

Nothing here knows how the Atlas renders an answer. Shared with it are the table of languages and
what a word is (marker_lm.data.atlas.languages).

Limits of the language check. Evidence are letters that belong to words CLDR has for the kinds of
things the Atlas talks about, in any of its languages: names that several languages write alike
('Angola', 'Euro') tie, and a tie counts for the language asked for. An answer without letters
('300') has no evidence: None, to be left out. What a format adds (tags, JSON keys, column heads)
is left out before.
"""

import itertools
from collections.abc import Iterable
from datetime import date
from functools import cache

import regex
from babel.dates import format_date
from babel.localedata import LocaleDataDict
from babel.numbers import NumberPattern

from marker_lm.annotate import parsers
from marker_lm.data.atlas import languages

FORMATS = ("Plain", "JSON", "XML", "Enumeration", "Tabular", "Markdown")
LENGTHS = ("concise", "medium", "long")
EDGES = (4, 21)
MIN_SCORE = 0.6
# Written without spaces: words are looked up inside a run of letters.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}]")


def items(text: str, format: str) -> list[str] | None:
    """The items of an answer without markup, or None when it is not valid in that format.

    JSON: an array or object (its values) of strings, numbers or such arrays and objects. XML: one
    element; its texts. Enumeration: ordered lists from 1 on, nothing else. Tabular: one GFM table
    with a body; its body cells. Markdown: headings and bullet lists, a heading first. Plain: text
    that is none of these; its parts between commas and line breaks.
    """
    text = text.strip()
    if not text or format not in FORMATS:
        return None
    found = _PARSERS[format](text)
    return [item.strip() for item in found] if found and all(i.strip() for i in found) else None


def check_format(text: str, format: str) -> bool:
    """Whether a real parser of the format accepts the answer as one, see items()."""
    return items(text, format) is not None


def _json_items(text: str) -> list[str] | None:
    value = parsers.json_container(text)
    return None if value is None else [str(leaf) for leaf in parsers.leaves(value)]


def _xml_items(text: str) -> list[str] | None:
    root = parsers.xml_root(text)
    return None if root is None else [part for part in root.itertext() if part.strip()]


def _enumeration_items(text: str) -> list[str] | None:
    blocks = parsers.tree(text).children
    if [block.type for block in blocks] != ["ordered_list"] or blocks[0].attrs.get("start", 1) != 1:
        return None
    return parsers.list_items(blocks[0])


def _tabular_items(text: str) -> list[str] | None:
    blocks = parsers.tree(text).children
    if [block.type for block in blocks] != ["table"]:
        return None
    return [cell for row in parsers.table_cells(blocks[0]) for cell in row]


def _markdown_items(text: str) -> list[str] | None:
    blocks = parsers.tree(text).children
    if blocks[0].type != "heading":
        return None
    found: list[str] = []
    for block in blocks:
        inner = [parsers.plain_text(block)] if block.type == "heading" else None
        inner = parsers.list_items(block) if block.type == "bullet_list" else inner
        if inner is None:
            return None
        found += inner
    return found


def _plain_items(text: str) -> list[str] | None:
    others = (_json_items, _xml_items, _enumeration_items, _tabular_items, _markdown_items)
    if parsers.has_markup_left(text) or any(parse(text) is not None for parse in others):
        return None
    # A comma between digits is part of a number.
    return regex.split(r"(?<!\d)[,、،፣]|[,、،፣](?!\d)|\n+", text)


_PARSERS = {
    "Plain": _plain_items,
    "JSON": _json_items,
    "XML": _xml_items,
    "Enumeration": _enumeration_items,
    "Tabular": _tabular_items,
    "Markdown": _markdown_items,
}


def _content(text: str, format: str | None) -> list[str]:
    """Items; of an answer that is not valid in its format, the text as it stands."""
    found = items(text, format) if format else None
    return [text] if found is None else found


def length_tokens(text: str, format: str | None = None) -> int:
    """Words (UAX 29, touching ones taken as one) of the items, markup left out."""
    return sum(len(languages.words(item)) for item in _content(text, format))


def length_bucket(text: str, format: str | None = None) -> str:
    """concise < 4 <= medium < 21 <= long, in words as in length_tokens."""
    return LENGTHS[sum(length_tokens(text, format) >= edge for edge in EDGES)]


def exact_match(text: str, key: str) -> bool:
    return text.strip() == key.strip()


def _runs(text: str) -> list[str]:
    """Runs of letters and their marks, in lower case (zero-width joiners are left out)."""
    return regex.findall(r"[\p{L}\p{M}]+", languages.clean(text).replace("\u200c", "").casefold())


def _strings(value) -> Iterable[str]:
    """All texts in a branch of CLDR data, number patterns included."""
    if isinstance(value, dict | LocaleDataDict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, NumberPattern):
        yield value.pattern


@cache
def lexicon(lang: str) -> frozenset[str]:
    """Every run of letters in what CLDR calls territories, currencies, languages, months, days,
    units, quantities, big numbers and dates in a language: all of CLDR's, not only the Atlas's."""
    data = languages.cldr(lang)
    branches = (
        data["territories"], data["currency_names"], data["currency_names_plural"],
        data["languages"], data["months"], data["days"], data["unit_display_names"],
        data["unit_patterns"], data["compact_decimal_formats"],
    )  # fmt: skip
    # Written out, because Hebrew writes month and preposition as one word.
    code = languages.LANGUAGES[lang][0]
    days = [format_date(date(2024, month, 2), "long", code) for month in range(1, 13)]
    texts = itertools.chain(days, *map(_strings, branches))
    return frozenset(run for text in texts for run in _runs(text))


@cache
def _longest(lang: str) -> int:
    return max(map(len, lexicon(lang)))


def _covered(run: str, lang: str) -> int:
    """How many letters of a run are in words of the language."""
    known = lexicon(lang)
    if run in known:
        return len(run)
    if not _UNSPACED.search(run):
        return 0
    found = start = 0
    while start < len(run):
        size = min(_longest(lang), len(run) - start)
        while size and run[start : start + size] not in known:
            size -= 1
        found += size
        start += size or 1
    return found


def scores(text: str) -> dict[str, float]:
    """Share of the letters that each language's words cover; {} without letters."""
    runs = _runs(text)
    total = sum(map(len, runs))
    if not total:
        return {}
    return {lang: sum(_covered(r, lang) for r in runs) / total for lang in languages.LANGUAGES}


def got_language(text: str, format: str | None = None, asked: str | None = None) -> str | None:
    """The language with the highest score, `asked` first in ties, then the one with more speakers.

    'unknown' when no language covers MIN_SCORE of the letters; None when there are no letters.
    """
    found = scores("\n".join(_content(text, format)))
    if not found:
        return None
    best = max(found.values())
    if best < MIN_SCORE:
        return "unknown"
    if asked is not None and found.get(asked) == best:
        return asked
    return next(lang for lang in languages.speakers() if found[lang] == best)


def language_obeyed(text: str, format: str | None, asked: str) -> bool | None:
    """Whether the asked language covers most letters, and enough; None: no letters to tell by."""
    got = got_language(text, format, asked)
    return None if got is None else got == asked
