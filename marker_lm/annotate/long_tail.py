"""Measures of a long tail, and of how much one category tells of another."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """value -> its share of all, the most frequent first; equal ones in the order given."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return {value: n / total for value, n in ordered}


def head_and_tail(counts: Mapping[str, int], threshold: float) -> tuple[list[str], list[str]]:
    """The values with `threshold` or more of all, and those under it."""
    share = shares(counts)
    head = [value for value in share if share[value] >= threshold]
    return head, [value for value in share if share[value] < threshold]


def entropy(counts: Mapping[Any, int]) -> float:
    """Shannon entropy in bits of the distribution with these counts."""
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values() if n) + 0.0


def effective_values(counts: Mapping[Any, int]) -> float:
    """How many equally frequent values would have the same entropy (Hill number of order 1)."""
    return 2 ** entropy(counts) if counts else 0.0


def margins(joint: Mapping[tuple, int]) -> tuple[Counter, Counter]:
    """Counts of the first and of the second value of pairs."""
    first: Counter = Counter()
    second: Counter = Counter()
    for (a, b), n in joint.items():
        first[a] += n
        second[b] += n
    return first, second


def mutual_information(joint: Mapping[tuple, int]) -> float | None:
    """Normalized mutual information of two categories over the rows that have both, 0 to 1.

    I(A; B) over the mean of both entropies (Strehl and Ghosh 2002, with the arithmetic mean). None
    where no row has both, or where each has one value only: then there is nothing to tell.
    """
    first, second = margins(joint)
    mean = (entropy(first) + entropy(second)) / 2
    if not joint or mean < 1e-12:
        return None
    return min(1.0, max(0.0, 2 - entropy(joint) / mean))


def surprising(joint: Mapping[tuple, int], most: int) -> list[dict[str, Any]]:
    """The pairs of values that come together most out of line with chance.

    `surprise` is the deviance of a cell against independence, signed: above 0 the pair comes more
    often than the two values alone would make it, below 0 less (Dunning 1993 for counts of text).
    At most `most` pairs of either sign, the strongest first.
    """
    first, second = margins(joint)
    total = sum(joint.values())
    found = []
    for a, n_a in first.items():
        for b, n_b in second.items():
            expected, n = n_a * n_b / total, joint.get((a, b), 0)
            deviance = 2 * ((n * math.log(n / expected) if n else 0.0) - (n - expected))
            sign = 1 if n > expected else -1
            found.append({"pair": [a, b], "rows": n, "expected": expected})
            found[-1]["surprise"] = sign * deviance
    found.sort(key=lambda cell: (-cell["surprise"], cell["pair"]))
    more = [cell for cell in found[:most] if cell["surprise"] > 0]
    less = [cell for cell in found[::-1][:most] if cell["surprise"] < 0]
    return more + less
