"""Orbax checkpoints: parameters, optimizer and all that is needed to use them again.

The only module that knows Orbax. A checkpoint of step n holds two trees, `params` and `optimizer`
(moments and step), and JSON beside them: config, taxonomy, template, layout and tokenizer hash. Decoding
reads the parameters alone. Orbax writes under a temporary name and renames, so a killed save leaves
the one before in place.
"""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp


class CheckpointError(ValueError):
    """A checkpoint is missing or does not belong to what is asked of it."""


class Checkpoints:
    """The checkpoints of one run, in one folder. Use as a context manager.

    Args:
      folder: local or gs:// path, made when missing.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: str | epath.Path, keep: int = 2):
        self.folder = epath.Path(folder)
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._orbax.close()

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts saving `state` as of `step`; returns as soon as the arrays are copied.

        Args:
          step: number of finished steps.
          state: {'params', 'opt_state', 'step'}.
          about: JSON-able facts to keep beside the arrays.
        """
        if self.latest_step() == step:
            return
        trees = {
            "params": state["params"],
            "optimizer": {"opt_state": state["opt_state"], "step": state["step"]},
        }
        self._orbax.save_checkpointables_async(step, trees, force=True, custom_metadata=dict(about))

    def wait(self) -> None:
        """Returns when the running save is on disk."""
        self._orbax.wait()

    def restore(self, step: int, abstract_state) -> dict[str, Any]:
        """The state of `step`, laid out as `abstract_state` (with shardings) says."""
        trees = self._orbax.load_checkpointables(
            step,
            {
                "params": abstract_state["params"],
                "optimizer": {k: abstract_state[k] for k in ("opt_state", "step")},
            },
        )
        return {"params": trees["params"], **trees["optimizer"]}


def load_params(folder: str | epath.Path, abstract_params, step: int | None = None):
    """The parameters of a checkpoint, laid out as `abstract_params` (with shardings) says."""
    path, _ = _find(folder, step)
    return ocp.load_checkpointables(path, {"params": abstract_params})["params"]


def load_about(folder: str | epath.Path, step: int | None = None) -> dict[str, Any]:
    """The JSON facts saved beside a checkpoint, with its 'step'. Raises CheckpointError."""
    path, step = _find(folder, step)
    return dict(ocp.checkpointables_metadata(path).custom_metadata) | {"step": step}


def _find(folder, step):
    """Path and number of a complete checkpoint; the newest when `step` is None."""
    folder = epath.Path(folder)
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint; train first or mend --workdir.")
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder} has no step {step}; it has {sorted(steps)}.")
    step = max(steps) if step is None else step
    return folder / str(step), step


def same_tree(a, b) -> bool:
    """Whether two trees hold the same arrays to the last bit."""
    equal = jax.tree.map(lambda x, y: x.shape == y.shape and bool((x == y).all()), a, b)
    return all(jax.tree.leaves(equal))
