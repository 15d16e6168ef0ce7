"""Calibration against cases that can be counted by hand, and against simulated outcomes."""

import numpy as np
import pytest

from marker_lm.evaluation.calibration import calibrate, page, plot, terminal_table
from marker_lm.evaluation.statistics import expected_calibration_error


def test_by_hand():
    found = calibrate([0.6, 0.6, 0.9, 0.9], [1, 0, 1, 1], bins=2)
    assert found.error == pytest.approx((abs(1 - 1.2) + abs(2 - 1.8)) / 4)
    assert found.brier == pytest.approx((0.16 + 0.36 + 0.01 + 0.01) / 4)
    assert found.n == 4 and found.right.mean == 0.75 and found.confidence == 0.75
    low, high = found.bins
    assert (low.confidence, low.right.mean, low.right.n) == (0.6, 0.5, 2)
    assert (high.confidence, high.right.mean, high.right.n) == (0.9, 1.0, 2)


def test_bins_of_equal_width_are_those_of_the_statistics():
    random = np.random.default_rng(0)
    p, right = random.random(500), random.random(500) < 0.6
    found = calibrate(p, right, bins=10, equal="width")
    assert found.error == pytest.approx(expected_calibration_error(p, right, bins=10))
    assert all(one.high <= low.low for one, low in zip(found.bins, found.bins[1:], strict=False))


def test_bins_of_equal_mass_hold_as_many_and_keep_ties_together():
    random = np.random.default_rng(0)
    p = 0.9 + 0.1 * random.random(1000)  # where a sure model's probabilities are
    found = calibrate(p, random.random(1000) < p, bins=10)
    assert [one.right.n for one in found.bins] == [100] * 10
    ties = np.repeat([0.2, 0.5, 0.99], [5, 3, 992])
    right = random.random(1000) < ties
    found = calibrate(ties, right, bins=10)
    assert sum(one.right.n for one in found.bins) == 1000
    assert {one.right.n for one in found.bins} <= {5, 3, 8, 992}
    order = random.permutation(1000)
    assert calibrate(ties[order], right[order], bins=10).bins == found.bins


@pytest.mark.parametrize("equal", ["mass", "width"])
def test_true_probabilities_are_off_by_chance_alone(equal):
    random = np.random.default_rng(1)
    p = random.random(2000)
    honest = calibrate(p, random.random(2000) < p, equal=equal)
    assert 0 < honest.error < 2 * honest.chance < 0.06
    boasting = calibrate(np.sqrt(p), random.random(2000) < p, equal=equal)
    assert boasting.error > 3 * boasting.chance and boasting.error > 0.1
    assert honest.brier < boasting.brier


@pytest.mark.parametrize(
    "p, right, options, sentence",
    [
        ([], [], {}, "0 probabilities and 0 outcomes"),
        ([0.5], [1, 0], {}, "1 probabilities and 2 outcomes"),
        ([0.5, 1.5], [1, 0], {}, "a probability is 1.5, outside 0..1"),
        ([0.5, np.nan], [1, 0], {}, "a probability is nan"),
        ([0.5], [0.5], {}, "neither 0"),
        ([0.5], [1], {"bins": 0}, "there are 0 bins"),
        ([0.5], [1], {"equal": "size"}, "choose 'mass' or 'width'"),
    ],
)
def test_what_is_refused(p, right, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrate(p, right, **options)


def test_shown_for_people():
    found = calibrate([0.25, 0.5, 1.0, 1.0], [0, 1, 1, 1], bins=3)
    assert len(terminal_table(found).rows) == len(found.bins)
    line = found.summary()
    assert line.startswith("4 rows: right 75.0%") and "equal mass" in line
    points = plot(found).data[1]
    assert list(points.y) == [one.right.mean for one in found.bins]
    html = page(found, "Title <x>", "marker-lm score --plot=x")
    assert "Title &lt;x&gt;" in html and "share right" in html and line in html
