"""Gemma 3, the text model: five layers with a window to one without, a RoPE for each kind."""

from typing import Any

from marker_lm.convert.families import gemma2, qwen3
from marker_lm.convert.families.family import Family
from marker_lm.convert.families.gemma2 import read_gemma, write_gemma
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.convert.families.rope import read_rope, read_scaling, write_rope
from marker_lm.convert.families.windows import write_pattern
from marker_lm.model.config import ModelConfig

NAMES = gemma2.NAMES | {
    name: qwen3.NAMES[name] for name in ("layers/attention/query_norm", "layers/attention/key_norm")
}
# The files of models with images leave out what equals these.
DEFAULTS = dict(
    vocab_size=262_208,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=131_072,
)
GLOBAL_BASE, LOCAL_BASE = 1_000_000.0, 10_000.0


def read_two_ropes(reader: ConfigReader) -> dict[str, Any]:
    """The fields rope_base, rope_local_base and rope_scaling."""
    parameters = reader.get("rope_parameters", dict, None) or {}
    local_base = reader.number("rope_local_base_freq", LOCAL_BASE)
    if not {"full_attention", "sliding_attention"} & set(parameters):
        return {**read_rope(reader, GLOBAL_BASE), "rope_local_base": local_base}
    base, scaling = read_scaling(
        reader, "rope_parameters.full_attention", parameters.get("full_attention") or {}
    )
    inner_base, local_scaling = read_scaling(
        reader, "rope_parameters.sliding_attention", parameters.get("sliding_attention") or {}
    )
    if local_scaling:
        raise reader.refusal(
            "rope_parameters",
            parameters,
            "supported: a scaling of full_attention, none of sliding_attention",
        )
    reader.demand(rope_theta=None, rope_scaling=None)
    return {
        "rope_base": base or GLOBAL_BASE,
        "rope_local_base": inner_base or local_base,
        "rope_scaling": scaling,
    }


def read(reader: ConfigReader) -> dict[str, Any]:
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", 6))
    # transformers has this key too, and does not heed it.
    reader.demand(attn_logit_softcapping=None)
    return {
        **read_gemma(reader, pattern, **DEFAULTS),
        **read_two_ropes(reader),
        "qk_norm": "shared",
        "logit_softcap": reader.number("final_logit_softcapping", 0.0),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_gemma(config),
        **write_pattern(config),
        **write_rope(config.rope_base, config.rope_scaling),
        "rope_local_base_freq": config.rope_local_base or config.rope_base,
        "attn_logit_softcapping": None,
    }


GEMMA3_TEXT = Family("gemma3_text", "Gemma3ForCausalLM", read, write, NAMES, whole_heads=True)


def read_text_part(reader: ConfigReader) -> dict[str, Any]:
    """The text model inside a model that also sees images."""
    text = reader.get("text_config", dict)
    reader.get("vision_config", dict, None)
    for key in ("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image"):
        reader.integer(key, None)
    tied = reader.get("tie_word_embeddings", bool, True)
    return GEMMA3_TEXT.to_model({"tie_word_embeddings": tied} | text)


GEMMA3 = Family(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    read_text_part,
    None,
    {path: f"language_model.{name}" for path, name in NAMES.items()},
    unread=r"vision_tower\..*|multi_modal_projector\..*",
)
