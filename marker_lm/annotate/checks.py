"""Programs that tell the value of a marker from an answer, for any text."""

import functools
from collections.abc import Callable
from typing import Any

from marker_lm.annotate import code_type, format, lang, lengths
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

# Gives the value that an answer shows, or None where nothing can be told.
Check = Callable[[str], Any]

NEAR = 0.2  # a number is obeyed within this share of it, on both sides,
LEAST = 20  # and looked at where more than this is asked for


def make_checks(taxonomy: Taxonomy) -> dict[str, Check]:
    """A check for each category of the taxonomy that a program can tell.

    Languages by an identifier (py3langid), formats by parsing, programming languages by the labels
    of fenced blocks. Words by UAX 29 where the unit of the number says so, else by white space;
    buckets by the same.
    """
    checks: dict[str, Check] = {}
    for module in (lang, format, code_type):
        category = taxonomy.categories.get(module.Settings.category)
        if category is not None and category.is_closed:
            annotator = module.make({}, taxonomy)
            checks[category.name] = functools.partial(_annotated, annotator, category.name)
    counters = make_counters(taxonomy)
    for name, category in taxonomy.categories.items():
        if category.edges and category.of in counters:
            checks[name] = functools.partial(_bucket, taxonomy, name, counters[category.of])
    return checks | counters


def make_counters(taxonomy: Taxonomy) -> dict[str, Callable[[str], int]]:
    """What counts the words of a text, for each number that is one of words and has buckets."""
    known = taxonomy.categories
    numbers = {category.of for category in known.values() if category.edges}
    units = {name: known[name].unit or "" for name in known if name in numbers}
    return {
        name: lengths.words if "UAX 29" in unit else _between_spaces
        for name, unit in units.items()
        if unit.startswith("words")
    }


def _between_spaces(text: str) -> int:
    return len(text.split())


def obeys(asked: Any, shown: Any) -> bool:
    """Whether an answer that shows this has the value that was asked for, or a number near it."""
    if isinstance(asked, int) and shown is not None:
        return abs(shown - asked) <= NEAR * asked
    return shown == asked


def judges(check: Check, own: Any, reference: str) -> bool:
    """Whether a check can judge answers to a row: it is right about the reference answer."""
    return obeys(own, check(reference)) and not (isinstance(own, int) and own <= LEAST)


def _annotated(annotator, category: str, text: str) -> str | None:
    [found] = annotator.annotate([Example("", "", text, {}, {})])
    return found[category].value if category in found else None


def _bucket(taxonomy: Taxonomy, name: str, count: Callable[[str], int], text: str) -> str:
    return taxonomy.bucket(name, count(text))
