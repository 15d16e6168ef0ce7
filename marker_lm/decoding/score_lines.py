"""From rows of a file to lines of scores; a row that can't be scored gets an error instead."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marker_lm.data.example import RowError
from marker_lm.decoding.priors import divide_out, mean_posterior
from marker_lm.decoding.scoring import Scorer

Placed = tuple[str, dict | RowError]  # where a row stands, and the row, see `rows.read_rows`
PRIOR_ROWS = 512  # whose posteriors are averaged for a prior


@dataclasses.dataclass(frozen=True)
class ScoreLines:
    """What is asked about each row.

    Attributes:
      scorer: of the model.
      category: whose posterior is asked for; '' for log-likelihoods.
      given: categories of which the row's own value is known.
      answered: the completion is known too.
      prior: value -> share, divided out of the posterior.
      compare: the likeliest value with the row's own.
      shown: categories that stand on the prompt side too, for log-likelihoods.
      tokens: of log-likelihoods, also those of every token.
    """

    scorer: Scorer
    category: str = ""
    given: Sequence[str] = ()
    answered: bool = False
    prior: Mapping[str, float] | None = None
    compare: bool = False
    shown: Sequence[str] = ()
    tokens: bool = False

    def lines(self, placed: Sequence[Placed]) -> list[dict[str, Any]]:
        """The line of each row: its id and prompt, and what was asked or an 'error'."""
        good = [row for _, row in placed if isinstance(row, dict)]
        made = iter(one_by_one(self._posteriors if self.category else self._scores, good))
        lines = []
        for place, row in placed:
            if isinstance(row, RowError):
                lines.append({"error": f"{place}: {row}"})
                continue
            line = next(made)
            about = {key: row[key] for key in ("id", "prompt") if key in row}
            lines.append(about | ({"error": f"{place}: {line}"} if isinstance(line, str) else line))
        return lines

    def mean_prior(self, placed: Sequence[Placed]) -> dict[str, float]:
        """The mean posterior, given the prompts alone, of rows from all over the file.

        Raises ValueError where no row has a posterior.
        """
        good = [row for _, row in placed if isinstance(row, dict)]
        chosen = good[:: max(1, -(-len(good) // PRIOR_ROWS))]
        prompts = dataclasses.replace(self, answered=False)
        found = [p for p in one_by_one(prompts._posterior, chosen) if not isinstance(p, str)]
        if not found:
            raise ValueError("no row has a posterior that a prior could be the mean of.")
        return mean_posterior(found)

    def _scores(self, rows: list[dict]) -> list[dict]:
        columns = ([row[name] for row in rows] for name in ("prompt", "completion", "markers"))
        lines = []
        for score in self.scorer.score(*columns, self.shown):
            lines.append({"nats": score.nats, "tokens": score.tokens})
            if self.tokens:
                lines[-1]["pieces"] = self.scorer.describe(score)
        return lines

    def _posteriors(self, rows: list[dict]) -> list[dict]:
        lines = [{"true": self._true(row)} if self.compare else {} for row in rows]
        for line, posterior in zip(lines, self._posterior(rows), strict=True):
            line["posterior"] = posterior
            if self.prior is not None:
                line["without_prior"] = divide_out(posterior, self.prior)
            if self.compare:
                best = max(posterior, key=posterior.get)
                line |= {"inferred": best, "probability": posterior[best]}
        return lines

    def _posterior(self, rows: list[dict]) -> list[dict[str, float]]:
        given = [{c: r["markers"][c] for c in self.given if c in r["markers"]} for r in rows]
        completions = [row["completion"] for row in rows] if self.answered else None
        prompts = [row["prompt"] for row in rows]
        return self.scorer.posterior(prompts, self.category, given, completions)

    def _true(self, row: dict) -> str:
        if self.category not in row["markers"]:
            raise ValueError(f"the row has no marker '{self.category}' to compare with.")
        return self.scorer.engine.taxonomy.check(self.category, row["markers"][self.category])


def one_by_one(function: Callable[[list], list], rows: list) -> list:
    """function(rows), where a row that it can't take (a ValueError) has the reason instead.

    It checks all rows before it computes, so to halve them costs little.
    """
    try:
        return function(rows)
    except ValueError as error:
        if len(rows) == 1:
            return [str(error)]
        half = len(rows) // 2
        return one_by_one(function, rows[:half]) + one_by_one(function, rows[half:])
