"""Win rates against reference answers, by a judge that sees each pair in both orders."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import (
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Scores,
    Skip,
    by_group,
    prompt_of,
    references_of,
    text_of,
)
from marker_lm.evaluation.benchmarks.judge import ask_judge, why_none
from marker_lm.evaluation.benchmarks.length import ALPACA_EVAL_LI, Length
from marker_lm.evaluation.statistics import Interval, mean_interval

_QUESTION = """\
Two assistants answered the request below. Which answer serves the one who asked better: more \
correct, more helpful, in the language and form that were asked for? Neither the order of the two \
nor their length is a reason by itself.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Give your reasons in a sentence or two. End with one line: [[A]] if A is better, [[B]] if B is \
better, [[C]] if neither is."""
_VERDICT = r"\[\[([ABC])\]\]"
_POINTS = {"A": 1.0, "C": 0.5, "B": 0.0}  # of the answer that stands first
_FAR = 0.1  # a difference of win rates
_STRENGTH = 100.0  # inverse of the weight of the L2 penalty


@dataclasses.dataclass(frozen=True)
class WinRate(Benchmark):
    """Share of comparisons that answers win against reference answers.

    A row has a prompt or instruction and a reference (`reference`, `completion` or `output`); the
    judge may be shown `original_instruction` instead. It is asked twice, with the sides swapped; a
    win is 1, a tie 0.5, a loss 0, and an answer's score is the mean of the two, as in
    Arena-Hard-Auto (without its triple weight of clear verdicts). An answer with only one readable
    verdict is skipped: order matters to judges.

    `win_rate`: mean score. `length_controlled`: what a logistic regression of the scores on
    tanh(length difference in characters / its standard deviation) and a constant says of equal
    lengths; it is the `length_controlled_minimal` model of AlpacaEval (Dubois et al. 2024,
    arXiv 2404.04475), without that paper's difficulty of instructions, which is not public for
    other prompts, and without its choice of penalty by cross-validation (here L2, C = 100).
    `both_orders`: share of answers with one verdict in both orders.

    endpoint: of the judge, as in configs/annotate.py: endpoint.url, endpoint.model, ...
    limit_unit: where a row has `max_len`, a longer answer loses unseen, as in AlpacaEval-LI; ''
      judges it all the same
    max_tokens: of a judge's answer
    """

    endpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limit_unit: str = ALPACA_EVAL_LI
    max_tokens: int = 512

    name = "win_rate"
    percent = ("win_rate", "length_controlled", "both_orders", "violation")

    @functools.cached_property
    def _length(self) -> Length:
        return Length(self.limit_unit)

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        limit = row.get("max_len") if self.limit_unit else None
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise RowError(f"'max_len' is {limit!r}, not a whole number over 0", "bad limit")
        facts = {
            "reference": references_of(row)[0],
            "limit": limit,
            "shown": row.get("original_instruction") or prompt_of(row),
        }
        yield Item(id, prompt_of(row), facts)

    def score(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Scores | Skip]:
        found: list[Scores | Skip | None] = [None] * len(pairs)
        questions, at = [], []
        for i, (item, answer) in enumerate(pairs):
            try:
                text = text_of(answer)
            except Skip as skip:
                found[i] = skip
                continue
            limit, own = item.facts["limit"], item.facts["reference"]
            if limit is not None and self._length.count(text) > limit:
                found[i] = {"win_rate": 0.0, "violation": 1.0}
                continue
            at.append(i)
            for first, second in ((text, own), (own, text)):
                shown = {"prompt": item.facts["shown"], "first": first, "second": second}
                questions.append(_QUESTION.format(**shown))
        verdicts = ask_judge(self.endpoint, questions, _VERDICT, self.max_tokens)
        for n, i in enumerate(at):
            item, answer = pairs[i]
            found[i] = _judged(verdicts[2 * n], verdicts[2 * n + 1])
            if not isinstance(found[i], Skip):
                found[i]["longer"] = len(text_of(answer)) - len(item.facts["reference"])
                if item.facts["limit"] is not None:
                    found[i]["violation"] = 0.0
        return found

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        lines = []
        for group, own in by_group(rows).items():
            names = ("win_rate", "both_orders", "violation")
            values = {n: [r.scores[n] for r in own if n in r.scores] for n in names}
            metrics = {name: mean_interval(of) for name, of in values.items() if of}
            judged = [row.scores for row in own if "longer" in row.scores]
            if judged:
                rate = length_controlled(
                    [one["win_rate"] for one in judged], [one["longer"] for one in judged]
                )
                metrics["length_controlled"] = Interval(rate, math.nan, math.nan, len(judged))
            lines.append(Line(group, metrics))
        return lines

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield f"The judge is {self.endpoint.get('model')}; each pair was judged in both orders."
        for line in self.lines(rows):
            rate, controlled = (line.metrics.get(m) for m in ("win_rate", "length_controlled"))
            same_answers = controlled and controlled.n == rate.n
            if same_answers and abs(controlled.mean - rate.mean) > _FAR:
                yield (
                    f"The length-controlled rate of '{line.group}' is far from its win rate: "
                    "lengths differ mostly one way, so it is an extrapolation."
                )
        if broke := sum(row.scores.get("violation", 0) == 1 for row in rows):
            yield (
                f"{broke} answers over their limit lost without being judged; the "
                "length-controlled rate is over the others."
            )


def _judged(first: Any, swapped: Any) -> Scores | Skip:
    """The score of the answer that stood first, then second."""
    if reason := why_none(first) or why_none(swapped):
        return Skip(reason)
    points = _POINTS[first], 1 - _POINTS[swapped]
    return {"win_rate": sum(points) / 2, "both_orders": float(points[0] == points[1])}


def length_controlled(scores_N: Sequence[float], longer_N: Sequence[float]) -> float:
    """The win rate at equal lengths, 0 to 1; nan without scores.

    score ~ logistic(a * tanh(d / std(d)) + b), fitted to scores in 0..1 by weighted log loss; the
    rate is logistic(b). d is how many characters longer the answer is than its opponent. Where all
    lengths differ alike, length can't be told from quality, and the plain mean is given.
    """
    from sklearn.linear_model import LogisticRegression

    score_N, longer_N = np.asarray(scores_N, float), np.asarray(longer_N, float)
    if not len(score_N):
        return math.nan
    spread = longer_N.std(ddof=1) if len(longer_N) > 1 else 0.0
    if spread == 0:
        return float(score_N.mean())
    features_Nx2 = np.stack([np.tanh(longer_N / spread), np.ones_like(longer_N)], 1)
    # A score between 0 and 1 is a win and a loss with weights.
    won = np.repeat([1, 0], len(score_N))
    weight = np.concatenate([score_N, 1 - score_N])
    if weight[: len(score_N)].sum() in (0, len(score_N)):
        return float(score_N.mean())
    model = LogisticRegression(C=_STRENGTH, fit_intercept=False)
    model.fit(np.tile(features_Nx2, (2, 1)), won, sample_weight=weight)
    return float(model.predict_proba([[0.0, 1.0]])[0, 1])
