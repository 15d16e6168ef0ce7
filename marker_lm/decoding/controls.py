"""What a user says about the markers of one prompt."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any

from marker_lm.markers.taxonomy import MarkerError


@dataclasses.dataclass(frozen=True)
class Controls:
    """The state of each category for one prompt; a category that is not named is free.

    Attributes:
      pinned: category -> value, shown on the prompt side and forced in the completion-side list; a
        list where the category allows several values, and then no others are written.
      banned: categories that may not be written.
      asked: categories that must be written, with the model's own value.
    """

    pinned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    banned: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()


def check_controls(controls: Controls, taxonomy, categories: Collection[str]) -> Controls:
    """`controls` with canonical values.

    Args:
      controls: as the user gave them.
      taxonomy: of the model.
      categories: those the model writes in its completion-side list.

    Raises:
      MarkerError: an unknown category or value, one that the model was not trained to write, one
        that is both banned and wanted, or a bucket that contradicts its number.
    """
    pinned = taxonomy.check_all(controls.pinned)
    for category in [*pinned, *sorted(controls.banned), *sorted(controls.asked)]:
        if category not in categories:
            near = difflib.get_close_matches(category, categories, n=1)
            known = ", ".join(categories) or "none: it was trained without markers"
            hint = f"did you mean '{near[0]}'?" if near else f"it has {known}."
            raise MarkerError(f"the model has no lever '{category}'; {hint}")
    for category in sorted(controls.banned):
        if category in pinned or category in controls.asked:
            raise MarkerError(f"'{category}' is banned and wanted at once; say one of the two.")
    _check_buckets(pinned, taxonomy)
    return dataclasses.replace(controls, pinned=pinned)


def _check_buckets(pinned: Mapping[str, Any], taxonomy) -> None:
    for name, value in pinned.items():
        category = taxonomy.categories[name]
        if not category.edges or category.of not in pinned:
            continue
        number = pinned[category.of]
        bucket = taxonomy.bucket(name, number)
        if value != bucket:
            raise MarkerError(
                f"{name}={value} and {category.of}={number} contradict each other; "
                f"pin {name}={bucket} with that number, or only one of the two."
            )
