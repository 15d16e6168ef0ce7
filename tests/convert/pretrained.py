"""A tiny pretrained Llama with random weights, written as others write it: by the package."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from marker_lm.data.tokenizers.bytes import ByteTokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 384,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Llama, written down apart from the product."""
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    N = config["head_dim"]
    q, kv = config["num_attention_heads"] * N, config["num_key_value_heads"] * N
    found = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (V, D)
    for layer in range(config["num_hidden_layers"]):
        names = {
            "self_attn.q_proj": (q, D),
            "self_attn.k_proj": (kv, D),
            "self_attn.v_proj": (kv, D),
            "self_attn.o_proj": (D, q),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
        }
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
    return found


def tensors(config: dict, dtype=ml_dtypes.bfloat16, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(size=shape) * 0.2 + (len(shape) == 1)).astype(dtype)
        for name, shape in shapes(config).items()
    }


def write_pretrained(folder: Path, weights: dict | None = None, shards: int = 1, **keys) -> Path:
    """A Hugging Face folder with the byte tokenizer; `keys` change config.json."""
    config = CONFIG | keys
    weights = tensors(config) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    ByteTokenizer().save(folder)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names, places = sorted(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder
