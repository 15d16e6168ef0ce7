"""Which rows of a batch a process reads, and how its rows become part of the global batch.

The devices of a process need not stand beside each other in the mesh: its rows need not follow each
other, and with axes `tensor` or `context` across processes several of them read the same rows.
"""

from collections.abc import Collection, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from marker_lm.sharding.rules import ShardingError, batch_sharding, batch_shards


def host_rows(mesh: Mesh, batch: int, devices: Collection[jax.Device] | None = None) -> np.ndarray:
    """int64[rows], rising: those of a global batch of which a process's devices hold a part.

    Args:
      mesh: that the batch is laid out on.
      batch: B, rows of the global batch.
      devices: of the process; by default those of this one.

    Raises:
      ShardingError: the mesh does not divide the batch.
    """
    shards = batch_shards(mesh)
    if batch % shards:
        raise ShardingError(
            f"train.batch={batch} does not divide by {shards}, the parts into which the mesh "
            f"splits a batch (slice*data*fsdp); make it {-(-batch // shards) * shards}."
        )
    # The length does not matter here, as long as the mesh divides it.
    shape = (batch, mesh.shape["context"])
    parts = batch_sharding(mesh).devices_indices_map(shape)
    devices = mesh.local_devices if devices is None else devices
    return np.unique(np.concatenate([np.arange(batch)[parts[device][0]] for device in devices]))


def global_batch(
    local: Mapping[str, np.ndarray], rows: np.ndarray, batch: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """The arrays [B, L] of all processes, laid out on the mesh.

    Args:
      local: arrays [len(rows), L], whole rows.
      rows: of `host_rows`.
      batch: B.
      mesh: where to.
    """
    sharding = batch_sharding(mesh)

    def lay_out(array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = np.arange(batch)[index[0]]
            first = int(np.searchsorted(rows, wanted[0]))  # a device's rows follow each other
            return array[first : first + len(wanted), index[1]]

        return jax.make_array_from_callback((batch, array.shape[1]), sharding, part)

    return {name: lay_out(array) for name, array in local.items()}
