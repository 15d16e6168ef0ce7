"""Draws follow rates and factors, repeat no row too early, and are the same in any window."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data.mixture import (
    MixtureError,
    draw,
    epoch_draws,
    make_mixture,
    permute,
    raise_to_share,
    row_factors,
)
from marker_lm.data.spans import ABSENT, Index
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import MarkerError
from tests.tiny import tiny_taxonomy

CATEGORIES = ("words", "size", "lang", "task")


def make_index(langs, tasks=None):
    """An index of rows with these numbers of their lang and task."""
    rows = len(langs)
    values = np.full((rows, 4), ABSENT, np.int16)
    values[:, 2] = langs
    values[:, 3] = ABSENT if tasks is None else tasks
    ones = np.ones(rows, np.int32)
    ids = hash_ids([str(i) for i in range(rows)])
    return Index(CATEGORIES, ids, ones, ones, (values != ABSENT).astype(np.int16), values)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_hits_every_place_once(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size, np.uint64(key))), np.arange(size))


def test_permutations_look_random():
    size = 1000
    places = np.stack([permute(np.arange(size), size, np.uint64(key)) for key in range(200)])
    # Where 0 goes, over keys, and neighbours: means of uniform draws, six standard errors around.
    assert abs(places[:, 0].mean() - 499.5) < 6 * 289 / 200**0.5
    correlation = np.corrcoef(places[:, :-1].ravel(), places[:, 1:].ravel())[0, 1]
    assert abs(correlation) < 6 / (200 * size) ** 0.5 + 1 / size
    keys = np.arange(50, dtype=np.uint64)
    each = permute(np.full(50, 7), size, keys)
    assert each.tolist() == [int(permute(np.array([7]), size, key)[0]) for key in keys]


def test_one_task_is_shuffled_anew_each_epoch():
    mixture = make_mixture([50], [3.0])
    rows, visits = zip(*(draw(mixture, 0, epoch) for epoch in range(3)), strict=True)
    for epoch in range(3):
        assert sorted(rows[epoch].tolist()) == list(range(50))
        assert (visits[epoch] == epoch).all()
    assert rows[0].tolist() != rows[1].tolist() != list(range(50))


TASKS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(TASKS, st.integers(1, 6), st.integers(0, 5))
def test_a_mixture_is_drawn_by_rate_and_without_repetition(tasks, epochs, seed):
    sizes, rates = zip(*tasks, strict=True)
    if not sum(rates):
        rates = [1] * len(rates)
    mixture = make_mixture(sizes, rates)
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    drawn = np.zeros(sum(sizes), np.int64)
    for epoch in range(epochs):
        rows, visits = draw(mixture, seed, epoch)
        assert len(rows) == epoch_draws(mixture, epoch)
        for row, visit in sorted(
            zip(rows.tolist(), visits.tolist(), strict=True), key=lambda x: x[1]
        ):
            assert drawn[row] == visit
            drawn[row] += 1
        for task in range(len(sizes)):
            counts = drawn[task_of == task]
            assert counts.max() - counts.min() <= 1  # no row again before all were drawn
            exact = sum(sizes) * (epoch + 1) * rates[task] / sum(rates)
            assert counts.sum() == int(np.floor(exact + 1e-9))


@settings(deadline=None, max_examples=60)
@given(TASKS, st.integers(1, 20), st.integers(0, 3))
def test_windows_together_are_the_epoch(tasks, size, epoch):
    sizes, rates = zip(*tasks, strict=True)
    mixture = make_mixture(sizes, [rate + 1 for rate in rates])
    whole = draw(mixture, 7, epoch)
    windows = [
        draw(mixture, 7, epoch, slice(at, at + size)) for at in range(0, len(whole[0]), size)
    ]
    for i in range(2):
        assert np.concatenate([window[i] for window in windows]).tolist() == whole[i].tolist()


def test_temperature_flattens_the_shares():
    def shares(temperature):
        draws = np.array(make_mixture([900, 100], [1, 1], temperature).draws)
        return (draws / draws.sum()).tolist()

    assert shares(0) == [0.5, 0.5]  # the rates as they are
    assert shares(1) == pytest.approx([0.9, 0.1])
    assert shares(2) == pytest.approx([0.75, 0.25])
    doubled = make_mixture([900, 100], [1, 3], 2).draws
    assert doubled == pytest.approx((500, 500))
    with pytest.raises(MixtureError, match="data.temperature=-1"):
        shares(-1)
    for rates in ([0, 0], [-1, 2], [np.nan, 1]):
        with pytest.raises(MixtureError, match="the rates of tasks are"):
            make_mixture([1, 1], rates)


def test_upsampled_rows_come_so_much_more_often(tmp_path):
    langs = [0] * 80 + [1] * 10 + [ABSENT] * 10
    index, taxonomy = make_index(langs), tiny_taxonomy(tmp_path)
    factors = row_factors(index, taxonomy, {"lang": {"de": 4.0}}, {}, 20.0)
    assert factors.tolist() == [1.0] * 80 + [4.0] * 10 + [1.0] * 10
    mixture = make_mixture([100], [1.0], 0.0, factors)
    drawn = np.bincount(np.concatenate([draw(mixture, 0, e)[0] for e in range(13)]), minlength=100)
    assert drawn.sum() == 1300
    assert (drawn[80:90] == 40).all() and (drawn[[*range(80), *range(90, 100)]] == 10).all()
    assert row_factors(index, taxonomy, {}, {}, 20.0) is None
    none_of_en = row_factors(index, taxonomy, {"lang": {"en": 0.0}}, {}, 20.0)
    rows, _ = draw(make_mixture([100], [1.0], 0.0, none_of_en), 0, 0)
    assert rows.min() == 80 and len(rows) == 100


def test_factors_hold_within_each_task(tmp_path):
    index = make_index([0, 0, 0, 1] * 25 + [0] * 100)
    factors = row_factors(index, tiny_taxonomy(tmp_path), {"lang": {"de": 3.0}}, {}, 20.0)
    mixture = make_mixture([100, 100], [1.0, 1.0], 0.0, factors)
    rows, _ = draw(mixture, 0, 0)
    assert (rows < 100).sum() == 100  # up-sampling moves nothing between tasks
    assert np.isin(rows, np.arange(3, 100, 4)).sum() == 50


def test_rare_values_are_brought_up_to_a_share(tmp_path):
    counts = np.array([9000, 900, 90, 10, 0])
    factors = raise_to_share(counts, 0.05, most=1000)
    shares = factors * counts / (factors * counts).sum()
    assert shares[2] == pytest.approx(0.05) and shares[3] == pytest.approx(0.05)
    assert factors[:2].tolist() == [1, 1] and factors[4] == 1
    capped = raise_to_share(counts, 0.05, most=20)
    assert capped[3] == 20 and 1 < capped[2] < 20
    # Raising two values presses a third one under the share, so it is raised too.
    pressed = raise_to_share(np.array([500, 105, 10, 10]), 0.15, most=1000)
    shares = pressed * [500, 105, 10, 10] / (pressed * [500, 105, 10, 10]).sum()
    assert shares[1:] == pytest.approx(0.15)
    index = make_index([0] * 90 + [1] * 9 + [ABSENT] * 1)
    found = row_factors(index, tiny_taxonomy(tmp_path), {}, {"lang": 0.25}, 20.0)
    assert found[90] == pytest.approx(90 / 27) and found[0] == found[99] == 1


@pytest.mark.parametrize(
    ("upsample", "least_share", "error", "match"),
    [
        ({"lnag": {"de": 2.0}}, {}, MarkerError, "unknown category 'lnag'.*'lang'"),
        ({"lang": {"deu": 2.0}}, {}, MarkerError, "deu.*'de'"),
        ({"words": {"3": 2.0}}, {}, MixtureError, "data.upsample.words: 'words' is a number"),
        ({"lang": {"de": -2.0}}, {}, MixtureError, "data.upsample.lang.de=-2.0; a factor"),
        ({"lang": {"en": 0.0, "de": 0.0}}, {}, MixtureError, "every row the factor 0"),
        ({}, {"lang": 0.6}, MixtureError, "least share of 0.6 for each of 2 values"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, upsample, least_share, error, match):
    with pytest.raises(error, match=match):
        row_factors(make_index([0, 1]), tiny_taxonomy(tmp_path), upsample, least_share, 20.0)
