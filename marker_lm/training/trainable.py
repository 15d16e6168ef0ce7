"""Which parameters are trained; the others are frozen: no gradient, no moments, no change."""

import difflib
import re
from collections.abc import Iterable

from flax.traverse_util import flatten_dict, unflatten_dict

from marker_lm.model.config import ModelConfig
from marker_lm.model.lora import is_factor
from marker_lm.model.params import abstract_params


def trained_paths(config: ModelConfig, pattern: str = "") -> frozenset[str]:
    """Paths of the parameters that are trained, such as 'layers/attention/query'.

    Args:
      config: of the model.
      pattern: regular expression that is searched for in the paths; '' is all of them, or with
        LoRA only its factors.

    Raises:
      ValueError: no regular expression, or it is found in no path.
    """
    paths = sorted(flatten_dict(abstract_params(config), sep="/"))
    if not pattern:
        return frozenset(filter(is_factor, paths) if config.lora else paths)
    return check_pattern("train.trainable", pattern, paths)


def check_pattern(key: str, pattern: str, paths: Iterable[str]) -> frozenset[str]:
    """The paths that a regular expression is found in.

    Args:
      key: of the config, for messages.
      pattern: what is searched for.
      paths: of parameters.

    Raises:
      ValueError: no regular expression, or it is found in no path.
    """
    paths = sorted(paths)
    try:
        found = frozenset(path for path in paths if re.search(pattern, path))
    except re.error as error:
        raise ValueError(f"{key}={pattern!r} is no regular expression: {error}.") from None
    if not found:
        nearest = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{key}={pattern!r} is found in no parameter's path (nearest: {nearest}); "
            f"they are {', '.join(paths)}."
        )
    return found


def split(params, trained: frozenset[str]) -> tuple[dict, dict]:
    """The parameters that are trained, and the others: two trees that share no path."""
    flat = flatten_dict(params, sep="/")
    moved = {path: x for path, x in flat.items() if path in trained}
    frozen = {path: x for path, x in flat.items() if path not in trained}
    return unflatten_dict(moved, sep="/"), unflatten_dict(frozen, sep="/")


def join(params, others) -> dict:
    """The parameters of both trees, the reverse of `split`; `others` win where both have a path."""
    return unflatten_dict(flatten_dict(params, sep="/") | flatten_dict(others, sep="/"), sep="/")
