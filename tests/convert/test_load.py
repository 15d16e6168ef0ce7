import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.convert import load as load_module
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.load import load_config, load_params, locate
from marker_lm.convert.tensors import TheirTensor
from marker_lm.model.params import abstract_params
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from tests.convert.pretrained import CONFIG, tensors, write_pretrained


def load(folder, mesh=None, lines=None, **runtime):
    pretrained = open_pretrained(folder)
    config = load_config(folder, **runtime)
    log = (lambda line: None) if lines is None else lines.append
    return load_params(pretrained, config, mesh or make_mesh(), log), config


def expected(weights, config):
    """Our parameters from their tensors, by einsum notation and not by the product's code."""
    D, H, K, N = config.width, config.heads, config.kv_heads, config.head_size

    def stack(name, shape, axes):
        layers = [
            weights[f"model.layers.{i}.{name}.weight"].reshape(shape).transpose(axes)
            for i in range(config.layers)
        ]
        return np.stack(layers)

    return {
        "embedding": weights["model.embed_tokens.weight"],
        "head": weights["lm_head.weight"],
        "final_norm": weights["model.norm.weight"],
        "layers": {
            "attention_norm": stack("input_layernorm", (D,), (0,)),
            "mlp_norm": stack("post_attention_layernorm", (D,), (0,)),
            "attention": {
                "query": stack("self_attn.q_proj", (H, N, D), (2, 0, 1)),
                "key": stack("self_attn.k_proj", (K, N, D), (2, 0, 1)),
                "value": stack("self_attn.v_proj", (K, N, D), (2, 0, 1)),
                "out": stack("self_attn.o_proj", (D, H, N), (1, 2, 0)),
            },
            "mlp": {
                "gate": stack("mlp.gate_proj", (config.ff, D), (1, 0)),
                "up": stack("mlp.up_proj", (config.ff, D), (1, 0)),
                "down": stack("mlp.down_proj", (D, config.ff), (1, 0)),
            },
        },
    }


def assert_same(got, want):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), np.float32(b)),
        got,
        want,
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_lands_where_it_belongs(tmp_path, shards):
    weights = tensors(CONFIG)
    params, config = load(write_pretrained(tmp_path / "m", weights, shards))
    assert_same(params, expected(weights, config))
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_the_dtype_of_parameters_is_the_one_asked_for(tmp_path):
    weights = tensors(CONFIG, np.float32)
    folder = write_pretrained(tmp_path / "m", weights)
    params, config = load(folder, param_dtype="bfloat16")
    rounded = {name: x.astype(ml_dtypes.bfloat16) for name, x in weights.items()}
    assert_same(params, expected(rounded, config))
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(ml_dtypes.bfloat16)}


def test_tables_are_read_in_pieces_and_new_rows_are_zeros(tmp_path, monkeypatch):
    weights = tensors(CONFIG)
    folder = write_pretrained(tmp_path / "m", weights)
    monkeypatch.setattr(load_module, "PIECE", 1000)  # 15 rows of 64 bytes
    params, config = load(folder, vocab=512)
    want = expected(weights, config)
    for name in ("embedding", "head"):
        want[name] = np.concatenate([want[name], np.zeros((512 - 384, 32), want[name].dtype)])
    assert_same(params, want)


@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"data": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2}])
def test_arrays_are_laid_out_on_the_mesh(tmp_path, axes):
    weights = tensors(CONFIG)
    mesh = make_mesh(**({"data": 1} | axes), devices=jax.devices()[:4])
    params, config = load(write_pretrained(tmp_path / "m", weights), mesh)
    assert_same(params, expected(weights, config))
    want = param_shardings(config, mesh)
    assert jax.tree.map(lambda x: x.sharding, params) == want


class Recorder:
    """A source that remembers what was read of it."""

    def __init__(self, source):
        self.source, self.parts = source, {}
        self.names, self.shape, self.dtype = source.names, source.shape, source.dtype

    def read(self, name, index=None):
        self.parts.setdefault(name, []).append(index)
        return self.source.read(name, index)


def test_a_host_reads_only_what_its_devices_hold(tmp_path):
    """One device of a mesh of four stands for one host of four."""
    folder = write_pretrained(tmp_path / "m")
    pretrained, config = open_pretrained(folder), load_config(folder)
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])
    source = Recorder(pretrained.tensors)
    _, table = load_module.their_tensors(pretrained, config)
    device = jax.devices()[3]
    info = abstract_params(config)["layers"]["attention"]["query"]
    sharding = param_shardings(config, mesh)["layers"]["attention"]["query"]
    index = sharding.devices_indices_map(info.shape)[device]
    local = {device: tuple(range(n)[i] for n, i in zip(info.shape, index, strict=True))}
    shards = load_module.load_shards(source, table["layers/attention/query"], info, local)
    whole = load(folder)[0]["layers"]["attention"]["query"]
    np.testing.assert_array_equal(shards[device], whole[index])
    read = source.parts["model.layers.1.self_attn.q_proj.weight"]
    assert read == [(slice(16, 32), slice(16, 32))]  # heads 2 and 3 of 4, the second half of D


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_part_of_a_parameter_is_found_in_their_tensor(data):
    heads, size, width = (data.draw(st.integers(1, 4)) for _ in range(3))
    tensor = TheirTensor("t", (heads * size, width), (heads, size, width), (2, 0, 1))
    theirs = np.arange(heads * size * width).reshape(tensor.shape)

    def part(n):
        start = data.draw(st.integers(0, n - 1))
        return range(start, data.draw(st.integers(start + 1, n)))

    wanted = [part(width), part(heads), range(size)]  # a head is never cut
    place = locate(tensor, wanted, stacked=False)
    got = theirs[place.box].reshape(place.split).transpose(place.axes)
    index = tuple(slice(r.start, r.stop) for r in wanted)
    np.testing.assert_array_equal(got, tensor.to_ours(theirs)[index])


def test_leftovers_are_named_and_not_loaded(tmp_path):
    weights = tensors(CONFIG | {"tie_word_embeddings": True})
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    lines = []
    folder = write_pretrained(tmp_path / "m", weights, tie_word_embeddings=True)
    params, _ = load(folder, lines=lines)
    assert "head" not in params
    assert "rotary_emb.inv_freq" in lines[0] and "lm_head.weight" in lines[1]


def fault(folder, **runtime) -> str:
    with pytest.raises(ConvertError) as error:
        load(folder, **runtime)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_tied_head_that_differs_is_an_error(tmp_path):
    weights = tensors(CONFIG)
    message = fault(write_pretrained(tmp_path / "m", weights, tie_word_embeddings=True))
    assert "lm_head.weight differs" in message and "tie_word_embeddings" in message


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    weights = tensors(CONFIG)
    message = fault(
        write_pretrained(tmp_path / "a", {k: v for k, v in weights.items() if k != name})
    )
    assert f"lacks the tensor {name};" in message

    extra = weights | {"model.vision.patch.weight": np.ones((2, 2), np.float32)}
    message = fault(write_pretrained(tmp_path / "b", extra))
    assert "holds the tensor model.vision.patch.weight," in message

    wrong = weights | {name: weights[name].T.copy()}
    message = fault(write_pretrained(tmp_path / "c", wrong))
    assert name in message and "(32, 48)" in message and "(48, 32)" in message


def test_an_unknown_architecture_is_named(tmp_path):
    message = fault(write_pretrained(tmp_path / "m", model_type="lama"))
    assert "'lama'" in message and "llama" in message


def test_a_config_that_lacks_a_key_is_named(tmp_path):
    message = fault(write_pretrained(tmp_path / "m", tensors(CONFIG), hidden_size=None))
    assert "hidden_size" in message


def test_another_architecture_or_a_smaller_vocabulary_is_refused(tmp_path):
    folder = write_pretrained(tmp_path / "m")
    pretrained, config = open_pretrained(folder), load_config(folder)
    for change, words in ({"ff": 64}, "ff=48"), ({"vocab": 128}, "vocab=384"):
        with pytest.raises(ConvertError, match=words):
            load_params(pretrained, dataclasses.replace(config, **change), make_mesh())
