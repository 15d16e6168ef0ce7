"""Which layers see how far back: layer types in a config.json, windows in ours."""

from collections.abc import Sequence
from typing import Any

from marker_lm.convert.families.reader import ConfigReader
from marker_lm.model.config import ModelConfig

TYPES = {"sliding_attention": True, "full_attention": False}


def pattern_types(layers: int, pattern: int) -> list[str]:
    """Types of layers where every `pattern`-th sees all and the others have the window."""
    return [
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(layers)
    ]


def read_windows(
    reader: ConfigReader, layers: int, window: int | None, default_types: Sequence[str]
) -> tuple[int, ...]:
    """The shortest cycle of windows that gives each layer its own."""
    types = reader.get("layer_types", list, None)
    types = default_types if types is None else types
    if len(types) != layers or not set(types) <= set(TYPES):
        raise reader.refusal(
            "layer_types", types, f"each of the {layers} layers needs one of {', '.join(TYPES)}"
        )
    if "sliding_attention" in types and not window:
        raise reader.refusal("sliding_window", window, "layers of sliding_attention need a window")
    return shortest_cycle([window if TYPES[kind] else 0 for kind in types])


def shortest_cycle(windows: Sequence[int]) -> tuple[int, ...]:
    """The shortest start of `windows` that repeats to all of them; () if none is limited."""
    if not any(windows):
        return ()
    fits = (
        size
        for size in range(1, len(windows) + 1)
        if all(window == windows[i % size] for i, window in enumerate(windows))
    )
    return tuple(windows[: next(fits)])


def write_layer_types(config: ModelConfig) -> dict[str, Any]:
    """The keys layer_types and sliding_window (null if no layer has a window)."""
    windows = config.layer_windows
    return {
        "layer_types": ["sliding_attention" if w else "full_attention" for w in windows],
        "sliding_window": max(windows) or None,
    }


def write_pattern(config: ModelConfig) -> dict[str, Any]:
    """The key sliding_window_pattern, which transformers read in place of layer_types up to 4.52.

    Nothing where the layers follow no such pattern.
    """
    types = write_layer_types(config)["layer_types"]
    for pattern in range(1, config.layers + 2):
        if types == pattern_types(config.layers, pattern):
            return {"sliding_window_pattern": pattern}
    return {}
