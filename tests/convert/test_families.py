"""config.json files as they are found: what is read, what is refused, what can be written."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families import FAMILIES, family_of, find_family
from marker_lm.convert.families.windows import shortest_cycle
from marker_lm.convert.tensors import tensor_table
from marker_lm.model.config import ModelConfig, RopeScaling
from marker_lm.model.params import abstract_arrays

SIZES = dict(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=37,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def read(model_type: str, **keys) -> ModelConfig:
    hf_config = SIZES | dict(model_type=model_type) | keys
    if model_type == "cohere":
        hf_config.setdefault("rope_theta", 1e4)
    return ModelConfig(**find_family(hf_config).to_model(hf_config))


# As they stand in the folders of the models; token ids and the like left out here and there.
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}
COMMAND_R7B = {
    "architectures": ["Cohere2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "cache_implementation": "hybrid",
    "eos_token_id": 255001,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "max_position_embeddings": 132096,
    "model_type": "cohere2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "order_of_interleaved_layers": "local_attn_first",
    "pad_token_id": 0,
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0.dev0",
    "use_cache": True,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": True,
    "vocab_size": 256000,
}


@pytest.mark.parametrize(
    ("hf_config", "expected"),
    [
        (SMOLLM2_135M, dict(head_size=64, rope_base=1e5, norm_eps=1e-5, tied_head=True)),
        (
            GEMMA3_4B,
            dict(
                vocab=262208,
                heads=8,
                kv_heads=4,
                head_size=256,
                windows=(1024,) * 5 + (0,),
                rope_base=1e6,
                rope_local_base=1e4,
                rope_scaling=RopeScaling("linear", 8.0),
                attention_scale=1 / 16,
                embedding_scale=2560**0.5,
                tied_head=True,
            ),
        ),
        (
            COMMAND_R7B,
            dict(
                windows=(4096, 4096, 4096, 0),
                rope_everywhere=False,
                rope_interleaved=True,
                norm="layer",
                parallel=True,
                logit_scale=0.25,
                tied_head=True,
            ),
        ),
    ],
    ids=["SmolLM2", "Gemma 3 with images", "Command R7B"],
)
def test_files_of_real_models(hf_config, expected):
    config = ModelConfig(**find_family(hf_config).to_model(hf_config))
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_text_part_of_a_model_with_images_has_other_names():
    family = find_family(GEMMA3_4B)
    table = tensor_table(family, ModelConfig(**family.to_model(GEMMA3_4B)))
    names = [tensor.name for tensor in table["layers/attention/query_norm"]]
    assert names[33] == "language_model.model.layers.33.self_attn.q_norm.weight"


@pytest.mark.parametrize(
    ("model_type", "keys", "named"),
    [
        ("llama", dict(attention_bias=True), r"attention_bias is true; supported: false"),
        ("llama", dict(mlp_bias=True), r"mlp_bias is true; supported: false"),
        ("llama", dict(hidden_act="relu"), r'hidden_act is "relu"; supported: silu, '),
        ("llama", dict(partial_rotary_factor=0.5), r"partial_rotary_factor is 0.5; supported: 1"),
        ("llama", dict(rope_scaling=dict(type="dynamic", factor=2.0)), r'type is "dynamic"'),
        (
            "llama",
            dict(rope_parameters=dict(rope_type="longrope", factor=2.0)),
            r'rope_parameters.rope_type is "longrope"; supported: default, linear, llama3, yarn',
        ),
        (
            "llama",
            dict(rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.25)),
            r"rope_parameters.partial_rotary_factor is 0.25",
        ),
        (
            "llama",
            dict(rope_scaling=dict(rope_type="yarn", factor=2.0, truncate=False)),
            r"rope_scaling.truncate is false; supported: true",
        ),
        (
            "llama",
            dict(rope_scaling=dict(rope_type="linear", factor=2.0, beta_fast=3)),
            r"rope_scaling.beta_fast is 3; it is not known",
        ),
        ("llama", dict(rope_scaling=dict(rope_type="linear")), r"has no rope_scaling.factor"),
        ("llama", dict(rope_scaling=dict(type="linear", factor=0.5)), r"factor is 0.5; it must"),
        (
            "llama",
            dict(rope_theta=5e5, rope_parameters=dict(rope_theta=1e4)),
            r"rope_theta is 500000.0; rope_parameters says 10000.0",
        ),
        ("llama", dict(num_local_experts=8), r"num_local_experts is 8; it is not known"),
        ("llama", dict(quantization_config=dict(bits=4)), r'quantization_config is {"bits": 4}'),
        ("llama", dict(attention_dropout=0.1), r"attention_dropout is 0.1; supported: 0.0"),
        ("llama", dict(vocab_size=None), r"has no vocab_size"),
        ("llama", dict(hidden_size="48"), r'hidden_size is "48"; supported: a value of type int'),
        ("llama", dict(tie_word_embeddings=1), r"tie_word_embeddings is 1; .* type bool"),
        ("llama", dict(num_key_value_heads=4), r"kv_heads must divide heads"),
        ("llama", dict(head_dim=7), r"RoPE needs an even one"),
        ("mistral", dict(layer_types=["full_attention"] * 5), r"layer_types is .* not known"),
        ("qwen2", dict(use_mrope=True), r"use_mrope is true"),
        (
            "qwen2",
            dict(layer_types=["sliding_attention"] * 5),
            r"sliding_window is null; layers of sliding_attention need a window",
        ),
        ("qwen3", dict(layer_types=["full_attention"] * 4), r"each of the 5 layers"),
        ("qwen3", dict(layer_types=["chunked_attention"] * 5), r"layer_types is .*chunked"),
        ("qwen3", dict(attention_bias=True), r"attention_bias is true"),
        ("gemma2", dict(use_bidirectional_attention=True), r"use_bidirectional_attention is true"),
        ("gemma2", dict(hidden_activation="relu"), r'hidden_activation is "relu"'),
        ("gemma3_text", dict(attn_logit_softcapping=50.0), r"attn_logit_softcapping is 50.0"),
        (
            "gemma3_text",
            dict(
                rope_parameters=dict(
                    sliding_attention=dict(rope_type="linear", factor=2.0, rope_theta=1e4)
                )
            ),
            r"rope_parameters is .* supported: a scaling of full_attention, none of sliding",
        ),
        ("cohere", dict(rope_theta=None), r"has no rope_theta"),
        ("cohere", dict(attention_bias=True), r"attention_bias is true"),
        ("cohere2", dict(layer_switch=2), r"layer_switch is 2; supported: 4"),
        (
            "cohere2",
            dict(order_of_interleaved_layers="global_attn_first"),
            r'order_of_interleaved_layers is "global_attn_first"',
        ),
        ("cohere2", dict(use_parallel_block=False), r"use_parallel_block is false"),
    ],
    ids=lambda value: "" if isinstance(value, str) and " " in value else str(value),
)
def test_what_is_not_supported_is_refused_by_name(model_type, keys, named):
    read(model_type)
    with pytest.raises(ConvertError, match=named) as caught:
        read(model_type, **keys)
    assert f"a {model_type} model" in str(caught.value)


def test_a_key_that_is_off_or_says_nothing_is_taken():
    extra = dict(new_switch=False, other=None, _attn_implementation="eager", use_cache=True)
    assert read("llama", **extra) == read("llama")


def test_an_unknown_family_is_refused_with_the_nearest():
    with pytest.raises(ConvertError, match=r"'qwen2_moe'.*Qwen2MoeForCausalLM.*nearest: qwen2"):
        find_family(dict(model_type="qwen2_moe", architectures=["Qwen2MoeForCausalLM"]))
    with pytest.raises(ConvertError, match="model_type None"):
        find_family({})


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name != "gemma3"])
def test_written_and_read_again(model_type):
    config = read(model_type)
    family = FAMILIES[model_type]
    written = family.to_hf(config)
    assert written["model_type"] == model_type and find_family(written) is family
    assert ModelConfig(**family.to_model(written)) == config
    assert family_of(config) is family


@pytest.mark.parametrize("model_type", ["gemma3_text", "cohere2"])
@pytest.mark.parametrize("pattern", [1, 2, 5, 6])
def test_windows_are_written_for_old_versions_too(model_type, pattern):
    config = read(model_type, sliding_window_pattern=pattern)
    written = FAMILIES[model_type].to_hf(config)
    assert written["sliding_window_pattern"] == pattern
    del written["layer_types"]
    assert ModelConfig(**FAMILIES[model_type].to_model(written)) == config
    other = dataclasses.replace(config, windows=(0, 4096))
    assert "sliding_window_pattern" not in FAMILIES[model_type].to_hf(other)


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("llama", dict(qkv_bias=True), r"llama model can't have qkv_bias=True \(would become Fal"),
        ("llama", dict(qk_norm="shared", norm_offset=1.0), r"norm_offset=1.0 .*, qk_norm='shared'"),
        ("llama", dict(windows=(4,)), r"windows=\(4, 4, 4, 4, 4\)"),
        ("llama", dict(heads=5, kv_heads=5), r"width=48 with heads=5"),
        ("llama", dict(embedding_scale=3.0), r"embedding_scale=3.0"),
        ("llama", dict(attention_scale=1.0), r"attention_scale=1.0"),
        ("mistral", dict(windows=(4, 0)), r"windows=\(4, 0, 4, 0, 4\)"),
        ("qwen2", dict(qkv_bias=False), r"qkv_bias=False"),
        ("qwen3", dict(windows=(4, 5)), r"windows="),
        ("gemma2", dict(attention_scale=0.3), r"attention_scale=0.3 "),
        ("gemma2", dict(qk_norm="shared"), r"qk_norm='shared'"),
        ("gemma3_text", dict(attention_softcap=3.0), r"attention_softcap=3.0"),
        ("gemma3", dict(), r"parts other than text left out; export it as"),
        ("cohere", dict(norm="rms"), r"norm='rms'"),
        ("cohere2", dict(rope_everywhere=True), r"rope_everywhere=True"),
        ("cohere2", dict(qk_norm="per_head"), r"qk_norm='per_head'"),
    ],
    ids=str,
)
def test_what_a_family_does_not_have_is_not_written(model_type, changes, named):
    source = "gemma3_text" if model_type == "gemma3" else model_type
    config = dataclasses.replace(read(source), **changes)
    with pytest.raises(ConvertError, match=named):
        FAMILIES[model_type].to_hf(config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(), "llama"),
        (dict(dtype="bfloat16", scan=False, remat="full"), "llama"),
        (dict(activation="gelu", tied_head=False), "llama"),
        (dict(width=50), "mistral"),  # transformers loads no Llama whose heads do not divide it
        (dict(windows=(4,)), "mistral"),
        (dict(qkv_bias=True, windows=(4, 0)), "qwen2"),
        (dict(qk_norm="shared"), "qwen3"),
        (dict(parallel=True, norm="layer", rope_interleaved=True, logit_scale=0.5), "cohere"),
        # With a window in every layer it is the same, whether those without have positions.
        (dict(parallel=True, norm="layer", rope_interleaved=True, windows=(4,)), "cohere2"),
    ],
    ids=str,
)
def test_the_family_of_a_model_trained_here(changes, expected):
    assert family_of(dataclasses.replace(read("llama"), **changes)).model_type == expected


def test_a_model_that_no_family_has():
    config = dataclasses.replace(read("llama"), qk_norm="per_head")
    with pytest.raises(ConvertError, match="the nearest, llama, can't have qk_norm='per_head'"):
        family_of(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tensors_cover_every_parameter_and_lose_nothing(model_type):
    family = FAMILIES[model_type]
    config = read(
        "gemma3_text" if model_type == "gemma3" else model_type, tie_word_embeddings=False
    )
    if model_type == "cohere":
        config = dataclasses.replace(config, qk_norm="per_head")
    table = tensor_table(family, config)
    leaves = jax.tree_util.tree_leaves_with_path(abstract_arrays(config))
    ours = {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}
    assert set(table) == set(ours)
    names = [tensor.name for tensors in table.values() for tensor in tensors]
    assert len(names) == len(set(names))
    random = np.random.default_rng(0)
    for path, tensors in table.items():
        stacked = path.startswith("layers/")
        assert len(tensors) == (config.layers if stacked else 1)
        for tensor in tensors:
            theirs = random.normal(size=tensor.shape)
            array = tensor.to_ours(theirs)
            assert array.shape == (ours[path][1:] if stacked else ours[path])
            np.testing.assert_array_equal(tensor.to_theirs(array), theirs)


def test_linear_layers_of_theirs_are_out_by_in():
    config = read("qwen2")
    table = tensor_table(FAMILIES["qwen2"], config)
    random = np.random.default_rng(0)
    x_D, mixed_HN = random.normal(size=48), random.normal(size=(6, 8))
    query = table["layers/attention/query"][0]
    theirs = random.normal(size=query.shape)
    expected = (theirs @ x_D).reshape(6, 8)  # heads first, as transformers views it
    np.testing.assert_allclose(np.einsum("d,dhn->hn", x_D, query.to_ours(theirs)), expected)
    out = table["layers/attention/out"][0]
    theirs = random.normal(size=out.shape)
    expected = theirs @ mixed_HN.reshape(-1)
    np.testing.assert_allclose(np.einsum("hn,hnd->d", mixed_HN, out.to_ours(theirs)), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0, 3, 8]), min_size=1, max_size=9))
def test_a_cycle_of_windows_gives_them_all(windows):
    cycle = shortest_cycle(windows)
    full = cycle or (0,)
    assert [full[i % len(full)] for i in range(len(windows))] == windows
    for size in range(1, len(cycle)):
        shorter = cycle[:size]
        assert [shorter[i % size] for i in range(len(windows))] != windows
