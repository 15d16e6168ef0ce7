"""From a run's folder to an Engine."""

import jax
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.setup import make_setup
from marker_lm.data.tokenizer import load_tokenizer
from marker_lm.decoding.engine import Engine
from marker_lm.markers.taxonomy import MarkerError, Taxonomy
from marker_lm.model.params import abstract_arrays
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from marker_lm.training.checkpoints import load_about, load_params
from marker_lm.training.loop import model_config


def load_engine(
    workdir: epath.PathLike,
    step: int | None = None,
    taxonomy: Taxonomy | None = None,
    batch: int | None = None,
    mesh=None,
) -> tuple[Engine, ConfigDict]:
    """The Engine of a trained run, and the config that it was trained with.

    Args:
      workdir: of `marker-lm train`.
      step: of the checkpoint; the newest by default.
      taxonomy: that the caller expects; it must be the checkpoint's.
      batch: rows decoded together; the config's by default.
      mesh: where to put the parameters; the config's mesh over all devices by default.

    Raises:
      CheckpointError: no such checkpoint.
      MarkerError: the checkpoint was trained with another taxonomy; the difference is printed.
    """
    folder = epath.Path(workdir) / "checkpoints"
    about = load_about(folder, step)
    config = ConfigDict(about["config"])
    trained = Taxonomy.from_dict(about["taxonomy"])
    if taxonomy is not None and taxonomy.hash != trained.hash:
        raise MarkerError(
            f"the checkpoint in {workdir} was trained with another taxonomy than the one given: "
            + "; ".join(trained.diff(taxonomy))
            + ". Decode with the one it was trained with."
        )
    tokenizer = load_tokenizer(epath.Path(workdir) / "tokenizer")
    if tokenizer.hash != about["tokenizer_hash"]:
        raise ValueError(
            f"the tokenizer in {workdir} is not the one that the checkpoint was trained with; "
            "put that one back or train again."
        )
    setup = make_setup(config, trained, tokenizer)
    model = model_config(config, setup)
    mesh = mesh or make_mesh(**config.mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract_arrays(model),
        param_shardings(model, mesh),
    )
    params = load_params(folder, abstract, step)
    engine = Engine(
        params,
        model,
        trained,
        setup.codec,
        setup.layout,
        tokenizer,
        mesh,
        batch or config.decode.batch,
        setup.chat,
    )
    return engine, config
