"""The forward pass: parity with NumPy, causality, packing, scan, remat, dtypes."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.model.config import ModelConfig, RopeScaling
from marker_lm.model.transformer import head_logits, head_table
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config


def numpy_frequencies(config, local: bool) -> tuple[list[float], float]:
    """Radians a position of each pair, and the size of the rotation, from the papers' formulas."""
    N, scaling = config.head_size, config.rope_scaling
    base = config.rope_base
    if local and config.rope_local_base:
        base, scaling = config.rope_local_base, None
    plain = [base ** (-2 * i / N) for i in range(N // 2)]
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return [f / scaling.factor for f in plain], 1.0
    if scaling.kind == "llama3":
        stretched = []
        for f in plain:
            wavelength = 2 * np.pi / f
            if wavelength < scaling.original_len / scaling.high:
                stretched.append(f)
            elif wavelength > scaling.original_len / scaling.low:
                stretched.append(f / scaling.factor)
            else:
                smooth = scaling.original_len / wavelength - scaling.low
                smooth /= scaling.high - scaling.low
                stretched.append((1 - smooth) * f / scaling.factor + smooth * f)
        return stretched, 1.0

    def pair(turns):  # the pair that makes so many turns within the original length
        return N * np.log(scaling.original_len / (turns * 2 * np.pi)) / (2 * np.log(base))

    first, last = max(np.floor(pair(scaling.high)), 0), min(np.ceil(pair(scaling.low)), N - 1)
    stretched = []
    for i, f in enumerate(plain):
        ramp = min(max((i - first) / (last - first), 0), 1)
        stretched.append((1 - ramp) * f + ramp * f / scaling.factor)
    return stretched, scaling.magnitude or 0.1 * np.log(scaling.factor) + 1


def numpy_forward(config, params, tokens_L: np.ndarray) -> np.ndarray:
    """Logits of one sequence, written apart from the model: loops, float64, one head at a time."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    L, N = len(tokens_L), config.head_size

    def norm(x, scale):
        if config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps)
        return scaled * (scale + config.norm_offset)

    def turn(x_LxN, window):
        frequencies, size = numpy_frequencies(config, local=window > 0)
        if window == 0 and not config.rope_everywhere:
            return x_LxN
        out = np.empty_like(x_LxN)
        for position in range(L):
            for i, frequency in enumerate(frequencies):
                places = (2 * i, 2 * i + 1) if config.rope_interleaved else (i, i + N // 2)
                pair = complex(*x_LxN[position, places])
                turned = size * pair * np.exp(1j * position * frequency)
                out[position, places] = turned.real, turned.imag
        return out

    def project(a, name, h, head):
        x_LxN = h @ a[name][:, head]
        if config.qkv_bias:
            x_LxN = x_LxN + a[f"{name}_bias"][head]
        if name != "value" and config.qk_norm != "none":
            scale = a[f"{name}_norm"]
            x_LxN = norm(x_LxN, scale[head] if config.qk_norm == "per_head" else scale)
        return x_LxN

    def cap(x, limit):
        return limit * np.tanh(x / limit) if limit else x

    def attend(a, h, window):
        distance = np.arange(L)[:, None] - np.arange(L)
        seen = (distance >= 0) & ((window == 0) | (distance < window))
        mixed = 0
        for head in range(config.heads):
            kv_head = head // (config.heads // config.kv_heads)
            q = turn(project(a, "query", h, head), window)
            k = turn(project(a, "key", h, kv_head), window)
            v = project(a, "value", h, kv_head)
            scores = cap(q @ k.T * (config.attention_scale or N**-0.5), config.attention_softcap)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed += weights / weights.sum(-1, keepdims=True) @ v @ a["out"][head]
        return mixed

    def feed(m, h):
        gate = h @ m["gate"]
        if config.activation == "silu":
            active = gate / (1 + np.exp(-gate))
        else:
            inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
            active = gate * (1 + np.tanh(inner)) / 2
        return active * (h @ m["up"]) @ m["down"]

    x = p["embedding"][tokens_L] * config.embedding_scale
    for layer in range(config.layers):
        block = jax.tree.map(operator.itemgetter(layer), p["layers"])
        a, m = block["attention"], block["mlp"]
        window = config.windows[layer % len(config.windows)] if config.windows else 0
        h = norm(x, block["attention_norm"])
        mixed = attend(a, h, window)
        if config.parallel:
            x = x + mixed + feed(m, h)
            continue
        x = x + (norm(mixed, block["attention_post_norm"]) if config.post_norms else mixed)
        fed = feed(m, norm(x, block["mlp_norm"]))
        x = x + (norm(fed, block["mlp_post_norm"]) if config.post_norms else fed)
    table = p["embedding"] if config.tied_head else p["head"]
    return cap(config.logit_scale * norm(x, p["final_norm"]) @ table.T, config.logit_softcap)


# Each switch alone, and such as only mean something together.
SWITCHES = [
    dict(activation="gelu"),
    dict(norm="layer"),
    dict(norm_offset=1.0),
    dict(post_norms=True),
    dict(parallel=True),
    dict(qk_norm="shared"),
    dict(qk_norm="per_head", norm="layer"),
    dict(qkv_bias=True, kv_heads=1),
    dict(attention_scale=0.9),
    dict(attention_softcap=0.4),
    dict(attention_softcap=0.4, kv_heads=1, attention_scale=2.0),
    dict(windows=(3,)),
    dict(windows=(4, 1, 0, 2), layers=6),
    dict(windows=(3, 0), attention_softcap=0.4),
    dict(rope_base=50.0, rope_local_base=7.0, windows=(3, 0)),
    dict(rope_interleaved=True),
    dict(rope_everywhere=False),
    dict(rope_everywhere=False, windows=(3, 3, 0), rope_interleaved=True),
    dict(rope_scaling=RopeScaling("linear", 3.0)),
    dict(rope_scaling=RopeScaling("linear", 3.0), rope_local_base=30.0, windows=(0, 5)),
    dict(rope_scaling=RopeScaling("linear", 3.0), windows=(0, 5)),
    dict(rope_scaling=RopeScaling("llama3", 4.0, 5, 0.5, 2.0), head_size=14, rope_base=90.0),
    dict(rope_scaling=RopeScaling("yarn", 4.0, 9, 0.2, 2.0), head_size=14, rope_base=90.0),
    dict(rope_scaling=RopeScaling("yarn", 4.0, 9, 0.2, 2.0, 0.7), head_size=14, rope_base=90.0),
    dict(embedding_scale=2.5),
    dict(logit_scale=0.3),
    dict(logit_softcap=1.2),
    dict(logit_softcap=1.2, logit_scale=3.0, tied_head=False),
]


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


# Switches that leave the parameters as they are, with the values that turn them off.
OFF = {
    field.name: field.default
    for field in dataclasses.fields(ModelConfig)
    if field.default is not dataclasses.MISSING
    and field.name not in ("post_norms", "parallel", "qk_norm", "qkv_bias", "tied_head")
}


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_agrees_with_numpy_float64_and_does_something(changes):
    config = small_config(**changes)
    params = make_params(config)
    tokens = random_tokens(config, 1, 11)
    logits, _ = forward(config, params, *plain(tokens))
    expected = numpy_forward(config, params, tokens[0])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=2e-5)
    for name in changes.keys() & OFF.keys():
        without = dataclasses.replace(config, **{name: OFF[name]})
        assert np.abs(numpy_forward(without, params, tokens[0]) - expected).max() > 1e-3, name


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
