"""Programs that tell the value of a marker from an answer, for any text."""

import functools
from collections.abc import Callable

from marker_lm.annotate import lang, lengths
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

# Gives the value that an answer shows, or None where nothing can be told.
Check = Callable[[str], str | None]


def make_checks(taxonomy: Taxonomy) -> dict[str, Check]:
    """A check for each category of the taxonomy that a program can tell.

    Language by an identifier (py3langid), which errs on short texts: its rate on the reference
    answers is recorded beside, as the most that a model can reach. Buckets of words by UAX 29 where
    the unit of the number says so, else by white space.
    """
    checks: dict[str, Check] = {}
    found = taxonomy.categories.get("lang")
    if found is not None and found.is_closed:
        identifier = lang.make({}, taxonomy)

        def language(text: str) -> str | None:
            [found] = identifier.annotate([Example("", "", text, {}, {})])
            return found["lang"].value if "lang" in found else None

        checks["lang"] = language
    for name, category in taxonomy.categories.items():
        number = taxonomy.categories.get(category.of or "")
        unit = number.unit or "" if number is not None else ""
        if category.edges and unit.startswith("words"):
            count = lengths.words if "UAX 29" in unit else lambda text: len(text.split())
            checks[name] = functools.partial(_bucket, taxonomy, name, count)
    return checks


def _bucket(taxonomy: Taxonomy, name: str, count: Callable[[str], int], text: str) -> str:
    return taxonomy.bucket(name, count(text))
