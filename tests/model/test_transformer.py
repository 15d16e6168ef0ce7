"""The forward pass: parity with NumPy, causality, packing, scan, remat, dtypes."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.model.transformer import head_logits, head_table
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config


def numpy_forward(config, params, tokens_L: np.ndarray) -> np.ndarray:
    """Logits of one sequence, written apart from the model: loops, float64, one head at a time."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    L, N = len(tokens_L), config.head_size

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def turn(x_LxN):
        out = np.empty_like(x_LxN)
        for position in range(L):
            for i in range(N // 2):
                angle = position * config.rope_base ** (-2 * i / N)
                pair = complex(x_LxN[position, i], x_LxN[position, i + N // 2])
                turned = pair * np.exp(1j * angle)
                out[position, i], out[position, i + N // 2] = turned.real, turned.imag
        return out

    x = p["embedding"][tokens_L]
    for layer in range(config.layers):
        block = jax.tree.map(operator.itemgetter(layer), p["layers"])
        a, m = block["attention"], block["mlp"]
        h = norm(x, block["attention_norm"])
        mixed = np.zeros_like(x)
        for head in range(config.heads):
            kv_head = head // (config.heads // config.kv_heads)
            q = turn(h @ a["query"][:, head])
            k = turn(h @ a["key"][:, kv_head])
            v = h @ a["value"][:, kv_head]
            scores = np.where(np.tri(L, dtype=bool), q @ k.T / np.sqrt(N), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed += weights / weights.sum(-1, keepdims=True) @ v @ a["out"][head]
        x = x + mixed
        h = norm(x, block["mlp_norm"])
        gate = h @ m["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["up"])) @ m["down"]
    table = p["embedding"] if config.tied_head else p["head"]
    return norm(x, p["final_norm"]) @ table.T


@pytest.mark.parametrize(
    "changes",
    [
        dict(tied_head=True),
        dict(tied_head=False, width=13, heads=3, kv_heads=1, head_size=10, ff=7, rope_base=100.0),
        dict(heads=5, kv_heads=5, head_size=2, norm_eps=1e-2, scan=False),
    ],
    ids=["tied", "untied, one kv head, odd sizes", "kv head for each head, unrolled"],
)
def test_agrees_with_numpy_float64(changes):
    config = small_config(**changes)
    params = make_params(config)
    tokens = random_tokens(config, 2, 11)
    logits, cache = forward(config, params, *plain(tokens))
    assert logits.dtype == jnp.float32 and cache is None
    for row in range(2):
        expected = numpy_forward(config, params, tokens[row])
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-5)


def test_hidden_states_and_head_give_the_logits():
    for config in (small_config(), small_config(tied_head=False)):
        params = make_params(config)
        batch = plain(random_tokens(config, 2, 7))
        logits, _ = forward(config, params, *batch)
        hidden, _ = forward(config, params, *batch, return_hidden=True)
        assert hidden.shape == (2, 7, config.width)
        np.testing.assert_allclose(
            head_logits(head_table(params, config), config, hidden), logits, atol=1e-6
        )


def test_no_token_depends_on_a_later_one():
    # Each token once, so that the gradient by the embedding table is one by place.
    config = small_config(vocab=6)
    params = make_params(config)
    batch = plain(np.arange(6, dtype=np.int32)[None])

    def outputs(table):
        changed = params | {"embedding": table}
        return forward(config, changed, *batch, return_hidden=True)[0][0].sum(-1)

    jacobian = jax.jit(jax.jacrev(outputs))(params["embedding"])
    influence_out_x_in = np.abs(np.asarray(jacobian)).sum(-1)
    assert (np.triu(influence_out_x_in, 1) == 0).all()
    assert (influence_out_x_in[np.tril_indices(6)] > 1e-6).all()


def test_packed_segments_equal_separate_sequences():
    config = small_config()
    params = make_params(config)
    tokens = random_tokens(config, 1, 11)
    # Segments of 4 and 5 tokens and two of padding.
    positions = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0]], np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]], np.int32)
    packed, _ = forward(config, params, tokens, positions, segments)
    assert np.isfinite(packed).all()
    for start, end in ((0, 4), (4, 9)):
        alone, _ = forward(config, params, *plain(tokens[:, start:end]))
        np.testing.assert_allclose(packed[:, start:end], alone, atol=1e-5)


def loss_and_gradient(config, params):
    tokens, positions, segments = plain(random_tokens(config, 2, 8))
    segments = segments.copy()
    segments[0, 5:] = 0

    def loss(params):
        logits, _ = forward(config, params, tokens, positions, segments)
        return jnp.mean(jnp.square(logits) * (segments != 0)[..., None])

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def reference():
    config = small_config()
    return loss_and_gradient(config, make_params(config))


@pytest.mark.parametrize(
    "changes", [dict(scan=False), dict(remat="full"), dict(remat="dots", scan=False)], ids=str
)
def test_unrolling_and_remat_change_nothing(changes, reference):
    result = loss_and_gradient(small_config(**changes), make_params(small_config()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), result, reference
    )


def test_padding_gives_finite_gradients(reference):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(reference))


def test_bfloat16_stays_near_float32():
    config = small_config(dtype="bfloat16")
    params = make_params(small_config())
    batch = plain(random_tokens(config, 2, 9))
    expected, _ = forward(small_config(), params, *batch)
    logits, _ = forward(config, params, *batch)
    hidden, _ = forward(config, params, *batch, return_hidden=True)
    assert logits.dtype == jnp.float32 and hidden.dtype == jnp.bfloat16
    error = np.abs(np.asarray(logits) - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.05
