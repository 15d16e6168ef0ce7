"""Layouts by logical axes, and that a sharded model computes what one device computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import abstract_arrays, init_params
from marker_lm.model.transformer import Transformer
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import (
    RULES,
    ShardingError,
    batch_sharding,
    constrain,
    param_shardings,
    partition_spec,
    tree_shardings_like,
    use_mesh,
)

CONFIG = ModelConfig(
    vocab=32, width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=24, max_len=8
)

EMBED = ("fsdp", "context")


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, 2, 2)


def test_parameter_layouts(mesh):
    specs = jax.tree.map(lambda sharding: sharding.spec, param_shardings(CONFIG, mesh))
    assert specs["embedding"] == PartitionSpec("tensor", EMBED)
    assert specs["layers"]["attention"]["query"] == PartitionSpec(None, EMBED, "tensor", None)
    assert specs["layers"]["mlp"]["down"] == PartitionSpec(None, "tensor", EMBED)
    assert specs["final_norm"] == PartitionSpec(EMBED)


def test_a_mesh_axis_used_twice_is_refused(mesh):
    rules = dict(RULES, embed=("tensor",))
    with pytest.raises(ShardingError, match="mlp/down.*'tensor'.*'mlp'.*'embed'") as error:
        partition_spec("layers/mlp/down", (24, 16), ("mlp", "embed"), mesh, rules)
    assert "give one of them another mesh axis" in str(error.value)


def test_an_unknown_logical_axis_names_the_nearest(mesh):
    with pytest.raises(ShardingError, match="x: no rule for .* 'heds' .nearest: 'heads'"):
        partition_spec("x", (4,), ("heds",), mesh)


@pytest.mark.parametrize(
    ("changes", "parameter", "mend"),
    [
        (dict(vocab=33), "embedding", "'vocab' of size 33 .* make it 34"),
        (dict(kv_heads=1), "layers/attention/key", "'kv_heads' of size 1 .*tensor=1"),
        (dict(ff=25), "layers/mlp/down", "'mlp' of size 25 .*make it 26"),
    ],
    ids=str,
)
def test_a_dimension_that_does_not_divide_is_refused(mesh, changes, parameter, mend):
    with pytest.raises(ShardingError, match=f"{parameter}: the dimension {mend}"):
        param_shardings(dataclasses.replace(CONFIG, **changes), mesh)


def test_optimizer_state_follows_the_parameters(mesh):
    params, shardings = abstract_arrays(CONFIG), param_shardings(CONFIG, mesh)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.adamw(1e-3), jax.tree.map(lambda x: x.ndim > 1, params)),
        optax.adafactor(1e-3),
    )
    state = jax.eval_shape(optimizer.init, params)
    laid_out = tree_shardings_like(state, params, shardings, mesh)
    assert jax.tree.structure(laid_out) == jax.tree.structure(state)
    found = {
        jax.tree_util.keystr(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(laid_out)
    }
    by_path = {
        jax.tree_util.keystr(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
    }
    moments = {path: spec for path, spec in found.items() if ".mu" in path or ".nu" in path}
    assert len(moments) == 2 * sum(x.ndim > 1 for x in jax.tree.leaves(params))
    for path, spec in moments.items():
        assert spec == by_path[path[path.index("['") :]], path
    assert found[next(path for path in found if path.endswith(".count"))] == PartitionSpec()


def test_factored_moments_lie_like_their_parameter(mesh):
    """Rows and columns of `down` [2, 24, 16]; what stands for nothing, and numbers, are whole."""
    shapes = {"row": (2, 24), "column": (2, 16), "none": (1,), "whole": (2, 24, 16)}
    tree = {
        name: {"layers": {"mlp": {"down": jax.ShapeDtypeStruct(shape, "float32")}}}
        for name, shape in shapes.items()
    }
    tree["count"] = jax.ShapeDtypeStruct((), "int32")
    found = tree_shardings_like(tree, abstract_arrays(CONFIG), param_shardings(CONFIG, mesh), mesh)
    specs = {name: found[name]["layers"]["mlp"]["down"].spec for name in shapes}
    assert specs == {
        "row": PartitionSpec(None, "tensor"),
        "column": PartitionSpec(None, EMBED),
        "none": PartitionSpec(),
        "whole": PartitionSpec(None, "tensor", EMBED),
    }
    assert found["count"].spec == PartitionSpec()


def loss(params, batch):
    logits, _ = Transformer(CONFIG).apply({"params": params}, *batch)
    return jnp.mean(jax.nn.logsumexp(logits, -1) * jnp.cos(jnp.arange(8)))


def test_eight_devices_compute_what_one_computes(mesh):
    batch = (
        np.random.default_rng(0).integers(0, 32, (8, 8), dtype=np.int32),
        np.tile(np.arange(8, dtype=np.int32), (8, 1)),
        np.ones((8, 8), np.int32),
    )
    params = jax.jit(lambda key: init_params(CONFIG, key))(jax.random.key(0))
    expected = jax.jit(jax.value_and_grad(loss))(params, batch)

    shardings = param_shardings(CONFIG, mesh)
    with use_mesh(mesh):
        make = jax.jit(lambda key: init_params(CONFIG, key), out_shardings=shardings)
        placed = make(jax.random.key(0))
        step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))
        result = step(placed, jax.device_put(batch, batch_sharding(mesh)))
    jax.tree.map(np.testing.assert_array_equal, placed, params)
    query = result[1]["layers"]["attention"]["query"]
    assert query.addressable_shards[0].data.shape == (2, 8, 2, 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), result, expected
    )


def test_constrain_acts_only_inside_use_mesh(mesh):
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", None) is x
    with use_mesh(mesh):
        laid_out = jax.jit(lambda x: constrain(x, "batch", "mlp"))(x)
    assert laid_out.sharding.spec == PartitionSpec(("data", "fsdp"), "tensor")
    assert constrain(x, "batch", None) is x


def test_a_batch_that_does_not_divide_still_runs(mesh):
    with use_mesh(mesh):
        out = jax.jit(lambda x: constrain(x, "batch", None) * 2)(jnp.ones((3, 4)))
    np.testing.assert_array_equal(out, np.full((3, 4), 2.0))
