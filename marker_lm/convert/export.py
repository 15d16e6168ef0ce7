"""A model of ours as a Hugging Face folder: weights, config, tokenizer, and its markers beside.

`transformers` reads the folder, and so does `marker_lm`: taxonomy.yaml and marker_lm.json hold what
an Engine needs more.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from etils import epath

from marker_lm.convert.check import check_tokenizer
from marker_lm.convert.checkpoint import ABOUT_FILE, TAXONOMY_FILE, TOKENIZER_FOLDER
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families import FAMILIES, Family, family_of
from marker_lm.convert.safetensors_writer import (
    LARGEST_FILE,
    Planned,
    plan_files,
    write_file,
    write_index,
)
from marker_lm.convert.source import PIECE
from marker_lm.convert.tensors import TheirTensor, tensor_table
from marker_lm.data.chat import load_chat
from marker_lm.data.tokenizers.base import Tokenizer, TokenizerError
from marker_lm.data.tokenizers.export import as_hf, with_marker_tokens
from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.model.config import DTYPES, ModelConfig
from marker_lm.model.lora import merge
from marker_lm.model.params import abstract_params
from marker_lm.progress import Progress
from marker_lm.sharding.rules import replicated

# Sections of a training config that an Engine and its verbs read.
ENGINE_KEYS = ("arm", "plan_arms", "template", "markers", "mesh", "decode")
ENGINE_DATA_KEYS = ("separator", "chat")


def export(
    folder: epath.PathLike,
    params,
    config: ModelConfig,
    tokenizer: Tokenizer,
    taxonomy: Taxonomy | None = None,
    train_config: Mapping[str, Any] | None = None,
    seen: Mapping[str, Any] | None = None,
    *,
    model_type: str = "",
    generation: Mapping[str, Any] | None = None,
    dtype: str = "",
    largest_file: int = LARGEST_FILE,
    log: Callable[[str], None] = print,
) -> Family:
    """Writes a Hugging Face folder; it is there whole, or not at all.

    On several hosts, all call this and the first one writes.

    Args:
      folder: local or gs://, which must not exist yet.
      params, config: of the model; a LoRA is merged.
      tokenizer: is saved beside the weights, see `save_tokenizer`.
      taxonomy, train_config: of the run; None for a model without markers.
      seen: values of the markers in its training rows, None where they are not known.
      model_type: the family to write; by default the plainest one that can express the model.
      generation: as in generation_config.json; token ids are filled in.
      dtype: of the file; 'bfloat16' or 'float32', the parameters' own by default.
      largest_file: bytes of a file of weights, at most.
      log: takes lines for people.

    Returns:
      The family that was written.

    Raises ConvertError: the folder exists; no family can express the model; a tokenizer with more
    ids than the embedding has rows.
    """
    params, config = merge(params, config)
    check_tokenizer(tokenizer, config.vocab, str(folder))
    if (dtype or config.param_dtype) not in DTYPES:
        raise ConvertError(f"the dtype '{dtype}' is not written; choose {' or '.join(DTYPES)}.")
    family = find_writer(config, model_type)
    dtype = dtype or config.param_dtype
    table = tensor_table(family, config)
    planned = [
        Planned(tensor.name, tensor.shape, jnp.dtype(dtype))
        for tensors in table.values()
        for tensor in tensors
    ]
    places = {
        tensor.name: (path, layer, tensor)
        for path, tensors in table.items()
        for layer, tensor in enumerate(tensors)
    }
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): array
        for path, array in jax.tree_util.tree_leaves_with_path(params)
    }
    stacked = {
        jax.tree_util.keystr(path, simple=True, separator="/"): info.axes[0] == "layers"
        for path, info in jax.tree_util.tree_leaves_with_path(abstract_params(config))
    }
    files = plan_files(planned, largest_file)
    first = jax.process_index() == 0

    with whole_folder(folder) if first else contextlib.nullcontext() as out:
        with Progress("export", len(planned)) as progress:

            def pieces(tensor: Planned) -> Iterator[np.ndarray]:
                path, layer, theirs = places[tensor.name]
                at = layer if stacked[path] else None
                yield from host_pieces(arrays[path], at, theirs, tensor.dtype)
                progress.update(progress.done + 1, tensor.name)

            for file, tensors in files.items():
                if first:
                    write_file(out / file, tensors, pieces)
                else:  # gathering is the work of all hosts
                    for tensor in tensors:
                        for _ in pieces(tensor):
                            pass
        if first:
            write_index(out, files)
            compact = taxonomy is not None and train_config["template"] == "compact"
            save_tokenizer(out, tokenizer, taxonomy if compact else None, log)
            section = train_config["data"].get("chat", {}) if train_config else {}
            chat = load_chat(section, tokenizer)
            if chat is not None:  # that of the run, which need not be the tokenizer's own
                (out / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
            ends = (
                [tokenizer.eos_id] if chat is None else [chat.end_id(tokenizer), tokenizer.eos_id]
            )
            _write_json(
                out / "generation_config.json",
                _generation(tokenizer, [*ends, tokenizer.eos_id], generation),
            )
            if taxonomy is not None:
                write_taxonomy(out / TAXONOMY_FILE, taxonomy)
                about = engine_facts(config, tokenizer, taxonomy, train_config, seen)
                _write_json(out / ABOUT_FILE, about)
            # The last one: a folder without it is not taken for a model.
            _write_json(out / "config.json", _config(family, config, tokenizer, dtype))
    return family


def save_tokenizer(
    folder: epath.Path,
    tokenizer: Tokenizer,
    marked: Taxonomy | None,
    log: Callable[[str], None] = print,
) -> None:
    """Saves a tokenizer twice: as tokenizer.json for others, and as it is for marker_lm.

    Args:
      marked: the reserved marker tokens of this taxonomy are added for others, who then can write
        them; in marker_lm no text may become a marker.
      log: is told when the tokenizer can't be a tokenizer.json; then others get it as it is.
    """
    tokenizer.save(folder / TOKENIZER_FOLDER)
    try:
        served = as_hf(tokenizer) if marked is None else with_marker_tokens(tokenizer, marked)
    except TokenizerError as error:
        log(f"there is no tokenizer.json: {error}")
        served = tokenizer
    served.save(folder)


def find_writer(config: ModelConfig, model_type: str = "") -> Family:
    """The family that a model is written as: the named one, or the plainest that can express it."""
    if not model_type:
        return family_of(config)
    if model_type not in FAMILIES:
        raise ConvertError(f"there is no family '{model_type}'; choose {', '.join(FAMILIES)}.")
    return FAMILIES[model_type]


def host_pieces(
    array: jax.Array, layer: int | None, tensor: TheirTensor, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """One tensor of theirs, as consecutive parts on the host: a layer whole, a table in rows."""
    layout = replicated(array.sharding.mesh) if hasattr(array.sharding, "mesh") else None
    if layer is not None:
        one = _take(array, layer, size=1, dtype=dtype, layout=layout)
        yield tensor.to_theirs(np.asarray(one.addressable_data(0))[0])
        return
    rows = array.shape[0]
    step = max(PIECE * rows // (array.size * dtype.itemsize), 1)
    for start in range(0, rows, step):
        size = min(step, rows - start)
        part = _take(array, start, size=size, dtype=dtype, layout=layout)
        yield np.asarray(part.addressable_data(0))


@functools.partial(jax.jit, static_argnames=("size", "dtype", "layout"))
def _take(array, start, *, size, dtype, layout):
    """`size` entries of the first axis from `start`, on every device."""
    part = jax.lax.dynamic_slice_in_dim(array, start, size).astype(dtype)
    return part if layout is None else jax.lax.with_sharding_constraint(part, layout)


@contextlib.contextmanager
def whole_folder(folder: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a folder to write to, which becomes `folder` when the block ends well.

    Object stores cannot rename a folder: there files are written in place, and config.json comes
    last.

    Raises ConvertError: something is there already.
    """
    final = epath.Path(folder)
    if final.exists():
        raise ConvertError(f"{folder} is there already; remove it or choose another folder.")
    if "://" in str(folder):
        final.mkdir(parents=True, exist_ok=True)
        yield final
        return
    beside = final.parent / f"{final.name}.partial"
    beside.rmtree(missing_ok=True)
    beside.mkdir(parents=True)
    try:
        yield beside
    except BaseException:
        beside.rmtree()
        raise
    beside.rename(final)


def write_taxonomy(path: epath.Path, taxonomy: Taxonomy) -> None:
    """Writes a taxonomy as the YAML file that `load_taxonomy` reads."""
    plain = taxonomy.to_dict()
    categories = {}
    for category in plain["categories"]:
        category["values"] = dict(category["values"]) if "values" in category else None
        fields = {k: v for k, v in category.items() if k != "name" and v is not None}
        categories[category["name"]] = fields
    text = yaml.safe_dump(
        {"name": plain["name"], "categories": categories}, sort_keys=False, allow_unicode=True
    )
    path.write_text(text, encoding="utf-8")


def engine_facts(
    config: ModelConfig,
    tokenizer: Tokenizer,
    taxonomy: Taxonomy,
    train_config: Mapping[str, Any],
    seen: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What marker_lm.json says: how the run wrote rows, and how the model is to be run."""
    data = {k: train_config["data"][k] for k in ENGINE_DATA_KEYS if k in train_config["data"]}
    return {
        "version": 1,
        "taxonomy_hash": taxonomy.hash,
        "tokenizer_hash": tokenizer.hash,
        "seen": seen,
        "config": {key: train_config[key] for key in ENGINE_KEYS} | {"data": data},
        "model": {name: getattr(config, name) for name in ("dtype", "scan", "remat", "max_len")},
    }


def _config(family: Family, config: ModelConfig, tokenizer: Tokenizer, dtype: str) -> dict:
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return family.to_hf(config) | ids | {"pad_token_id": tokenizer.pad_id, "torch_dtype": dtype}


def _generation(
    tokenizer: Tokenizer, ends: Sequence[int], before: Mapping[str, Any] | None
) -> dict:
    """generation_config.json: what was there, and a generation that ends where ours ends."""
    before = before or {}
    more = before.get("eos_token_id")
    more = list(more) if isinstance(more, list | tuple) else [] if more is None else [more]
    ends = list(dict.fromkeys([*ends, *more]))
    ids = {"eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": tokenizer.pad_id}
    if tokenizer.bos_id is not None:
        ids["bos_token_id"] = tokenizer.bos_id
    return dict(before) | ids


def _write_json(path: epath.Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
