"""GGUF files against what was written into them, and against llama.cpp's own reading."""

import re

import gguf
import numpy as np
import pytest

from marker_lm.convert.check import model_config
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families import find_family
from marker_lm.convert.load import load_params
from marker_lm.convert.tensors import tensor_table
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import make_mesh
from tests.convert.gguf_files import SIZES, TEMPLATE, smollm2, write_gguf
from tests.model.helpers import forward, plain

TYPES = gguf.GGMLQuantizationType
GEMMA = dict(
    hidden_activation="gelu_pytorch_tanh",
    query_pre_attn_scalar=16,
    sliding_window=8,
    rope_theta=10_000.0,
)
CASES = {
    "llama": dict(model_type="llama", tie_word_embeddings=False),
    "qwen2": dict(model_type="qwen2", hidden_size=96),
    "qwen3": dict(model_type="qwen3", head_dim=32, tie_word_embeddings=False),
    "gemma2": dict(
        model_type="gemma2", **GEMMA, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    ),
    "gemma3": dict(model_type="gemma3_text", **GEMMA, num_hidden_layers=7),
}


def hf_config(architecture: str, **changes) -> dict:
    return SIZES | CASES[architecture] | changes


def random_weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    family = find_family(config)
    random = np.random.default_rng(seed)
    table = tensor_table(family, ModelConfig(**family.to_model(config)))
    return {
        tensor.name: random.normal(
            1.0 - 1.0 * config["model_type"].startswith("gemma") if "norm" in tensor.name else 0,
            0.2,
            tensor.shape,
        ).astype(np.float32)
        for tensors in table.values()
        for tensor in tensors
    }


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    """(path, config.json, weights) of a file of each architecture."""
    config = hf_config(request.param)
    weights = random_weights(config)
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    return write_gguf(path, request.param, config, weights), config, weights


def llama_file(folder, weights=None, **options):
    config = hf_config("llama")
    weights = random_weights(config) if weights is None else weights
    return write_gguf(folder / "model.gguf", "llama", config, weights, **options), weights


def test_config_and_tensors_come_back(written):
    path, config, weights = written
    opened = open_pretrained(path)
    assert model_config(opened) == ModelConfig(**find_family(config).to_model(config))
    assert sorted(opened.tensors.names()) == sorted(weights)
    for name, weight in weights.items():
        assert opened.tensors.shape(name) == weight.shape
        assert opened.tensors.dtype(name) == np.float32
        # The file keeps Gemma's scales plus 1, which costs them a bit.
        shifted = config["model_type"].startswith("gemma") and name.endswith("norm.weight")
        np.testing.assert_allclose(
            opened.tensors.read(name), weight, rtol=0, atol=1e-6 if shifted else 0
        )


def test_any_part_of_a_tensor(written):
    opened = open_pretrained(written[0]).tensors
    random = np.random.default_rng(1)
    for name in opened.names():
        whole = opened.read(name)
        for _ in range(3):
            corners = [sorted(random.integers(0, size + 1, 2)) for size in whole.shape]
            index = tuple(slice(*corner) for corner in corners)
            np.testing.assert_array_equal(opened.read(name, index), whole[index])


@pytest.mark.extra
def test_logits_are_those_of_llama_cpp(written):
    """An implementation that shares nothing with ours reads the same file."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path, _, _ = written
    tokens = np.random.default_rng(2).integers(0, SIZES["vocab_size"], 24, dtype=np.int32)
    other = llama_cpp.Llama(
        str(path),
        n_ctx=64,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    other.eval(tokens.tolist())
    expected = np.array(other.scores[: len(tokens)])
    opened = open_pretrained(path)
    config = model_config(opened, scan=False)
    found, _ = forward(config, load_params(opened, config, make_mesh()), *plain(tokens[None]))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.Q4_1, TYPES.Q5_0])
def test_quantized_tensors_are_dequantized(tmp_path, kind):
    config = hf_config(
        "llama", hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=16
    )
    weights = random_weights(config)
    path = write_gguf(tmp_path / "model.gguf", "llama", config, weights, kind=kind)
    opened = open_pretrained(path).tensors
    steps = {TYPES.F16: 1e-3, TYPES.BF16: 4e-3, TYPES.Q8_0: 1e-2, TYPES.Q4_1: 0.1, TYPES.Q5_0: 0.1}
    for name, weight in weights.items():
        got = opened.read(name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, weight, rtol=0, atol=steps[kind] * np.abs(weight).max())
        index = (slice(3, 11), slice(5, 40))[: weight.ndim]
        np.testing.assert_array_equal(opened.read(name, index), got[index])


def llama3_factors(size, base, factor, length):
    """As convert_hf_to_gguf.py makes rope_freqs.weight, in a loop."""
    factors = []
    for i in range(0, size, 2):
        wavelength = 2 * np.pi * base ** (i / size)
        if wavelength < length / 4:
            factors.append(1.0)
        elif wavelength > length:
            factors.append(factor)
        else:
            smooth = (length / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, None),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
    ],
)
def test_rope_scaling(tmp_path, more, expected):
    path, _ = llama_file(tmp_path, more=more)
    opened = open_pretrained(path)
    assert opened.config["rope_scaling"] == expected
    assert (model_config(opened).rope_scaling is None) == (expected is None)


def test_llama3_is_told_by_its_factors(tmp_path):
    factors = llama3_factors(16, 10_000.0, 32.0, 8192)
    weights = random_weights(hf_config("llama"))
    path, _ = llama_file(tmp_path, weights | {"rope_freqs.weight": factors})
    opened = open_pretrained(path)
    scaling = model_config(opened).rope_scaling
    assert (scaling.kind, scaling.factor, scaling.original_len) == ("llama3", 32.0, 8192)
    assert (scaling.low, scaling.high) == (1.0, 4.0)
    assert "rope_freqs.weight" not in opened.tensors.names()
    factors[5] += 0.1
    path, _ = llama_file(tmp_path, weights | {"rope_freqs.weight": factors})
    with pytest.raises(ConvertError, match="'rope_freqs.weight' stretches RoPE in another way"):
        open_pretrained(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rope.scaling.type": "longrope"}, "'llama.rope.scaling.type' is 'longrope'"),
        ({"rope.scaling.attn_factor": 1.5}, "'llama.rope.scaling.attn_factor' is 1.5"),
        ({"rope.dimension_count": 8}, "'llama.rope.dimension_count' is 8, the head size 16"),
        ({"expert_count": 8}, "'llama.expert_count' is 8"),
    ],
)
def test_models_that_config_json_cannot_say(tmp_path, more, said):
    path, _ = llama_file(tmp_path, more=more)
    with pytest.raises(ConvertError, match=re.escape(said)):
        open_pretrained(path)


def test_another_architecture_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, "mamba", SIZES, {})
    with pytest.raises(ConvertError, match="'mamba'.*llama, qwen2.*nearest"):
        open_pretrained(path)


def test_a_missing_tensor_is_named(tmp_path):
    config = hf_config("llama")
    weights = random_weights(config)
    del weights["model.layers.1.mlp.up_proj.weight"]
    path, _ = llama_file(tmp_path, weights)
    with pytest.raises(ConvertError, match="lacks the tensor 'blk.1.ffn_up.weight';"):
        open_pretrained(path)


def test_an_extra_tensor_is_named(tmp_path):
    weights = random_weights(hf_config("llama")) | {"blk.0.strange.weight": np.ones(3, np.float32)}
    path, _ = llama_file(tmp_path, weights)
    opened = open_pretrained(path)
    with pytest.raises(ConvertError, match="blk.0.strange.weight"):
        load_params(opened, model_config(opened), make_mesh())


def test_damaged_files(tmp_path):
    path, _ = llama_file(tmp_path)
    content = path.read_bytes()
    for kept in (0, 3, 4, 20, 300, 6000, len(content) // 2, len(content) - 64):
        path.write_bytes(content[:kept])
        with pytest.raises(ConvertError) as caught:
            open_pretrained(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
        assert ("not a GGUF file" if kept < 4 else "cut short") in message
    path.write_bytes(b"GGML" + content[4:])
    with pytest.raises(ConvertError, match="not a GGUF file.*b'GGML'"):
        open_pretrained(path)
    path.unlink()
    with pytest.raises(ConvertError, match="there is no checkpoint at"):
        open_pretrained(path)
    with pytest.raises(ConvertError, match="not on a local disk"):
        open_pretrained("gs://bucket/model.gguf")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (999, r"999\)? is not a valid GGMLQuantizationType.*update"),
        (int(TYPES.I32), "the tensor 'blk.1.ffn_up.weight' is of the type I32"),
    ],
)
def test_unknown_quantizations(tmp_path, number, said):
    path, _ = llama_file(tmp_path)
    content = path.read_bytes()
    name, dimensions = b"blk.1.ffn_up.weight", 4 + 2 * 8
    at = content.index(name) + len(name) + dimensions
    path.write_bytes(content[:at] + number.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ConvertError, match=said):
        open_pretrained(path)


def test_the_tokenizer_comes_with_it(tmp_path):
    path, _ = llama_file(tmp_path)
    opened = open_pretrained(path)
    tokenizer = opened.tokenizer()
    assert tokenizer.size == SIZES["vocab_size"] == opened.config["vocab_size"]
    assert opened.generation == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.encode("<s>the<|last|>") == [0, 259, 260]


@pytest.mark.extra
def test_smollm2_as_it_is_known():
    opened = open_pretrained(smollm2())
    config = model_config(opened)
    assert (config.layers, config.width, config.ff, config.vocab) == (30, 576, 1536, 49152)
    assert (config.heads, config.kv_heads, config.head_size) == (9, 3, 64)
    assert (config.rope_base, config.norm_eps, config.tied_head) == (100_000.0, 1e-5, True)
    assert len(opened.tensors.names()) == 2 + 30 * 9
