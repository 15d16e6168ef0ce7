"""What a user says about the markers of one prompt."""

import dataclasses
import difflib
import warnings
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
      allow_unseen: pin values too that no training row had, with a warning instead of an error.
      forced: whether pinned values are forced in the completion-side list. If not, they are shown
        on the prompt side alone, and the model writes a list of its own.
    """

    pinned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    banned: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    allow_unseen: bool = False
    forced: bool = True

    def without(self, categories: Collection[str]) -> "Controls":
        """The same with these categories free."""
        return dataclasses.replace(
            self,
            pinned={c: value for c, value in self.pinned.items() if c not in categories},
            banned=self.banned - set(categories),
            asked=self.asked - set(categories),
        )

    def pinned_too(self, markers: Mapping[str, Any]) -> "Controls":
        """The same with these markers pinned, whatever it says about their categories."""
        others = self.without(markers)
        return dataclasses.replace(others, pinned={**others.pinned, **markers})


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
        check_lever(category, categories)
    for category in sorted(controls.banned):
        if category in pinned or category in controls.asked:
            raise MarkerError(f"'{category}' is banned and wanted at once; say one of the two.")
    _check_buckets(pinned, taxonomy)
    return dataclasses.replace(controls, pinned=pinned)


def check_lever(category: str, categories: Collection[str]) -> None:
    """Raises MarkerError for a category that is not among those the model writes."""
    if category not in categories:
        near = difflib.get_close_matches(category, categories, n=1)
        known = ", ".join(categories) or "none: it was trained without markers"
        hint = f"did you mean '{near[0]}'?" if near else f"it has {known}."
        raise MarkerError(f"the model has no lever '{category}'; {hint}")


def check_seen(controls: Controls, taxonomy, seen: Mapping[str, Any] | None) -> None:
    """Finds pinned values that the model can't know, for no training row had them.

    Args:
      controls: with canonical values.
      taxonomy: of the model.
      seen: `Counts` of the training rows, see data/marker_counts.py. None where it is not known:
        then nothing is found.

    Raises:
      MarkerError: there is one, and the controls do not allow it; it names the nearest that were
        seen. Where they do, it is a warning (UserWarning).
    """
    for name, value in controls.pinned.items() if seen is not None else ():
        had = seen.get(name)
        closed = taxonomy.categories[name].is_closed
        if closed:
            values = value if isinstance(value, tuple) else (value,)
            unseen = [one for one in values if one not in (had or {})]
        else:
            unseen = [] if had and had[0] <= value <= had[1] else [value]
        if not unseen:
            continue
        if not had:
            known = "they had no value of this category"
        elif closed:
            known = f"the nearest that were seen are {', '.join(_nearest(unseen[0], had))}"
        else:
            known = f"those that were seen go from {had[0]} to {had[1]}"
        sentence = f"no training row had {name}={unseen[0]}; {known}"
        if not controls.allow_unseen:
            raise MarkerError(
                f"{sentence}; pin one of them, or allow unseen values (allow_unseen)."
            )
        warnings.warn(f"{sentence}; the model may not obey it.", stacklevel=2)


def _nearest(value: str, seen: Mapping[str, int], most: int = 3) -> list[str]:
    """The seen values whose names are most alike, then the most frequent ones."""
    alike = difflib.get_close_matches(value, seen, n=most)
    frequent = sorted(seen, key=lambda one: -seen[one])
    return list(dict.fromkeys([*alike, *frequent]))[:most]


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
