"""The metrics of the steps between two records."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from marker_lm.training import guard


class Window:
    """Sums what steps return; `take` gives means and rates.

    A step's metrics are fetched when the next step is under way, so that devices never wait.
    Skipped steps are told to `log` and counted; they have no part in the means.

    Args:
      train: the `train` section of a config.
      log: takes lines for people.
      peak: FLOPs a second of all devices at best; None where it is not known.
    """

    def __init__(self, train: ConfigDict, log: Callable[[str], None], peak: float | None = None):
        self.train, self.log, self.peak = train, log, peak
        self._waiting: tuple | None = None
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = self.skipped = 0
        self.waited = 0.0  # seconds, for data
        self.began = time.monotonic()

    def add(self, step: int, metrics) -> None:
        """Takes what a step returned, and counts the step before.

        Raises TrainingDiverged when the guard stops the run at that one.
        """
        self.settle()
        self._waiting = (step, metrics)

    def settle(self) -> None:
        """Counts all steps that were added: nothing that the guard has not seen may be saved.

        Raises TrainingDiverged when the guard stops the run.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        step, metrics = waiting[0], jax.device_get(waiting[1])
        if line := guard.verdict(step, metrics, self.train):
            self.log(line)
            self.skipped += 1
            return
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def take(self) -> tuple[dict[str, float], float]:
        """The record of all steps since the last one, and the seconds that they took."""
        self.settle()
        sums, seconds = self.sums, time.monotonic() - self.began
        record = {"skipped": float(self.skipped), "data_wait_share": self.waited / seconds}
        if self.count:
            slots = self.count * self.train.batch * self.train.length
            trained = sums["completion_tokens"] + sums["completion_markers_tokens"]
            record |= {
                "loss": sums["loss"] / self.count,
                "grad_norm": sums["grad_norm"] / self.count,
                "trained_tokens_per_second": trained / seconds,
                "tokens_per_second": sums["tokens"] / seconds,
                "padding_share": 1 - sums["tokens"] / slots,
                **nats_per_token(sums),
            }
            if self.peak:
                record["useful_token_mfu"] = sums["flops"] / seconds / self.peak
        step_seconds = seconds - self.waited
        self._restart()
        return record, step_seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count as time of training."""
        start = time.monotonic()
        yield
        self.began += time.monotonic() - start

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """What is done inside is waiting for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start


def nats_per_token(sums) -> dict[str, float]:
    """Mean nats of an answer token and of a marker token (left out where there are none)."""
    names = {"answer_nats": "completion", "marker_nats": "completion_markers"}
    return {
        name: sums[f"{kind}_nats"] / sums[f"{kind}_tokens"]
        for name, kind in names.items()
        if sums[f"{kind}_tokens"]
    }


def describe(record) -> str:
    """A record in a line of progress."""
    if "loss" not in record:
        return f"{record['skipped']:.0f} steps skipped"
    answer = f"answer {record['answer_nats']:.3f} nats, " if "answer_nats" in record else ""
    mfu = f", MFU {record['useful_token_mfu']:.1%}" if "useful_token_mfu" in record else ""
    return f"loss {record['loss']:.3f}, {answer}{record['tokens_per_second']:.0f} tokens/s{mfu}"
