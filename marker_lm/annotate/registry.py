"""Which annotators there are, and which of them fill which category."""

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from marker_lm.annotate.annotator import Annotator, Learner
from marker_lm.data.example import ANNOTATORS
from marker_lm.markers.category import Category, mend
from marker_lm.markers.taxonomy import Taxonomy

# Name -> module with `make(config, taxonomy)`, in the order in which they run.
MODULES: Mapping[str, str] = {name: f"marker_lm.annotate.{name}" for name in ANNOTATORS}
# The rules of the RowFormat. They come first by nature, so naming them says only that a category
# has no other source.
METADATA = "metadata"
# These ask for many rows at once by themselves, and their limits on rate and cost are kept best by
# one process.
ONE_PROCESS = ("llm",)
# The section of these names the categories to fill; where it does not, they fill those they are
# chosen for and no more.
_TOLD_CATEGORIES = ("classifier", "llm")


class AnnotateError(ValueError):
    """An annotation that cannot be done as asked; one sentence."""


@dataclasses.dataclass
class Step:
    """One annotator and the categories that it is chosen for."""

    name: str
    annotator: Annotator | Learner
    categories: tuple[str, ...]

    @property
    def learns(self) -> bool:
        """Whether it must see all rows before it annotates one."""
        return not isinstance(self.annotator, Annotator)


def by_origin(category: Category, taxonomy: Taxonomy) -> tuple[str, ...]:
    """The annotators of a category that the config says nothing of, from its origin.

    'computed' is counted, as a length or by quantiles of a score. 'metadata' comes from the row's
    own fields, and where they lack it, from an annotator that is called as the category (lang,
    code_type). 'classified' comes from such a one (format), else from the offline classifier.
    Buckets by edges follow from their number.
    """
    ranked = [c.of for c in taxonomy.categories.values() if c.quantiles_per]
    if category.quantiles_per or category.name in ranked:
        return ("quality",)
    if category.edges:
        return ()
    if category.origin == "computed":
        return ("lengths",)
    if category.name in MODULES and category.is_closed:
        return (category.name,)
    return ("classifier",) if category.origin == "classified" and category.is_closed else ()


def choose(
    taxonomy: Taxonomy, chosen: Mapping[str, Iterable[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Category -> names of annotators, in the order in which they are asked; () for none.

    chosen: what the config says, category -> names; the others are chosen by their origin.
    Raises MarkerError for an unknown category, AnnotateError for an unknown annotator.
    """
    chosen = chosen or {}
    for category in chosen:
        taxonomy.category(category)
    names = {}
    for category in taxonomy.categories.values():
        asked = chosen.get(category.name, by_origin(category, taxonomy))
        asked = (asked,) if isinstance(asked, str) else tuple(asked)
        for name in asked:
            if name not in MODULES and name != METADATA:
                raise AnnotateError(
                    f"annotators.{category.name} names {name!r}, which is no annotator; "
                    f"{mend(name, [METADATA, *MODULES])}"
                )
        names[category.name] = tuple(name for name in asked if name != METADATA)
    return names


def make_steps(
    names: Mapping[str, tuple[str, ...]], config: Mapping[str, Any], taxonomy: Taxonomy
) -> list[Step]:
    """The annotators of `choose`, made from their sections of the config, in the order they run.

    First all that is a category's first choice, then all second choices, and so on; within each
    round in the order of MODULES, so that a language is told before scores are ranked by it.
    Raises AnnotateError for a category that an annotator cannot fill.
    """
    made: dict[str, Annotator | Learner] = {}
    steps = []
    for place in range(max(map(len, names.values()), default=0)):
        for name in MODULES:
            wanted = tuple(c for c, asked in names.items() if asked[place : place + 1] == (name,))
            if not wanted:
                continue
            if name not in made:
                section = dict(config.get(name, {}))
                if name in _TOLD_CATEGORIES and not section.get("categories"):
                    section["categories"] = tuple(c for c, asked in names.items() if name in asked)
                made[name] = make_annotator(name, section, taxonomy)
            for category in wanted:
                if category not in made[name].categories:
                    raise AnnotateError(
                        f"the annotator '{name}' cannot fill '{category}'; it fills "
                        f"{', '.join(made[name].categories) or 'none of this taxonomy'}; name "
                        f"another in annotators.{category}, or () for none"
                    )
            steps.append(Step(name, made[name], wanted))
    return steps


def make_annotator(
    name: str, section: Mapping[str, Any], taxonomy: Taxonomy
) -> Annotator | Learner:
    """One annotator from its section of the config. Raises AnnotateError where there is none."""
    if name not in MODULES:
        raise AnnotateError(f"{name!r} is no annotator; {mend(name, MODULES)}")
    try:
        return importlib.import_module(MODULES[name]).make(section, taxonomy)
    except ImportError as error:
        raise AnnotateError(
            f"the annotator '{name}' needs a package that is missing ({error}); "
            f"pip install 'marker-lm[annotate]', or leave '{name}' out under annotators"
        ) from None
