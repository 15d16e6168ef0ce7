"""LoRA's factors as an adapter folder of the `peft` package, and back.

A folder holds adapter_config.json and adapter_model.safetensors; there A is [rank, in] and B
[out, rank] for a linear layer [out, in], in which all heads are one axis, and both are in one
tensor a layer (https://huggingface.co/docs/peft/developer_guides/checkpoint).
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from safetensors.numpy import save

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.export import whole_folder
from marker_lm.convert.families import Family
from marker_lm.convert.safetensors_file import SafetensorsSource, read_json
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.lora import A, B, is_factor
from marker_lm.model.params import abstract_params

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
THEIRS = {A: "lora_A", B: "lora_B"}
# Keys of adapter_config.json that change what an adapter computes, and the values of a plain LoRA.
PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "target_parameters": (None, []),
}


def export_adapter(
    folder: epath.PathLike,
    params,
    config: ModelConfig,
    family: Family,
    base_name: str,
    trained: Iterable[str] = (),
    base_vocab: int = 0,
) -> None:
    """Writes the factors as a folder that `peft` loads on top of the base model.

    On several hosts, all call this and the first one writes.

    Args:
      folder: local or gs://, which must not exist yet.
      params, config: of the model, with LoRA.
      family: of the base model.
      base_name: where `peft` finds the base model: a folder or a name on a hub.
      trained: paths of the parameters that were trained, where that is known.
      base_vocab: rows of the base model's embedding, where that is known.

    Raises ConvertError: a model without LoRA; more was trained than the factors, or the vocabulary
    has grown, which an adapter can not hold; the folder exists.
    """
    if config.lora is None:
        raise ConvertError("the model has no LoRA (lora.rank is 0); export it whole.")
    more = sorted(path for path in trained if not is_factor(path))
    if more:
        raise ConvertError(
            f"besides the factors, {', '.join(more)} were trained, which an adapter has no place "
            "for; export the merged model."
        )
    if base_vocab and base_vocab != config.vocab:
        raise ConvertError(
            f"the vocabulary has grown from {base_vocab} to {config.vocab} rows, which an adapter "
            "has no place for; export the merged model, or train with template=text."
        )
    flat = flatten_dict(params, sep="/")
    tensors = {}
    for factor in _factors(family, config):
        host = multihost_utils.process_allgather(flat[factor.path], tiled=True)
        for name, ours in zip(factor.names, np.asarray(host), strict=True):
            tensors[name] = np.ascontiguousarray(ours.reshape(factor.shape[::-1]).T)
    if jax.process_index() == 0:
        with whole_folder(folder) as out:
            (out / WEIGHTS_FILE).write_bytes(save(tensors, {"format": "pt"}))
            text = json.dumps(_adapter_config(config, family, base_name), indent=2)
            (out / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def import_adapter(
    folder: epath.PathLike, config: ModelConfig, family: Family
) -> tuple[dict, ModelConfig]:
    """The factors in an adapter folder, float32 on the host, and the config with their LoRA.

    Args:
      folder: of `peft`, or of `export_adapter`.
      config: of the base model.
      family: of the base model.

    Raises ConvertError: the adapter is no plain LoRA of matrices of the blocks, all layers alike; a
    missing or an extra tensor, or a wrong shape.
    """
    folder = epath.Path(folder)
    source = SafetensorsSource(folder / WEIGHTS_FILE)
    config = dataclasses.replace(config, lora=_read_lora(folder, source.names(), config, family))
    factors = _factors(family, config)
    names, wanted = set(source.names()), {name for factor in factors for name in factor.names}
    for problem, faults in (("lacks", wanted - names), ("holds", names - wanted)):
        if faults:
            raise ConvertError(
                f"{folder / WEIGHTS_FILE} {problem} the tensor {min(faults)} ({len(faults)} in "
                "all); both factors of the same matrices of the blocks are read, in each of the "
                f"{config.layers} layers of a {family.model_type} model: see that the adapter "
                "belongs to this base model."
            )
    tree = {}
    for factor in factors:
        layers = []
        for name in factor.names:
            if source.shape(name) != factor.shape:
                raise ConvertError(
                    f"the tensor {name} in {folder / WEIGHTS_FILE} has shape {source.shape(name)}; "
                    f"base model and r={config.lora.rank} say {factor.shape}: see that the adapter "
                    "belongs to this base model."
                )
            layers.append(source.read(name).astype(np.float32).T.reshape(factor.our_shape))
        tree[factor.path] = np.stack(layers)
    return unflatten_dict(tree, sep="/"), config


@dataclasses.dataclass(frozen=True)
class Factor:
    """One of our stacked factors, and its tensors in their file.

    Attributes:
      path: ours, such as 'layers/attention/query_lora_a'.
      our_shape: of one layer.
      names: theirs, one a layer.
      shape: of each of theirs.
    """

    path: str
    our_shape: tuple[int, ...]
    names: list[str]
    shape: tuple[int, int]


def _factors(family: Family, config: ModelConfig) -> list[Factor]:
    """All factors of the config's LoRA."""
    infos = flatten_dict(abstract_params(config), sep="/")
    found = []
    for matrix, kind in itertools.product(infos, THEIRS):
        path = kind.format(matrix)
        if path in infos:
            shape = infos[path].shape[1:]
            rank = config.lora.rank
            theirs = (rank, math.prod(shape) // rank)
            names = [_their_name(family, matrix, layer, kind) for layer in range(config.layers)]
            found.append(Factor(path, shape, names, theirs if kind == A else theirs[::-1]))
    return found


def _their_name(family: Family, matrix: str, layer: int, kind: str) -> str:
    module = family.names[matrix].format(layer=layer).removesuffix(".weight")
    return f"{PREFIX}{module}.{THEIRS[kind]}.weight"


def _adapter_config(config: ModelConfig, family: Family, base_name: str) -> dict:
    """adapter_config.json. A module is named by the last part of its name, as in 'q_proj'."""
    modules = {name.split(".")[-3] for f in _factors(family, config) for name in f.names}
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": config.lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.lora.rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def _read_lora(folder: epath.Path, names: list[str], config: ModelConfig, family: Family) -> LoRA:
    """What adapter_config.json and the names of the tensors say."""
    about = read_json(folder / CONFIG_FILE)
    for key, plain in PLAIN.items():
        if about.get(key, plain[0]) not in plain:
            raise ConvertError(
                f"{folder / CONFIG_FILE} has {key}={about[key]!r}; only {plain[0]!r} is read: "
                "merge the adapter with peft and import the merged model."
            )
    infos = flatten_dict(abstract_params(config), sep="/")
    matrices = [path for path, info in infos.items() if info.inputs]
    targets = [path for path in matrices if _their_name(family, path, 0, A) in names]
    if not targets:
        raise ConvertError(
            f"{folder / WEIGHTS_FILE} holds factors of no matrix of a {family.model_type} model, "
            f"such as {_their_name(family, matrices[0], 0, A)}; see that the adapter belongs to "
            "this base model."
        )
    try:
        rank, alpha = int(about["r"]), float(about["lora_alpha"])
        if about.get("use_rslora"):  # its scale is alpha / sqrt(rank)
            alpha *= math.sqrt(rank)
        return LoRA(rank, alpha, "^({})$".format("|".join(targets)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConvertError(
            f"{folder / CONFIG_FILE} is damaged ({type(error).__name__}: {error}); take the "
            "adapter's own."
        ) from None
