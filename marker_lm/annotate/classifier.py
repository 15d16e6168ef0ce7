"""Markers from an offline classifier that learns them from the rows that have them already."""

import dataclasses
import heapq
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.annotate.annotator import Annotator, Learner
from marker_lm.annotate.fitted_classifier import (
    ClassifierAnnotator,
    ClassifierError,
    load,
    shorten,
)
from marker_lm.annotate.settings import settings_from
from marker_lm.annotate.text_model import TextModel, fit
from marker_lm.data.example import Example
from marker_lm.markers.category import MarkerError
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """How to learn; see `make`."""

    categories: tuple[str, ...] = ()
    rows: int = 20_000
    min_rows: int = 10
    threshold: float = 0.5
    max_chars: int = 4000
    features: int = 65_536
    folds: int = 5
    epochs: int = 10
    save: str = ""
    load: str = ""

    def __post_init__(self):
        for name, least in (
            ("rows", 1),
            ("max_chars", 2),
            ("features", 2),
            ("folds", 2),
            ("epochs", 1),
            ("min_rows", self.folds),
        ):
            if getattr(self, name) < least:
                raise ClassifierError(
                    f"classifier.{name} is {getattr(self, name)}; it must be {least} or more"
                    + (", as many as folds" if name == "min_rows" else "")
                )
        if not 0 <= self.threshold <= 1:
            raise ClassifierError(
                f"classifier.threshold is {self.threshold}; it must be within 0 and 1"
            )


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> Learner | Annotator:
    """The learner of a section of the config; these are its keys and defaults.

        categories: ()  # closed categories to learn; () is all of the taxonomy
        rows: 20_000  # at most so many labelled rows of a category are learned from
        min_rows: 10  # a value with fewer of them is not learned, and so never found
        threshold: 0.5  # markers under this confidence are left out
        max_chars: 4000  # of a longer text only the first and the last half of these are read
        features: 65_536  # hashed words and pairs of words
        folds: 5  # of the cross-validation that calibrates the confidence
        epochs: 10  # passes over the rows
        save: ""  # folder to save what was learned to, local or gs://
        load: ""  # folder of a saved one, which then is not learned anew

    With `load` it is an Annotator and not a Learner. Raises SettingsError or ClassifierError for
    a bad section or folder, MarkerError for a category that can't be learned.
    """
    settings = settings_from(ClassifierConfig, config, "classifier")
    categories = [taxonomy.category(name) for name in settings.categories] or [
        category for category in taxonomy.categories.values() if category.type == "closed"
    ]
    for category in categories:
        if category.type != "closed":
            raise MarkerError(
                f"classifier.categories names {category.name!r} of type {category.type!r}; "
                "only closed categories can be learned, take it out"
            )
    describes = {category.name: category.describes for category in categories}
    if settings.load:
        return load(settings.load, taxonomy, describes, settings.threshold)
    return ClassifierLearner(settings, describes)


class ClassifierLearner:
    """Gathers labelled rows of each category; a Learner.

    Of the labelled rows, those with the smallest hashes of their ids are kept: a random sample of
    bounded size that does not depend on the order or the partition of the rows. Rows with several
    values of a category are counted but not learned from: the classifier finds one value.
    """

    name = "classifier"

    def __init__(self, settings: ClassifierConfig, describes: Mapping[str, str]):
        self.settings = settings
        self.categories = tuple(describes)
        self.labelled: Counter[str] = Counter()  # category -> rows seen that have one value of it
        self.several: Counter[str] = Counter()  # category -> rows seen that have several
        self._describes = dict(describes)
        # Heaps of (-hash, id, text, label): the first is the one to go.
        self._samples: dict[str, list[tuple]] = {name: [] for name in describes}

    def add(self, example: Example) -> None:
        labelled = [name for name in self.categories if name in example.markers]
        if not labelled:
            return
        key = -int(hash_ids([example.id])[0])
        texts: dict[str, str] = {}
        for name in labelled:
            label = example.markers[name]
            if isinstance(label, tuple):
                if len(label) > 1:
                    self.several[name] += 1
                    continue
                (label,) = label
            self.labelled[name] += 1
            sample = self._samples[name]
            if len(sample) == self.settings.rows and key < sample[0][0]:
                continue
            part = self._describes[name]
            if part not in texts:
                texts[part] = shorten(getattr(example, part), self.settings.max_chars)
            self._keep(sample, (key, example.id, texts[part], label))

    def merge(self, other: "ClassifierLearner") -> None:
        self.labelled.update(other.labelled)
        self.several.update(other.several)
        for name, sample in self._samples.items():
            for row in other._samples[name]:
                self._keep(sample, row)

    def finish(self) -> "ClassifierAnnotator":
        """Trains a model for each category; says how well it does, or why there is none."""
        models, facts = {}, {}
        for name, sample in self._samples.items():
            model, facts[name] = self._learn(sorted(sample, reverse=True))
            facts[name]["labelled_rows"] = self.labelled[name]
            facts[name]["rows_with_several"] = self.several[name]
            if model is not None:
                models[name] = model
            print(_sentence(name, facts[name]), file=sys.stderr)
        annotator = ClassifierAnnotator(
            self.settings.threshold, self.settings.max_chars, self._describes, models, facts
        )
        if self.settings.save and models:
            annotator.save(self.settings.save)
        return annotator

    def _keep(self, sample: list[tuple], row: tuple) -> None:
        if len(sample) < self.settings.rows:
            heapq.heappush(sample, row)
        elif row > sample[0]:
            heapq.heapreplace(sample, row)

    def _learn(self, rows: Sequence[tuple]) -> tuple[TextModel | None, dict[str, Any]]:
        settings = self.settings
        counts = Counter(label for *_, label in rows)
        rare = {v: n for v, n in sorted(counts.items()) if n < settings.min_rows}
        rows = [row for row in rows if row[-1] not in rare]
        facts: dict[str, Any] = {"values": len(counts) - len(rare), "rare_values": rare}
        if len(counts) - len(rare) < 2:
            return None, facts
        texts, labels = [row[2] for row in rows], [row[3] for row in rows]
        model, measured = fit(
            texts, labels, settings.features, settings.folds, settings.epochs, settings.threshold
        )
        return model, {**facts, **measured}


def _sentence(name: str, facts: Mapping[str, Any]) -> str:
    """What was learned of a category, for people."""
    rare = sum(facts["rare_values"].values())
    left = f"; {len(facts['rare_values'])} rare values ({rare} rows) left out" if rare else ""
    if facts["rows_with_several"]:
        left += f"; {facts['rows_with_several']} rows with several values left out"
    if "accuracy" not in facts:
        return (
            f"classifier: {name} is not learned, {facts['values']} values have rows enough, of "
            f"{facts['labelled_rows']} labelled rows{left}"
        )
    return (
        f"classifier: {name} learned from {facts['rows']} of {facts['labelled_rows']} labelled "
        f"rows, {facts['values']} values; on rows not trained on: accuracy {facts['accuracy']:.3f},"
        f" calibration error {facts['calibration_error']:.3f}, abstains on "
        f"{1 - facts['coverage']:.1%}{left}"
    )
