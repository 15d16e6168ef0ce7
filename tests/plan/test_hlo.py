"""Collectives of programs that are compiled here, whose bytes and trip counts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from marker_lm.plan.hlo import (
    by_kind,
    collectives,
    parse_module,
    shape_bytes,
    varying_axes,
)
from marker_lm.sharding.mesh import make_mesh

N = 64  # numbers on a device
MESH = {"slice": 1, "data": 2, "fsdp": 4, "context": 1, "tensor": 1}


def compiled(function, spec):
    """Collectives of a function of a float32 vector that runs on every device."""
    devices = make_mesh(**MESH)
    placed = NamedSharding(devices, PartitionSpec(spec))
    run = jax.shard_map(
        function, mesh=devices, in_specs=PartitionSpec(spec), out_specs=PartitionSpec(spec),
        check_vma=False,
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((8 * N,), jnp.float32, sharding=placed)
    text = jax.jit(run).lower(x).compile().as_text()
    return collectives(parse_module(text), MESH, most_trips=5)


EVERY = ("data", "fsdp")


def test_an_all_reduce_in_a_scan_of_seven_counts_seven_times():
    def function(x):
        return jax.lax.scan(lambda y, _: (jax.lax.psum(y, "fsdp") / 3, None), x, None, length=7)[0]

    found = compiled(function, EVERY)
    (only,) = found.all
    assert (only.kind, only.axes, only.across, only.times) == ("all-reduce", "fsdp", 4, 7)
    assert only.payload == 4 * N
    assert only.sent == 2 * 4 * N * 3 // 4
    assert by_kind(found) == {"all-reduce": {"count": 1, "times": 7, "bytes": 7 * only.sent}}
    assert found.open_loops == 0


def test_loops_in_loops_multiply():
    def inner(y, _):
        return jnp.sin(jax.lax.psum(y, "data")), None

    def outer(y, _):
        return jax.lax.scan(inner, y, None, length=3)[0] * 2, None

    found = compiled(lambda x: jax.lax.scan(outer, x, None, length=5)[0], EVERY)
    assert sum(c.times for c in found.all) == 15
    assert {c.axes for c in found.all} == {"data"}


def test_a_loop_that_ends_by_the_data_counts_as_told():
    def function(x):
        def body(carry):
            i, y = carry
            return i + 1, jax.lax.psum(y, "fsdp") / 3

        return jax.lax.while_loop(lambda c: c[0] < c[1][0], body, (0.0, x))[1]

    found = compiled(function, EVERY)
    assert found.open_loops == 1
    assert {c.times for c in found.all if c.axes == "fsdp"} == {5}


def test_every_kind_has_its_bytes():
    def gather(x):
        return jnp.sum(jax.lax.all_gather(x, "fsdp", tiled=True) ** 2) * x

    (c,) = (c for c in compiled(gather, EVERY).all if c.kind == "all-gather")
    assert (c.payload, c.sent, c.axes) == (4 * 4 * N, 3 * 4 * N, "fsdp")

    def scatter(x):
        return jnp.tile(jax.lax.psum_scatter(x, "data", tiled=True), 2)

    (c,) = compiled(scatter, EVERY).all
    assert (c.kind, c.payload, c.sent, c.axes) == ("reduce-scatter", 4 * N, 4 * N // 2, "data")

    def swap(x):
        return jax.lax.all_to_all(x.reshape(4, -1), "fsdp", 0, 0).reshape(-1)

    (c,) = compiled(swap, EVERY).all
    assert (c.kind, c.payload, c.sent, c.axes) == ("all-to-all", 4 * N, 4 * N * 3 // 4, "fsdp")

    def turn(x):
        return jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])

    (c,) = compiled(turn, EVERY).all
    assert (c.kind, c.payload, c.sent, c.axes) == ("collective-permute", 4 * N, 4 * N, "data")


def test_along_two_axes():
    found = compiled(lambda x: jax.lax.psum(x, EVERY), EVERY)
    assert {(c.axes, c.across) for c in found.all} == {("data+fsdp", 8)}


def test_of_a_conditional_the_branch_that_sends_most_counts():
    def function(x):
        def big(y):
            return jax.lax.psum(y, "fsdp")

        def small(y):
            return y + jax.lax.psum(y[:2], "fsdp").sum()

        return jax.lax.cond(x[0] > 0, big, small, x)

    (only,) = compiled(function, EVERY).all
    assert only.payload == 4 * N


HEAD = """HloModule made_up, is_scheduled=true

%half (p: bf16[4,8]) -> bf16[16,8] {{
  %p = bf16[4,8]{{1,0:T(8,128)(2,1)}} parameter(0)
  ROOT %ag.1 = bf16[16,8]{{1,0:T(8,128)(2,1)}} all-gather(%p), channel_id=7, replica_groups={groups}, dimensions={{0}}, metadata={{op_name="jit(f)/layers/mlp"}}
}}

ENTRY %main (a: bf16[4,8]) -> bf16[16,8] {{
  %a = bf16[4,8]{{1,0:T(8,128)(2,1)}} parameter(0)
  %start = bf16[16,8]{{1,0}} fusion(%a), kind=kCustom, calls=%half, backend_config={{
  "more": "lines"
}}
  ROOT %done = bf16[16,8]{{1,0}} fusion(%a), kind=kCustom, calls=%half
}}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", "fsdp"),
        ("[2,4]<=[8]", "fsdp"),
        ("[2,4]<=[4,2]T(1,0)", "data+fsdp"),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", "fsdp"),
        ("mesh['axis_0'=8] {'axis_0'}", "data+fsdp"),
    ],
)
def test_forms_of_groups_and_pieces_of_one_channel(groups, axes):
    """The compiler for TPUs cuts a collective into fusions that share its channel."""
    found = collectives(parse_module(HEAD.format(groups=groups)), MESH)
    (only,) = found.all
    assert only.axes == axes
    assert only.payload == 4 * 8 * 2 * only.across
    assert only.op_name == "jit(f)/layers/mlp"


def test_an_all_reduce_that_is_cut_on_arrival_is_a_reduce_scatter():
    text = HEAD.format(groups="{{0,1,2,3},{4,5,6,7}}").replace("%half", "%all-reduce-scatter.1")
    text = text.replace("all-gather(", "all-reduce(")
    (only,) = collectives(parse_module(text), MESH).all
    assert (only.kind, only.sent) == ("reduce-scatter", 4 * 8 * 2 * 3 // 4)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[4,128]{1,0:T(4,128)}", 2048),
        (
            "(s32[]{:T(128)}, bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, pred[7], f8e4m3fn[5])",
            4 + 12 + 7 + 5,
        ),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


def test_axes_of_groups():
    ids = np.arange(16).reshape(2, 2, 4)
    mesh = {"slice": 2, "data": 2, "fsdp": 4}
    assert varying_axes(ids.reshape(4, 4).tolist(), mesh) == ["fsdp"]
    assert varying_axes(np.moveaxis(ids, 0, -1).reshape(8, 2).tolist(), mesh) == ["slice"]
    assert varying_axes([list(range(16))], mesh) == ["slice", "data", "fsdp"]
    assert varying_axes([[0], [1]], mesh) == []
