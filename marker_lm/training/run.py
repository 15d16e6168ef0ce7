"""From a config to all that a run needs before its first step: data, model, mesh, optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from marker_lm.convert.check import check_tokenizer
from marker_lm.convert.check import model_config as pretrained_config
from marker_lm.convert.checkpoint import config_tokenizer, open_init_from
from marker_lm.convert.families import find_family
from marker_lm.convert.families.family import RUNTIME
from marker_lm.convert.load import load_params, trained_markers, with_marker_rows
from marker_lm.convert.pretrained import Pretrained
from marker_lm.data.cache import Cache
from marker_lm.data.inputs import data_key, file_facts
from marker_lm.data.loader import Batches
from marker_lm.data.prepare import check_cache, prepare
from marker_lm.data.setup import Setup, data_folder, eval_batches, make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.definitions import marker_rows
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.sharding.hosts import host_rows
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.distributed import barrier, is_main
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import new_state
from marker_lm.training.trainable import trained_paths


@dataclasses.dataclass(frozen=True)
class Named:
    """What a config names, read but not yet put together.

    Attributes:
      config: as given.
      folder: of the prepared data.
      taxonomy, pretrained, tokenizer: see the config; the last is None where it is trained.
      about: JSON-able facts that a checkpoint keeps.
    """

    config: ConfigDict
    folder: epath.Path
    taxonomy: Taxonomy
    pretrained: Pretrained | None
    tokenizer: Any
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run needs before its first step.

    Attributes:
      config, about: see Named; `about` is complete now.
      setup: how rows are written.
      rows: int64, those of a batch that this process reads.
      batches: of training.
      steps: how many of them are trained on.
      heldout: batches of the held-out rows, None without any.
      mesh, model, optimizer: as the config says.
      trained: paths of the parameters that are trained.
      pretrained: the model that the run begins from.
      new_rows: the marker tokens that `pretrained` does not know.
    """

    config: ConfigDict
    about: dict[str, Any]
    setup: Setup
    rows: np.ndarray
    batches: Batches
    steps: int
    heldout: Batches | None
    mesh: Mesh
    model: ModelConfig
    trained: frozenset[str]
    optimizer: optax.GradientTransformation
    pretrained: Pretrained | None
    new_rows: list


def read_named(config: ConfigDict, workdir: epath.PathLike) -> Named:
    """Reads what the config names; writes nothing.

    Raises:
      ConvertError: the model that `init_from` names can't be read.
    """
    folder = data_folder(config, workdir)
    taxonomy = load_taxonomy(config.taxonomy)
    pretrained = open_init_from(config)
    tokenizer = config_tokenizer(config, pretrained)
    about = {
        "config": config.to_dict(),
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "data_key": data_key(config, taxonomy, file_facts(config, folder), tokenizer),
    }
    return Named(config, folder, taxonomy, pretrained, tokenizer, about)


def prepare_data(named: Named, log: Callable[[str], None]) -> None:
    """Prepares the data where that was not done; the other processes wait for the first one."""

    def prepare_here():
        prepare(named.config, named.folder, log, pretrained=named.tokenizer)

    if is_main():
        prepare_here()
    barrier("prepared")
    if not is_main():  # nothing is left to do, but in a folder that each host has for itself
        prepare_here()


def make_run(named: Named, log: Callable[[str], None]) -> Run:
    """Puts the run together from prepared data.

    Raises:
      SetupError: no row fits.
      ShardingError: the mesh does not divide the batch.
    """
    config, folder, pretrained = named.config, named.folder, named.pretrained
    their_vocab = pretrained_config(pretrained).vocab if pretrained else 0
    tokenizer = load_tokenizer(folder / "tokenizer")
    setup = make_setup(config, named.taxonomy, tokenizer, their_vocab)
    about = named.about | {"tokenizer_hash": setup.tokenizer.hash}
    if setup.chat is not None:  # decoding may be where the template's file is not
        about["config"]["data"]["chat"]["template"] = setup.chat.template

    mesh = make_mesh(**config.mesh)
    rows = host_rows(mesh, config.train.batch)
    cache = _open(folder / "train", config, setup)
    about["seen"] = cache.manifest.get("seen")  # a cache of an older version has none
    batches = train_batches(config, setup, cache, rows)
    report_plan(batches, log)
    steps = min(len(batches), config.train.steps or len(batches))
    heldout = None
    if config.train.eval_every and (folder / "heldout").exists():
        heldout = eval_batches(config, setup, _open(folder / "heldout", config, setup), rows)
        report_plan(heldout, lambda line: log(f"held out: {line}"))

    model = model_config(config, setup, pretrained)
    about["model"] = dataclasses.asdict(model)
    new_rows = []
    if pretrained:
        check_tokenizer(setup.tokenizer, their_vocab, str(folder))
        about["model_type"] = find_family(pretrained.config).model_type
        about["generation"] = pretrained.generation
        if not trained_markers(pretrained.about, about):
            new_rows = marker_rows(named.taxonomy, setup.codec, setup.tokenizer)
        about["base"] = {"vocab": their_vocab, "new_marker_rows": len(new_rows)}
    return Run(
        config=config,
        about=about,
        setup=setup,
        rows=rows,
        batches=batches,
        steps=steps,
        heldout=heldout,
        mesh=mesh,
        model=model,
        trained=trained_paths(model, config.train.trainable),
        optimizer=make_optimizer(config.train, steps),
        pretrained=pretrained,
        new_rows=new_rows,
    )


def model_config(
    config: ConfigDict, setup: Setup, pretrained: Pretrained | None = None
) -> ModelConfig:
    """The transformer that the config's `model` and `lora` and the vocabulary describe.

    That of a pretrained model is its own; of `model`, the RUNTIME keys count.
    """
    lora = LoRA(**config.lora) if config.lora.rank else None
    length = config.train.length
    if pretrained is None:
        return ModelConfig(vocab=setup.vocab, max_len=length, lora=lora, **config.model)
    runtime = {key: config.model[key] for key in RUNTIME}
    model = pretrained_config(pretrained, vocab=setup.vocab, lora=lora, **runtime)
    return dataclasses.replace(model, max_len=max(length, model.max_len))


def first_state(run: Run, log: Callable[[str], None]) -> dict[str, jax.Array]:
    """The state before the first step: fresh, or with the parameters of the pretrained model."""
    params = None
    if run.pretrained:
        base = dataclasses.replace(run.model, lora=None)
        params = load_params(run.pretrained, base, run.mesh, log)
        params = with_marker_rows(params, run.new_rows)
    return new_state(run.model, run.optimizer, run.mesh, run.config.seed, params, run.trained)


def report_plan(batches: Batches, log: Callable[[str], None]) -> None:
    """Says how full the packed sequences are, and what becomes of rows that do not fit."""
    for line in batches.summary.lines():
        log(line)


def _open(folder: epath.Path, config: ConfigDict, setup: Setup) -> Cache:
    cache = Cache(folder)
    check_cache(cache.manifest, setup.taxonomy, setup.tokenizer, config.template)
    return cache
