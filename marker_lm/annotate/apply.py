"""Annotators at work on examples in memory, and the annotated row."""

from collections.abc import Iterable, Sequence
from typing import Any

from marker_lm.annotate.annotator import Learner
from marker_lm.annotate.registry import AnnotateError, Step
from marker_lm.data.example import INFO_FIELD, Example, MarkerInfo, RowError
from marker_lm.data.row_format import RowFormat
from marker_lm.data.row_markers import fill_buckets
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

_DIGITS = 4  # of a confidence as it is written


def annotate(
    examples: Sequence[Example], steps: Iterable[Step], taxonomy: Taxonomy
) -> list[RowError | None]:
    """Fills in the markers that the examples lack, in place; what each annotator found stands.

    An annotator is asked only for examples that lack one of the categories it is chosen for.
    Returns for each example None, or why it cannot be used: its own bucket contradicts a number
    that was found.
    """
    for step in steps:
        lacking = [e for e in examples if any(c not in e.markers for c in step.categories)]
        for example, found in zip(lacking, step.annotator.annotate(lacking), strict=True):
            for category in step.categories:
                if category in found and category not in example.markers:
                    value, confidence = found[category].value, found[category].confidence
                    example.markers[category] = _checked(step, category, value, taxonomy)
                    info = MarkerInfo(step.name, round(confidence, _DIGITS))
                    example.marker_info[category] = info
    return [_finish(example, taxonomy) for example in examples]


def _checked(step: Step, category: str, value: Any, taxonomy: Taxonomy) -> Any:
    try:
        return taxonomy.check(category, value)
    except MarkerError as error:
        raise AnnotateError(f"the annotator '{step.name}' is at fault: {error}") from None


def _finish(example: Example, taxonomy: Taxonomy) -> RowError | None:
    markers, info = example.markers, example.marker_info
    try:
        fill_buckets(markers, info, taxonomy)
    except RowError as error:
        return error
    order = [category for category in taxonomy.categories if category in markers]
    example.markers = {category: markers[category] for category in order}
    example.marker_info = {category: info[category] for category in order}
    return None


def split_at_learners(steps: Sequence[Step], taxonomy: Taxonomy) -> tuple[list[Step], list[Step]]:
    """(steps whose markers the learners need to see, the learners' steps).

    A learner of quantiles needs the number and the category within which they are taken.
    """
    learners: dict[str, Step] = {}
    needed: set[str] = set()
    for step in steps:
        if step.learns:
            learners.setdefault(step.name, step)
            for category in step.categories:
                bucket = taxonomy.category(category)
                needed |= {c for c in (bucket.of, bucket.quantiles_per) if c is not None}
    before = []
    for step in steps:
        wanted = tuple(c for c in step.categories if c in needed)
        if wanted and not step.learns:
            before.append(Step(step.name, step.annotator, wanted))
    return before, list(learners.values())


def learn(examples: Iterable[Example], learners: Iterable[Learner]) -> None:
    """Shows examples to learners."""
    for example in examples:
        for learner in learners:
            learner.add(example)


def annotated_row(row: dict[str, Any], example: Example, row_format: RowFormat) -> dict[str, Any]:
    """The row with all its fields, its markers and where they come from.

    Raises RowError when it has a field 'markers' of its own, which would be lost.
    """
    if row_format.markers != "markers" and row.get("markers") is not None:
        raise RowError(
            "the row has a field 'markers' that the row format does not read, and that would be "
            "written over; rename it",
            "field 'markers' is in use",
        )
    info = {
        category: {"origin": origin, "confidence": confidence}
        for category, (origin, confidence) in example.marker_info.items()
    }
    return {**row, "markers": example.markers, INFO_FIELD: info}
