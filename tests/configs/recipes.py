"""The shipped recipes for pods, and what is asked of each."""

import dataclasses
import importlib
import math
from pathlib import Path

from marker_lm.plan.hlo import Module, arrays

ROOT = Path(__file__).resolve().parents[2]
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
      name: of the file in configs, with an argument where it has one: NAME:ARG.
      devices: that JAX sees on its pod.
      parameters: of its model, as published.
      most_sum: GB that the train step's arguments and temporaries may take of a chip.
      most_peak: GB that may be in use at the worst moment.
      whole: whether the tests compile it to its end, a minute or two. Else they stop the compiler
        where memory is laid out: later it only writes the chip's code.
    """

    name: str
    devices: int
    parameters: float
    most_sum: float = math.inf
    most_peak: float = math.inf
    whole: bool = False

    @property
    def file(self) -> Path:
        return ROOT / "configs" / f"{self.name.split(':')[0]}.py"

    def config(self, arg: str = ""):
        """Its config, with another argument where one is given."""
        stem, _, own = self.name.partition(":")
        return importlib.import_module(f"configs.{stem}").get_config(arg or own)


RECIPES = [
    Recipe("qwen3_0p6b_v5e16", 16, 0.596e9, most_sum=4.5, whole=True),
    Recipe("llama32_1b_v5e16", 16, 1.236e9),
    Recipe("llama31_8b_v6e16", 16, 8.03e9, most_sum=13.5, most_peak=11.5, whole=True),
    Recipe("llama31_8b_v5p16", 16, 8.03e9, most_sum=13.2, whole=True),
    Recipe("llama31_8b_tpu7x16", 32, 8.03e9),
    Recipe("command_r7b_v5p128", 128, 8.03e9),
    Recipe("command_r7b_2slices_v5e256", 512, 8.03e9),
]
ECONOMY = Recipe("llama31_8b_v6e16:economy", 16, 8.03e9, most_peak=9.2)


def bad_gathers(module: Module, vocab: int, layers: int, params: list[tuple[int, ...]]):
    """The all-gathers of a compiled program that bring together what must stay apart.

    These are logits; a whole stack of the layers' matrices; and float32 arrays as large as the
    smallest matrix of a layer, which only gradients and the optimizer's state are: parameters are
    gathered a layer at a time and in bfloat16, the embedding too.

    Args:
      module: compiled.
      vocab, layers: of the model.
      params: shapes of its parameters, those of layers stacked.

    Returns:
      Texts of shape and fault.
    """
    stacks = {_plain(shape) for shape in params if shape[0] == layers and len(shape) > 2}
    tables = {_plain(shape) for shape in params if shape[0] == vocab}
    smallest = min(
        math.prod(shape[1:]) for shape in params if shape[0] == layers and len(shape) > 2
    )
    found = []
    for instruction in module.instructions.values():
        if instruction.opcode not in ("all-gather", "all-gather-start"):
            continue
        for dtype, dims in arrays(instruction.shape):
            shape = _plain(dims)
            if vocab in shape and shape not in tables:
                fault = "logits"
            elif shape in stacks:
                fault = "a whole stack of layers"
            elif dtype == "f32" and math.prod(shape) >= smallest:
                fault = "a gradient or optimizer state"
            else:
                continue
            found.append(f"{dtype}{list(dims)}: {fault}")
    return found


def _plain(dims) -> tuple[int, ...]:
    """Dimensions in order of size, without those of size 1: layouts and splits move them about."""
    return tuple(sorted(size for size in dims if size > 1))
