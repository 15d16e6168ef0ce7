"""Llama 2 and 3, and what has their form: SmolLM2, TinyLlama, Yi and others."""

from typing import Any

from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.model.config import ModelConfig

NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm": "model.norm.weight",
    "layers/attention_norm": "model.layers.{layer}.input_layernorm.weight",
    "layers/mlp_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "layers/attention/query": "model.layers.{layer}.self_attn.q_proj.weight",
    "layers/attention/key": "model.layers.{layer}.self_attn.k_proj.weight",
    "layers/attention/value": "model.layers.{layer}.self_attn.v_proj.weight",
    "layers/attention/out": "model.layers.{layer}.self_attn.o_proj.weight",
    "layers/mlp/gate": "model.layers.{layer}.mlp.gate_proj.weight",
    "layers/mlp/up": "model.layers.{layer}.mlp.up_proj.weight",
    "layers/mlp/down": "model.layers.{layer}.mlp.down_proj.weight",
}


def read(reader: ConfigReader) -> dict[str, Any]:
    reader.demand(attention_bias=False, mlp_bias=False)
    return {
        **read_sizes(reader, tied=False),
        **read_rope(reader),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_sizes(config),
        **write_rope(config.rope_base, config.rope_scaling),
        "rms_norm_eps": config.norm_eps,
        "attention_bias": False,
        "mlp_bias": False,
    }


LLAMA = Family("llama", "LlamaForCausalLM", read, write, NAMES, whole_heads=True)
