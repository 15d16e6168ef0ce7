"""Qwen 2 and 2.5: Llama with biases of query, key and value; upper layers may have a window."""

from typing import Any

from marker_lm.convert.families import llama
from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.convert.families.windows import read_windows, write_layer_types
from marker_lm.model.config import ModelConfig

NAMES = llama.NAMES | {
    "layers/attention/query_bias": "model.layers.{layer}.self_attn.q_proj.bias",
    "layers/attention/key_bias": "model.layers.{layer}.self_attn.k_proj.bias",
    "layers/attention/value_bias": "model.layers.{layer}.self_attn.v_proj.bias",
}


def read_upper_windows(reader: ConfigReader, layers: int) -> tuple[int, ...]:
    """The windows of the layers from max_window_layers on, or of those layer_types names."""
    window = reader.integer("sliding_window", 4096, null=None)
    if not reader.get("use_sliding_window", bool, False):
        window = None
    first = reader.integer("max_window_layers", 28)
    limited = [window is not None and layer >= first for layer in range(layers)]
    types = ["sliding_attention" if limit else "full_attention" for limit in limited]
    return read_windows(reader, layers, window, types)


def write_upper_windows(config: ModelConfig) -> dict[str, Any]:
    written = write_layer_types(config)
    limited = [layer for layer, window in enumerate(config.layer_windows) if window]
    return written | {
        "use_sliding_window": bool(limited),
        "max_window_layers": min(limited, default=config.layers),
    }


def read(reader: ConfigReader) -> dict[str, Any]:
    sizes = read_sizes(reader, tied=False)
    return {
        **sizes,
        **read_rope(reader),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        "qkv_bias": True,
        "windows": read_upper_windows(reader, sizes["layers"]),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_sizes(config),
        **write_rope(config.rope_base, config.rope_scaling),
        **write_upper_windows(config),
        "rms_norm_eps": config.norm_eps,
    }


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", read, write, NAMES)
