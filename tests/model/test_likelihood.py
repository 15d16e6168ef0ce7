"""The block-wise likelihood and its gradient against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.model.likelihood import batch_nll, weighted_nll
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import use_mesh
from tests.model.helpers import make_params, small_config

B, L = 4, 8
CONFIG = small_config()
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(0, 0.3, (CONFIG.vocab, CONFIG.width)).astype(np.float32)
HIDDEN = RANDOM.normal(0, 2, (B, L, CONFIG.width)).astype(np.float32)
TARGETS = RANDOM.integers(0, CONFIG.vocab, (B, L), dtype=np.int32)
# Not negative: a sum of both signs has no relative precision to hold it to.
WEIGHTS = RANDOM.uniform(0.1, 2, (B, L)).astype(np.float32)


def plain_logits(table, config, hidden):
    logits = config.logit_scale * hidden @ table.T
    cap = config.logit_softcap
    return cap * jnp.tanh(logits / cap) if cap else logits


def plain_nll(logits):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), TARGETS[..., None], -1)[..., 0]


def compare(wanted, blocks, config=CONFIG, mesh=None, z_loss=0.0):
    """Sum, nats and gradient of a multiple of the sum, ours and the plain ones."""
    weights = np.where(wanted, WEIGHTS, 0)

    def ours(table, hidden):
        total, nll = weighted_nll(
            table, config, hidden, TARGETS, weights, wanted, blocks, z_loss=z_loss
        )
        return 3 * total, nll

    def plain(table, hidden):
        logits = plain_logits(table, config, hidden)
        nll = plain_nll(logits)
        z = jax.nn.logsumexp(logits, axis=-1)
        return 3 * jnp.sum(weights * (nll + z_loss * z**2)), jnp.where(wanted, nll, 0)

    want = jax.jit(jax.value_and_grad(plain, argnums=(0, 1), has_aux=True))(TABLE, HIDDEN)
    with use_mesh(mesh or make_mesh(devices=jax.devices()[:1])):
        found = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))(TABLE, HIDDEN)
        without = jax.jit(ours)(TABLE, HIDDEN)  # another path where there is no gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, want)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), without, found[0]
    )
    return found


@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_value_and_gradient(blocks):
    found = compare(np.ones((B, L), bool), blocks)
    assert np.abs(found[1][0]).max() > 0.1  # there is a gradient to compare


@pytest.mark.parametrize(
    "sizes",
    [
        dict(data=4, devices=4),
        dict(fsdp=4, devices=4),
        dict(slice=2, fsdp=2, context=2),
        dict(data=2, context=2, tensor=2),
        dict(fsdp=2, context=2, tensor=2),
        dict(context=8),
    ],
    ids=str,
)
def test_the_vocabulary_is_split_over_the_mesh(sizes):
    """29 ids do not divide by these meshes, and devices have unlike numbers of wanted targets."""
    sizes = dict(sizes)
    mesh = make_mesh(**{"data": 1} | sizes | {"devices": jax.devices()[: sizes.pop("devices", 8)]})
    wanted = np.arange(B * L).reshape(B, L) % 5 < 2
    wanted[0] = True
    blocks = 1 if sizes.get("context") == 8 else 2
    compare(wanted, blocks, small_config(logit_softcap=2.5), mesh, z_loss=0.1)


@pytest.mark.parametrize("z_loss", [1e-3, 0.5])
def test_z_loss(z_loss):
    compare(np.arange(B * L).reshape(B, L) % 3 > 0, blocks=4, z_loss=z_loss)


@pytest.mark.parametrize(
    "changes",
    [dict(logit_scale=0.3), dict(logit_softcap=1.5), dict(logit_scale=1.7, logit_softcap=2.5)],
    ids=str,
)
def test_scaled_and_capped_logits(changes):
    wanted = np.arange(B * L).reshape(B, L) % 3 > 0
    found = compare(wanted, blocks=4, config=small_config(**changes))
    assert np.abs(found[1][0]).max() > 0.1 and np.abs(found[1][1]).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=B * L, max_size=B * L))
def test_what_is_not_wanted_counts_for_nothing(flags):
    compare(np.reshape(flags, (B, L)), blocks=4)


def test_pieces_without_a_wanted_target_are_skipped():
    """A NaN among the hidden states would show that a piece was computed all the same."""
    wanted = np.zeros((B, L), bool)
    wanted[:, :3] = True  # 12 of 32 tokens: 2 pieces of 8
    hidden = np.where(wanted[..., None], HIDDEN, np.nan)
    gradient = jax.grad(
        lambda table: weighted_nll(
            table, CONFIG, hidden, TARGETS, wanted.astype(np.float32), wanted, blocks=8
        )[0]
    )(TABLE)
    assert np.isfinite(gradient).all()


def test_memory_is_a_small_part_of_that_of_all_logits():
    """Of a value and its gradient, by the compiler's own count; nothing is run."""
    config = small_config(vocab=32_000, width=64)
    table, hidden = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32_000, 64), (4, 1024, 64))
    )
    targets, weights = np.zeros((4, 1024), np.int32), np.ones((4, 1024), np.float32)

    def in_blocks(table, hidden):
        return weighted_nll(table, config, hidden, targets, weights, weights > 0, blocks=64)[0]

    def plain(table, hidden):
        logits = plain_logits(table, config, hidden)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return -jnp.sum(weights * picked)

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))
        .lower(table, hidden)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for f in (in_blocks, plain)
    )
    assert theirs >= 4 * 1024 * 32_000 * 4  # all logits exist
    assert ours < 0.05 * theirs


def test_half_precision_keeps_the_gradient_close():
    config = small_config(dtype="bfloat16")
    wanted = np.ones((B, L), bool)

    def total(table, config):
        return weighted_nll(table, config, HIDDEN, TARGETS, WEIGHTS, wanted, blocks=4)[0]

    half = jax.grad(total)(TABLE, config)
    full = jax.grad(total)(TABLE, CONFIG)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=0.03 * np.abs(full).max())


def test_large_logits_stay_finite():
    wanted = np.ones((B, L), bool)
    total, nll = weighted_nll(1000 * TABLE, CONFIG, HIDDEN, TARGETS, WEIGHTS, wanted, blocks=2)
    assert np.isfinite(total) and np.isfinite(nll).all()


def test_blocks_must_divide_the_tokens():
    wanted = np.ones((B, L), bool)
    with pytest.raises(ValueError, match="loss_blocks=3 does not divide the 16 tokens"):
        with use_mesh(make_mesh(fsdp=2, devices=jax.devices()[:2])):
            weighted_nll(TABLE, CONFIG, HIDDEN, TARGETS, WEIGHTS, wanted, blocks=3)


def test_segments_of_a_row_do_not_see_each_other():
    random = np.random.default_rng(1)
    batch = {
        "tokens": random.integers(0, CONFIG.vocab, (1, 8), dtype=np.int32),
        "targets": random.integers(0, CONFIG.vocab, (1, 8), dtype=np.int32),
        "positions": np.array([[0, 1, 2, 0, 1, 2, 0, 0]], np.int32),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 2, 0, 0]], np.int32),
    }

    def nats(batch):
        wanted = batch["segment_ids"] != 0
        return batch_nll(make_params(CONFIG), CONFIG, batch, 1.0 * wanted, wanted, 1)[1][0]

    both = nats(batch)
    assert np.isfinite(both).all()
    second = {k: np.pad(v[:, 3:6], ((0, 0), (0, 5))) for k, v in batch.items()}
    second["segment_ids"] = np.minimum(second["segment_ids"], 1)
    np.testing.assert_allclose(both[3:6], nats(second)[:3], atol=1e-5)
