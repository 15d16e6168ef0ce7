"""Goodput: which share of the time since a run first started went into steps that count.

`WORKDIR/history.jsonl` has a line for every start of the run, which outlives kills. Steps that a
later start did again, because they were not saved, do not count; neither do the time to start, to
compile, to wait for data, to evaluate, and that between two starts.
"""

import dataclasses
import json
import time
from collections.abc import Sequence

from etils import epath

from marker_lm.data.whole_files import write_whole


@dataclasses.dataclass
class Attempt:
    """One start of a run.

    Attributes:
      began: seconds since 1970.
      first: step that it began at.
      step: step that it reached.
      step_seconds: what the steps between took.
    """

    began: float
    first: int
    step: int
    step_seconds: float = 0.0


def goodput(attempts: Sequence[Attempt], now: float) -> dict[str, float]:
    """The share of good time, 'goodput', and the number of steps done again, 'lost_steps'."""
    good, lost = 0.0, 0
    kept_until = attempts[-1].step
    for attempt in reversed(attempts):
        done = attempt.step - attempt.first
        kept = max(min(attempt.step, kept_until) - attempt.first, 0)
        good += attempt.step_seconds * kept / max(done, 1)
        lost += done - kept
        kept_until = min(kept_until, attempt.first)
    return {"goodput": good / max(now - attempts[0].began, 1e-9), "lost_steps": lost}


class History:
    """Keeps the history of a run.

    Args:
      workdir: the run's folder.
      began: when this start began, seconds since 1970.
      first: step that it begins at.
    """

    def __init__(self, workdir: epath.PathLike, began: float, first: int):
        self.path = epath.Path(workdir) / "history.jsonl"
        self.attempts = [*read_history(workdir), Attempt(began, first, first)]

    def add(self, step: int, step_seconds: float) -> dict[str, float]:
        """Says that steps up to `step` took so many seconds more; returns the `goodput`."""
        attempt = self.attempts[-1]
        attempt.step = step
        attempt.step_seconds += step_seconds
        lines = (json.dumps(dataclasses.asdict(one)) + "\n" for one in self.attempts)
        write_whole(self.path, "".join(lines).encode())
        return goodput(self.attempts, time.time())


def read_history(workdir: epath.PathLike) -> list[Attempt]:
    """All starts of the run, oldest first; [] when there were none."""
    path = epath.Path(workdir) / "history.jsonl"
    if not path.exists():
        return []
    return [Attempt(**json.loads(line)) for line in path.read_text().splitlines()]
