"""Mistral: Llama whose layers all have a sliding window, or none (v0.2 on)."""

from typing import Any

from marker_lm.convert.families import llama
from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.model.config import ModelConfig


def read(reader: ConfigReader) -> dict[str, Any]:
    window = reader.integer("sliding_window", 4096, null=0)
    return {
        **read_sizes(reader, tied=False, num_key_value_heads=8),
        **read_rope(reader),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        "windows": (window,) if window else (),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_sizes(config),
        **write_rope(config.rope_base, config.rope_scaling),
        "rms_norm_eps": config.norm_eps,
        "sliding_window": max(config.layer_windows) or None,
    }


MISTRAL = Family("mistral", "MistralForCausalLM", read, write, llama.NAMES)
