"""How the current mesh splits arrays; without one, nothing is split."""

import math

import flax.linen as nn
import jax


def split_over(axis: str) -> tuple[str, ...]:
    """The axes of the current mesh that a logical axis is split over; () without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return ()
    names = nn.logical_to_mesh_axes((axis,))[0] or ()
    return (names,) if isinstance(names, str) else tuple(names)


def parts(axis: str) -> int:
    """How many parts a logical axis is split into on the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in split_over(axis))


def gather(x_Bxlx: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Inside `shard_map`, the whole of an array [B, l, ...] whose parts lie along mesh axes."""
    return jax.lax.all_gather(x_Bxlx, axes, axis=1, tiled=True) if axes else x_Bxlx
