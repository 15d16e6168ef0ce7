"""Cohere's Command R and R+: attention and feed-forward side by side, LayerNorm, scaled logits."""

from typing import Any

from marker_lm.convert.families import llama, qwen3
from marker_lm.convert.families.family import Family, read_sizes, write_sizes
from marker_lm.convert.families.reader import REQUIRED, ConfigReader
from marker_lm.convert.families.rope import read_rope, write_rope
from marker_lm.model.config import ModelConfig

NAMES = {name: theirs for name, theirs in llama.NAMES.items() if name != "layers/mlp_norm"} | {
    name: qwen3.NAMES[name] for name in ("layers/attention/query_norm", "layers/attention/key_norm")
}


def read_cohere(reader: ConfigReader) -> dict[str, Any]:
    """What Command R and R7B share."""
    # Files say these too, which no code of transformers reads.
    reader.demand(
        attention_bias=False,
        use_parallel_block=True,
        use_gated_activation=True,
        position_embedding_type="rope_gptj",
        rotary_pct=1.0,
    )
    sizes = read_sizes(reader, tied=True)
    reader.demand(use_embedding_sharing=sizes["tied_head"])
    reader.get("use_parallel_embedding", bool, None)  # how a table was split in training
    return {
        **sizes,
        "norm": "layer",
        "norm_eps": reader.number("layer_norm_eps", 1e-5),
        "parallel": True,
        "rope_interleaved": True,
        "logit_scale": reader.number("logit_scale", 0.0625),
    }


def write_cohere(config: ModelConfig) -> dict[str, Any]:
    return {
        **write_sizes(config),
        **write_rope(config.rope_base, config.rope_scaling),
        "layer_norm_eps": config.norm_eps,
        "logit_scale": config.logit_scale,
        "attention_bias": False,
    }


def read(reader: ConfigReader) -> dict[str, Any]:
    qk_norm = reader.get("use_qk_norm", bool, False)
    return {
        **read_cohere(reader),
        # Versions of transformers differ in the base of a file that names none.
        **read_rope(reader, REQUIRED),
        "qk_norm": "per_head" if qk_norm else "none",
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {**write_cohere(config), "use_qk_norm": config.qk_norm == "per_head"}


COHERE = Family("cohere", "CohereForCausalLM", read, write, NAMES)
