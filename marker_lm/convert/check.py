"""Whether a checkpoint holds what its config says: names, shapes, vocabulary. Reads no data."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families import Family, find_family
from marker_lm.convert.families.family import RUNTIME
from marker_lm.convert.pretrained import Pretrained
from marker_lm.convert.source import PIECE, TensorSource
from marker_lm.convert.tensors import TheirTensor, tensor_table
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.model.config import ModelConfig

TIED_HEAD = "lm_head.weight"  # of families that never have a head of their own

Table = Mapping[str, list[TheirTensor]]


def model_config(pretrained: Pretrained, **runtime) -> ModelConfig:
    """The ModelConfig of a pretrained model; `runtime` sets or overrides fields of it.

    Raises ConvertError: an unknown architecture, or a config.json that can't be expressed.
    """
    family = find_family(pretrained.config)
    try:
        return ModelConfig(**(family.to_model(pretrained.config) | runtime))
    except (KeyError, TypeError) as error:
        raise ConvertError(
            f"config.json of {pretrained.path} can't be understood as a {family.model_type} model "
            f"({type(error).__name__}: {error}); download it again."
        ) from None


def own_dtype(pretrained: Pretrained) -> str:
    """The dtype that holds all values of a file exactly: 'bfloat16' or 'float32'."""
    source = pretrained.tensors
    names = {source.dtype(name).name for name in source.names()}
    return "bfloat16" if names == {"bfloat16"} else "float32"


def their_tensors(pretrained: Pretrained, config: ModelConfig) -> tuple[Family, Table]:
    """The family of a pretrained model, and which of its tensors is which parameter of `config`.

    The table is that of the file: its vocabulary may be smaller than `config.vocab`.

    Raises ConvertError: `config` has another architecture than the file.
    """
    family = find_family(pretrained.config)
    own = model_config(pretrained)
    free = ("vocab", "max_len", "lora", *RUNTIME)
    for field in dataclasses.fields(own):
        have, want = getattr(own, field.name), getattr(config, field.name)
        if field.name not in free and have != want:
            raise ConvertError(
                f"the checkpoint {pretrained.path} has {field.name}={have}, the model {want}; take "
                "the architecture from the checkpoint."
            )
    if config.vocab < own.vocab:
        raise ConvertError(
            f"the checkpoint {pretrained.path} has vocab={own.vocab}, the model only "
            f"{config.vocab}; rows of a table are never left out."
        )
    return family, tensor_table(family, own)


def check_tensors(
    pretrained: Pretrained, family: Family, table: Table, log: Callable[[str], None] = print
) -> list[str]:
    """Checks names and shapes of all tensors of a file against the table.

    Args:
      log: is told of leftovers that are known to be harmless.

    Returns:
      Names of output heads that are to be equal to the embedding, see `check_tied_head`.

    Raises ConvertError: a missing or an extra tensor, a wrong shape.
    """
    source = pretrained.tensors
    wanted = {tensor.name: tensor for tensors in table.values() for tensor in tensors}
    found = set(source.names())
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ConvertError(
            f"the checkpoint {pretrained.path} lacks {_some(missing)}; see that all its files are "
            "there and that config.json is its own."
        )
    for name, tensor in wanted.items():
        if source.shape(name) != tensor.shape:
            raise ConvertError(
                f"the tensor {name} in {pretrained.path} has shape {source.shape(name)}; "
                f"config.json says {tensor.shape}: mend config.json or take the checkpoint's own."
            )
    extra = sorted(found - wanted.keys())
    buffers = [name for name in extra if re.fullmatch(family.unread, name)]
    head = family.names.get("head", TIED_HEAD)
    heads = [name for name in extra if name == head and "head" not in table]
    unknown = [name for name in extra if name not in {*buffers, *heads}]
    if unknown:
        raise ConvertError(
            f"the checkpoint {pretrained.path} holds {_some(unknown)}, which a model of this "
            "config.json has no place for; see that config.json is its own and that the "
            "architecture has no parts beside the language model."
        )
    if buffers:
        log(f"left out {_some(buffers)}: no parameter of a {family.model_type} text model")
    if heads:
        log(f"left out {heads[0]}: config.json ties it to the embedding")
    return heads


def check_tied_head(source: TensorSource, head: str, embedding: str) -> None:
    """Raises ConvertError when a head that config.json ties to the embedding differs from it."""
    rows = source.shape(embedding)[0]
    same = source.shape(head) == source.shape(embedding)
    step = max(PIECE // (source.shape(embedding)[1] * source.dtype(embedding).itemsize), 1)
    for start in range(0, rows if same else 0, step):
        part = (slice(start, min(start + step, rows)), slice(None))
        same = same and np.array_equal(source.read(head, part), source.read(embedding, part))
    if not same:
        raise ConvertError(
            f"config.json ties the output head to the embedding, but the tensor {head} differs "
            f"from {embedding}; set tie_word_embeddings to false in config.json."
        )


def check_tokenizer(tokenizer: Tokenizer, vocab: int, path: str) -> None:
    """Raises ConvertError when a tokenizer has ids that the embedding has no rows for."""
    if tokenizer.size > vocab:
        raise ConvertError(
            f"the tokenizer of {path} has {tokenizer.size} ids, but the embedding has {vocab} rows "
            "(vocab_size in config.json); take the tokenizer that belongs to this checkpoint."
        )


def _some(names: list[str]) -> str:
    """Names in an error: the first, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"the tensor {names[0]}{more}"
