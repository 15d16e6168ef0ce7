"""The compiler's buffers: which live together at the worst moment."""

import pytest

from marker_lm.plan.assignment import is_written, read_assignment
from marker_lm.plan.topology import PlanError

BUFFERS = """BufferAssignment:
allocation 0: size 1000, parameter 0, shape |f32[250]| at ShapeIndex {}, maybe-live-out:
 value: <1 param.1 @0> (size=1000,offset=0): f32[250]{0:T(256)}
 value: <9 add.2{0} @0> (size=1000,offset=0): f32[250]{0:T(256)}
allocation 1: size 24, constant:
 value: <2 constant.3 @0> (size=24,offset=0): f32[6]{0}
allocation 2: size 5, thread-local:
 value: <3 sum.1 @0> (size=5,offset=0): f32[]
allocation 3: size 700, preallocated-temp:
 value: <4 dot.1 @0> (size=300,offset=0): bf16[150]{0:T(256)}
 value: <5 while.2{3} (phi) @0> (size=400,offset=300): bf16[200]{0:T(256)}
 value: <6 fusion.5 @0> (size=100,offset=0): bf16[50]{0:T(256)}
 value: <7 loop.param{3} (phi) @0> (size=400,offset=300): bf16[200]{0:T(256)}
 value: <8 fusion.6{} @0> (size=150,offset=100): bf16[75]{0:T(256)}
allocation 4: size 64, color 1, preallocated-temp:
 value: <10 in.vmem @0> (size=64,offset=0): bf16[32]{0:T(256)S(1)}
allocation 5: size 4096, color 5, preallocated-temp:
 value: <11 copy-start.1{0} @0> (size=4096,offset=0): bf16[2048]{0:T(256)S(5)}
allocation 6: size 2048, color 5, parameter 1, shape |f32[512]| at ShapeIndex {}:
 value: <12 param.2 @0> (size=2048,offset=0): f32[512]{0:T(256)S(5)}
"""
RANGES = """HloLiveRange (max 9):
  InstructionSequence:
    0:param.1
  BufferLiveRange:
    param.1{}:0-9
    dot.1{}:1-2
    while.2{3}:2-8
    loop.param{3}:2-8
    fusion.5{}:4-6
    fusion.6{}:5-7
  Live ranges at 3 (peak):
    param.1{}: 1000 bytes (cumulative: 1000 bytes)
"""


def write(folder, buffers=BUFFERS, ranges=RANGES):
    name = "module_0000.jit_f.cl_1.after_optimizations"
    (folder / f"{name}-buffer-assignment.txt").write_text(buffers)
    (folder / f"{name}-live-range.txt").write_text(ranges)
    (folder / f"{name}-buffer-assignment-values.txt").write_text("others")


def test_sums_and_the_worst_moment(tmp_path):
    write(tmp_path)
    found = read_assignment(tmp_path)
    assert found.arguments == (("param.1", 1000),)
    assert (found.temporaries, found.other) == (700, 24)
    assert (found.host_arguments, found.host_temporaries) == (2048, 4096)
    assert found.total == 1000 + 700 + 24
    # At moment 2: dot.1 and the loop's state; later the fusions, which are smaller together.
    assert [(b.instruction, b.bytes) for b in found.live] in (
        [("while.2", 400), ("dot.1", 300)],
        [("loop.param", 400), ("dot.1", 300)],
    )
    assert found.peak == 1000 + 24 + 700


def test_a_buffer_within_another_counts_once(tmp_path):
    within = RANGES.replace("fusion.5{}:4-6", "fusion.5{}:1-6")
    write(tmp_path, ranges=within)
    assert read_assignment(tmp_path).peak == 1000 + 24 + 700


def test_later_moments_count(tmp_path):
    write(tmp_path, ranges=RANGES.replace("dot.1{}:1-2", "dot.1{}:1-1"))
    found = read_assignment(tmp_path)
    assert [b.bytes for b in found.live] == [400, 150, 100]


def test_without_files_there_is_one_sentence(tmp_path):
    assert not is_written(tmp_path)
    with pytest.raises(PlanError, match="wrote no file .*live-range"):
        read_assignment(tmp_path)
