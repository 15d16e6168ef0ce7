"""The device mesh."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

# From the slowest network to the fastest: what `tensor` sends is waited for in every layer.
AXES = ("slice", "data", "fsdp", "context", "tensor")


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    context: int = 1,
    slice: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with the axes slice, data, fsdp, context and tensor.

    Args:
      data: replicas of the parameters; each gets its part of the batch.
      fsdp: ways in which parameters are split along `embed`; the batch is split along it too.
      tensor: ways in which heads, feed-forward and vocabulary are split.
      context: ways in which sequences are split; parameters are split along it as along fsdp.
      slice: replicas on pods that only the data centre's network joins.
      devices: which devices to use; all of them by default.

    Exactly one size may be -1: it becomes what the number of devices leaves.

    Raises:
      ValueError: the sizes do not give the number of devices, or `slice` not the number of pods.
    """
    devices = jax.devices() if devices is None else list(devices)
    given = [slice, data, fsdp, context, tensor]
    shown = ", ".join(f"{name}={size}" for name, size in zip(AXES, given, strict=True))
    if given.count(-1) > 1 or any(size < 1 and size != -1 for size in given):
        raise ValueError(f"Mesh sizes {shown}: use positive numbers, and -1 for at most one axis.")
    sizes = filled(given, len(devices))
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"Mesh sizes {shown} do not fit {len(devices)} devices; "
            "their product must be that number (-1 fills in one of them)."
        )
    # Linen layers fail under Explicit axes with tensor > 1.
    return Mesh(_arranged(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def filled(sizes: Sequence[int], devices: int) -> list[int]:
    """The sizes of a mesh, with what they leave of the devices in place of -1."""
    rest = math.prod(size for size in sizes if size != -1)
    return [max(devices // rest, 1) if size == -1 else size for size in sizes]


def mesh_here(sizes: Mapping[str, int]) -> Mesh:
    """The mesh with a run's sizes; on other devices than it had, parameters are split over all."""
    try:
        return make_mesh(**sizes)
    except ValueError:
        return make_mesh(data=1, fsdp=-1)


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """What XLA is told about a program, for `jax.jit`: on CPUs, to need little memory at once.

    By default it orders for products side by side, from which few cores gain nothing.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def _arranged(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
    """The devices as an array of these sizes, such that neighbours on an axis are near."""
    # Elsewhere hosts count as slices; a pod alone has no number.
    tpu = devices[0].platform == "tpu"
    pods = {getattr(device, "slice_index", 0) if tpu else 0 for device in devices}
    if len(pods) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] != len(pods):
        raise ValueError(
            f"mesh.slice is {sizes[0]}, but the devices are of {len(pods)} slices; "
            f"use mesh.slice={len(pods)}."
        )
    return mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]),
        (sizes[0], *(1 for _ in sizes[1:])),
        devices,
        allow_split_physical_axes=True,
    )
