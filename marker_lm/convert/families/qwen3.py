"""Qwen 3: Llama with norms of queries and keys; upper layers may have a window."""

from typing import Any

from marker_lm.convert.families import llama
from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.qwen2 import read_upper_windows, write_upper_windows
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.model.config import ModelConfig

NAMES = llama.NAMES | {
    "layers/attention/query_norm": "model.layers.{layer}.self_attn.q_norm.weight",
    "layers/attention/key_norm": "model.layers.{layer}.self_attn.k_norm.weight",
}


def read(reader: ConfigReader) -> dict[str, Any]:
    reader.demand(attention_bias=False)
    sizes = read_sizes(reader, tied=False, head_dim=128)
    return {
        **sizes,
        **read_rope(reader),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        "qk_norm": "shared",
        "windows": read_upper_windows(reader, sizes["layers"]),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_sizes(config),
        **write_rope(config.rope_base, config.rope_scaling),
        **write_upper_windows(config),
        "rms_norm_eps": config.norm_eps,
        "attention_bias": False,
    }


QWEN3 = Family("qwen3", "Qwen3ForCausalLM", read, write, NAMES)
