"""What a run must have in common with the checkpoint that it goes on from."""

from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.training.checkpoints import CheckpointError

# These give a step its meaning. The mesh is not among them: a run may go on on other devices.
RESUMED_WITH = (
    *(
        "seed",
        "arm",
        "plan_arms",
        "plan_data",
        "plan_dropout",
        "template",
        "markers",
        "init_from",
        "model",
        "lora",
    ),
    *("train.length", "train.batch", "train.optimizer", "train.trainable"),
)
# Of the model: how it is computed, which other devices may ask for.
MAY_CHANGE = ("scan", "remat", "ff_blocks")


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
        have, want = (_comparable(about["config"], key) for about in (then, now))
        # None: the key is younger than the checkpoint, which is as its default says.
        if have is not None and have != want:
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


def _comparable(config: dict, key: str):
    """The value under a dotted key, without what may change from one start to the next."""
    value = config
    for part in key.split("."):
        value = value.get(part)
    if key == "model":
        value = {name: x for name, x in value.items() if name not in MAY_CHANGE}
    return _plain(value)


def _plain(value):
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
