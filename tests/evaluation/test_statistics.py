"""Intervals against closed forms, brute force and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.evaluation import statistics as stats


def test_bootstrap_of_three_values_matches_all_27_resamples():
    values = np.array([0.0, 1.0, 5.0])
    exact = np.array([np.mean(draw) for draw in itertools.product(values, repeat=3)])
    for few_values in (64, 0):  # drawn as counts of values, and as items
        means = stats.bootstrap_means(values, seed=1, resamples=40_000, few_values=few_values)
        for mean in np.unique(exact):
            share = np.mean(np.isclose(means, mean))
            assert abs(share - np.mean(np.isclose(exact, mean))) < 0.01


def test_bootstrap_spread_is_the_standard_error():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    means = stats.bootstrap_means(values, resamples=4000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    interval = stats.mean_interval(values, resamples=4000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)


def test_chunks_change_memory_not_results():
    values = np.random.default_rng(0).normal(size=101)
    whole = stats.bootstrap_means(values, seed=5, resamples=50)
    pieces = stats.bootstrap_means(values, seed=5, resamples=50, chunk_draws=707)
    np.testing.assert_array_equal(whole, pieces)


def test_seed_decides_the_result():
    values = np.random.default_rng(0).normal(size=100)
    assert stats.mean_interval(values, seed=3) == stats.mean_interval(values, seed=3)
    assert stats.mean_interval(values, seed=3) != stats.mean_interval(values, seed=4)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_proportion_interval_covers_in_simulation(share):
    rng = np.random.default_rng(0)
    n, covered = 100, 0
    counts = rng.binomial(n, share, size=1000)
    for count in counts:
        values = np.zeros(n)
        values[:count] = 1
        interval = stats.mean_interval(values)
        covered += interval.low <= share <= interval.high
    assert 0.91 < covered / 1000 < 0.99


def test_mean_and_paired_intervals_cover_in_simulation():
    rng = np.random.default_rng(1)
    mean_covered = paired_covered = 0
    for trial in range(400):
        item = rng.normal(size=80)
        a, b = item + rng.normal(0.3, 0.5, size=80), item + rng.normal(0.0, 0.5, size=80)
        mean = stats.mean_interval(a, seed=trial, resamples=400)
        paired = stats.paired_difference(a, b, seed=trial, resamples=400)
        mean_covered += mean.low <= 0.3 <= mean.high
        paired_covered += paired.low <= 0.3 <= paired.high
        assert paired.high - paired.low < mean.high - mean.low  # pairing takes item noise out
    assert 0.90 < mean_covered / 400 < 0.98
    assert 0.90 < paired_covered / 400 < 0.98


def test_wilson_closed_form_and_ends():
    interval = stats.wilson_interval(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    z2 = 1.959963984540054**2
    perfect = stats.mean_interval(np.ones(50))
    assert perfect == stats.Interval(1.0, pytest.approx(50 / (50 + z2)), 1.0, 50)
    none = stats.mean_interval(np.zeros(50))
    assert none == stats.Interval(0.0, 0.0, pytest.approx(z2 / (50 + z2)), 50)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_interval_lies_within_the_values_and_orders(values):
    interval = stats.mean_interval(values, resamples=50)
    if not set(values) <= {0.0, 1.0}:
        slack = 1e-9
        assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


def test_paired_difference_of_equal_arms_keeps_a_width():
    ones = np.ones(200)
    interval = stats.paired_difference(ones, ones)
    limit = stats.wilson_interval(0, 200).high
    assert (interval.mean, interval.low, interval.high) == (0, -limit, limit)
    all_better = stats.paired_difference(ones, np.zeros(200))
    assert all_better.high == 1 and all_better.low == pytest.approx(1 - 2 * limit)


def test_paired_difference_matches_brute_force():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    interval = stats.paired_difference(a, b, resamples=20_000)
    brute = np.array([(a - b)[rng.integers(300, size=300)].mean() for _ in range(5000)])
    assert interval.mean == pytest.approx((a - b).mean())
    low, high = np.quantile(brute, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.01)


def test_difference_in_differences_covers_and_adds_variances():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        tail, head = rng.normal(0.5, 1.0, size=60), rng.normal(0.2, 1.0, size=240)
        zero_tail, zero_head = np.zeros(60), np.zeros(240)
        interval = stats.difference_in_differences(
            tail, zero_tail, head, zero_head, seed=trial, resamples=400
        )
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 < covered / 300 < 0.98
    width = interval.high - interval.low
    expected = 2 * 1.96 * math.sqrt(tail.var() / 60 + head.var() / 240)
    assert width == pytest.approx(expected, rel=0.15)
    assert interval.n == 300
    assert interval.mean == pytest.approx(tail.mean() - head.mean())


def test_difference_in_differences_with_a_constant_stratum():
    rng = np.random.default_rng(4)
    head_a, head_b = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    ones = np.ones(60)
    interval = stats.difference_in_differences(ones, ones, head_a, head_b)
    tail, head = stats.paired_difference(ones, ones), stats.paired_difference(head_a, head_b)
    assert interval.mean == pytest.approx(-head.mean)
    assert interval.high - interval.low > head.high - head.low
    assert interval.high == pytest.approx(
        interval.mean + math.hypot(tail.high, head.mean - head.low + 0), abs=0.02
    )


def test_small_samples_have_no_interval():
    empty = stats.mean_interval([])
    assert math.isnan(empty.mean) and empty.n == 0
    one = stats.mean_interval([0.3])
    assert one.mean == 0.3 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(stats.difference_in_differences([0.3], [0.1], [1, 2], [0, 0]).low)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="value 1 of 2 is nan"):
        stats.mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="same items, got 2 and 3"):
        stats.paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="shape"):
        stats.mean_interval(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"0\.\.1, got 1.2"):
        stats.expected_calibration_error([0.1, 1.2], [0, 1])
    with pytest.raises(ValueError, match="'zz' is not among"):
        stats.confusion_matrix(["a"], ["zz"], ["a", "b"])


def test_calibration_error_by_hand():
    confidence, correct = [0.95, 0.85, 0.85, 0.15, 1.0], [1, 1, 0, 0, 1]
    # bins of 0.1: {0.95, 1.0} 2 of 2, {0.85, 0.85} 1 of 2, {0.15} 0 of 1
    expected = (abs(2 - 1.95) + abs(1 - 1.7) + abs(0 - 0.15)) / 5
    assert stats.expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)


def test_calibrated_predictions_have_a_small_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=50_000)
    assert (
        stats.expected_calibration_error(confidence, rng.uniform(size=50_000) < confidence) < 0.02
    )
    assert stats.expected_calibration_error(confidence, np.ones(50_000)) == pytest.approx(
        0.5, abs=0.01
    )


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_macro_f1_matches_the_definition(pairs):
    true, predicted = zip(*pairs, strict=True)
    scores = []
    for label in set(true) | set(predicted):
        hit = sum(t == p == label for t, p in pairs)
        precision = hit / max(1, sum(p == label for p in predicted))
        recall = hit / max(1, sum(t == label for t in true))
        scores.append(2 * precision * recall / (precision + recall) if hit else 0.0)
    assert stats.macro_f1(true, predicted) == pytest.approx(np.mean(scores))
    matrix = stats.confusion_matrix(true, predicted, "abc")
    assert matrix.sum() == len(pairs)
    assert matrix[0, 1] == sum(pair == ("a", "b") for pair in pairs)


def test_macro_f1_counts_an_absent_label_as_zero():
    assert stats.macro_f1(["a", "a"], ["a", "a"], labels=["a", "b"]) == 0.5
    assert stats.macro_f1(["a", "x"], ["a", "a"], labels=["a"]) == pytest.approx(2 / 3)
    assert math.isnan(stats.macro_f1([], []))
