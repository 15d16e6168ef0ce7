"""Making meshes of 8 fake devices."""

import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from marker_lm.sharding.mesh import AXES, make_mesh, mesh_here


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict(), (1, 8, 1, 1, 1)),
        (dict(fsdp=2, tensor=2), (1, 2, 2, 1, 2)),
        (dict(data=1, fsdp=-1, tensor=4), (1, 1, 2, 1, 4)),
        (dict(data=2, fsdp=2, tensor=2), (1, 2, 2, 1, 2)),
        (dict(slice=2, context=2), (2, 2, 1, 2, 1)),
    ],
    ids=str,
)
def test_sizes(sizes, expected):
    mesh = make_mesh(**sizes)
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == expected
    assert all(kind == AxisType.Auto for kind in mesh.axis_types)


def test_some_of_the_devices():
    chosen = jax.devices()[2:6]
    mesh = make_mesh(tensor=2, devices=chosen)
    assert set(mesh.devices.flat) == set(chosen)


@pytest.mark.parametrize(
    "sizes",
    [dict(data=3), dict(tensor=3), dict(tensor=16), dict(data=2), dict(fsdp=-1), dict(tensor=0)],
    ids=str,
)
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="Mesh sizes slice="):
        make_mesh(**sizes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict(data=2, fsdp=2, tensor=2), (1, 2, 2, 1, 2)),
        (dict(data=1, fsdp=16, tensor=1), (1, 1, 8, 1, 1)),
        (dict(data=2, fsdp=1, slice=2), (1, 1, 8, 1, 1)),
    ],
    ids=str,
)
def test_the_mesh_of_a_run_on_these_devices(sizes, expected):
    assert tuple(mesh_here(sizes).shape.values()) == expected


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is read of a TPU to arrange it: two pods of 2 x 2 chips on one host each."""

    id: int
    platform = "tpu"
    device_kind = "TPU v5 lite"
    core_on_chip = 0

    @property
    def slice_index(self):
        return self.id // 4

    @property
    def process_index(self):
        return self.slice_index

    @property
    def coords(self):
        return (self.id % 2, self.id % 4 // 2, 0)


CHIPS = [Chip(number) for number in range(8)]


def test_pods_are_the_slices_and_nothing_else_crosses_between_them():
    mesh = make_mesh(slice=2, fsdp=2, tensor=2, data=1, devices=CHIPS)
    for pod, devices in enumerate(mesh.devices):
        assert {device.slice_index for device in devices.flat} == {pod}


@pytest.mark.parametrize("slices", [1, 4])
def test_another_number_of_slices_than_pods_is_refused(slices):
    with pytest.raises(ValueError, match=f"mesh.slice is {slices}.*use mesh.slice=2"):
        make_mesh(slice=slices, devices=CHIPS)
