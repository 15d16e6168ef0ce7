"""The block-wise likelihood and its gradient against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.model.likelihood import batch_nll, weighted_nll
from tests.model.helpers import make_params, small_config

B, L = 4, 8
CONFIG = small_config()
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(0, 0.3, (CONFIG.vocab, CONFIG.width)).astype(np.float32)
HIDDEN = RANDOM.normal(0, 2, (B, L, CONFIG.width)).astype(np.float32)
TARGETS = RANDOM.integers(0, CONFIG.vocab, (B, L), dtype=np.int32)
# Not negative: a sum of both signs has no relative precision to hold it to.
WEIGHTS = RANDOM.uniform(0.1, 2, (B, L)).astype(np.float32)


def plain_nll(table, config, hidden, targets):
    logits = config.logit_scale * hidden @ table.T
    if config.logit_softcap:
        logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]


def compare(wanted, blocks, groups, config=CONFIG):
    """Sum, nats and gradient of a multiple of the sum, ours and the plain ones."""
    weights = np.where(wanted, WEIGHTS, 0)

    def ours(table, hidden):
        total, nll = weighted_nll(
            table, config, hidden, TARGETS, weights, wanted, blocks, groups=groups
        )
        return 3 * total, nll

    def plain(table, hidden):
        nll = plain_nll(table, config, hidden, TARGETS)
        return 3 * jnp.sum(weights * nll), jnp.where(wanted, nll, 0)

    found, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(TABLE, HIDDEN)
        for f in (ours, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, want)
    # Without a gradient the same is computed by another path.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        ours(TABLE, HIDDEN),
        found[0],
    )
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_value_and_gradient(blocks, groups):
    found = compare(np.ones((B, L), bool), blocks, groups)
    assert np.abs(found[1][0]).max() > 0.1  # there is a gradient to compare


@pytest.mark.parametrize(
    "changes",
    [dict(logit_scale=0.3), dict(logit_softcap=1.5), dict(logit_scale=1.7, logit_softcap=2.5)],
    ids=str,
)
def test_scaled_and_capped_logits(changes):
    wanted = np.arange(B * L).reshape(B, L) % 3 > 0
    found = compare(wanted, blocks=4, groups=2, config=small_config(**changes))
    assert np.abs(found[1][0]).max() > 0.1 and np.abs(found[1][1]).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=B * L, max_size=B * L))
def test_what_is_not_wanted_counts_for_nothing(flags):
    compare(np.reshape(flags, (B, L)), blocks=4, groups=2)


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
        weighted_nll(TABLE, CONFIG, HIDDEN, TARGETS, WEIGHTS, wanted, blocks=3, groups=2)


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
