"""Which values are tail, fixed before training: proposed from counts, frozen to a file."""

import datetime
import json
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from etils import epath

from marker_lm.annotate.long_tail import head_and_tail, shares
from marker_lm.data.whole_files import write_whole
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

FORMAT = 1
POOL_ROWS = 400  # held-out rows that a pool of tail values needs
# Of items that two arms answer differently, so that one is right and the other wrong.
DISCORDANT = 0.3
LEVEL, POWER = 0.05, 0.8
_FIELDS = ("rule", "category", "head", "tail", "train_shares", "taxonomy", "taxonomy_hash", "rows")


class StrataError(ValueError):
    """Strata that can't be frozen or used; one sentence with the mend."""


def detectable(rows: int) -> float:
    """The least true difference of two arms' shares that n paired items show, 0 to 1.

    Two-sided test at 5 %, power 80 %, when the arms differ on 30 % of the items:
    (z_0.975 + z_0.8) * sqrt(0.3 / n), the normal approximation of McNemar's test
    (Connor 1987, leading term).
    """
    z = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)
    return min(1.0, z * math.sqrt(DISCORDANT / rows)) if rows else 1.0


def propose(
    train: Mapping[str, int],
    heldout: Mapping[str, int],
    threshold: float,
    pool_rows: int = POOL_ROWS,
) -> dict[str, Any]:
    """Head, tail, and pools of tail values that are large enough to measure something.

    Args:
      train, heldout: value -> rows.
      threshold: a value with a smaller share of the training rows is tail.
      pool_rows: tail values are pooled, the most frequent first, until the pool has so many
        held-out rows; what is left at the end joins the last pool.

    Returns:
      head, tail: each with values, train_share, train_rows, heldout_rows, detectable;
      pools: a list of the same, of tail values; one pool, however small, where the tail has too few
        held-out rows; none without a tail.
    """
    head, tail = head_and_tail(train, threshold)
    groups: list[list[str]] = []
    for value in tail:
        if not groups or sum(heldout.get(v, 0) for v in groups[-1]) >= pool_rows:
            groups.append([])
        groups[-1].append(value)
    if len(groups) > 1 and sum(heldout.get(v, 0) for v in groups[-1]) < pool_rows:
        last = groups.pop()
        groups[-1] += last
    total = max(sum(train.values()), 1)

    def stratum(values: list[str]) -> dict[str, Any]:
        rows, held = (sum(counts.get(v, 0) for v in values) for counts in (train, heldout))
        return {
            "values": values,
            "train_share": rows / total,
            "train_rows": rows,
            "heldout_rows": held,
            "detectable": detectable(held),
        }

    pools = [stratum(values) for values in groups]
    return {"head": stratum(head), "tail": stratum(tail), "pools": pools}


def rule_text(category: str, threshold: float) -> str:
    """The rule in words, as a report prints it."""
    return (
        f"tail: values of {category} under {100 * threshold:g} % of the training rows, "
        "counted before training"
    )


def make_strata(
    category: str,
    values: Mapping[str, Mapping[str, int]],
    heldout: Mapping[str, int],
    threshold: float,
    taxonomy: Taxonomy,
    rows: Mapping[str, Any],
) -> dict[str, Any]:
    """What is frozen.

    Args:
      category: closed category whose values are split.
      values: closed category -> value -> training rows.
      heldout: value of `category` -> held-out rows.
      threshold: see `propose`.
      taxonomy: of the rows.
      rows: 'count' and 'hash' of the training rows that were counted.

    Raises StrataError when the category has no known set of values, when a row may have several of
    them, or when no row has it.
    """
    known = taxonomy.category(category)
    if not known.is_closed:
        raise StrataError(
            f"{category} is a number and has no values to split; take one with a set of values, "
            "such as its bucket."
        )
    if known.several:
        raise StrataError(
            f"{category} allows several values, so a row would be of several strata; take a "
            "category of one value."
        )
    if not values.get(category):
        raise StrataError(f"no training row has a marker {category}; there is nothing to split.")
    found = propose(values[category], heldout, threshold)
    return {
        "format": FORMAT,
        "rule": rule_text(category, threshold),
        "category": category,
        "threshold": threshold,
        "head": found["head"]["values"],
        "tail": found["tail"]["values"],
        "pools": [pool["values"] for pool in found["pools"]],
        "train_shares": {name: shares(counts) for name, counts in values.items() if counts},
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "rows": dict(rows),
        "date": datetime.date.today().isoformat(),
    }


def freeze(strata: Mapping[str, Any], path: epath.PathLike) -> bool:
    """Writes strata.json; False when the same strata stand there already.

    Raises StrataError when other strata are frozen there: they are never replaced.
    """
    path = epath.Path(path)
    if path.exists():
        old = _read(path)
        changes = _changes(old, strata)
        if changes:
            raise StrataError(
                f"{path} holds other strata, frozen on {old.get('date')} ({'; '.join(changes)}); "
                "strata are fixed before training, so freeze these under another name."
            )
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(strata, indent=1, ensure_ascii=False) + "\n").encode())
    return True


def load_strata(path: epath.PathLike, taxonomy: Taxonomy) -> dict[str, Any]:
    """Frozen strata, for rows of this taxonomy.

    Raises StrataError: no file, a damaged one, or one of another taxonomy, with the difference.
    """
    path = epath.Path(path)
    if not path.exists():
        raise StrataError(f"there is no {path}; `marker-lm stats --freeze={path}` writes one.")
    strata = _read(path)
    if strata["taxonomy_hash"] != taxonomy.hash:
        try:
            changes = Taxonomy.from_dict(strata["taxonomy"]).diff(taxonomy)
        except MarkerError as error:
            changes = [str(error)]
        raise StrataError(
            f"{path} was frozen under another taxonomy ({'; '.join(changes[:5])}"
            f"{f' and {len(changes) - 5} more' if len(changes) > 5 else ''}); freeze strata anew."
        )
    return strata


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        strata = json.loads(path.read_text())
    except ValueError as error:
        raise StrataError(f"{path} is damaged ({error}); freeze strata anew.") from None
    lacks = [key for key in _FIELDS if not isinstance(strata, dict) or key not in strata]
    if lacks or strata.get("format") != FORMAT:
        what = f"lacks {', '.join(lacks)}" if lacks else f"has format {strata.get('format')!r}"
        raise StrataError(f"{path} holds no strata that this program reads: it {what}.")
    return strata


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = [
        f"{key} is {old[key]!r}, was to be {new[key]!r}"
        for key in ("category", "threshold", "taxonomy_hash")
        if old.get(key) != new[key]
    ]
    moved = sorted(set(old["tail"]) ^ set(new["tail"]))
    if moved and old["category"] == new["category"]:
        changes.append(f"the tails differ in {', '.join(moved[:8])}{' ...' * (len(moved) > 8)}")
    if old["rows"] != new["rows"]:
        changes.append(f"{old['rows']['count']} other training rows were counted")
    return changes
