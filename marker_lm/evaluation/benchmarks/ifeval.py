"""IFEval: constraints that a program can check, by the checkers of lm-evaluation-harness."""

import contextlib
import dataclasses
import functools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import (
    ALL,
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Skip,
    by_group,
    prompt_of,
    text_of,
)
from marker_lm.evaluation.statistics import Interval, mean_interval

_MODES = ("strict", "loose")
# Kinds whose checkers split text with NLTK's punkt model.
_PUNKT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


@dataclasses.dataclass(frozen=True)
class IFEval(Benchmark):
    """IFEval (Zhou et al. 2023, arXiv 2311.07911).

    A row has `prompt`, `instruction_id_list` and `kwargs`, as published. Strict and loose accuracy
    per prompt (all its constraints hold) and per constraint, and per kind of constraint. Loose
    takes the best of eight versions of the answer, without its first or last line, and without
    asterisks. A constraint that has no checker here (sentences and capital words need NLTK's model
    punkt_tab) is counted as not checked; the prompt then counts for its other constraints only.
    """

    name = "ifeval"
    percent = tuple(f"{of}_{mode}" for of in ("prompt", "constraint") for mode in _MODES)

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        kinds, kwargs = row.get("instruction_id_list"), row.get("kwargs")
        if not (isinstance(kinds, list) and isinstance(kwargs, list) and len(kinds) == len(kwargs)):
            raise RowError(
                "'instruction_id_list' and 'kwargs' are not lists of one length", "facts"
            )
        if not kinds:
            raise RowError("the row has no constraint", "facts")
        facts = {"kinds": kinds, "kwargs": [one or {} for one in kwargs]}
        yield Item(id, prompt_of(row), facts, groups=sorted(set(kinds)))

    @functools.cached_property
    def _checkers(self) -> Mapping[str, Any]:
        """Kind -> the harness's class, for the kinds that can be checked here."""
        try:
            # The harness tells of its download of punkt_tab on stdout.
            with contextlib.redirect_stdout(sys.stderr):
                import langdetect
                import nltk
                from lm_eval.tasks.ifeval import instructions_registry
        except ImportError as error:
            raise ValueError(
                f"ifeval: the checkers are lm-evaluation-harness's ({error}); pip install "
                "'marker-lm[eval]'"
            ) from None
        langdetect.DetectorFactory.seed = 0  # else its answers differ from run to run
        checkers = dict(instructions_registry.INSTRUCTION_DICT)
        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            for kind in _PUNKT:
                checkers.pop(kind, None)
        return checkers

    def score_one(self, item: Item, answer: Answer) -> dict[str, Any]:
        from lm_eval.tasks.ifeval import utils

        modes = {
            "strict": utils.test_instruction_following_strict,
            "loose": utils.test_instruction_following_loose,
        }
        text = text_of(answer)
        kinds, kwargs = item.facts["kinds"], item.facts["kwargs"]
        checked = [i for i, kind in enumerate(kinds) if kind in self._checkers]
        if not checked:
            raise Skip("none of its constraints has a checker")
        parts = utils.InputExample(
            item.id, [kinds[i] for i in checked], item.prompt, [kwargs[i] for i in checked]
        )
        followed = {m: check(parts, text).follow_instruction_list for m, check in modes.items()}
        scores: dict[str, Any] = {"kinds": [kinds[i] for i in checked], "followed": followed}
        if len(checked) == len(kinds):
            scores |= {f"prompt_{mode}": float(all(held)) for mode, held in followed.items()}
        return scores

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        return [
            Line(group, _accuracies(group, own))
            for group, own in by_group(rows).items()
            if group == ALL or group in self._checkers
        ]

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        unchecked = Counter(
            kind for row in rows for kind in row.item.facts["kinds"] if kind not in self._checkers
        )
        if unchecked:
            total = sum(len(row.item.facts["kinds"]) for row in rows)
            kinds = ", ".join(f"{n} {kind}" for kind, n in unchecked.most_common())
            yield f"{unchecked.total()} of {total} constraints were not checked: {kinds}."
        yield "Intervals of constraints take them as independent of each other."


def _accuracies(group: str, rows: Sequence[Row]) -> dict[str, Interval]:
    """Of all constraints and prompts, or of one kind of constraint."""
    metrics = {}
    if group == ALL:
        for mode in _MODES:
            name = f"prompt_{mode}"
            whole = [row.scores[name] for row in rows if name in row.scores]
            metrics[name] = mean_interval(whole)
    for mode in _MODES:
        held = [
            float(followed)
            for row in rows
            for kind, followed in zip(
                row.scores["kinds"], row.scores["followed"][mode], strict=True
            )
            if group in (ALL, kind)
        ]
        metrics[f"constraint_{mode}"] = mean_interval(np.asarray(held))
    return metrics
