"""One prompt answered several times: with every value of a category, or to keep the best answer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marker_lm.decoding.controls import Controls, check_lever
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.request import Request
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import Sampling
from marker_lm.markers.taxonomy import MarkerError

LIKELIHOOD, TOTAL = "likelihood", "total_likelihood"


@dataclasses.dataclass(frozen=True)
class Pins:
    """Ranks answers by how far they have what is pinned, where a program can tell.

    Attributes:
      checks: category -> what gives the value that an answer shows, or None; as
        `annotate.checks.make_checks` finds them for a taxonomy: language, format, programming
        language, number of words.
    """

    checks: Mapping[str, Callable[[str], Any]]


Ranking = str | tuple[str, str] | Pins


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
    values = list(sweep_values(engine, category) if values is None else values)
    request = Request(prompt, controls or Controls(), sampling or Sampling())
    moved = [pinned_too(request, {category: value}).controls for value in values]
    n = len(values)
    results = engine.generate([prompt] * n, moved, [request.sampling] * n)
    return dict(zip(values, results, strict=True))


def sweep_values(engine: Engine, category: str) -> tuple[str, ...]:
    """All values of a closed category that the model writes; else MarkerError."""
    known = engine.taxonomy.category(category)
    check_lever(category, engine.layout.completion_side)
    if not known.is_closed:
        raise MarkerError(
            f"'{category}' is a number, so its values can't all be tried; give some of them."
        )
    return tuple(known.values)


def pinned_too(request: Request, markers: Mapping[str, Any]) -> Request:
    """The request with these markers pinned, whatever it says about their categories."""
    return dataclasses.replace(request, controls=request.controls.pinned_too(markers))


@dataclasses.dataclass(frozen=True)
class Ranked:
    """One of several answers, with what it is ranked by: more is better."""

    result: Result
    score: float


def best_of(
    engine: Engine,
    prompt: Prompt,
    n: int,
    by: Ranking = LIKELIHOOD,
    controls: Controls | None = None,
    sampling: Sampling | None = None,
) -> list[Ranked]:
    """Samples n answers to a prompt and ranks them, the best first.

    Args:
      engine: of the model.
      prompt: a text or messages.
      n: answers; they differ by their seeds, which come from that of `sampling`.
      by: 'likelihood', log-likelihood per token: its sum would favour short answers;
        'total_likelihood', the sum; Pins, the likelier first of two that are even; or (category,
        value): how probable it is that an answer is one of this value, by attribution (see
        `scoring.Scorer.posterior`), as with ('quality_bucket', 'high'). What is pinned is known
        there; the rest of the list is inferred from the prompt.
      controls: of the answers.
      sampling: by default at temperature 1: greedy answers would all be one.

    Raises:
      MarkerError: a control that the model doesn't have, or a category without a posterior.
      ValueError: no answers are asked for, a ranking that is not known, or Pins without a check
        for anything that is pinned.
    """
    controls, sampling = controls or Controls(), sampling or Sampling(temperature=1.0)
    if n < 1:
        raise ValueError(f"the best of {n} answers is none; ask for 1 or more.")
    by, request = check_ranking(engine, by), Request(prompt, controls)
    check_pins(engine, request, by)
    results = engine.generate([prompt] * n, [controls] * n, sampling)
    return rank(engine, request, results, by)


def check_ranking(engine: Engine, by: Ranking) -> Ranking:
    """`by` of `best_of` with a canonical value. Raises as `best_of` does."""
    if isinstance(by, Pins) or by in (LIKELIHOOD, TOTAL):
        return by
    if isinstance(by, str):
        raise ValueError(
            f"by={by!r} ranks nothing; give {LIKELIHOOD!r}, {TOTAL!r}, pins or (category, value)."
        )
    category, value = by
    value = engine.taxonomy.check(category, value)
    engine.posterior([], category)  # a slip should not wait for the answers
    return category, value


def check_pins(engine: Engine, request: Request, by: Ranking) -> None:
    """Raises ValueError where answers to this request can't be ranked by its pins, or MarkerError
    where the model doesn't have them."""
    if isinstance(by, Pins):
        rank_by_pins(by, engine.check(request.controls).pinned, ())


def rank(engine: Engine, request: Request, results: Sequence[Result], by: Ranking) -> list[Ranked]:
    """Answers to one request, the best first; `by` is checked, see `best_of`."""
    if by == TOTAL:
        scores = [r.log_likelihood for r in results]
    elif by == LIKELIHOOD:
        scores = [_per_token(r) for r in results]
    elif isinstance(by, Pins):
        return rank_by_pins(by, engine.check(request.controls).pinned, results)
    else:
        (category, value), n = by, len(results)
        texts, given = [r.text for r in results], [request.controls.pinned] * n
        found = engine.posterior([request.prompt] * n, category, given, texts)
        scores = [posterior[value] for posterior in found]
    ranked = [Ranked(r, float(score)) for r, score in zip(results, scores, strict=True)]
    return sorted(ranked, key=lambda one: -one.score)


def rank_by_pins(by: Pins, pinned: Mapping[str, Any], results: Sequence[Result]) -> list[Ranked]:
    """Answers by the mean agreement of what they show with what is pinned, the best first, and by
    their likelihood per token where that is even.

    Args:
      by: with the checks.
      pinned: canonical values.
      results: answers under these pins.

    Raises ValueError: no program can tell whether an answer has what is pinned.
    """
    checks = by.checks
    told = {category: value for category, value in pinned.items() if category in checks}
    if not told:
        raise ValueError(
            f"by=pins: no program can tell whether an answer has what is pinned "
            f"({', '.join(pinned) or 'nothing'}); pin one of {', '.join(checks) or 'none'}."
        )
    ranked = []
    for result in results:
        found = [agreement(value, checks[c](result.text)) for c, value in told.items()]
        ranked.append(Ranked(result, sum(found) / len(found)))
    return sorted(ranked, key=lambda one: (-one.score, -_per_token(one.result)))


def agreement(asked: Any, shown: Any) -> float:
    """How near an answer that shows this is to what was asked for: 1 for the same value, for
    numbers less by their relative distance, 0 at least."""
    if isinstance(asked, int) and shown is not None:
        return max(1 - abs(shown - asked) / max(abs(asked), 1), 0.0)
    return float(shown == asked)


def _per_token(result: Result) -> float:
    # The end of an answer is not among its tokens, but in its likelihood.
    return result.log_likelihood / max(1, len(result.tokens) + (result.reason == "end"))
