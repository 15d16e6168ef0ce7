"""Orbax checkpoints: parameters, optimizer and all that is needed to use them again.

The only module that knows Orbax. A checkpoint of step n holds two trees, `params` and `optimizer`
(moments and step), and JSON beside them: config, taxonomy, template, layout and tokenizer hash.
Decoding reads the parameters alone. Orbax writes under a temporary name and renames, so a killed
save leaves the one before in place.
"""

import os
from collections.abc import Mapping
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from marker_lm.markers.taxonomy import Taxonomy

# What a run has in common with the checkpoint it goes on from: it gives a step its meaning.
RESUMED_WITH = (
    *("seed", "arm", "plan_arms", "template", "markers", "init_from", "model", "lora"),
    *("train.length", "train.batch", "train.optimizer", "train.trainable"),
)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path as Orbax wants it; one with a scheme, such as gs://, is absolute already."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(path))


class CheckpointError(ValueError):
    """A checkpoint is missing or does not belong to what is asked of it."""


class Checkpoints:
    """The checkpoints of one run, in one folder. Use as a context manager.

    Args:
      folder: local or gs:// path, made when missing.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: str | epath.Path, keep: int = 2):
        self.folder = absolute(folder)
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


def save_params(folder: epath.PathLike, params, about: Mapping[str, Any]) -> None:
    """A checkpoint of step 0 that holds parameters alone: it can be decoded, not trained on."""
    path = absolute(folder) / "0"
    ocp.save_checkpointables(path, {"params": params}, custom_metadata=dict(about))


def load_params(folder: str | epath.Path, abstract_params, step: int | None = None):
    """The parameters of a checkpoint, laid out as `abstract_params` (with shardings) says."""
    path, _ = _find(folder, step)
    return ocp.load_checkpointables(path, {"params": abstract_params})["params"]


def load_about(folder: str | epath.Path, step: int | None = None) -> dict[str, Any]:
    """The JSON facts saved beside a checkpoint, with its 'step'. Raises CheckpointError."""
    path, step = _find(folder, step)
    return dict(ocp.checkpointables_metadata(path).custom_metadata) | {"step": step}


def has_checkpoint(folder: str | epath.Path) -> bool:
    """Whether a complete checkpoint lies there."""
    return bool(_steps(absolute(folder)))


def _steps(folder: epath.Path) -> list[int]:
    # An unfinished checkpoint bears a temporary name.
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def _find(folder, step):
    """Path and number of a complete checkpoint; the newest when `step` is None."""
    folder = absolute(folder)
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint; train first or mend --workdir.")
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder} has no step {step}; it has {sorted(steps)}.")
    step = max(steps) if step is None else step
    return folder / str(step), step


def check_resume(now: dict, then: dict) -> None:
    """Raises CheckpointError when a checkpoint is of another config, taxonomy or data.

    Args:
      now: the facts that the run would save.
      then: those of the checkpoint.
    """
    if now["taxonomy_hash"] != then["taxonomy_hash"]:
        taxonomies = [Taxonomy.from_dict(about["taxonomy"]) for about in (then, now)]
        changes = "; ".join(taxonomies[0].diff(taxonomies[1]))
        raise CheckpointError(
            f"the checkpoint has another taxonomy ({changes}); use a new workdir."
        )
    for key in RESUMED_WITH:
        have, want = (_plain(_at(about["config"], key)) for about in (then, now))
        if have != want:
            raise CheckpointError(
                f"the checkpoint was trained with {key}={have}, the config says {want}; "
                "use a new workdir or the old config."
            )
    # The tokenizer is known only once the data is prepared.
    for key in ("data_key", "tokenizer_hash"):
        if key in now and now[key] != then[key]:
            raise CheckpointError(
                f"the checkpoint was trained on other data ({key} is {now[key]}, was {then[key]}): "
                "files, data settings or tokenizer have changed; use a new workdir."
            )


def _at(config: dict, key: str):
    """The value under a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def _plain(value):
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
