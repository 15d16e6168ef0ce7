"""The loss against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.data.assembly import Kind
from marker_lm.model.likelihood import batch_nll, token_nll
from marker_lm.model.transformer import head_logits
from marker_lm.training.loss import answer_normalised
from tests.model.helpers import make_params, small_config

B, L = 3, 8


def plain_nll(params, config, hidden, targets):
    logits = head_logits(params, config, hidden)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_blocks_give_the_same_value_and_gradient(blocks, tied):
    config = small_config(tied_head=tied)
    params = make_params(config)
    random = np.random.default_rng(0)
    hidden = random.normal(0, 2, (B, L, config.width)).astype(np.float32)
    targets = random.integers(0, config.vocab, (B, L), dtype=np.int32)
    weights = random.normal(0, 1, (B, L)).astype(np.float32)

    def gradients(nll):
        def weighted(params, hidden):
            found = nll(params, hidden)
            return jnp.sum(found * weights), found

        (_, found), grads = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)(
            params, hidden
        )
        return found, grads

    found = gradients(lambda p, h: token_nll(p, config, h, targets, blocks))
    want = gradients(lambda p, h: plain_nll(p, config, h, targets))
    assert found[0].dtype == jnp.float32 and found[0].shape == (B, L)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, want)
    assert np.abs(want[1][1]).max() > 0.1  # there is a gradient to compare


def test_large_logits_stay_finite():
    config = small_config()
    params = jax.tree.map(lambda x: 1000 * x, make_params(config))
    hidden = np.ones((B, L, config.width), np.float32)
    assert np.isfinite(token_nll(params, config, hidden, np.zeros((B, L), np.int32), 2)).all()


def test_blocks_must_divide_the_length():
    config = small_config()
    hidden, targets = np.zeros((B, L, config.width)), np.zeros((B, L), np.int32)
    with pytest.raises(ValueError, match="loss_blocks=3 does not divide the sequence length 8"):
        token_nll(make_params(config), config, hidden, targets, 3)


def test_segments_of_a_row_do_not_see_each_other():
    config = small_config()
    random = np.random.default_rng(1)
    batch = {
        "tokens": random.integers(0, config.vocab, (1, 8), dtype=np.int32),
        "targets": random.integers(0, config.vocab, (1, 8), dtype=np.int32),
        "positions": np.array([[0, 1, 2, 0, 1, 2, 0, 0]], np.int32),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 2, 0, 0]], np.int32),
    }
    both = batch_nll(make_params(config), config, batch, 1)[0]
    assert np.isfinite(both).all()
    second = {k: np.pad(v[:, 3:6], ((0, 0), (0, 5))) for k, v in batch.items()}
    second["segment_ids"] = np.minimum(second["segment_ids"], 1)
    alone = batch_nll(make_params(config), config, second, 1)[0]
    np.testing.assert_allclose(both[3:6], alone[:3], atol=1e-5)


def test_the_loss_by_hand():
    P, M, S, C = Kind.PROMPT, Kind.PROMPT_MARKERS, Kind.COMPLETION_MARKERS, Kind.COMPLETION
    kinds = np.array([[P, M, S, S, C, C, 0, 0], [P, P, P, C, 0, 0, 0, 0]], np.int32)
    nll = np.arange(16, dtype=np.float32).reshape(2, 8)
    weights = np.array([0.0, 0.5, 0.25, 2.0, 1.0], np.float32)[kinds]
    loss, sums = answer_normalised(nll, {"kinds": kinds, "weights": weights})
    # Three answer tokens; padding has weight 0.
    by_hand = 0.5 * 0 + 0.25 * 1 + 2 * (2 + 3) + (4 + 5) + 0.5 * (8 + 9 + 10) + 11
    np.testing.assert_allclose(loss, by_hand / 3, rtol=1e-6)
    assert {name: float(value) for name, value in sums.items()} == {
        "tokens": 10,
        "completion_markers_nats": 5,
        "completion_markers_tokens": 2,
        "completion_nats": 20,
        "completion_tokens": 3,
    }


def test_marker_tokens_do_not_dilute_the_answer():
    kinds = np.array([[Kind.COMPLETION, Kind.COMPLETION]], np.int32)
    more = np.array([[Kind.COMPLETION_MARKERS] * 6 + [Kind.COMPLETION] * 2], np.int32)
    short = answer_normalised(np.array([[1.0, 3.0]]), {"kinds": kinds, "weights": np.ones((1, 2))})
    easy = np.array([[0.0] * 6 + [1.0, 3.0]])
    assert answer_normalised(easy, {"kinds": more, "weights": np.ones((1, 8))})[0] == short[0] == 2


def test_a_batch_of_padding_has_no_loss():
    kinds = np.zeros((2, 4), np.int32)
    loss, sums = answer_normalised(np.ones((2, 4)), {"kinds": kinds, "weights": np.zeros((2, 4))})
    assert loss == 0 and sums["tokens"] == 0
