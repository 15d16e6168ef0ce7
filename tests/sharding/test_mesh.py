"""Making meshes of 8 fake devices."""

import jax
import pytest
from jax.sharding import AxisType

from marker_lm.sharding.mesh import AXES, make_mesh


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict(), (8, 1, 1)),
        (dict(fsdp=2, tensor=2), (2, 2, 2)),
        (dict(data=1, fsdp=-1, tensor=4), (1, 2, 4)),
        (dict(data=2, fsdp=2, tensor=2), (2, 2, 2)),
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
    with pytest.raises(ValueError, match="Mesh sizes data="):
        make_mesh(**sizes)
