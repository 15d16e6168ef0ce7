"""The programs of a run, lowered for a pod without data, weights or devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from marker_lm.convert.check import model_config as pretrained_config
from marker_lm.convert.checkpoint import config_tokenizer, open_init_from
from marker_lm.convert.pretrained import Pretrained
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import TRAINERS
from marker_lm.decoding.steps import extend
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.markers.template import reserved_tokens
from marker_lm.model.config import ModelConfig
from marker_lm.model.matrix import decoding_config
from marker_lm.plan.topology import Topology
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import device_bytes, laid_out_cache, laid_out_decoding, use_mesh
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.run import model_config
from marker_lm.training.step import abstract_batch, abstract_state, make_train_step
from marker_lm.training.trainable import split, trained_paths

PROGRAMS = ("train", "decode")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Rows of a model's tables, as `data.setup.Setup` gives them where there is data."""

    vocab: int


def vocabulary(config: ConfigDict, pretrained: Pretrained | None) -> Vocabulary:
    """The rows that the tables will have, without data: those of `Setup.vocab`.

    A tokenizer that is to be trained counts data.vocab_size ids: it may have less in the end.
    """
    compact = config.template == "compact"
    markers = len(reserved_tokens(load_taxonomy(config.taxonomy))) if compact else 0
    theirs = pretrained_config(pretrained).vocab if pretrained else 0
    if config.data.tokenizer in TRAINERS:
        ids = config.data.vocab_size
    elif config.data.tokenizer != "pretrained":
        ids = load_tokenizer(config.data.tokenizer).size
    elif str(config.init_from).endswith(".json"):
        ids = theirs  # an architecture without a tokenizer: as many ids as rows
    else:
        ids = config_tokenizer(config, pretrained).size
    ids += markers
    return Vocabulary(theirs if ids <= theirs else -(-ids // 128) * 128)


def planned_model(config: ConfigDict) -> ModelConfig:
    """The transformer that `marker-lm train` would make of a config."""
    pretrained = open_init_from(config)
    return model_config(config, vocabulary(config, pretrained), pretrained)


def planned_mesh(config: ConfigDict, topology: Topology):
    """The config's mesh on the devices of a topology. Raises ValueError where it does not fit."""
    return make_mesh(**config.mesh, devices=topology.devices())


def lower(config: ConfigDict, topology: Topology, program: str):
    """A program of PROGRAMS, lowered, and what its arguments take of a device.

    'train' is the step of `marker-lm train`; 'decode' reads one token of each of decode.batch rows
    after caches of train.length tokens.

    Returns:
      `jax.stages.Lowered`, and bytes by what they are: 'parameters' ('trained' are those of them
      that move), 'optimizer' and 'batch', or 'parameters' and 'cache'.
    """
    model, mesh = planned_model(config), planned_mesh(config, topology)
    if program == "train":
        trained = trained_paths(model, config.train.trainable)
        optimizer = make_optimizer(config.train, 1000)  # the schedule's length changes no shape
        state = abstract_state(model, optimizer, mesh, trained)
        batch = abstract_batch(config.train, mesh)
        step = make_train_step(model, optimizer, mesh, config.train, trained)
        rest = {name: part for name, part in state.items() if name != "params"}
        moved, _ = split(state["params"], trained)
        sizes = {"parameters": state["params"], "trained": moved, "optimizer": rest, "batch": batch}
        lowered = step.lower(state, batch)
    else:
        model = decoding_config(dataclasses.replace(model, lora=None))  # an engine merges it
        params = laid_out_decoding(model, mesh)
        rows, size = config.decode.batch, config.train.length
        tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
        real = jax.ShapeDtypeStruct((rows, 1), jnp.bool)
        cache = laid_out_cache(model, mesh, rows, size)
        with use_mesh(mesh):
            step = jax.jit(functools.partial(extend, model), donate_argnums=1)
            lowered = step.lower(params, cache, tokens, real)
        sizes = {"parameters": params, "cache": cache}
    return lowered, {name: device_bytes(tree) for name, tree in sizes.items()}
