"""Which prompt-side markers stay: a pure function of seed, epoch, example id and category.

Source: section 2.1 of arXiv 2506.14702. Its "dataset-level" dropout is example dropout here (the
example loses all its prompt-side markers), its "sample-level" dropout is marker dropout (else each
single marker may go). The completion side is never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from marker_lm.markers.category import mend

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Dropout:
    """Rates of prompt-side dropout, each in [0, 1].

    Attributes:
        example: chance that an example loses all its prompt-side markers.
        marker: else, chance of each single marker to go.
        per_category: category -> rate that replaces `marker`.
        schedule: (progress 0..1, factor) points, progress increasing; the factor, linear between
            the points and constant outside, multiplies all rates. () is the factor 1.

    Raises ValueError when a rate, or a rate times its largest factor, is outside [0, 1].
    """

    example: float = 0.5
    marker: float = 0.5
    per_category: Mapping[str, float] = field(default_factory=dict)
    schedule: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        points = [progress for progress, _ in self.schedule]
        factors = [factor for _, factor in self.schedule] or [1.0]
        if not all(0 <= point <= 1 for point in points):
            raise ValueError(f"dropout schedule {self.schedule}: progress must be within 0 and 1")
        if any(left >= right for left, right in zip(points, points[1:], strict=False)):
            raise ValueError(f"dropout schedule {self.schedule}: progress must increase; sort it")
        if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
            raise ValueError(f"dropout schedule {self.schedule}: factors must be 0 or more")
        rates = {"example": self.example, "marker": self.marker}
        rates |= {f"per_category.{name}": rate for name, rate in self.per_category.items()}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"dropout {name} is {rate}; a rate must be within 0 and 1")
            if rate * max(factors) > 1:
                raise ValueError(
                    f"dropout {name} is {rate}, times the schedule's factor {max(factors)} more"
                    " than 1; lower one of the two"
                )


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """uint64[N]: the 8-byte blake2b of each id, the same on every machine and in every run."""
    # An id from JSON may hold a lone surrogate; it is hashed like any other character.
    digests = [blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest() for id in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def hash_mix(seed: int, *parts: np.ndarray) -> np.ndarray:
    """uint64 hash of the seed and of the broadcast parts, in their order.

    Each part is folded in with the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    with np.errstate(over="ignore"):
        state = _finalize(np.uint64(seed % 2**64) + _GOLDEN)
        for part in parts:
            state = _finalize((state + _GOLDEN) ^ np.asarray(part, dtype=np.uint64))
    return state


def _finalize(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def keep_mask(
    dropout: Dropout,
    seed: int,
    epoch: int | np.ndarray,
    example_hash_N: np.ndarray,
    categories: Sequence[str],
    progress_N: np.ndarray | float | None = None,
) -> np.ndarray:
    """bool_NxC: True where the prompt-side marker of this example and category stays.

    Args:
        seed: any integer.
        epoch: one integer, or one for each example (in a mixture, its own count of visits);
            0 or more; another epoch draws anew.
        example_hash_N: uint64, `hash_ids` of the example ids.
        categories: names of the columns; a column depends on its name and not on its place.
        progress_N: share of the training done when each example is seen; needed by a schedule.

    Raises ValueError for a schedule without progress, and for a rate of an unknown category.
    """
    for name in dropout.per_category:
        if name not in categories:
            raise ValueError(
                f"dropout per_category names {name!r}, which is no prompt-side category;"
                f" {mend(name, categories)}"
            )
    if dropout.schedule and progress_N is None:
        raise ValueError("a dropout schedule needs the progress of each example; give progress_N")
    factor = 1.0
    if dropout.schedule:
        factor = np.interp(progress_N, *zip(*dropout.schedule, strict=True))
    example_hash_N = np.asarray(example_hash_N, dtype=np.uint64)

    def uniform_N(name: str) -> np.ndarray:
        # 53 bits: with 64, the float would round up to 1 and break a rate of 1.
        hash_N = hash_mix(seed, np.asarray(epoch), example_hash_N, hash_ids([name]))
        return (hash_N >> np.uint64(11)) * 2.0**-53

    # The empty string names the draw of the example dropout: no category is called so.
    stays_N = uniform_N("") >= dropout.example * factor
    keep_NxC = np.empty((len(example_hash_N), len(categories)), dtype=bool)
    for c, name in enumerate(categories):
        rate = dropout.per_category.get(name, dropout.marker) * factor
        keep_NxC[:, c] = stays_N & (uniform_N(name) >= rate)
    return keep_NxC
