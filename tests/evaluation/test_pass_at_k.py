"""pass@k against the published estimator and against counting."""

import itertools
import random
from math import comb

import numpy as np
import pytest

from marker_lm.evaluation.pass_at_k import pass_at_k


def published(n: int, c: int, k: int) -> float:
    """The estimator as the paper prints it (arXiv 2107.03374, figure 3)."""
    if n - c < k:
        return 1.0
    return 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))


def test_agrees_with_the_published_estimator_on_random_cases():
    draw = random.Random(0)
    for _ in range(1000):
        n = draw.randint(1, 400)
        c, k = draw.randint(0, n), draw.randint(1, n)
        found = pass_at_k(n, c, k)
        assert found == pytest.approx(published(n, c, k), abs=1e-12)
        assert found == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-9)


def test_is_the_share_of_draws_with_a_right_one():
    right = [True, True, False, False, False]
    draws = list(itertools.combinations(right, 3))
    assert pass_at_k(5, 2, 3) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("n, c, k", [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_refuses_what_cannot_be_told(n, c, k):
    with pytest.raises(ValueError, match=f"pass@{k} can't be told from {n} samples"):
        pass_at_k(n, c, k)
