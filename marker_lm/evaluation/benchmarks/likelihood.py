"""Likelihood: nats per token of the reference answer, for each stratum."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from marker_lm.data.assembly import Kind
from marker_lm.data.example import RowError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.score_lines import one_by_one
from marker_lm.evaluation.benchmarks.base import (
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Skip,
    by_group,
    prompt_of,
    references_of,
)
from marker_lm.evaluation.statistics import Interval, mean_interval

_LISTS = ("true", "own")


@dataclasses.dataclass(frozen=True)
class Likelihood(Benchmark):
    """How likely a model finds the reference answers; the tokens of its list of markers left out.

    A row has a prompt or instruction, a reference answer (`completion` or `output`) and, for the
    strata and the true list, `markers`; an answer is a line of `marker-lm score`.

    `nats_per_token` weighs tokens equally, `row_nats_per_token` rows, and only that has an
    interval. Tokens are the model's own, so figures compare only between models of one tokenizer.

    category: whose values are strata
    strata: file of frozen strata (`marker-lm stats --freeze`); its category and its head and tail
      are taken then; '' for none
    markers: in the list that a model with markers is scored after: 'true' (the row's) or 'own'
      (what it infers)
    """

    category: str = "lang"
    strata: str = ""
    markers: str = "true"

    name = "likelihood"

    def __post_init__(self):
        if self.markers not in _LISTS:
            raise ValueError(f"likelihood: markers is {self.markers!r}; it is 'true' or 'own'")

    @functools.cached_property
    def _frozen(self) -> Mapping[str, Any]:
        if not self.strata:
            return {"category": self.category, "head": (), "tail": ()}
        try:
            frozen = json.loads(epath.Path(self.strata).read_text())
            return {key: frozen[key] for key in ("category", "head", "tail")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.strata} is no file of strata ({error!r}); freeze one"
            ) from None

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        markers = row.get("markers") or {}
        if not isinstance(markers, Mapping):
            raise RowError("the markers are not an object", "bad markers")
        reference = references_of(row)[0]
        category, value = self._frozen["category"], markers.get(self._frozen["category"])
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        groups = [f"{category}={one}" for one in values]
        for stratum in ("head", "tail"):
            if any(one in self._frozen[stratum] for one in values):
                groups.append(stratum)
        yield Item(id, prompt_of(row), {"reference": reference, "markers": markers}, groups=groups)

    def answer(
        self,
        engine: Engine,
        items: Sequence[Item],
        controls: Sequence[Controls],
        sampling: Sampling,
    ) -> list[Answer]:
        """Scores of the references; pins of `controls` go into the list before all else."""
        prompts = [item.prompt for item in items]
        levers = engine.layout.completion_side
        if self.markers == "own" and levers:
            short = dataclasses.replace(sampling, max_tokens=1)
            lists = [result.markers for result in engine.generate(prompts, controls, short)]
        else:
            lists = [
                {c: v for c, v in {**item.facts["markers"], **one.pinned}.items() if c in levers}
                for item, one in zip(items, controls, strict=True)
            ]
        # A marker that the model lacks ends the job; a row that is too long has its own error.
        lists = [engine.taxonomy.check_all(markers) for markers in lists]
        references = [item.facts["reference"] for item in items]
        scores = one_by_one(
            lambda rows: engine.score(*zip(*rows, strict=True)),
            list(zip(prompts, references, lists, strict=True)),
        )
        return [
            {"error": one} if isinstance(one, str) else {"nats": one.nats, "tokens": one.tokens}
            for one in scores
        ]

    def score_one(self, item: Item, answer: Answer) -> dict[str, float]:
        kind = Kind.COMPLETION.name
        try:
            nats, tokens = float(answer["nats"][kind]), int(answer["tokens"][kind])
        except (KeyError, TypeError):
            raise Skip("the answer has no nats and tokens of its completion") from None
        if not tokens:
            raise Skip("the reference has no tokens")
        return {"row_nats_per_token": nats / tokens, "nats": nats, "tokens": tokens}

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        return [Line(group, _per_token(own)) for group, own in by_group(rows).items() if own]

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield "Lower is better; the tokens are those of the answer, its end included."


def _per_token(rows: Sequence[Row]) -> dict[str, Interval]:
    nats, tokens, own = (
        np.asarray([row.scores[name] for row in rows])
        for name in ("nats", "tokens", "row_nats_per_token")
    )
    pooled = Interval(float(nats.sum() / tokens.sum()), np.nan, np.nan, len(rows))
    return {"nats_per_token": pooled, "row_nats_per_token": mean_interval(own)}
