"""From the metadata of a GGUF file to a Hugging Face config.json, and from its tensor names.

Names and conventions are those of llama.cpp (gguf-py/gguf/constants.py, convert_hf_to_gguf.py).
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from marker_lm.convert.errors import ConvertError

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_BIASES = {
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
}
_QK_NORMS = {
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
}
_POST_NORMS = {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
# Made by llama.cpp from what the metadata or config.json says anyway.
_DERIVED = ("rope_freqs.weight",)
# Metadata that changes how far RoPE reaches in a way that config.json cannot say.
_STRANGE_ROPE = (
    "rope.scaling.alpha",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.dimension_sections",
)
_LLAMA3_LEN, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The key-value part of a GGUF file; `path` is for messages."""

    path: str
    values: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return self.get("general.architecture", "")

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def of_model(self, key: str, default: Any = None) -> Any:
        """The value of '{architecture}.key'; floats come back as they were before float32."""
        value = self.get(f"{self.architecture}.{key}", default)
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, key: str) -> Any:
        """As `of_model`; raises ConvertError where it is missing or not the same in all layers."""
        value = self.of_model(key)
        if value is None:
            raise ConvertError(
                f"{self.path} has no '{self.architecture}.{key}' in its metadata; "
                "the file is damaged or unusual: get another one, or the safetensors folder"
            )
        if isinstance(value, list):
            if len(set(value)) > 1:
                raise ConvertError(
                    f"{self.path}: '{self.architecture}.{key}' differs between layers ({value}); "
                    "only models whose layers have one shape can be imported"
                )
            value = value[0]
        return value


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How GGUF keeps one family.

    Attributes:
      hf: the class in Hugging Face's `architectures`.
      model_type: of config.json.
      block: tensor names of one layer, GGUF's -> Hugging Face's.
      config: of config.json what not every family has, from the metadata.
      permuted: the rows of query and key are in the order that turns RoPE's halves into pairs.
      norm_offset: what GGUF has added to the scales of the norms.
    """

    hf: str
    model_type: str
    block: Mapping[str, str]
    config: Callable[[Metadata], dict[str, Any]]
    permuted: bool = False
    norm_offset: float = 0.0


def _silu(metadata: Metadata) -> dict[str, Any]:
    return {"hidden_act": "silu"}


def _gemma2(metadata: Metadata) -> dict[str, Any]:
    layers = metadata.need("block_count")
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(metadata, 46),
        "attn_logit_softcapping": metadata.of_model("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.of_model("final_logit_softcapping", 30.0),
        "sliding_window": metadata.need("attention.sliding_window"),
        "layer_types": _layer_types(layers, 2),
    }


def _gemma3(metadata: Metadata) -> dict[str, Any]:
    layers = metadata.need("block_count")
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(metadata, 62),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window": metadata.need("attention.sliding_window"),
        "layer_types": _layer_types(layers, 6),
        "rope_local_base_freq": metadata.of_model("rope.freq_base_swa", 10_000.0),
    }


def _query_scale(metadata: Metadata, layers_of_27b: int) -> int:
    """GGUF does not keep it: only the 27B models have another one than the head size."""
    if metadata.need("block_count") == layers_of_27b:
        return metadata.need("embedding_length") // metadata.need("attention.head_count")
    return head_size(metadata)


def _layer_types(layers: int, period: int) -> list[str]:
    return [
        "full_attention" if layer % period == period - 1 else "sliding_attention"
        for layer in range(layers)
    ]


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", _BLOCK, _silu, permuted=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _BLOCK | _BIASES, _silu),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _BLOCK | _QK_NORMS, _silu),
    "gemma2": Architecture(
        "Gemma2ForCausalLM", "gemma2", _BLOCK | _POST_NORMS, _gemma2, norm_offset=1.0
    ),
    "gemma3": Architecture(
        "Gemma3ForCausalLM",
        "gemma3_text",
        _BLOCK | _POST_NORMS | _QK_NORMS,
        _gemma3,
        norm_offset=1.0,
    ),
}


def find_architecture(metadata: Metadata) -> Architecture:
    """Raises ConvertError for an architecture that is not among `ARCHITECTURES`."""
    name = metadata.architecture
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.0)[0]
        raise ConvertError(
            f"{metadata.path} holds the architecture {name!r}; GGUF files can be imported of "
            f"{', '.join(ARCHITECTURES)} (nearest: {near}). Take the model's safetensors folder"
        )
    if metadata.of_model("expert_count", 0):
        raise ConvertError(
            f"{metadata.path} holds a mixture of experts ('{name}.expert_count' is "
            f"{metadata.of_model('expert_count')}); only dense models can be imported"
        )
    return ARCHITECTURES[name]


def head_size(metadata: Metadata) -> int:
    """N, size of one head. Raises ConvertError where RoPE turns only a part of it."""
    width, heads = metadata.need("embedding_length"), metadata.need("attention.head_count")
    size = metadata.of_model("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.of_model(key, size) != size:
            raise ConvertError(
                f"{metadata.path}: '{metadata.architecture}.{key}' is {metadata.of_model(key)}, "
                f"the head size {size}; models in which they differ cannot be imported"
            )
    return size


def tensor_names(metadata: Metadata, found: Collection[str]) -> dict[str, str]:
    """Names in the file -> Hugging Face names, of all tensors that are `found` in the file.

    What no name is known for keeps its own, so that the loader can refuse it by name.
    Raises ConvertError where a tensor of the model is missing.
    """
    block = find_architecture(metadata).block
    layers = range(metadata.need("block_count"))
    names = _OUTER | {
        f"blk.{layer}.{theirs}": f"model.layers.{layer}.{name}"
        for layer in layers
        for theirs, name in block.items()
    }
    missing = [name for name in names if name not in found and name != "output.weight"]
    if missing:
        raise ConvertError(
            f"{metadata.path} lacks the tensor '{missing[0]}'"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; the file is damaged or cut: get it again"
        )
    return {name: names.get(name, name) for name in found if name not in _DERIVED}


def hf_config(
    metadata: Metadata, vocab: int, tied: bool, rope_factors_N2: np.ndarray | None
) -> dict[str, Any]:
    """config.json of the model.

    Args:
      metadata: of the file.
      vocab: rows of the embedding table.
      tied: whether the file has no head of its own.
      rope_factors_N2: the tensor rope_freqs.weight, what each frequency is divided by.

    Raises:
      ConvertError: the model is one that config.json cannot express, or metadata is missing.
    """
    family = find_architecture(metadata)
    size = head_size(metadata)
    heads = metadata.need("attention.head_count")
    ids = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {
        "architectures": [family.hf],
        "model_type": family.model_type,
        "vocab_size": vocab,
        "hidden_size": metadata.need("embedding_length"),
        "intermediate_size": metadata.need("feed_forward_length"),
        "num_hidden_layers": metadata.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.of_model("attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": metadata.need("context_length"),
        "rms_norm_eps": metadata.need("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.of_model("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(metadata, size, rope_factors_N2),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        **family.config(metadata),
        **{name: id for name, id in ids.items() if id is not None},
    }


def _rope_scaling(
    metadata: Metadata, size: int, factors_N2: np.ndarray | None
) -> dict[str, Any] | None:
    strange = [key for key in _STRANGE_ROPE if metadata.of_model(key, 1.0) != 1.0]
    kind = metadata.of_model("rope.scaling.type", "none")
    if strange or kind not in ("none", "linear", "yarn"):
        key = strange[0] if strange else "rope.scaling.type"
        raise ConvertError(
            f"{metadata.path}: '{metadata.architecture}.{key}' is {metadata.of_model(key)!r}; "
            "of RoPE scalings linear, yarn and Llama 3's can be imported"
        )
    if factors_N2 is not None and not np.all(factors_N2 == 1):
        return _llama3_scaling(metadata, size, factors_N2)
    factor = metadata.of_model("rope.scaling.factor", metadata.of_model("rope.scale_linear", 1.0))
    if kind == "none" and factor == 1.0:
        return None
    if kind != "yarn":
        return {"rope_type": "linear", "factor": factor}
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.need("rope.scaling.original_context_length"),
        "beta_fast": metadata.of_model("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": metadata.of_model("rope.scaling.yarn_beta_slow", 1.0),
    }


def _llama3_scaling(metadata: Metadata, size: int, factors_N2: np.ndarray) -> dict[str, Any]:
    """Llama 3's numbers behind rope_freqs.weight, all of which have one ramp and length."""
    factor = float(factors_N2.max())
    length = metadata.of_model("rope.scaling.original_context_length", _LLAMA3_LEN)
    base = metadata.of_model("rope.freq_base", 10_000.0)
    turns_N2 = length / (2 * math.pi) * base ** (-np.arange(0, size, 2) / size)
    smooth_N2 = np.clip((turns_N2 - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW), 0, 1)
    expected_N2 = 1 / ((1 - smooth_N2) / factor + smooth_N2)
    if factors_N2.shape != expected_N2.shape or not np.allclose(
        factors_N2, expected_N2, rtol=1e-3, atol=0
    ):
        raise ConvertError(
            f"{metadata.path}: the tensor 'rope_freqs.weight' stretches RoPE in another way than "
            f"Llama 3.1 to 3.3 (factor {factor:g} of {length} tokens); "
            "take the model's safetensors folder"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": length,
    }
