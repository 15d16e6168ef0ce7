"""Switches that trade memory for time change no number: remat policies, pieces of feed-forward."""

import dataclasses

import jax
import numpy as np
import pytest

from marker_lm.model.config import REMAT_POLICIES, LoRA
from marker_lm.model.likelihood import batch_nll
from marker_lm.model.lora import is_factor
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding, param_shardings, use_mesh
from tests.model.helpers import make_params, random_tokens, small_config

CONFIG = small_config(vocab=32, kv_heads=2, ff=24, width=16)


def run(config, mesh=None):
    """Sum of nats, nats and gradient of a batch on a mesh; a device alone by default."""
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    tokens = random_tokens(config, 8, 9)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "positions": np.tile(np.array([0, 1, 2, 3, 0, 1, 2, 0], np.int32), (8, 1)),
        "segment_ids": np.tile(np.array([1, 1, 1, 1, 2, 2, 2, 0], np.int32), (8, 1)),
    }

    def total(params, batch):
        wanted = batch["segment_ids"] != 0
        return batch_nll(params, config, batch, 1.0 * wanted, wanted, 2)

    with use_mesh(mesh):
        placed = jax.device_put(make_params(config), param_shardings(config, mesh))
        batch = jax.device_put(batch, batch_sharding(mesh))
        return jax.jit(jax.value_and_grad(total, has_aux=True))(placed, batch)


def assert_same(found, want):
    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))

    jax.tree.map(same, found, want)


@pytest.fixture(scope="module")
def plain():
    return run(CONFIG)


@pytest.mark.parametrize("remat", [policy for policy in REMAT_POLICIES if policy != "none"])
def test_what_is_computed_again_is_the_same(plain, remat):
    assert_same(run(dataclasses.replace(CONFIG, remat=remat)), plain)


@pytest.mark.parametrize("ff_blocks", [2, 6])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_hidden_units_in_pieces(plain, ff_blocks, remat):
    assert_same(run(dataclasses.replace(CONFIG, ff_blocks=ff_blocks, remat=remat)), plain)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(data=2, fsdp=2, tensor=2),
        dict(slice=2, fsdp=2, context=2),
        dict(data=1, context=4, tensor=2),
    ],
    ids=str,
)
def test_meshes(plain, sizes):
    found = run(dataclasses.replace(CONFIG, ff_blocks=3, remat="full"), make_mesh(**sizes))
    assert_same(found, plain)


def test_pieces_of_factors():
    config = dataclasses.replace(CONFIG, lora=LoRA(rank=2, alpha=3.0))
    found = run(dataclasses.replace(config, ff_blocks=4), make_mesh(data=2, fsdp=2, tensor=2))
    want = run(config)
    assert_same(found, want)
    factors = [x for name, x in want[1]["layers"]["mlp"].items() if is_factor(name)]
    assert len(factors) == 6 and all(np.abs(x).max() > 1e-3 for x in factors)


def test_pieces_must_divide_the_hidden_units():
    with pytest.raises(ValueError, match="ff_blocks is 5; it must divide ff, which is 24"):
        dataclasses.replace(CONFIG, ff_blocks=5)
