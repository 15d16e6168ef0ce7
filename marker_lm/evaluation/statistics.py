"""Intervals for means, paired differences and strata; calibration error; macro-F1. NumPy only.

Names of arrays: N items, R bootstrap resamples, K classes. All intervals are two-sided.

Items are the unit that is resampled. With several training seeds, average each item over the
seeds first; what then remains outside the interval is the spread between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
# Bounds the memory of one chunk of resamples: about 2M indices and as many float64 values.
CHUNK_DRAWS = 2_000_000
# Up to this many distinct values, counts of values are drawn instead of items.
FEW_VALUES = 64


@dataclass(frozen=True)
class Interval:
    """An estimate with its limits; `n` counts the items behind it.

    `low` and `high` are nan where no interval can be given (fewer than two items that are not
    proportions); `mean` too is nan when there are no items.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(
    values_N: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean of `values_N` with a seeded percentile-bootstrap interval.

    When every value is 0 or 1 the Wilson interval is given instead: a bootstrap of a share near
    0 or 1 is too narrow, and of a share that is exactly 0 or 1 it has no width at all, as if a
    few items could prove perfection.

    Raises ValueError when a value is not finite.
    """
    values_N = _values(values_N)
    if values_N.size and _is_binary(values_N):
        return wilson_interval(int(values_N.sum()), values_N.size, level=level)
    if values_N.size < 2:
        return _no_interval(values_N)
    means_R = bootstrap_means(values_N, seed=seed, resamples=resamples)
    return _percentiles(float(values_N.mean()), means_R, values_N.size, level)


def wilson_interval(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927); `mean` is k/n."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..{n}, got {successes}")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # At the ends the limit equals the share exactly; arithmetic alone leaves a rounding error.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high, n)


def paired_difference(
    a_N: Sequence[float] | np.ndarray,
    b_N: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean of a - b over the same items in the same order, with a paired bootstrap interval.

    When both are 0/1 and every item has the same difference (often: both arms right everywhere)
    the bootstrap would have no width. Then the share of items that could differ is bounded by
    Wilson's upper limit of 0 in N, and the interval is what that share could do to the mean.

    Raises ValueError when the lengths differ or a value is not finite.
    """
    a_N, b_N = _values(a_N), _values(b_N)
    if a_N.shape != b_N.shape:
        raise ValueError(f"paired arms need the same items, got {a_N.size} and {b_N.size} values")
    effect_N = a_N - b_N
    if effect_N.size and _is_binary(a_N) and _is_binary(b_N) and np.ptp(effect_N) == 0:
        return _constant_effect(float(effect_N[0]), effect_N.size, level)
    if effect_N.size < 2:
        return _no_interval(effect_N)
    means_R = bootstrap_means(effect_N, seed=seed, resamples=resamples)
    return _percentiles(float(effect_N.mean()), means_R, effect_N.size, level)


def difference_in_differences(
    tail_a_N: Sequence[float] | np.ndarray,
    tail_b_N: Sequence[float] | np.ndarray,
    head_a_M: Sequence[float] | np.ndarray,
    head_b_M: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """(a - b on the tail) minus (a - b on the head); `n` is the items of both strata together.

    Items are resampled within each stratum, independently of the other. When one stratum is
    constant (see `paired_difference`) its limits are not a bootstrap, and the two intervals are
    joined by squaring and adding their half-widths (Zou & Donner, Statistics in Medicine 27,
    2008).
    """
    options = {"resamples": resamples, "level": level}
    tail = paired_difference(tail_a_N, tail_b_N, seed=seed, **options)
    head = paired_difference(head_a_M, head_b_M, seed=seed + 1, **options)
    estimate, n = tail.mean - head.mean, tail.n + head.n
    tail_effect_N = _values(tail_a_N) - _values(tail_b_N)
    head_effect_M = _values(head_a_M) - _values(head_b_M)
    if min(tail.n, head.n) < 2 or np.ptp(tail_effect_N) == 0 or np.ptp(head_effect_M) == 0:
        low = estimate - math.hypot(tail.mean - tail.low, head.high - head.mean)
        high = estimate + math.hypot(tail.high - tail.mean, head.mean - head.low)
        return Interval(estimate, low, high, n)
    tail_R = bootstrap_means(tail_effect_N, seed=seed, resamples=resamples)
    head_R = bootstrap_means(head_effect_M, seed=seed + 1, resamples=resamples)
    return _percentiles(estimate, tail_R - head_R, n, level)


def bootstrap_means(
    values_N: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    chunk_draws: int = CHUNK_DRAWS,
    few_values: int = FEW_VALUES,
) -> np.ndarray:
    """float64[R]: means of resamples of `values_N` with replacement. The chunk size changes
    memory, never the result."""
    rng = np.random.default_rng(seed)
    n = values_N.size
    distinct_U, counts_U = np.unique(values_N, return_counts=True)
    if distinct_U.size <= few_values:
        # How often each value is drawn is multinomial: the same distribution, without N draws.
        return rng.multinomial(n, counts_U / n, size=resamples) @ distinct_U / n
    rows = max(1, chunk_draws // n)
    chunks = []
    for start in range(0, resamples, rows):
        index_CxN = rng.integers(n, size=(min(rows, resamples - start), n))
        chunks.append(values_N[index_CxN].mean(axis=1))
    return np.concatenate(chunks)


def expected_calibration_error(
    confidence_N: Sequence[float] | np.ndarray,
    correct_N: Sequence[float] | np.ndarray,
    bins: int = 15,
) -> float:
    """Mean over items of |accuracy - confidence| of their bin, with bins of equal width
    (Guo et al., ICML 2017, eq. 3). nan without items.

    Raises ValueError when a confidence is outside 0..1 or the lengths differ.
    """
    confidence_N, correct_N = _values(confidence_N), _values(correct_N)
    if confidence_N.shape != correct_N.shape:
        raise ValueError(f"{confidence_N.size} confidences but {correct_N.size} outcomes")
    if not confidence_N.size:
        return math.nan
    if confidence_N.min() < 0 or confidence_N.max() > 1:
        worst = confidence_N[np.argmax(np.abs(confidence_N - 0.5))]
        raise ValueError(f"a confidence must lie in 0..1, got {worst:g}")
    return binned_error(confidence_N, correct_N, equal_width_bins(confidence_N, bins))


def equal_width_bins(confidence_N: np.ndarray, bins: int) -> np.ndarray:
    """int[N]: the bin of each confidence in 0..1."""
    return np.minimum((confidence_N * bins).astype(int), bins - 1)


def binned_error(confidence_N: np.ndarray, correct_N: np.ndarray, bin_N: np.ndarray) -> float:
    """The expected calibration error with bins as given."""
    gap_K = np.bincount(bin_N, weights=correct_N - confidence_N)
    return float(np.abs(gap_K).sum() / confidence_N.size)


def confusion_matrix(
    row_N: Sequence[str], column_N: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
    """int64[K, K]: how often row label i met column label j. Raises ValueError on a label that
    is not in `labels`."""
    place = {label: i for i, label in enumerate(labels)}
    if len(row_N) != len(column_N):
        raise ValueError(f"{len(row_N)} row labels but {len(column_N)} column labels")
    unknown = (set(row_N) | set(column_N)) - set(place)
    if unknown:
        raise ValueError(f"label {min(unknown, key=str)!r} is not among the {len(place)} labels")
    k = len(place)
    pair_N = np.array([place[r] * k + place[c] for r, c in zip(row_N, column_N, strict=True)], int)
    return np.bincount(pair_N, minlength=k * k).reshape(k, k)


def macro_f1(
    true_N: Sequence[str], predicted_N: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Classes are `labels`, or every class that occurs as truth or prediction. A class in `labels`
    that never occurs counts 0. nan without classes.
    """
    occurring = sorted(set(true_N) | set(predicted_N), key=str)
    labels = occurring if labels is None else list(labels)
    if not labels:
        return math.nan
    # Wrong labels outside `labels` still cost precision and recall of those inside.
    every = labels + [label for label in occurring if label not in set(labels)]
    matrix_KxK = confusion_matrix(true_N, predicted_N, every)
    size_K = (matrix_KxK.sum(axis=0) + matrix_KxK.sum(axis=1))[: len(labels)]
    hit_K = np.diag(matrix_KxK)[: len(labels)]
    return float(np.mean(2 * hit_K / np.maximum(size_K, 1)))


def _values(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1:
        raise ValueError(f"one value per item is due, got an array of shape {values_N.shape}")
    bad_N = np.flatnonzero(~np.isfinite(values_N))
    if bad_N.size:
        raise ValueError(f"value {bad_N[0]} of {values_N.size} is {values_N[bad_N[0]]}, not finite")
    return values_N


def _is_binary(values_N: np.ndarray) -> bool:
    return bool(np.all((values_N == 0) | (values_N == 1)))


def _no_interval(values_N: np.ndarray) -> Interval:
    mean = float(values_N[0]) if values_N.size else math.nan
    return Interval(mean, math.nan, math.nan, values_N.size)


def _percentiles(mean: float, means_R: np.ndarray, n: int, level: float) -> Interval:
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


def _constant_effect(effect: float, n: int, level: float) -> Interval:
    other_share = wilson_interval(0, n, level=level).high
    low = effect - other_share * (effect + 1)
    return Interval(effect, low, effect + other_share * (1 - effect), n)
