"""From a run's folder, or from an exported model, to an Engine."""

import dataclasses
from typing import Any

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from marker_lm.convert.check import check_tokenizer, model_config, own_dtype
from marker_lm.convert.checkpoint import (
    ABOUT_FILE,
    TAXONOMY_FILE,
    TOKENIZER_FOLDER,
    open_pretrained,
)
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.load import load_params as load_pretrained
from marker_lm.convert.safetensors_file import read_json
from marker_lm.data.setup import Setup, make_setup
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.decoding.engine import Engine
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from marker_lm.model.config import ModelConfig
from marker_lm.model.lora import merge
from marker_lm.model.matrix import decoding_params
from marker_lm.sharding.mesh import mesh_here
from marker_lm.sharding.rules import laid_out_params, use_mesh
from marker_lm.training.checkpoints import load_about, load_params


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model and all that belongs to it.

    Attributes:
      params: as in training, LoRA merged, on the mesh.
      model, taxonomy, tokenizer, mesh: of the run.
      config: that it was trained with; of an exported folder only what an Engine needs.
      setup: codec, layout and chat template.
      seen: the values in its training data, None where nothing says so.
    """

    params: Any
    model: ModelConfig
    taxonomy: Taxonomy
    tokenizer: Tokenizer
    mesh: Mesh
    config: ConfigDict
    setup: Setup
    seen: dict | None

    def engine(self, batch: int | None = None, weights: str = "", cache: str = "") -> Engine:
        """An Engine; see `load_engine`."""
        with use_mesh(self.mesh):
            params, model = decoding_params(self.params, self.model, weights)
        return Engine(
            params,
            model,
            self.taxonomy,
            self.setup.codec,
            self.setup.layout,
            self.tokenizer,
            self.mesh,
            batch or self.config.decode.batch,
            self.setup.chat,
            self.seen,
            cache,
        )


def load_engine(
    workdir: epath.PathLike,
    step: int | None = None,
    taxonomy: Taxonomy | None = None,
    batch: int | None = None,
    mesh=None,
    weights: str = "",
    cache: str = "",
) -> tuple[Engine, ConfigDict]:
    """The Engine of a trained run, and the config that it was trained with.

    Args:
      workdir, step, taxonomy, mesh: see `load_model`, which says what it raises, too.
      batch: rows decoded side by side; the config's decode.batch by default.
      weights, cache: 'int8' for weights or key-value cache of a quarter or half the size; the
        compute dtype by default.
    """
    loaded = load_model(workdir, step, taxonomy, mesh)
    return loaded.engine(batch, weights, cache), loaded.config


def load_model(
    workdir: epath.PathLike, step: int | None = None, taxonomy: Taxonomy | None = None, mesh=None
) -> Loaded:
    """What a trained run is made of.

    Args:
      workdir: of `marker-lm train`, or a folder that `marker-lm convert` exported a run to; of that
        one's config only what an Engine needs is there.
      step: of the checkpoint; the newest undamaged one by default.
      taxonomy: that the caller expects; it must be the checkpoint's.
      mesh: where to put the parameters; the config's mesh over all devices by default.

    Raises:
      CheckpointError: no such checkpoint.
      ConvertError: an exported folder is damaged, or holds a model that was exported without
        markers.
      MarkerError: the checkpoint was trained with another taxonomy; the difference is printed.
    """
    path = epath.Path(workdir)
    exported = (path / "config.json").exists()
    about = _read_exported(path) if exported else load_about(path / "checkpoints", step)
    config = ConfigDict(about["config"])
    trained = about["taxonomy"] if exported else Taxonomy.from_dict(about["taxonomy"])
    if taxonomy is not None and taxonomy.hash != trained.hash:
        raise MarkerError(
            f"the checkpoint in {workdir} was trained with another taxonomy than the one given: "
            + "; ".join(trained.diff(taxonomy))
            + ". Decode with the one it was trained with."
        )
    tokenizer = load_tokenizer(path / (TOKENIZER_FOLDER if exported else "tokenizer"))
    if tokenizer.hash != about["tokenizer_hash"]:
        raise ValueError(
            f"the tokenizer in {workdir} is not the one that the checkpoint was trained with; "
            "put that one back or train again."
        )
    mesh = mesh or mesh_here(config.mesh)
    if exported:
        model, params = _load_exported(path, about, tokenizer, mesh)
    else:
        model = ModelConfig.from_dict(about["model"])
        params = load_params(path / "checkpoints", laid_out_params(model, mesh), about["step"])
    params, model = merge(params, model)  # decoding steps are faster without factors
    setup = make_setup(config, trained, tokenizer)
    return Loaded(params, model, trained, tokenizer, mesh, config, setup, about.get("seen"))


def _read_exported(folder: epath.Path) -> dict:
    """marker_lm.json, with the taxonomy."""
    if not (folder / ABOUT_FILE).exists():
        raise ConvertError(
            f"{folder} holds a model without markers (there is no {ABOUT_FILE}); train it with "
            f"--config.init_from={folder}, or make a run of it by `marker-lm convert --to=run`."
        )
    about = read_json(folder / ABOUT_FILE)
    taxonomy = load_taxonomy(str(folder / TAXONOMY_FILE))
    if taxonomy.hash != about["taxonomy_hash"]:
        raise ConvertError(
            f"{folder / TAXONOMY_FILE} is not the taxonomy that the model was trained with: "
            "definitions, values and their order must stay as they were; put that file back."
        )
    return about | {"taxonomy": taxonomy}


def _load_exported(folder: epath.Path, about: dict, tokenizer: Tokenizer, mesh):
    pretrained = open_pretrained(folder)
    model = model_config(pretrained, **{"param_dtype": own_dtype(pretrained)} | about["model"])
    check_tokenizer(tokenizer, model.vocab, str(folder))
    return model, load_pretrained(pretrained, model, mesh)
