"""The loss against plain definitions."""

import numpy as np

from marker_lm.data.assembly import Kind
from marker_lm.model.likelihood import batch_nll
from marker_lm.training.loss import batch_loss
from tests.model.helpers import make_params, random_tokens, small_config

CONFIG = small_config()
PARAMS = make_params(CONFIG)
WEIGHTS = np.array([0.0, 0.5, 0.25, 2.0, 1.0], np.float32)


def make_batch(kinds, weights):
    kinds = np.asarray(kinds, np.int32)
    tokens = random_tokens(CONFIG, *kinds.shape)
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "positions": np.broadcast_to(np.arange(kinds.shape[1], dtype=np.int32), kinds.shape),
        "segment_ids": (kinds != Kind.PADDING).astype(np.int32),
        "kinds": kinds,
        "weights": np.asarray(weights, np.float32),
    }


def nats(batch):
    everywhere = np.ones(batch["kinds"].shape, bool)
    return np.asarray(batch_nll(PARAMS, CONFIG, batch, batch["weights"], everywhere, 1)[1])


def test_the_loss_by_hand():
    P, M, S, C = Kind.PROMPT, Kind.PROMPT_MARKERS, Kind.COMPLETION_MARKERS, Kind.COMPLETION
    kinds = np.array([[P, M, S, S, C, C, 0, 0], [P, P, P, C, 0, 0, 0, 0]], np.int32)
    batch = make_batch(kinds, WEIGHTS[kinds])
    loss, sums = batch_loss(PARAMS, CONFIG, batch, 4)
    a, b = nats(batch)
    # Three answer tokens; padding has weight 0.
    by_hand = 0.5 * a[0] + 0.25 * a[1] + 2 * (a[2] + a[3]) + (a[4] + a[5])
    by_hand += 0.5 * (b[0] + b[1] + b[2]) + b[3]
    np.testing.assert_allclose(loss, by_hand / 3, rtol=1e-5)
    want = {
        "tokens": 10,
        "completion_markers_nats": a[2] + a[3],
        "completion_markers_tokens": 2,
        "completion_nats": a[4] + a[5] + b[3],
        "completion_tokens": 3,
    }
    assert sums.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)


def test_markers_without_a_weight_are_measured_but_not_learned():
    kinds = [[Kind.PROMPT, Kind.COMPLETION_MARKERS, Kind.COMPLETION, Kind.COMPLETION]]
    batch = make_batch(kinds, [[0, 0, 1, 1]])
    loss, sums = batch_loss(PARAMS, CONFIG, batch, 1)
    found = nats(batch)[0]
    np.testing.assert_allclose(loss, (found[2] + found[3]) / 2, rtol=1e-5)
    np.testing.assert_allclose(sums["completion_markers_nats"], found[1], rtol=1e-5)


def test_marker_tokens_do_not_dilute_the_answer():
    kinds = [[Kind.COMPLETION_MARKERS] * 6 + [Kind.COMPLETION] * 2]
    batch = make_batch(kinds, [[0] * 6 + [1] * 2])
    np.testing.assert_allclose(
        batch_loss(PARAMS, CONFIG, batch, 2)[0], nats(batch)[0, 6:].mean(), rtol=1e-5
    )


def test_a_batch_of_padding_has_no_loss():
    loss, sums = batch_loss(PARAMS, CONFIG, make_batch(np.zeros((2, 4)), np.zeros((2, 4))), 1)
    assert loss == 0 and sums["tokens"] == 0
