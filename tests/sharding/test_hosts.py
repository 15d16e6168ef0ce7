"""Every process reads the rows that its devices hold, however the mesh lays them out."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.sharding.hosts import global_batch, host_rows
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import ShardingError, batch_sharding

MESHES = [
    dict(data=8),
    dict(data=2, fsdp=4),
    dict(data=2, fsdp=2, tensor=2),
    dict(data=1, fsdp=2, context=2, tensor=2),
    dict(data=2, context=4),
    dict(slice=2, data=2, tensor=2),
    dict(data=1, tensor=8),
]


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.sampled_from(MESHES),
    order=st.permutations(range(8)),
    processes=st.sampled_from([1, 2, 4, 8]),
)
def test_processes_have_what_their_devices_hold(sizes, order, processes):
    B, L = 16, 8
    # The mesh may take the devices in any order; those of a process stand together in jax.devices.
    mesh = make_mesh(**sizes, devices=[jax.devices()[i] for i in order])
    shares = np.split(np.array(jax.devices()), processes)
    held = batch_sharding(mesh).devices_indices_map((B, L))
    seen = set()
    for devices in shares:
        rows = host_rows(mesh, B, devices)
        assert (np.diff(rows) > 0).all()
        of_devices = [set(np.arange(B)[held[device][0]].tolist()) for device in devices]
        assert set(rows.tolist()) == set.union(*of_devices)
        seen |= set(rows.tolist())
    assert seen == set(range(B))


@pytest.mark.parametrize("sizes", MESHES)
def test_rows_become_the_global_batch(sizes):
    B, L = 8, 16
    mesh = make_mesh(**sizes)
    whole = {
        "tokens": np.arange(B * L, dtype=np.int32).reshape(B, L),
        "weights": np.random.default_rng(0).random((B, L), np.float32),
    }
    rows = host_rows(mesh, B)
    found = global_batch({name: x[rows] for name, x in whole.items()}, rows, B, mesh)
    for name, x in whole.items():
        assert found[name].sharding == batch_sharding(mesh)
        np.testing.assert_array_equal(np.asarray(found[name]), x)


def test_a_batch_that_the_mesh_does_not_divide():
    with pytest.raises(ShardingError, match="train.batch=6 does not divide by 4.*make it 8"):
        host_rows(make_mesh(data=2, fsdp=2, tensor=2), 6)
