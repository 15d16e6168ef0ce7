"""Orbax checkpoints: parameters, optimizer and all that is needed to use them again.

The only module that knows Orbax. A checkpoint of step n holds two trees, `params` and `optimizer`
(moments, guard and step), and JSON beside them: config, taxonomy, template, layout and tokenizer
hash. Decoding reads the parameters alone. Orbax writes under a temporary name and renames; then
sizes and checksums are added (sums.py), without which a checkpoint does not count. So a killed save
leaves the one before in place, and a damaged file is known.
"""

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from marker_lm.training.distributed import barrier, gather, is_main
from marker_lm.training.sums import find_faults, is_finished, write_sums


def absolute(path: epath.PathLike) -> epath.Path:
    """The path as Orbax wants it; one with a scheme, such as gs://, is absolute already."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(path))


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or does not belong to what is asked of it.

    `missing`: there is none, damaged or not.
    """

    def __init__(self, message: str, missing: bool = False):
        super().__init__(message)
        self.missing = missing


class Checkpoints:
    """The checkpoints of one run, in one folder. Use as a context manager.

    Args:
      folder: local or gs:// path, made when missing.
      keep: how many of the newest are kept; at least 2, so that a damaged one has another before.
      keep_every: those of its multiples are kept for ever; 0 for none.

    Raises:
      CheckpointError: keep is too small.
    """

    def __init__(self, folder: str | epath.Path, keep: int = 2, keep_every: int = 0):
        if keep < 2:
            raise CheckpointError(
                f"train.keep={keep}: keep at least 2 checkpoints; where the newest is damaged, the "
                "one before it is used."
            )
        self.folder = absolute(folder)
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._finisher = ThreadPoolExecutor(1, "finish-checkpoint")
        self._running: Future | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:
            self._finisher.shutdown()
            self._orbax.close()

    def latest_step(self) -> int | None:
        """The newest step that was saved here or found at the start, or None."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts saving `state` as of `step`; returns as soon as the arrays are copied.

        Waits for the save before it where that is not finished yet.

        Args:
          step: number of finished steps.
          state: {'params', 'opt_state', 'guard', 'step'}.
          about: JSON-able facts to keep beside the arrays.
        """
        self.wait()
        if self.latest_step() == step:
            return
        trees = {
            "params": state["params"],
            "optimizer": {key: x for key, x in state.items() if key != "params"},
        }
        written = self._orbax.save_checkpointables_async(
            step, trees, force=True, custom_metadata=dict(about)
        )

        def finish() -> None:
            written.result()
            write_sums(self.folder / str(step), jax.process_index(), jax.process_count())

        self._running = self._finisher.submit(finish)

    def wait(self) -> None:
        """Returns when the running save is on disk; raises what it failed of."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def restore(self, step: int, abstract_state) -> dict[str, Any]:
        """The state of `step`, laid out as `abstract_state` (with shardings) says."""
        trees = self._orbax.load_checkpointables(
            step,
            {
                "params": abstract_state["params"],
                "optimizer": {k: x for k, x in abstract_state.items() if k != "params"},
            },
        )
        return {"params": trees["params"], **trees["optimizer"]}


def save_params(folder: epath.PathLike, params, about: Mapping[str, Any]) -> None:
    """A checkpoint of step 0 that holds parameters alone: it can be decoded, not trained on."""
    path = absolute(folder) / "0"
    ocp.save_checkpointables(path, {"params": params}, custom_metadata=dict(about))
    write_sums(path)


def load_params(folder: epath.PathLike, abstract_params, step: int | None = None):
    """The parameters of a checkpoint, laid out as `abstract_params` (with shardings) says.

    `step` is what `load_about` gave, which has checked the files; None finds and checks it here.
    """
    if step is None:
        step = find_sound(folder, parts=("params",))
    _check_step(folder, step, _steps(folder))
    path = _path(folder, step)
    return ocp.load_checkpointables(path, {"params": abstract_params})["params"]


def load_about(folder: epath.PathLike, step: int | None = None) -> dict[str, Any]:
    """The JSON facts saved beside a checkpoint, with its 'step'.

    Args:
      folder: of the checkpoints.
      step: which one; by default the newest whose parameters are undamaged.

    Raises:
      CheckpointError: there is none, or all are damaged, or that of `step` is.
    """
    step = find_sound(folder, step, parts=("params",))
    return read_about(folder, step)


def read_about(folder: epath.PathLike, step: int) -> dict[str, Any]:
    """As `load_about`, of a checkpoint that was checked."""
    return dict(ocp.checkpointables_metadata(_path(folder, step)).custom_metadata) | {"step": step}


def has_checkpoint(folder: epath.PathLike) -> bool:
    """Whether a finished checkpoint lies there."""
    return any(is_finished(_path(folder, step)) for step in _steps(folder))


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def find_sound(
    folder: epath.PathLike,
    step: int | None = None,
    parts: Collection[str] = (),
    log: Callable[[str], None] = _warn,
) -> int:
    """The newest step whose checkpoint is finished and undamaged; processes share the work.

    Args:
      folder: of the checkpoints.
      step: that one, and no other.
      parts: see `sums.find_faults`.
      log: takes a line for each fault.

    Raises:
      CheckpointError: there is none, or not that one, or all are damaged.
    """
    # What one process sees goes for all: they must not choose differently.
    steps = json.loads(gather("steps", json.dumps(_steps(folder)))[0])
    if step is not None:
        _check_step(folder, step, steps)
    damaged = False
    for one in [step] if step is not None else reversed(steps):
        finished = is_finished(_path(folder, one))
        here = find_faults(_path(folder, one), parts, jax.process_index(), jax.process_count())
        faults = sorted(
            {fault for found in gather("faults", json.dumps(here)) for fault in json.loads(found)}
        )
        if not faults:
            return one
        damaged |= finished
        what = "is damaged" if finished else "was not saved to its end"
        for fault in faults:
            log(f"checkpoint {one} in {folder} {what}: {fault}")
    if step is not None or damaged:
        which = f"checkpoint {step}" if step is not None else "every checkpoint"
        raise CheckpointError(
            f"{which} in {folder} is damaged ({faults[0]}); put the files back, or use another "
            "workdir to begin anew."
        )
    raise CheckpointError(
        f"{folder} holds no checkpoint; train first or mend --workdir.", missing=True
    )


def resume_step(folder: epath.PathLike, log: Callable[[str], None]) -> int:
    """Where a run goes on from: the newest undamaged step, or 0 where none was finished.

    Raises:
      CheckpointError: there are checkpoints, and all are damaged.
    """
    try:
        return find_sound(folder, log=log)
    except CheckpointError as error:
        if error.missing:
            return 0
        raise


def set_aside(folder: epath.PathLike, step: int, log: Callable[[str], None]) -> None:
    """Makes room to go on from `step`, the newest undamaged one.

    Newer checkpoints are damaged: the last of them is kept under the name STEP.damaged. Older ones
    without sums are what a kill left while they were deleted.
    """
    if is_main():
        for one in _steps(folder):
            path = _path(folder, one)
            if one < step and not is_finished(path):
                path.rmtree()
            elif one > step:
                for before in absolute(folder).glob("*.damaged"):
                    before.rmtree()
                path.rename(absolute(folder) / f"{one}.damaged")
                log(f"checkpoint {one} is now called {one}.damaged")
    barrier("set-aside")


def _steps(folder: epath.PathLike) -> list[int]:
    """Steps of the checkpoints, rising. One that is being written bears a temporary name."""
    folder = absolute(folder)
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _check_step(folder: epath.PathLike, step: int, steps: list[int]) -> None:
    if step not in steps:
        raise CheckpointError(f"{folder} has no step {step}; it has {steps}.", missing=True)


def _path(folder: epath.PathLike, step: int) -> epath.Path:
    return absolute(folder) / str(step)
