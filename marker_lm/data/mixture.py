"""Which rows an epoch draws, and in which order: rates of tasks, rare values drawn more often.

A row is a conversation here, whether it has one turn or more.

A draw is a pure function of (mixture, seed, epoch, its place in the epoch), found without a list of
the epoch's rows: any window of an epoch costs what it holds, however large the epoch is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from marker_lm.data.spans import ABSENT, Index
from marker_lm.markers.dropout import hash_mix
from marker_lm.markers.taxonomy import Taxonomy

_ROUNDS = 8


class MixtureError(ValueError):
    """Rates or factors that cannot be used; one sentence."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Groups of rows and how often an epoch draws from each.

    Attributes:
      members: the rows of each group, int64; a range where they stand in a row.
      draws: draws of an epoch from each group, float; a group walks through its rows without
        repetition before it starts over, also across epochs.
    """

    members: tuple[np.ndarray | range, ...]
    draws: tuple[float, ...]


def make_mixture(
    sizes: Sequence[int],
    rates: Sequence[float],
    temperature: float = 0.0,
    factors_N: np.ndarray | None = None,
) -> Mixture:
    """The mixture of tasks; an epoch has as many draws as the tasks have rows.

    Args:
      sizes: rows of each task; rows are numbered through all tasks in this order.
      rates: relative rate of each task, any positive scale.
      temperature: 0 takes the rates as they are; T > 0 multiplies each by rows ** (1 / T): 1 is in
        proportion to the rows, more is flatter.
      factors_N: how often a row is drawn, relative to the other rows of its task; 1 for all when
        None.

    Raises:
      MixtureError: rates that are no rates.
    """
    if temperature < 0 or not math.isfinite(temperature):
        raise MixtureError(
            f"data.temperature={temperature}; it must be 0 (the rates as given) or more"
        )
    if any(rate < 0 or not math.isfinite(rate) for rate in rates) or not sum(rates) > 0:
        raise MixtureError(f"the rates of tasks are {list(rates)}; give each 0 or more, not all 0")
    weights = np.asarray(rates, np.float64)
    if temperature:
        weights = weights * np.asarray(sizes, np.float64) ** (1 / temperature)
    task_draws = weights / weights.sum() * sum(sizes)
    members: list[np.ndarray | range] = []
    draws: list[float] = []
    for task, first in enumerate(np.cumsum(sizes) - sizes):
        rows = range(int(first), int(first) + sizes[task])
        if factors_N is None:
            members.append(rows)
            draws.append(float(task_draws[task]))
            continue
        own_N = factors_N[rows.start : rows.stop]
        for factor in np.unique(own_N):
            members.append(rows.start + np.flatnonzero(own_N == factor))
            draws.append(float(task_draws[task] * factor * len(members[-1]) / own_N.sum()))
    return Mixture(tuple(members), tuple(draws))


def draw(mixture: Mixture, seed: int, epoch: int, window: slice = slice(None)):
    """The draws of one epoch, shuffled, or a window of them.

    Args:
      mixture: see Mixture.
      seed: of the shuffle.
      epoch: 0, 1, ...
      window: places in the epoch, from 0.

    Returns:
      rows_W and visits_W, int64: the row and how often it had been drawn before.
    """
    done_G, upto_G = _draws_before(mixture, epoch), _draws_before(mixture, epoch + 1)
    end_G = np.cumsum(upto_G - done_G)
    place_W = np.arange(*window.indices(int(end_G[-1])))
    rows_W, visits_W = np.empty_like(place_W), np.empty_like(place_W)
    place_W = permute(place_W, int(end_G[-1]), hash_mix(seed, np.array(2), np.array(epoch)))
    group_W = np.searchsorted(end_G, place_W, side="right")
    for group, members in enumerate(mixture.members):
        at = np.flatnonzero(group_W == group)
        if not len(at):
            continue
        number = place_W[at] - end_G[group] + upto_G[group]  # draws of this group before this one
        visits_W[at] = number // len(members)
        keys = hash_mix(seed, np.array(1), np.array(group), visits_W[at])
        chosen = permute(number % len(members), len(members), keys)
        rows_W[at] = members.start + chosen if isinstance(members, range) else members[chosen]
    return rows_W, visits_W


def epoch_draws(mixture: Mixture, epoch: int) -> int:
    """How many draws an epoch has."""
    return int((_draws_before(mixture, epoch + 1) - _draws_before(mixture, epoch)).sum())


def _draws_before(mixture: Mixture, epoch: int) -> np.ndarray:
    """int64[G]: draws of each group in all epochs before this one."""
    return np.floor(np.asarray(mixture.draws) * epoch + 1e-9).astype(np.int64)


def permute(x_N: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Where a pseudo-random permutation of range(size) puts each x; int64[N].

    A Feistel network on pairs of digits (a, b) with a * b >= size, walked on while the result lies
    outside (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").

    Args:
      x_N: integers, 0 <= x < size < 2 ** 62.
      size: of the range.
      key: uint64 of one permutation, or one for each x.
    """
    a = math.isqrt(max(size - 1, 0)) + 1
    b = -(-size // a)
    key_N = np.broadcast_to(np.asarray(key, np.uint64), x_N.shape)
    out_N = _feistel(x_N, a, b, key_N)
    while len(outside := np.flatnonzero(out_N >= size)):
        out_N[outside] = _feistel(out_N[outside], a, b, key_N[outside])
    return out_N


def _feistel(x_N: np.ndarray, a: int, b: int, key_N: np.ndarray) -> np.ndarray:
    left_N, right_N = (digit.astype(np.uint64) for digit in np.divmod(x_N, b))
    sides = [left_N, right_N]
    for turn in range(_ROUNDS):
        moved, base = turn % 2, np.uint64((a, b)[turn % 2])
        hash_N = hash_mix(turn, key_N, sides[1 - moved])
        # The high 32 bits scaled to 0 <= step < base: cheaper than a remainder.
        step_N = ((hash_N >> np.uint64(32)) * base) >> np.uint64(32)
        total_N = sides[moved] + step_N
        sides[moved] = np.where(total_N >= base, total_N - base, total_N)
    return (sides[0] * np.uint64(b) + sides[1]).astype(np.int64)


def row_factors(
    index: Index,
    taxonomy: Taxonomy,
    upsample: Mapping[str, Mapping[str, float]],
    least_share: Mapping[str, float],
    most: float,
) -> np.ndarray | None:
    """float64[U]: how often each conversation is to be drawn, relative to the others.

    None for evenly. Factors of several categories are multiplied. A conversation is drawn as often
    as the one of its turns that is to be drawn most.

    Of several values of a category the first one, the main one, decides: the index has room for one
    number, so that a plan reads no rows. `marker-lm stats` counts a row under each of its values.

    Args:
      index: of all rows.
      taxonomy: says which values there are.
      upsample: category -> {value: factor}.
      least_share: category -> the share of draws that each of its values is to have at least, among
        the rows that have the category; rarer ones are drawn more often, all others less.
      most: `least_share` draws no row more often than so many times the others.

    Raises:
      MixtureError: a category or value that the taxonomy lacks, or a number that makes no sense.
    """
    factors_N = np.ones(len(index))
    for category, factor_of in upsample.items():
        values = _closed_values(taxonomy, category, f"data.upsample.{category}")
        by_value = np.ones(len(values) + 1)  # the last one is of rows without the category
        for value, factor in factor_of.items():
            if not 0 <= factor < math.inf:
                raise MixtureError(
                    f"data.upsample.{category}.{value}={factor}; a factor must be 0 or more"
                )
            by_value[values.index(taxonomy.check(category, value))] = factor
        factors_N *= by_value[_value_of(index, category)]
    for category, share in least_share.items():
        values = _closed_values(taxonomy, category, f"data.least_share.{category}")
        value_N = _value_of(index, category)
        counts = np.bincount(value_N[value_N != ABSENT], minlength=len(values))
        factors_N *= np.append(raise_to_share(counts, share, most), 1.0)[value_N]
    if not factors_N.any():
        raise MixtureError("data.upsample gives every row the factor 0; leave some rows in")
    factors_U = factors_N
    if index.begins_N is not None:
        factors_U = np.maximum.reduceat(factors_N, index.first_U)
    return None if (factors_U == factors_U[0]).all() else factors_U


def raise_to_share(counts_V: np.ndarray, share: float, most: float) -> np.ndarray:
    """float64[V]: factors that bring every value that occurs to this share, or `most` times up.

    The values that are not raised keep factor 1, so that `most` is a factor against them.
    """
    present = int((counts_V > 0).sum())
    if not 0 <= share * present < 1 or most < 1:
        raise MixtureError(
            f"a least share of {share} for each of {present} values, at most {most} times: "
            "the shares together must be under 1, and the factor 1 or more"
        )
    factors_V = np.ones(len(counts_V))
    raised_V = np.zeros(len(counts_V), bool)
    while True:  # raising one value lowers the shares of the others, until none is too low
        weight_V = factors_V * counts_V
        low_V = (counts_V > 0) & (factors_V < most)
        low_V &= weight_V < share * weight_V.sum() * (1 - 1e-9)
        if not low_V.any():
            return factors_V
        raised_V |= low_V
        moving_V = raised_V & (factors_V < most)
        target = share * weight_V[~moving_V].sum() / (1 - share * moving_V.sum())
        factors_V[moving_V] = np.minimum(target / counts_V[moving_V], most)


def _closed_values(taxonomy: Taxonomy, category: str, key: str) -> list[str]:
    found = taxonomy.category(category)
    if not found.is_closed:
        raise MixtureError(f"{key}: '{category}' is a number; name a category with a set of values")
    return list(found.values)


def _value_of(index: Index, category: str) -> np.ndarray:
    return index.value_NxC[:, index.categories.index(category)]
