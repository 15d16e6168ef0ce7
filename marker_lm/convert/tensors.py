"""Which tensor of theirs is which parameter of ours, and how one is turned into the other."""

import dataclasses
from typing import Any

import jax

from marker_lm.convert.families.family import Family
from marker_lm.model.config import ModelConfig
from marker_lm.model.params import abstract_params


@dataclasses.dataclass(frozen=True)
class TheirTensor:
    """One tensor of a checkpoint; of ours it is a parameter, or one layer of a stacked one.

    Attributes:
      name: in their file.
      shape: in their file.
      split: their shape where the axis of all heads is cut in two, heads and size of a head.
      order: which axis of `split` each axis of ours is.

    Both ways are a reshape and a transposition, so nothing is lost. They take NumPy and JAX arrays.
    """

    name: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]

    def to_ours(self, theirs: Any) -> Any:
        """Of shape `shape` to the shape of our parameter."""
        return theirs.reshape(self.split).transpose(self.order)

    def to_theirs(self, ours: Any) -> Any:
        """The way back."""
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return ours.transpose(back).reshape(self.shape)


def tensor_table(family: Family, config: ModelConfig) -> dict[str, list[TheirTensor]]:
    """The tensors of every parameter by its path: one, or one a layer for a path under 'layers/'.

    A linear layer of theirs is [out, in] with all heads in one axis; ours has the axes apart and in
    the order of the product.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    table = {}
    for path, info in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        stacked = name.startswith("layers/")
        shape = info.shape[1:] if stacked else info.shape
        layers = range(config.layers) if stacked else [0]
        table[name] = [
            _their_tensor(family.names[name].format(layer=layer), name, shape) for layer in layers
        ]
    return table


def _their_tensor(their_name: str, name: str, shape: tuple[int, ...]) -> TheirTensor:
    last = name.rsplit("/", 1)[-1]
    if last in ("query", "key", "value"):  # ours [D, H, N], theirs [H N, D]
        D, H, N = shape
        return TheirTensor(their_name, (H * N, D), (H, N, D), (2, 0, 1))
    if last == "out":  # ours [H, N, D], theirs [D, H N]
        H, N, D = shape
        return TheirTensor(their_name, (D, H * N), (D, H, N), (1, 2, 0))
    if last in ("gate", "up", "down"):
        return TheirTensor(their_name, shape[::-1], shape[::-1], (1, 0))
    if last.endswith("_bias"):  # ours [H, N], theirs [H N]
        H, N = shape
        return TheirTensor(their_name, (H * N,), shape, (0, 1))
    return TheirTensor(their_name, shape, shape, tuple(range(len(shape))))
