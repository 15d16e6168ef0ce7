"""A packed batch for tests of attention, and attention in float64 NumPy, derivatives by hand."""

import jax
import jax.numpy as jnp
import numpy as np

B, L, H, K, N = 2, 256, 4, 2, 24
SCALE = 0.2
CASES = [(0, 0.0), (17, 0.0), (0, 5.0), (130, 5.0)]  # (window, soft-cap)
_RANDOM = np.random.default_rng(0)
QUERIES = _RANDOM.normal(size=(B, L, H, N)).astype(np.float32)
KEYS, VALUES = _RANDOM.normal(size=(2, B, L, K, N)).astype(np.float32)
# Three segments and padding a row, none of them at a border of a kernel's blocks.
SEGMENTS = np.stack(
    [
        np.repeat([1, 2, 3, 0], np.diff([0, *borders, L])).astype(np.int32)
        for borders in ([50, 131, 236], [7, 8, 255])
    ]
)
POSITIONS = np.stack(
    [
        np.concatenate([np.arange(n) for n in np.unique(row, return_counts=True)[1][[1, 2, 3, 0]]])
        for row in SEGMENTS
    ]
).astype(np.int32)
REAL = (SEGMENTS != 0)[:, :, None, None]


def reference(q, k, v, segments, window: int, softcap: float):
    """The values of real tokens, and the gradients of the sum of their sines by q, k and v."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    mixed, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    groups = q.shape[2] // k.shape[2]
    at = np.arange(q.shape[1])
    near = (at[:, None] >= at) & (at[:, None] < at + (window or len(at)))
    for b, ids in enumerate(segments):
        sees = near & (ids[:, None] == ids)
        for h in range(q.shape[2]):
            queries, keys, values = q[b, :, h], k[b, :, h // groups], v[b, :, h // groups]
            products = SCALE * queries @ keys.T
            slope = np.ones_like(products)
            if softcap:
                products = softcap * np.tanh(products / softcap)
                slope = 1 - (products / softcap) ** 2
            weights = np.where(sees, np.exp(products - products.max(1, keepdims=True)), 0)
            weights /= weights.sum(1, keepdims=True)
            mixed[b, :, h] = (weights @ values) * (ids != 0)[:, None]
            d_mixed = np.cos(mixed[b, :, h]) * (ids != 0)[:, None]
            d_weights = d_mixed @ values.T
            d_products = weights * (d_weights - np.sum(weights * d_weights, 1, keepdims=True))
            d_products *= SCALE * slope
            dq[b, :, h] = d_products @ keys
            dk[b, :, h // groups] += d_products.T @ queries
            dv[b, :, h // groups] += weights.T @ d_mixed
    return mixed, dq, dk, dv


def values_and_gradients(attend, *arrays, real=REAL):
    """The same of a function of q, k and v."""

    def total(q, k, v):
        mixed = attend(q, k, v) * real
        return jnp.sum(jnp.sin(mixed)), mixed

    grad = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    (_, mixed), gradients = jax.jit(grad)(*(arrays or (QUERIES, KEYS, VALUES)))
    return mixed, *gradients


def assert_agree(found, expected, atol=1e-5):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)
