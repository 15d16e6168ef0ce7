"""How often a value is to be expected at all, and posteriors without it."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from marker_lm.markers.taxonomy import MarkerError, Taxonomy


def divide_out(posterior: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """The posterior as under a prior of equal shares: P(value | x) / P(value), normalised.

    A value that the prior gives no share was never to be expected; what the model says about it is
    no evidence, and it gets 0.

    Args:
      posterior: value -> probability.
      prior: value -> share, of any sum.

    Raises MarkerError where no value has both a share and a probability.
    """
    odds = {v: p / prior[v] if prior.get(v, 0) > 0 else 0.0 for v, p in posterior.items()}
    total = sum(odds.values())
    if not total:
        raise MarkerError(
            f"the prior has no share for any likely one of {', '.join(posterior)}; give it the "
            "shares in the training rows."
        )
    return {value: one / total for value, one in odds.items()}


def mean_posterior(posteriors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The prior as the model has it: the mean of its posteriors over prompts."""
    return {v: float(np.mean([p[v] for p in posteriors])) for v in posteriors[0]}


def read_prior(path: epath.PathLike, category: str, taxonomy: Taxonomy) -> dict[str, float]:
    """A prior from a JSON file: value -> share or count.

    The strata that `marker-lm stats --freeze` writes are one too: they hold the shares of all
    categories. Raises MarkerError for a file that is none, or values that are none of the category.
    """
    path = epath.Path(path)
    if not path.exists():
        raise MarkerError(f"there is no file {path} with a prior; it is JSON of value -> share.")
    try:
        found = json.loads(path.read_text())
        found = found["train_shares"][category] if "train_shares" in found else found
        prior = {taxonomy.check(category, value): float(share) for value, share in found.items()}
    except MarkerError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MarkerError(
            f"{path} holds no prior of '{category}'; it is JSON of value -> share."
        ) from None
    wrong = [value for value, share in prior.items() if not 0 <= share < float("inf")]
    if wrong:
        raise MarkerError(
            f"{path} gives {wrong[0]} the share {prior[wrong[0]]}; a share is 0 or more."
        )
    return prior
