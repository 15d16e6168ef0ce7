"""Cohere's Command R7B and Command A: Command R where three layers of four have a window.

The fourth sees all and has no positions.
"""

from typing import Any

from marker_lm.convert.families import cohere
from marker_lm.convert.families.cohere import read_cohere, write_cohere
from marker_lm.convert.families.family import Family
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope
from marker_lm.convert.families.windows import (
    pattern_types,
    read_windows,
    write_layer_types,
    write_pattern,
)
from marker_lm.model.config import ModelConfig


def read(reader: ConfigReader) -> dict[str, Any]:
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", 4))
    # Files say these too, which no code of transformers reads.
    reader.demand(use_qk_norm=False, order_of_interleaved_layers="local_attn_first")
    reader.demand(layer_switch=pattern)
    fields = {**read_cohere(reader), **read_rope(reader)}
    layers, window = fields["layers"], reader.integer("sliding_window", 4096, null=None)
    return fields | {
        "windows": read_windows(reader, layers, window, pattern_types(layers, pattern)),
        "rope_everywhere": False,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_cohere(config),
        **write_layer_types(config),
        **write_pattern(config),
    }


COHERE2 = Family("cohere2", "Cohere2ForCausalLM", read, write, cohere.NAMES)
