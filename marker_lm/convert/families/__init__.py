"""The families of models that can be read and written: one short file and one line here each."""

import difflib
from collections.abc import Mapping
from typing import Any

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families.cohere import COHERE
from marker_lm.convert.families.cohere2 import COHERE2
from marker_lm.convert.families.family import Family
from marker_lm.convert.families.gemma2 import GEMMA2
from marker_lm.convert.families.gemma3 import GEMMA3, GEMMA3_TEXT
from marker_lm.convert.families.llama import LLAMA
from marker_lm.convert.families.mistral import MISTRAL
from marker_lm.convert.families.qwen2 import QWEN2
from marker_lm.convert.families.qwen3 import QWEN3
from marker_lm.model.config import ModelConfig

# In the order in which they are tried for a model that was trained here.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA2,
        GEMMA3_TEXT,
        GEMMA3,
        COHERE,
        COHERE2,
    )
}


def find_family(hf_config: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises ConvertError that names the architecture."""
    model_type = hf_config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    nearest = difflib.get_close_matches(str(model_type), FAMILIES, n=3, cutoff=0.0)
    raise ConvertError(
        f"config.json names the model_type {model_type!r} "
        f"(architectures {hf_config.get('architectures')}), which is not known; "
        f"known are {', '.join(FAMILIES)} (nearest: {', '.join(nearest)})."
    )


def family_of(config: ModelConfig) -> Family:
    """The first family that can express the config.

    Raises ConvertError: none can; the message says what the nearest can not express.
    """
    lost = {family.model_type: family.lost(config) for family in FAMILIES.values() if family.write}
    nearest = min(lost, key=lambda model_type: len(lost[model_type]))
    if lost[nearest]:
        raise ConvertError(
            f"no family has such a model; the nearest, {nearest}, can't have "
            f"{', '.join(lost[nearest])}."
        )
    return FAMILIES[nearest]
