"""Gemma 2: norms before and after, capped logits, every second layer with a window."""

from typing import Any

from marker_lm.convert.families import llama
from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.convert.families.windows import pattern_types, read_windows, write_layer_types
from marker_lm.model.config import ModelConfig

NAMES = llama.NAMES | {
    "layers/attention_post_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "layers/mlp_norm": "model.layers.{layer}.pre_feedforward_layernorm.weight",
    "layers/mlp_post_norm": "model.layers.{layer}.post_feedforward_layernorm.weight",
}


def read_gemma(reader: ConfigReader, pattern: int, **defaults: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share; `pattern` is how often a layer sees all."""
    reader.demand(
        attention_bias=False, use_bidirectional_attention=False, hidden_act="gelu_pytorch_tanh"
    )
    sizes = read_sizes(
        reader,
        tied=True,
        activation_key="hidden_activation",
        hidden_activation="gelu_pytorch_tanh",
        **defaults,
    )
    layers, window = sizes["layers"], reader.integer("sliding_window", 4096, null=None)
    return {
        **sizes,
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        "norm_offset": 1.0,
        "post_norms": True,
        "attention_scale": reader.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "windows": read_windows(reader, layers, window, pattern_types(layers, pattern)),
        "embedding_scale": sizes["width"] ** 0.5,
    }


def write_gemma(config: ModelConfig) -> dict[str, Any]:
    # transformers wants a whole number here, and every model has one.
    scalar = (config.attention_scale or config.head_size**-0.5) ** -2
    return {
        **write_sizes(config, "hidden_activation"),
        **write_layer_types(config),
        "rms_norm_eps": config.norm_eps,
        "attention_bias": False,
        "query_pre_attn_scalar": round(scalar),
        "final_logit_softcapping": config.logit_softcap or None,
    }


def read(reader: ConfigReader) -> dict[str, Any]:
    return {
        **read_gemma(reader, pattern=2, head_dim=256, num_key_value_heads=4),
        **read_rope(reader),
        "attention_softcap": reader.number("attn_logit_softcapping", 50.0, null=0.0),
        "logit_softcap": reader.number("final_logit_softcapping", 30.0, null=0.0),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_gemma(config),
        **write_rope(config.rope_base, config.rope_scaling),
        "attn_logit_softcapping": config.attention_softcap or None,
    }


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", read, write, NAMES, whole_heads=True)
