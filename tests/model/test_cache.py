"""Decoding with the cache equals the forward pass over whole rows."""

import jax
import numpy as np
import pytest

from marker_lm.model.cache import init_cache, put_rows, with_size
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings, use_mesh
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config

CONFIG = small_config()
LENGTHS = np.array([7, 1, 4])
TOTAL = 12


@pytest.fixture(scope="module")
def full():
    tokens = random_tokens(CONFIG, 3, TOTAL)
    logits, _ = forward(CONFIG, make_params(CONFIG), *plain(tokens))
    return tokens, np.asarray(logits)


def step(tokens, starts, counts, width, cache, config=CONFIG):
    """Feeds counts[row] tokens of each row from starts[row], padded on the right to `width`."""
    chunk = np.zeros((len(tokens), width), np.int32)
    segments = np.zeros_like(chunk)
    for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
        chunk[row, :count] = tokens[row, start : start + count]
        # Padding that was written or attended to would change the result.
        chunk[row, count:] = 5
        segments[row, :count] = 1
    positions = starts[:, None] + np.arange(width)
    logits, cache = forward(
        config, make_params(config), chunk, positions.astype(np.int32), segments, cache
    )
    return np.asarray(logits), cache


@pytest.mark.parametrize("chunk", [1, 3])
def test_rows_of_different_length(full, chunk):
    tokens, expected = full
    cache = init_cache(CONFIG, 3, TOTAL)
    done = np.zeros(3, int)
    logits, cache = step(tokens, done, LENGTHS, 7, cache)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], atol=1e-5)
    done = LENGTHS.copy()
    while (done < TOTAL).any():
        counts = np.minimum(TOTAL - done, chunk)
        logits, cache = step(tokens, done, counts, chunk, cache)
        for row, (start, count) in enumerate(zip(done, counts, strict=True)):
            np.testing.assert_allclose(
                logits[row, :count], expected[row, start : start + count], atol=1e-5
            )
        done += counts
        np.testing.assert_array_equal(cache.length, done)


@pytest.mark.parametrize(
    "changes",
    [
        dict(windows=(3, 5, 0), attention_softcap=0.5, logit_softcap=2.0),
        dict(windows=(2,), rope_interleaved=True),
        dict(windows=(4, 0), rope_everywhere=False, parallel=True, norm="layer"),
        dict(windows=(0, 3), rope_base=90.0, rope_local_base=20.0, qk_norm="shared"),
    ],
    ids=str,
)
def test_windows_and_caps(changes):
    config = small_config(**changes)
    tokens = random_tokens(config, 3, TOTAL)
    expected, _ = forward(config, make_params(config), *plain(tokens))
    cache = init_cache(config, 3, TOTAL)
    done = np.zeros(3, int)
    while (done < TOTAL).any():
        counts = np.minimum(TOTAL - done, [3, 1, 2])  # rows apart, one at a time among them
        logits, cache = step(tokens, done, counts, 3, cache, config)
        for row, (start, count) in enumerate(zip(done, counts, strict=True)):
            np.testing.assert_allclose(
                logits[row, :count], expected[row, start : start + count], atol=1e-5
            )
        done += counts


def test_room_to_spare_and_garbage_in_it_change_nothing(full):
    tokens, expected = full
    cache = init_cache(CONFIG, 3, TOTAL + 5)
    cache = jax.tree.map(lambda x: x + 9 if x.ndim == 4 else x, cache)
    logits, _ = step(tokens, np.zeros(3, int), np.full(3, TOTAL), TOTAL, cache)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_padding_is_not_written():
    cache = init_cache(CONFIG, 3, TOTAL)
    _, cache = step(random_tokens(CONFIG, 3, TOTAL), np.zeros(3, int), LENGTHS, 7, cache)
    for layer in cache.layers:
        for held_BxKxSxN in (layer.k.values.swapaxes(2, 3), layer.v.values):
            for row, length in enumerate(LENGTHS):
                assert (np.abs(held_BxKxSxN[row, :, :length]).sum(-1) > 0).all()
                assert (np.asarray(held_BxKxSxN[row, :, length:]) == 0).all()


def test_take_branches_rows(full):
    tokens, expected = full
    cache = init_cache(CONFIG, 3, TOTAL)
    _, cache = step(tokens, np.zeros(3, int), LENGTHS, 7, cache)
    rows = np.array([2, 0, 2])
    branch = cache.take(rows)
    logits, _ = step(tokens[rows], LENGTHS[rows], np.ones(3, int), 1, branch)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(logits[place, 0], expected[row, LENGTHS[row]], atol=1e-5)


def test_rows_move_to_slots_and_caches_change_their_size(full):
    """Rows that were read in a small cache go on in slots of a larger one, which then shrinks."""
    tokens, expected = full
    _, rows = step(tokens, np.zeros(3, int), LENGTHS, 7, init_cache(CONFIG, 3, 8))
    cache = jax.tree.map(lambda x: x + 9, init_cache(CONFIG, 4, 10))  # of rows that have ended
    at = np.array([3, 4, 1])  # the second one is left out
    cache = with_size(put_rows(cache, rows, at), TOTAL)
    assert cache.size == TOTAL
    np.testing.assert_array_equal(cache.length, [9, 4, 9, 7])
    chunk, starts = tokens[[0, 2, 0, 0]], np.array([9, 4, 9, 7])
    for size, width in ((TOTAL, 2), (9, 0)):
        cache = with_size(cache, size)
        counts = np.array([0, 1, 0, 1])
        logits, cache = step(chunk, starts, counts, max(width, 1), cache)
        for slot, row in ((1, 2), (3, 0)):
            np.testing.assert_allclose(logits[slot, 0], expected[row, starts[slot]], atol=1e-5)
        starts += counts


def test_a_token_beyond_the_cache_gives_nan_and_leaves_the_others(full):
    tokens, expected = full
    cache = init_cache(CONFIG, 3, 5)
    logits, cache = step(tokens, np.zeros(3, int), np.array([7, 5, 2]), 7, cache)
    assert np.isnan(logits[0, 5:]).all()
    np.testing.assert_allclose(logits[0, :5], expected[0, :5], atol=1e-5)
    np.testing.assert_allclose(logits[1, :5], expected[1, :5], atol=1e-5)
    np.testing.assert_array_equal(cache.length, [5, 5, 2])


@pytest.mark.parametrize(("batch", "rows"), [(4, 1), (3, 3)], ids=["divides", "does not"])
def test_the_cache_is_split_as_keys_are(batch, rows):
    config = small_config(vocab=32)
    with use_mesh(make_mesh(data=2, fsdp=2, tensor=2)) as mesh:
        params = jax.device_put(make_params(config), param_shardings(config, mesh))
        empty = init_cache(config, batch, TOTAL)
        _, filled = forward(config, params, *plain(random_tokens(config, batch, 3)), empty)
    for layer in (*empty.layers, *filled.layers):
        shapes = [{s.data.shape for s in x.values.addressable_shards} for x in (layer.k, layer.v)]
        N = config.head_size
        assert shapes == [{(rows, 1, N, TOTAL)}, {(rows, 1, TOTAL, N)}]


def test_decoding_where_sequences_are_split():
    """One new token can't be split; what holds for training must not break it."""
    config = small_config(vocab=32)
    tokens = random_tokens(config, 2, 5)
    want, _ = forward(config, make_params(config), *plain(tokens))
    with use_mesh(make_mesh(data=2, context=2, tensor=2)) as mesh:
        params = jax.device_put(make_params(config), param_shardings(config, mesh))
        cache = init_cache(config, 2, TOTAL)
        for place, width in ((0, 4), (4, 1)):
            new, positions, segments = plain(tokens[:, place : place + width])
            found, cache = forward(config, params, new, positions + place, segments, cache)
            np.testing.assert_allclose(found, want[:, place : place + width], atol=1e-5)
