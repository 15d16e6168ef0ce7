"""Effects over items and seeds: by hand, and on simulated arms whose true effect is known."""

import math

import numpy as np
import pytest

from marker_lm.evaluation.effects import (
    benjamini_hochberg,
    contrast,
    detectable,
    effect,
    holm,
)


def simulated(rng, true, seeds=3, items=120, of_seed=0.1, of_item=1.0, rest=0.5):
    """Differences of two arms: a true effect, and what seeds, items and chance add."""
    seed_S = rng.normal(0, of_seed, (seeds, 1))
    item_N = rng.normal(0, of_item, (1, items))
    return true + seed_S + item_N + rng.normal(0, rest, (seeds, items))


def covered(rng, tries, true, **how):
    zeros = None
    hits = 0
    for _ in range(tries):
        found = simulated(rng, true, **how)
        zeros = np.zeros_like(found)
        got = effect(found, zeros, resamples=200, seed=int(rng.integers(1 << 30)))
        hits += got.low <= true <= got.high
    return hits / tries


@pytest.mark.parametrize(
    "how",
    [
        {"of_seed": 0.0},
        {"of_seed": 0.1},
        {"of_seed": 0.5},  # seeds differ more than items do: an interval over items would fail
        {"seeds": 5, "of_seed": 0.3},
        {"seeds": 1, "of_seed": 0.0},
    ],
)
def test_intervals_cover_the_true_effect_95_times_in_100(how):
    share = covered(np.random.default_rng(7), 400, true=0.3, **how)
    assert 0.92 <= share <= 0.985  # 400 tries: a true 95 % is within 92.8 .. 97.1 nearly always


def test_an_interval_over_items_alone_misses_what_seeds_do():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        seeds_mean_1xN = simulated(rng, 0.0, of_seed=0.5).mean(axis=0, keepdims=True)
        got = effect(seeds_mean_1xN, np.zeros_like(seeds_mean_1xN), resamples=200)
        hits += got.low <= 0.0 <= got.high
    assert hits / 200 < 0.7


def test_the_power_is_as_announced():
    rng = np.random.default_rng(3)
    shape = {"seeds": 3, "items": 150, "of_seed": 0.05}
    likely = np.mean(
        [
            effect(found := simulated(rng, 0.0, **shape), 0 * found, resamples=200).detectable
            for _ in range(50)
        ]
    )
    seen = [
        effect(found := simulated(rng, likely, **shape), 0 * found, resamples=200).p < 0.05
        for _ in range(200)
    ]
    assert 0.7 < np.mean(seen) < 0.9


def test_by_hand_without_seeds():
    a, b = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.0, 2.0, 1.0, 1.0]])
    got = effect(a, b, resamples=20_000)
    assert got.mean == 1.5 and (got.n, got.seeds) == (4, 1)
    # Differences 1, 0, 2, 3: the plain bootstrap's error is their population deviation over 2.
    deviation = math.sqrt(1.25)
    assert got.error == pytest.approx(deviation / 2, rel=0.02)
    assert got.size == pytest.approx(1.5 / math.sqrt(5 / 3))
    assert got.high - got.mean == pytest.approx(3.1824463 * got.error)  # t of 3 degrees
    assert got.detectable == pytest.approx((3.1824463 + 0.9784723) * got.error)


def test_a_contrast_shares_the_seeds():
    """What a seed adds to both strata alike cancels; alone, it would widen the interval."""
    rng = np.random.default_rng(0)
    seed_S = np.array([[-1.0], [0.0], [1.0]])
    tail = 0.5 + seed_S + rng.normal(0, 0.3, (3, 400))
    head = 0.2 + seed_S + rng.normal(0, 0.3, (3, 600))
    got = contrast(tail, head)
    assert got.mean == pytest.approx(tail.mean() - head.mean()) and got.n == 1000
    assert 0 < got.low < 0.3 < got.high and got.high - got.low < 0.2
    assert effect(tail, 0 * tail).low < -1


def test_a_constant_difference_of_shares_is_not_certain():
    ones = np.ones((3, 40))
    got = effect(ones, ones)
    assert got.mean == 0 and got.low < -0.05 and got.high > 0.05


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="same seeds and items"):
        effect(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="item 1 of seed 0 is nan"):
        effect(np.array([[0.0, math.nan]]), np.ones((1, 2)))
    with pytest.raises(ValueError, match="same seeds"):
        contrast(np.ones((2, 3)), np.ones((3, 3)))
    alone = effect(np.ones((2, 1)), np.zeros((2, 1)))
    assert alone.mean == 1 and math.isnan(alone.low)
    assert math.isnan(effect(np.ones((1, 0)), np.ones((1, 0))).mean)


def test_corrections_by_hand():
    # Holm: 4 * .01, 3 * .02, then never less than before; 2 * .03 and 1 * .04 are.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert len(holm([])) == len(benjamini_hochberg([])) == 0
    # The example of Benjamini and Hochberg 1995: 4 of 15 are found at 5 %.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (holm(p) <= 0.05).sum() == 3


def test_detectable_by_hand():
    assert detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
