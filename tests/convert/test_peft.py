"""An adapter folder comes back bit for bit; a damaged or a richer one is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families import FAMILIES
from marker_lm.convert.peft import CONFIG_FILE, WEIGHTS_FILE, export_adapter, import_adapter
from marker_lm.convert.tensors import tensor_table
from marker_lm.model.config import LoRA
from marker_lm.model.lora import is_factor
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from tests.model.helpers import make_params, small_config

LLAMA = FAMILIES["llama"]
BASE = small_config(layers=2)
QUERY = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


def with_lora(targets="", rank=3, alpha=5.0, **changes):
    config = dataclasses.replace(BASE, lora=LoRA(rank, alpha, targets), **changes)
    return config, make_params(config)


def factors_of(params):
    return {path: x for path, x in flatten_dict(params, sep="/").items() if is_factor(path)}


@pytest.fixture
def folder(tmp_path):
    """An adapter of all matrices."""
    config, params = with_lora()
    export_adapter(tmp_path / "adapter", params, config, LLAMA, "some/base")
    return tmp_path / "adapter"


@pytest.mark.parametrize("targets", ["", "query|value", "out|down"])
def test_an_adapter_comes_back_bit_for_bit(tmp_path, targets):
    config, params = with_lora(targets)
    export_adapter(tmp_path / "adapter", params, config, LLAMA, "some/base")
    found, again = import_adapter(tmp_path / "adapter", BASE, LLAMA)
    want = factors_of(params)
    found = flatten_dict(found, sep="/")
    assert found.keys() == want.keys()
    for path, x in found.items():
        np.testing.assert_array_equal(x, want[path], strict=True)
    assert (again.lora.rank, again.lora.alpha) == (3, 5.0)
    assert dataclasses.replace(again, lora=None) == BASE


def test_sharded_factors_are_written_whole(tmp_path):
    config, params = with_lora(vocab=28)
    shardings = param_shardings(config, make_mesh(2, 2, 2))
    export_adapter(tmp_path / "one", params, config, LLAMA, "base")
    sharded = jax.tree.map(jax.device_put, params, shardings)
    export_adapter(tmp_path / "eight", sharded, config, LLAMA, "base")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        one, eight = ((tmp_path / run / name).read_bytes() for run in ("one", "eight"))
        assert one == eight


def test_products_of_their_factors_are_our_products_in_their_layout(folder):
    """So the flattened heads are those of the whole tensors, which are tested by logits."""
    _, params = with_lora()
    table = tensor_table(LLAMA, BASE)
    tensors, flat = load_file(folder / WEIGHTS_FILE), flatten_dict(params, sep="/")
    paths = [path for path in table if f"{path}_lora_a" in flat]
    assert len(paths) == 7
    for path in paths:
        for layer, their in enumerate(table[path]):
            module = "base_model.model." + their.name.removesuffix(".weight")
            a, b = (tensors[f"{module}.lora_{x}.weight"] for x in "AB")
            ours = np.tensordot(flat[f"{path}_lora_a"][layer], flat[f"{path}_lora_b"][layer], 1)
            np.testing.assert_allclose(b @ a, their.to_theirs(ours), rtol=1e-5, atol=1e-6)


def test_what_an_adapter_can_not_hold_is_refused(tmp_path, folder):
    config, params = with_lora("query")
    export = (tmp_path / "new", params, config, LLAMA, "base")
    with pytest.raises(ConvertError, match="besides the factors, embedding were trained"):
        export_adapter(*export, trained=["embedding", "layers/attention/query_lora_a"])
    with pytest.raises(ConvertError, match="grown from 20 to 29 rows"):
        export_adapter(*export, base_vocab=20)
    with pytest.raises(ConvertError, match="has no LoRA"):
        export_adapter(tmp_path / "new", params, BASE, LLAMA, "base")
    with pytest.raises(ConvertError, match="is there already"):
        export_adapter(folder, *export[1:])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["embed_tokens"]),
        ("rank_pattern", {"q_proj": 4}),
        ("bias", "all"),
        ("peft_type", "LOHA"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(folder, key, value):
    about = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(about | {key: value}))
    with pytest.raises(ConvertError, match=f"{CONFIG_FILE} has {key}=.*merge the adapter"):
        import_adapter(folder, BASE, LLAMA)


def test_the_scale_of_rslora_is_kept(folder):
    about = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(about | {"use_rslora": True}))
    _, config = import_adapter(folder, BASE, LLAMA)
    assert config.lora.scale == pytest.approx(5.0 / 3**0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY.format("B")), r"lacks the tensor .*1.self_attn.q_proj.lora_B"),
        (lambda t: t.update(other=np.zeros(1, np.float32)), "holds the tensor other"),
        (
            lambda t: t.update({QUERY.format("A"): np.zeros((4, 12), np.float32)}),
            r"q_proj.lora_A.weight in .* has shape \(4, 12\); .* r=3 say \(3, 12\)",
        ),
        (lambda t: [t.pop(name) for name in list(t)], "holds factors of no matrix of a llama"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(ConvertError, match=message):
        import_adapter(folder, BASE, LLAMA)


def test_a_damaged_config_is_named(folder):
    about = json.loads((folder / CONFIG_FILE).read_text())
    for broken in ({"r": 0}, {"r": None}, {"lora_alpha": "x"}):
        (folder / CONFIG_FILE).write_text(json.dumps(about | broken))
        with pytest.raises(ConvertError, match=f"{CONFIG_FILE} is damaged"):
            import_adapter(folder, BASE, LLAMA)


def test_imported_factors_fit_beside_the_base(folder):
    found, config = import_adapter(folder, BASE, LLAMA)
    both = flatten_dict(make_params(BASE), sep="/") | flatten_dict(found, sep="/")
    assert jax.tree.map(np.shape, unflatten_dict(both, sep="/")) == jax.tree.map(
        np.shape, make_params(config)
    )
