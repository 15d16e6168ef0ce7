"""Effects of one arm over another: over items and seeds, with intervals, corrections and power.

Names of arrays: S seeds, N and M items, R bootstrap resamples. A pair of arms has the same seeds
and the same items: seed s of one is compared with seed s of the other, item by item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from marker_lm.evaluation.statistics import CHUNK_DRAWS, LEVEL, RESAMPLES, paired_difference

POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """A difference of means with what it takes to judge it.

    Attributes:
      mean: a - b, in the metric's unit.
      low, high: limits of the interval; nan where there is none.
      error: its standard error; nan with fewer than two items.
      p: two-sided, of no difference at all.
      size: the mean over the standard deviation of the items' differences (Cohen's d of paired
        values); nan where these do not vary.
      detectable: the least true difference that this test set shows with a power of 80 %.
      n, seeds: items (of both strata, in a contrast) and seeds behind it.
    """

    mean: float
    low: float
    high: float
    error: float
    p: float
    size: float
    detectable: float
    n: int
    seeds: int


def effect(
    a_SxN: np.ndarray,
    b_SxN: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Effect:
    """Mean of a - b with an interval over items and seeds.

    Both levels are resampled with replacement, items the same for all seeds. The standard error is
    that of the resampled means, in which the variance between seeds counts S / (S - 1) times: a
    resample of a few seeds is too narrow by that. The limits are quantiles of Student's t with
    Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946), since three seeds say little
    about how much seeds differ. One seed gives an interval over items alone.

    Raises ValueError when the shapes differ or a value is not finite.
    """
    a_SxN, b_SxN = _values(a_SxN), _values(b_SxN)
    if a_SxN.shape != b_SxN.shape:
        raise ValueError(
            f"paired arms need the same seeds and items, got {a_SxN.shape} and {b_SxN.shape} values"
        )
    effect_SxN = a_SxN - b_SxN
    found = _judge([(1.0, effect_SxN)], seed, resamples, level)
    if found.n > 1 and np.ptp(effect_SxN) == 0:
        # No resample differs from another one; what a constant share can still hide is known.
        constant = paired_difference(a_SxN[0], b_SxN[0], level=level)
        if constant.low < constant.high:
            return Effect(
                *(found.mean, constant.low, constant.high, *(math.nan,) * 4, found.n, found.seeds)
            )
    return found


def contrast(
    tail_SxN: np.ndarray,
    head_SxM: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Effect:
    """The tail's effect minus the head's: a gain that is special to the tail.

    Args:
      tail_SxN, head_SxM: differences of two arms on the items of either stratum. Items are
        resampled within each, seeds for both at once: a seed that is good for one arm is good in
        both strata.
    """
    tail_SxN, head_SxM = _values(tail_SxN), _values(head_SxM)
    if len(tail_SxN) != len(head_SxM):
        raise ValueError(f"two strata need the same seeds, got {len(tail_SxN)}, {len(head_SxM)}")
    return _judge([(1.0, tail_SxN), (-1.0, head_SxM)], seed, resamples, level)


def _judge(parts, seed: int, resamples: int, level: float) -> Effect:
    rng = np.random.default_rng(seed)
    S = len(parts[0][1])
    items = [part_SxN.shape[1] for _, part_SxN in parts]
    if not S or not min(items):
        return Effect(*(math.nan,) * 7, sum(items), S)
    mean_S = sum(sign * part_SxN.mean(axis=1) for sign, part_SxN in parts)
    mean = float(mean_S.mean())
    if min(items) < 2:
        return Effect(mean, *(math.nan,) * 6, sum(items), S)
    means_RxS = sum(sign * _resampled(part_SxN, rng, resamples) for sign, part_SxN in parts)
    means_R = means_RxS.mean(axis=1)
    seeds_part = 0.0
    if S > 1:
        drawn_R = np.take_along_axis(means_RxS, rng.integers(S, size=(resamples, S)), axis=1)
        means_R = means_R + math.sqrt(S / (S - 1)) * (drawn_R.mean(axis=1) - means_R)
        seeds_part = float(mean_S.var(ddof=1)) / S
    error = float(means_R.std(ddof=1))
    if not error:
        return Effect(mean, mean, mean, 0.0, math.nan, math.nan, 0.0, sum(items), S)
    degrees = _degrees(error**2, seeds_part, S, min(items))
    reach = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, degrees))
    spread = math.sqrt(sum(part_SxN.mean(axis=0).var(ddof=1) for _, part_SxN in parts) / len(parts))
    return Effect(
        mean,
        mean - reach,
        mean + reach,
        error,
        p,
        mean / spread if spread else math.nan,
        detectable(error, degrees, level),
        sum(items),
        S,
    )


def detectable(error: float, degrees: float = math.inf, level: float = LEVEL) -> float:
    """The least true effect that a two-sided test shows with a power of 80 %.

    (t_0.975 + t_0.8) times the standard error (Bloom, Evaluation Review 19, 1995).
    """
    quantiles = stats.t.ppf([(1 + level) / 2, POWER], degrees)
    return float(quantiles.sum()) * error


def holm(p_K: Sequence[float]) -> np.ndarray:
    """Adjusted p-values that bound the chance of any false finding (Holm, Scandinavian Journal of
    Statistics 6, 1979)."""
    p_K = np.asarray(p_K, np.float64)
    order_K = np.argsort(p_K, kind="stable")
    stepped_K = np.maximum.accumulate(p_K[order_K] * np.arange(len(p_K), 0, -1))
    adjusted_K = np.empty_like(p_K)
    adjusted_K[order_K] = np.minimum(stepped_K, 1.0)
    return adjusted_K


def benjamini_hochberg(p_K: Sequence[float]) -> np.ndarray:
    """Adjusted p-values that bound the share of false findings among all findings."""
    return stats.false_discovery_control(p_K) if len(p_K) else np.zeros(0)


def _resampled(part_SxN: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """float64[R, S]: the mean of each seed over resampled items, the same items for all seeds."""
    n = part_SxN.shape[1]
    rows = max(1, CHUNK_DRAWS // n)
    chunks = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        times_CxN = rng.multinomial(n, np.full(n, 1 / n), size=size)
        chunks.append(times_CxN @ part_SxN.T / n)
    return np.concatenate(chunks)


def _degrees(whole: float, seeds_part: float, S: int, n: int) -> float:
    """Satterthwaite's degrees of freedom of a variance that seeds and items share."""
    items_part = max(whole - seeds_part, 0.0)
    if S == 1:
        return n - 1
    return (items_part + seeds_part) ** 2 / (seeds_part**2 / (S - 1) + items_part**2 / (n - 1))


def _values(values_SxN: np.ndarray) -> np.ndarray:
    values_SxN = np.asarray(values_SxN, np.float64)
    if values_SxN.ndim != 2:
        raise ValueError(f"a value for each seed and item is due, got shape {values_SxN.shape}")
    if not np.isfinite(values_SxN).all():
        s, n = np.argwhere(~np.isfinite(values_SxN))[0]
        raise ValueError(f"item {n} of seed {s} is {values_SxN[s, n]}, not finite")
    return values_SxN
