"""What a run tells of itself: metrics, progress, profiles."""

from collections.abc import Callable
from typing import Any

from etils import epath

from marker_lm.model.params import parameter_count
from marker_lm.progress import Progress
from marker_lm.sharding.chips import find_chip
from marker_lm.training.distributed import is_main, process_count
from marker_lm.training.goodput import History
from marker_lm.training.metrics import make_writers
from marker_lm.training.profiling import Profiler
from marker_lm.training.run import Run
from marker_lm.training.window import Window, describe


class Reports:
    """What a run tells while it trains. Of several processes the first one alone talks and writes.

    Use as a context manager.

    Args:
      run: that is trained.
      workdir: the run's folder.
      start: step that training begins at.
      began: when the run was started, seconds since 1970.
      log: takes lines for people.

    Attributes:
      log: as given.
      window: takes the metrics of every step, on all processes.
    """

    def __init__(
        self,
        run: Run,
        workdir: epath.Path,
        start: int,
        began: float,
        log: Callable[[str], None],
    ):
        self.log = log
        config = run.config.train
        chip = find_chip(run.mesh.devices.flat[0].device_kind)
        self.window = Window(config, log, chip and chip.bf16_flops * run.mesh.size)
        self._talks = is_main()
        if self._talks:
            self._history = History(workdir, began, start)
            self._writers = make_writers(run.config, workdir, start)
            self._profiler = Profiler(workdir, config.profile_at, config.profile_steps, log)
            self._progress = Progress(f"train {run.config.arm}", run.steps, start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._talks:
            self._profiler.close()
            self._progress.close()
            for writer in self._writers:
                writer.close()

    def before_step(self, done: int) -> None:
        """Begins a profile where one is due; `done` steps are finished."""
        if self._talks:
            self._profiler.before_step(done)

    def after_step(self, done: int, metrics: Any) -> None:
        """Ends the profile where it is long enough."""
        if self._talks:
            self._profiler.after_step(done, metrics)

    def take(self, done: int) -> dict[str, float]:
        """The record of the steps since the last one, which the progress shows too."""
        record, seconds = self.window.take()
        if self._talks:
            record |= self._history.add(done, seconds)
            self._progress.update(done, describe(record))
        return record

    def write(self, done: int, record: dict[str, float]) -> None:
        """Writes a record wherever metrics go."""
        if self._talks:
            for writer in self._writers:
                writer.write(done, record)


def report_run(run: Run, log: Callable[[str], None]) -> None:
    """Says what is trained, for how long, and on what."""
    train, processes = run.config.train, process_count()
    axes = ", ".join(f"{axis}={size}" for axis, size in run.mesh.shape.items() if size > 1)
    log(
        f"{parameter_count(run.model) / 1e6:.2f}M parameters, "
        f"{parameter_count(run.model, run.trained) / 1e6:.2f}M of them trained, "
        f"arm '{run.config.arm}', {run.steps} steps of {train.batch} x {train.length} slots "
        f"on {run.mesh.size} device(s)"
        + (f" ({axes})" if axes else "")
        + (f" of {processes} processes" if processes > 1 else "")
    )
