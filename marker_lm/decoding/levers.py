"""One prompt answered several times: with every value of a category, or to keep the best answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import Sampling
from marker_lm.markers.taxonomy import MarkerError

LIKELIHOOD, TOTAL = "likelihood", "total_likelihood"


def sweep(
    engine: Engine,
    prompt: Prompt,
    category: str,
    values: Sequence[Any] | None = None,
    controls: Controls | None = None,
    sampling: Sampling | None = None,
) -> dict[Any, Result]:
    """Answers a prompt once with each value of a category pinned.

    Args:
      engine: of the model.
      prompt: a text or messages.
      category: the lever that is moved.
      values: those to try; all of a closed category by default, in the order of the taxonomy.
      controls: of the other categories; what they say about this one is left out.
      sampling: of every answer; greedy by default. All have the same seed, so that the value alone
        makes the difference.

    Raises:
      MarkerError: a control or value that the model doesn't have; no values of a number.
    """
    known = engine.taxonomy.category(category)
    if values is None and not known.is_closed:
        raise MarkerError(
            f"'{category}' is a number, so its values can't all be tried; give some of them."
        )
    values = list(known.values if values is None else values)
    controls, sampling = controls or Controls(), sampling or Sampling()
    others = {c: value for c, value in controls.pinned.items() if c != category}
    moved = [
        dataclasses.replace(
            controls,
            pinned=others | {category: value},
            banned=controls.banned - {category},
            asked=controls.asked - {category},
        )
        for value in values
    ]
    n = len(values)
    results = engine.generate([prompt] * n, moved, [sampling] * n)
    return dict(zip(values, results, strict=True))


@dataclasses.dataclass(frozen=True)
class Ranked:
    """One of several answers, with what it is ranked by: more is better."""

    result: Result
    score: float


def best_of(
    engine: Engine,
    prompt: Prompt,
    n: int,
    by: str | tuple[str, str] = LIKELIHOOD,
    controls: Controls | None = None,
    sampling: Sampling | None = None,
) -> list[Ranked]:
    """Samples n answers to a prompt and ranks them, the best first.

    Args:
      engine: of the model.
      prompt: a text or messages.
      n: answers; they differ by their seeds, which come from that of `sampling`.
      by: 'likelihood', log-likelihood per token: its sum would favour short answers;
        'total_likelihood', the sum; or (category, value): how probable it is that an answer is one
        of this value, by attribution (see `scoring.Scorer.posterior`), as with
        ('quality_bucket', 'high'). What is pinned is known there; the rest of the list is inferred
        from the prompt.
      controls: of the answers.
      sampling: by default at temperature 1: greedy answers would all be one.

    Raises:
      MarkerError: a control that the model doesn't have, or a category without a posterior.
      ValueError: no answers are asked for, or a ranking that is not known.
    """
    controls, sampling = controls or Controls(), sampling or Sampling(temperature=1.0)
    if n < 1:
        raise ValueError(f"the best of {n} answers is none; ask for 1 or more.")
    if by not in (LIKELIHOOD, TOTAL):
        if isinstance(by, str):
            raise ValueError(
                f"by={by!r} ranks nothing; give {LIKELIHOOD!r}, {TOTAL!r} or (category, value)."
            )
        category, value = by
        value = engine.taxonomy.check(category, value)
        engine.posterior([], category)  # a slip should not wait for the answers
    results = engine.generate([prompt] * n, [controls] * n, sampling)
    if by == TOTAL:
        scores = [r.log_likelihood for r in results]
    elif by == LIKELIHOOD:
        # The end of an answer is not among its tokens, but in its likelihood.
        scores = [r.log_likelihood / max(1, len(r.tokens) + (r.reason == "end")) for r in results]
    else:
        texts, given = [r.text for r in results], [controls.pinned] * n
        found = engine.posterior([prompt] * n, category, given, texts)
        scores = [posterior[value] for posterior in found]
    ranked = [Ranked(r, float(score)) for r, score in zip(results, scores, strict=True)]
    return sorted(ranked, key=lambda one: -one.score)
