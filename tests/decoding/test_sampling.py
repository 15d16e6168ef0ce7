"""Temperature, top-k and top-p against NumPy, and their extremes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_collections import ConfigDict

from marker_lm.decoding.sampling import (
    Sampling,
    Settings,
    filter_logits,
    key_words,
    likeliest,
    penalize,
    row_seed,
    sample,
)

LOGITS = np.log(np.asarray([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4]], np.float32))


def settings(rows: list[Sampling]) -> Settings:
    return Settings(
        np.stack([key_words(one.seed) for one in rows]),
        np.asarray([one.temperature for one in rows], np.float32),
        np.asarray([one.top_k for one in rows], np.int32),
        np.asarray([one.top_p for one in rows], np.float32),
        np.asarray([one.repetition_penalty for one in rows], np.float32),
        np.asarray([one.length for one in rows], np.int32),
    )


def next_tokens(logits, rows: list[Sampling]) -> list[int]:
    return sample(jnp.asarray(logits), np.zeros(len(rows), np.int32), settings(rows)).tolist()


def kept(logits, top_k=0, top_p=1.0) -> list[set[int]]:
    asked = np.full(len(logits), top_k, np.int32), np.full(len(logits), top_p, np.float32)
    rows = np.asarray(filter_logits(jnp.asarray(logits), *asked))
    for row, before in zip(rows, logits, strict=True):
        np.testing.assert_array_equal(row[np.isfinite(row)], before[np.isfinite(row)])
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in rows]


def kept_by_hand(row, top_k, top_p) -> set[int]:
    """One row, token by token from the likeliest on."""
    order = np.argsort(-row, kind="stable")
    order = order[: top_k or len(row)]
    p = np.exp(row[order].astype(np.float64) - row.max())
    p, chosen, held = p / p.sum(), set(), 0.0
    for token, share in zip(order, p, strict=True):
        if held >= top_p:
            break
        chosen.add(int(token))
        held += share
    return chosen


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.sampled_from([-np.inf, -1.5, 0.0, 2.0, np.inf, np.nan]),
    )
)
def test_the_likeliest_is_argmax(logits):
    assert likeliest(jnp.asarray(logits)).tolist() == np.argmax(logits, axis=-1).tolist()


def test_by_hand():
    assert kept(LOGITS, top_k=2) == [{0, 2}, {2, 3}]
    assert kept(LOGITS, top_p=0.79) == [{0, 2}, {1, 2, 3}]
    assert kept(LOGITS, top_p=0.81) == [{0, 2, 3}, {1, 2, 3}]
    # Among the two likeliest of row 0 the first holds 5/8.
    assert kept(LOGITS, top_k=2, top_p=0.62) == [{0}, {2, 3}]


def test_extremes_of_the_filters():
    everything = [{0, 1, 2, 3}] * 2
    assert kept(LOGITS) == everything
    assert kept(LOGITS, top_k=4) == kept(LOGITS, top_k=99) == everything
    assert kept(LOGITS, top_k=1) == kept(LOGITS, top_p=1e-9) == [{0}, {3}]


@given(
    hnp.arrays(np.int32, 12, elements=st.integers(-40, 40), unique=True),
    st.integers(0, 12),
    st.sampled_from([0.05, 0.3, 0.61, 0.9, 1.0]),
)
def test_filters_against_numpy(row, top_k, top_p):
    row = (row / 10).astype(np.float32)
    p = np.sort(np.exp(row.astype(np.float64)))[::-1][: top_k or None]
    if np.abs(np.cumsum(p) / p.sum() - top_p)[:-1].min(initial=1) < 1e-5:
        return  # so near the border that rounding decides
    assert kept(row[None], top_k, top_p) == [kept_by_hand(row, top_k, top_p)]


@given(
    hnp.arrays(np.float32, 7, elements=st.floats(-50, 50, width=32, allow_subnormal=False)),
    st.sets(st.integers(0, 6)),
    st.sampled_from([1.0, 1.25, 3.0]),
)
def test_the_penalty_lowers_what_was_seen(row, seen, penalty):
    at = np.isin(np.arange(7), list(seen))[None]
    found = np.asarray(penalize(jnp.asarray(row[None]), jnp.asarray(at), np.float32([penalty])))[0]
    for token, before in enumerate(row.tolist()):
        lower = before / penalty if before > 0 else before * penalty
        assert found[token] == pytest.approx(lower if token in seen else before, rel=1e-6)
    assert (found <= row).all()


def test_the_penalty_keeps_forbidden_tokens_forbidden_and_1_keeps_bits():
    logits = np.float32([[-np.inf, 0.1, -0.3]])
    seen = jnp.asarray([[True, True, True]])
    assert np.asarray(penalize(logits, seen, np.float32([2.0])))[0, 0] == -np.inf
    np.testing.assert_array_equal(penalize(logits, seen, np.float32([1.0])), logits)


def test_greedy_is_the_argmax():
    assert next_tokens(LOGITS, [Sampling(), Sampling(top_k=2, top_p=0.5)]) == [0, 3]


def test_a_config_says_how_to_sample():
    section = ConfigDict({"batch": 8, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7})
    found = Sampling.from_config(section, max_tokens=9, seed=3)
    assert found == Sampling(temperature=0.5, top_p=0.9, max_tokens=9, seed=3)


def draws(sampling, n=4000):
    rows = [dataclasses.replace(sampling, seed=row_seed(0, i)) for i in range(n)]
    tokens = next_tokens(np.broadcast_to(LOGITS[0], (n, 4)), rows)
    return np.bincount(tokens, minlength=4) / n


def test_rows_of_other_settings_share_a_batch_and_change_nothing():
    """Each as it is alone, whatever its neighbours ask for."""
    rows = [
        Sampling(),
        Sampling(temperature=0.7, seed=3),
        Sampling(temperature=1.5, top_k=9, seed=3),
        Sampling(temperature=1.5, top_p=0.8, seed=2**70),
        Sampling(temperature=1.5, top_p=1.0, seed=9),
    ]
    logits = np.random.default_rng(0).normal(0, 2, (len(rows), 50)).astype(np.float32)
    number = np.arange(len(rows), dtype=np.int32)
    together = sample(jnp.asarray(logits), number, settings(rows)).tolist()
    for i, row in enumerate(rows):
        alone = sample(jnp.asarray(logits[i : i + 1]), number[i : i + 1], settings([row]))
        assert alone.tolist() == together[i : i + 1]
    assert together[0] == int(logits[0].argmax())


def test_seeds_of_rows_differ():
    seeds = {row_seed(seed, number) for seed in range(30) for number in range(30)}
    assert len(seeds) == 900 and row_seed(2, 1) != row_seed(1, 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    expected = np.exp(LOGITS[0] / temperature)
    shares = draws(Sampling(temperature=temperature))
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.03)


def test_what_is_filtered_is_never_drawn():
    shares = draws(Sampling(temperature=1.0, top_k=3, top_p=0.8))
    np.testing.assert_allclose(shares, [5 / 8, 0, 3 / 8, 0], atol=0.03)


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 1000.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_tiny_temperature_is_greedy(shift, top_p):
    for temperature in (1e-6, 1e-30):
        rows = [Sampling(temperature=temperature, top_p=top_p)] * 2
        assert next_tokens(LOGITS + np.float32(shift), rows) == [0, 3]


def test_forbidden_tokens_stay_forbidden():
    logits = np.array(LOGITS)
    logits[:, 0] = -np.inf
    for more in ({}, {"top_k": 4, "top_p": 0.99}):
        for seed in range(20):
            rows = [Sampling(temperature=5.0, seed=seed, **more)] * 2
            assert 0 not in next_tokens(logits, rows)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"temperature": -1}, "temperature is -1; it must be 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"marker_temperature": -0.5}, "marker_temperature is -0.5"),
        ({"top_p": 0}, "top_p is 0; it must be over 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"repetition_penalty": 0.9}, "repetition_penalty is 0.9; it must be 1"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be 1 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": "end"}, "stop is 'end'; give a list of texts"),
        ({"stop": ("",)}, "stop is .*; give a list of texts that are not empty"),
    ],
)
def test_values_that_can_not_be(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**change)
