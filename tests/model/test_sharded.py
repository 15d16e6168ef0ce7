"""The model on a 2x2x2 mesh of fake devices, with every kind of parameter a family has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from marker_lm.model.likelihood import batch_nll
from marker_lm.model.transformer import embed
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding, param_shardings, use_mesh
from tests.model.helpers import make_params, random_tokens, small_config

SHAPE = dict(vocab=30, layers=2, kv_heads=2)


@pytest.mark.parametrize(
    "changes",
    [
        dict(qkv_bias=True, qk_norm="shared", post_norms=True, norm_offset=1.0, windows=(3, 0))
        | dict(attention_softcap=0.5, logit_softcap=2.0, rope_local_base=30.0, tied_head=False),
        dict(qkv_bias=True, qk_norm="per_head", norm="layer", parallel=True, rope_interleaved=True)
        | dict(windows=(4, 0), rope_everywhere=False, logit_scale=0.5),
    ],
    ids=["post norms", "parallel"],
)
def test_likelihood_and_gradient_are_those_of_one_device(changes):
    config = small_config(**SHAPE, **changes)
    params = make_params(config)
    tokens = random_tokens(config, 4, 9)
    segments = np.repeat([[1, 2, 0]], [4, 3, 1], axis=1).astype(np.int32).repeat(4, axis=0)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "positions": np.tile(np.array([0, 1, 2, 3, 0, 1, 2, 0], np.int32), (4, 1)),
        "segment_ids": segments,
    }

    def run(params, batch):
        def total(params):
            wanted = batch["segment_ids"] != 0
            return batch_nll(params, config, batch, 1.0 * wanted, wanted, 2)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    alone = run(params, batch)
    mesh = make_mesh(2, 2, 2)
    with use_mesh(mesh):
        placed = jax.device_put(params, param_shardings(config, mesh))
        sharded = run(placed, jax.device_put(batch, batch_sharding(mesh)))
    split = placed["layers"]["attention"]["key_bias"].sharding
    assert len(split.device_set) == 8 and not split.is_fully_replicated
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), sharded, alone
    )
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(alone[1]))


@pytest.mark.parametrize("sizes", [dict(fsdp=8), dict(fsdp=4, context=2), dict(fsdp=2, context=4)])
def test_embeddings_are_exchanged_and_never_whole_on_a_device(sizes):
    mesh, config = make_mesh(data=1, **sizes), small_config(vocab=56, width=64)

    def total(table_VxD, tokens_BxL):
        x_BxLxD = embed(config, table_VxD, tokens_BxL)
        return jnp.sum(jnp.sin(nn.with_logical_constraint(x_BxLxD, ("batch", "length", None))))

    split = NamedSharding(mesh, PartitionSpec(None, ("fsdp", "context")))
    table = jax.ShapeDtypeStruct((56, 64), jnp.float32, sharding=split)
    tokens = jax.ShapeDtypeStruct((8, 32), jnp.int32, sharding=batch_sharding(mesh))
    with use_mesh(mesh):
        hlo = jax.jit(jax.grad(total)).lower(table, tokens).compile().as_text()
    assert hlo.count(" all-to-all(") >= 2  # there and back
    assert " = f32[8,32,64]" not in hlo and " = f32[56,64]" not in hlo
