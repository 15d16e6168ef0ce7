"""The device mesh."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes data, fsdp and tensor.

    Args:
      data: replicas of the parameters; each gets its part of the batch.
      fsdp: ways in which parameters are split along `embed`; the batch is split along it too.
      tensor: ways in which heads, feed-forward and vocabulary are split.
      devices: which devices to use; all of them by default.

    Exactly one size may be -1: it becomes what the number of devices leaves.

    Raises:
      ValueError: the sizes do not give the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    shown = ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"Mesh sizes {shown}: use positive numbers, and -1 for at most one axis.")
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(devices) // rest, 1)
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"Mesh sizes {shown} do not fit {len(devices)} devices; "
            "their product must be that number (-1 fills in one of them)."
        )
    # jax.make_mesh defaults to Explicit axes, under which Linen layers fail with tensor > 1.
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )
