"""RoPE in a config.json, in both spellings.

transformers 5 writes `rope_parameters`, with the base as `rope_theta` in it, in Gemma 3 one for
each type of layer. Older versions write `rope_theta` and `rope_scaling` side by side, which all
versions read: so that is what is written.
"""

import math
from collections.abc import Mapping
from typing import Any

from marker_lm.convert.families.reader import REQUIRED, ConfigReader
from marker_lm.model.config import ROPE_SCALINGS, RopeScaling

BASE = 10_000.0


def read_rope(reader: ConfigReader, base: Any = BASE) -> dict[str, Any]:
    """The fields rope_base and rope_scaling; `base` where the file names none."""
    scaling = reader.get("rope_scaling", dict, None) or {}
    parameters = reader.get("rope_parameters", dict, None) or {}
    if scaling and parameters and scaling != parameters:
        raise reader.refusal(
            "rope_scaling", scaling, "rope_parameters says something else; take one of them out"
        )
    inner = scaling or parameters
    base = reader.number("rope_theta", base if "rope_theta" not in inner else None)
    reader.demand(partial_rotary_factor=1.0)
    where = "rope_scaling" if scaling else "rope_parameters"
    inner_base, rope_scaling = read_scaling(reader, where, inner)
    if base is not None and inner_base is not None and base != inner_base:
        raise reader.refusal("rope_theta", base, f"{where} says {inner_base}; take one of them out")
    return {"rope_base": base if inner_base is None else inner_base, "rope_scaling": rope_scaling}


def read_scaling(
    reader: ConfigReader, where: str, parameters: Mapping[str, Any]
) -> tuple[float | None, RopeScaling | None]:
    """The base, if it is there, and the scaling of one dict of RoPE parameters."""
    inner = ConfigReader(
        {f"{where}.{key}": value for key, value in parameters.items()}, reader.model_type
    )

    def number(key: str, default: Any = REQUIRED) -> Any:
        return inner.number(f"{where}.{key}", default)

    kinds = {"default": "default"} | {kind: kind for kind in ROPE_SCALINGS}
    old_kind = inner.choice(f"{where}.type", kinds, "default")
    kind = inner.choice(f"{where}.rope_type", kinds, old_kind)
    base = number("rope_theta", None)
    inner.demand(**{f"{where}.partial_rotary_factor": 1.0})
    scaling = None
    if kind == "linear":
        scaling = RopeScaling("linear", number("factor"))
    elif kind != "default":
        max_len = reader.integer("max_position_embeddings")
        original_len = inner.integer(f"{where}.original_max_position_embeddings", None)
        if original_len is None:
            original_len = reader.integer("original_max_position_embeddings", None) or max_len
        if kind == "llama3":
            low, high = number("low_freq_factor"), number("high_freq_factor")
            scaling = RopeScaling("llama3", number("factor"), original_len, low, high)
        else:
            factor = number("factor", max_len / original_len)
            low, high = number("beta_slow", 1.0), number("beta_fast", 32.0)
            inner.demand(**{f"{where}.truncate": True})
            magnitude = number("attention_factor", None)
            numerator, denominator = number("mscale", None), number("mscale_all_dim", None)
            if magnitude is None and numerator and denominator:
                magnitude = (0.1 * numerator * math.log(factor) + 1) / (
                    0.1 * denominator * math.log(factor) + 1
                )
            scaling = RopeScaling("yarn", factor, original_len, low, high, magnitude or 0.0)
    inner.refuse_unknown()
    return base, scaling


def write_rope(base: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys rope_theta and rope_scaling."""
    written = None
    if scaling:
        written = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind != "linear":
            written["original_max_position_embeddings"] = scaling.original_len
        if scaling.kind == "llama3":
            written |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        elif scaling.kind == "yarn":
            written |= {"beta_slow": scaling.low, "beta_fast": scaling.high}
            if scaling.magnitude:
                written["attention_factor"] = scaling.magnitude
    return {"rope_theta": base, "rope_scaling": written}
