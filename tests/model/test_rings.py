"""Layers with windows keep a ring; caches of int8; rows that move between caches."""

import jax
import numpy as np
import pytest

from marker_lm.model.cache import init_cache, put_rows, with_size
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config

WINDOWS = small_config(windows=(3, 5, 0), attention_softcap=0.5)
TOTAL = 16


def read(config, cache, tokens, starts, counts, width):
    """Logits [B, width, V] of counts[row] tokens of each row from starts[row], and the cache."""
    chunk, segments = np.full((2, len(tokens), width), 5, np.int32)
    segments[:] = 0
    for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
        chunk[row, :count] = tokens[row, start : start + count]
        segments[row, :count] = 1
    positions = np.asarray(starts)[:, None] + np.arange(width, dtype=np.int32)
    logits, cache = forward(
        config, make_params(config), chunk, positions.astype(np.int32), segments, cache
    )
    return np.asarray(logits), cache


@pytest.fixture(scope="module")
def full():
    tokens = random_tokens(WINDOWS, 3, TOTAL)
    return tokens, np.asarray(forward(WINDOWS, make_params(WINDOWS), *plain(tokens))[0])


def same(logits, expected, starts, counts, atol=1e-5):
    for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
        np.testing.assert_allclose(
            logits[row, :count], expected[row, start : start + count], atol=atol
        )


def test_a_ring_has_the_size_of_its_window():
    cache = init_cache(WINDOWS, 2, TOTAL)
    assert [layer.places for layer in cache.layers] == [3, 5, TOTAL]
    assert cache.size == TOTAL
    assert [layer.places for layer in init_cache(WINDOWS, 2, 4).layers] == [3, 4, 4]


@pytest.mark.parametrize("chunks", [(16,), (13, 1, 1, 1), (2, 9, 5), (1,) * 16], ids=str)
def test_prompts_longer_than_the_ring_in_any_pieces(full, chunks):
    tokens, expected = full
    cache = init_cache(WINDOWS, 3, TOTAL)
    start = 0
    for chunk in chunks:
        starts, counts = [start] * 3, [chunk] * 3
        logits, cache = read(WINDOWS, cache, tokens, starts, counts, chunk)
        same(logits, expected, starts, counts)
        start += chunk


def test_rows_of_their_own_length(full):
    tokens, expected = full
    cache = init_cache(WINDOWS, 3, TOTAL)
    done = np.zeros(3, int)
    for counts in ([9, 1, 4], [1, 0, 1], [0, 12, 2], [6, 1, 1]):
        logits, cache = read(WINDOWS, cache, tokens, done, counts, max(counts))
        same(logits, expected, done, counts)
        done += counts


def test_rows_are_put_into_a_larger_cache_that_grows(full):
    """As slots are filled: prompts are read in a cache of their own."""
    tokens, expected = full
    slots = with_size(init_cache(WINDOWS, 3, 3), 8)
    assert [layer.places for layer in slots.layers] == [3, 5, 8]
    for width, rows in ((2, [1]), (7, [2, 0])):
        _, prompts = read(
            WINDOWS,
            init_cache(WINDOWS, 2, width),
            tokens[[rows[0], rows[-1]]],
            [0] * 2,
            [width] * 2,
            width,
        )
        at = np.array([rows[0], rows[1] if len(rows) > 1 else 3])  # 3 is past the end
        slots = put_rows(slots, prompts, at)
    np.testing.assert_array_equal(slots.length, [7, 2, 7])
    done = np.array([7, 2, 7])
    logits, slots = read(WINDOWS, slots, tokens, done, [1] * 3, 1)
    same(logits, expected, done, [1] * 3)
    slots = with_size(slots, TOTAL)
    logits, slots = read(WINDOWS, slots, tokens, done + 1, [4, 6, 1], 6)
    same(logits, expected, done + 1, [4, 6, 1])


@pytest.mark.parametrize("config", [small_config(), WINDOWS], ids=["all", "windows"])
def test_an_int8_cache_takes_a_quarter_and_changes_little(config):
    tokens = random_tokens(config, 3, TOTAL)
    expected = np.asarray(forward(config, make_params(config), *plain(tokens))[0])
    whole = init_cache(config, 3, TOTAL)
    cache = init_cache(config, 3, TOTAL, "int8")
    size = {
        name: sum(x.nbytes for x in jax.tree.leaves(c.layers))
        for name, c in (("float32", whole), ("int8", cache))
    }
    N = config.head_size
    assert size["int8"] / size["float32"] == (N + 4) / (4 * N)
    logits, cache = read(config, cache, tokens, [0] * 3, [11] * 3, 11)
    same(logits, expected, [0] * 3, [11] * 3, atol=0.03 * np.abs(expected).max())
    # A token is stored as it is read, so pieces change nothing.
    pieces = init_cache(config, 3, TOTAL, "int8")
    for start in range(11):
        one, pieces = read(config, pieces, tokens, [start] * 3, [1] * 3, 1)
        np.testing.assert_allclose(one[:, 0], logits[:, start], atol=1e-5)


def test_values_stay_within_half_a_step():
    config = small_config()
    tokens = random_tokens(config, 2, 8)
    _, exact = read(config, init_cache(config, 2, 8), tokens, [0] * 2, [8] * 2, 8)
    _, cache = read(config, init_cache(config, 2, 8, "int8"), tokens, [0] * 2, [8] * 2, 8)
    first, held = exact.layers[0].k.values, cache.layers[0].k
    assert held.values.dtype == np.int8 and held.scale.shape == (2, 2, 1, 8)
    assert (np.abs(held.read(np.float32) - first) <= held.scale / 2 + 1e-6).all()
    np.testing.assert_allclose(held.scale[..., 0, :], np.abs(first).max(2) / 127, rtol=1e-6)
