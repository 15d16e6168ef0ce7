"""A profile of some steps, at a step that the config names or whenever it is asked for."""

import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

ASK_FILE = "profile_now"
_LOOK_EVERY = 2.0  # seconds between two looks for the file: by URL a look takes a while


class Profiler:
    """Writes profiles of this process to WORKDIR/profile; TensorBoard's profile plugin shows them.

    Args:
      workdir: the run's folder; a file `profile_now` that appears there asks for a profile.
      at: number of finished steps before which one begins; 0 for none.
      steps: that a profile shows.
      log: takes lines for people.
    """

    def __init__(self, workdir: epath.PathLike, at: int, steps: int, log: Callable[[str], None]):
        self.workdir, self.at, self.steps, self.log = epath.Path(workdir), at, steps, log
        self._until: int | None = None
        self._looked = -float("inf")

    def before_step(self, done: int) -> None:
        """Begins a profile where one is due; `done` steps are finished."""
        if self._until is None and ((self.at and done == self.at) or self._asked()):
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self._until = done + self.steps

    def after_step(self, done: int, results: Any) -> None:
        """Ends the profile with its last step, when the devices have computed its `results`."""
        if self._until == done:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the profile if there is one."""
        if self._until is not None:
            self._until = None
            jax.profiler.stop_trace()
            self.log(f"a profile is in {self.workdir / 'profile'}")

    def _asked(self) -> bool:
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return False
        self._looked = time.monotonic()
        file = self.workdir / ASK_FILE
        asked = file.exists()
        file.unlink(missing_ok=True)
        return asked
