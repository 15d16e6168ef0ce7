"""Categories of memory, the verdict, and what helps."""

import dataclasses

import pytest

from configs.default import get_config
from marker_lm.model.config import ModelConfig
from marker_lm.plan.assignment import Assignment, Buffer
from marker_lm.plan.compile import Compiled
from marker_lm.plan.hlo import parse_module
from marker_lm.plan.memory import advice, local_sizes, make_memory
from marker_lm.plan.report import largest, verdict
from marker_lm.plan.topology import CHIPS

MODEL = ModelConfig(
    vocab=1024, width=64, layers=3, heads=4, kv_heads=2, head_size=16, ff=256, max_len=128
)
MESH = {"slice": 1, "data": 1, "fsdp": 4, "context": 1, "tensor": 2}
# A device: 2 rows of 128 tokens, feed-forward [64, 128], table [512, 16] of [1024, 64].
SIZES = local_sizes(MODEL, MESH, rows=8, length=128)
HLO = """HloModule made_up

%body (p: (f32[3,64,32], bf16[3,2,128,64])) -> (f32[3,64,32], bf16[3,2,128,64]) {
  %p = (f32[3,16,128], bf16[3,2,128,64]) parameter(0)
  %g0 = f32[3,16,128]{2,1,0} get-tuple-element(%p), index=0
  %g1 = bf16[3,2,128,64]{2,1,0} get-tuple-element(%p), index=1
  %grad = f32[3,16,128]{2,1,0} add(%g0, %g0), metadata={op_name="jit(f)/transpose(jvp(M))/mlp/dot"}
  ROOT %t = (f32[3,16,128], bf16[3,2,128,64]) tuple(%grad, %g1)
}

ENTRY %main (a: f32[1024,16], b: f32[1024,16], c: s32[2,128]) -> f32[] {
  %a = f32[512,16]{1,0} parameter(0), metadata={op_name="state[\\'params\\'][\\'embedding\\']"}
  %b = f32[512,16]{1,0} parameter(1), metadata={op_name="state[\\'opt_state\\'][0].mu"}
  %c = s32[2,128]{1,0} parameter(2), metadata={op_name="batch[\\'tokens\\']"}
  %logits = f32[256,512]{1,0} fusion(%a), metadata={op_name="jit(f)/jvp()/while/body/dot"}
  %mid = bf16[2,128,128]{2,1,0} fusion(%a), metadata={op_name="jit(f)/layers/mlp/mul"}
  %gather = bf16[64,128]{1,0} all-gather(%a), metadata={op_name="jit(f)/layers/mlp/dot"}
  %odd = s32[7]{0} iota()
  %copy = bf16[2,128,128]{2,1,0} copy-start(%mid)
  ROOT %w = (f32[3,16,128], bf16[3,2,128,64]) while(%odd), body=%body, condition=%c
}
"""
BUFFERS = (
    Buffer("mid", "{}", "bf16[2,128,128]{2,1,0:T(8,128)(2,1)}", 9000, 0),
    Buffer("copy", "{0}", "bf16[2,128,128]{2,1,0:T(8,128)(2,1)}", 8000, 0),
    Buffer("logits", "{}", "f32[256,512]{1,0}", 700, 0),
    Buffer("p", "{0}", "f32[3,16,128]{2,1,0}", 600, 0),
    Buffer("w", "{1}", "bf16[3,2,128,64]{2,1,0}", 500, 0),
    Buffer("gather", "{}", "bf16[64,128]{1,0}", 40, 0),
    Buffer("odd", "{}", "s32[7]{0}", 30, 0),
)
ARGUMENTS = (("a", 100), ("b", 200), ("c", 50))


def made(chip="v5e", report=None, refused="", temporaries=20_000):
    assignment = Assignment(ARGUMENTS, 0, temporaries, 77, 8, BUFFERS)
    sizes = {"parameters": 100, "optimizer": 200}
    compiled = Compiled(sizes, assignment, parse_module(HLO), report or {}, refused, 1.0)
    return make_memory(compiled, SIZES, CHIPS[chip])


@pytest.mark.parametrize(("chip", "devices"), [("v5e", 1), ("tpu7x", 2)])
def test_categories_sum_to_the_peak_of_a_chip(chip, devices):
    memory = made(chip)
    assert memory.categories == {
        "parameters": 100 * devices,
        "optimizer": 200 * devices,
        "gradients": 600 * devices,
        "activations": (9000 + 8000 + 500) * devices,
        "logits": 700 * devices,
        "other": (50 + 40 + 30 + 8) * devices,
    }
    assert sum(memory.categories.values()) == memory.peak
    assert memory.arguments == 350 * devices
    assert memory.laid_out == (350 + 20_000 + 8) * devices
    assert memory.need == memory.laid_out
    assert memory.host == 77 * devices


def test_the_compilers_report_counts_where_there_is_one():
    report = {"argument": 351, "temp": 30_000, "peak": 25_000, "generated_code": 5}
    memory = made(report=report)
    assert (memory.arguments, memory.temporaries, memory.peak) == (351, 30_000, 25_000)
    assert memory.need == 25_005
    assert sum(memory.categories.values()) == 25_000


def test_the_largest_tensor_has_a_place_behind_copies_and_loops():
    tensors = made().largest
    assert (tensors[0].shape, tensors[0].where) == ("bf16[2,128,128]", "jit(f)/layers/mlp/mul")
    assert tensors[1].where == "jit(f)/layers/mlp/mul"
    assert tensors[3].where == "jit(f)/transpose(jvp(M))/mlp/dot"
    assert "bf16[2,128,128] (activations" in largest(made())


def test_verdicts():
    have = CHIPS["v5e"].hbm_bytes
    assert made().fits
    assert verdict(made(), 0.05).startswith("fits: a chip needs 0.00 GB of 16.91 GB")
    tight = made(temporaries=int(0.97 * have))
    assert tight.fits and tight.spare == pytest.approx(0.03, abs=1e-3)
    assert "less than the 5 % to spare" in verdict(tight, 0.05)
    assert verdict(tight, 0.01).startswith("fits:")
    over = made(temporaries=2 * have)
    assert not over.fits and over.spare < -0.9
    assert "does NOT fit" in verdict(over, 0.05) and "16.91 GB too little" in verdict(over, 0.05)
    refused = made(refused="Ran out of memory")
    assert not refused.fits and "Ran out of memory" in verdict(refused, 0.0)


@pytest.mark.parametrize(
    ("category", "change", "words"),
    [
        ("logits", {}, "train.loss_blocks=32"),
        ("parameters", {}, "mesh.fsdp, lora.rank=16"),
        ("optimizer", {}, "train.moment_dtype=bfloat16, train.optimizer=adafactor"),
        ("optimizer", {"train.optimizer": "adafactor"}, "mesh.fsdp, train.moment_dtype=bfloat16."),
        ("gradients", {}, "train.gradient_dtype=bfloat16"),
        ("activations", {}, "model.remat=full, model.ff_blocks=2, train.accumulate=2"),
        ("activations", {"model.remat": "full"}, "model.remat=offload, model.ff_blocks=2"),
    ],
)
def test_advice(category, change, words):
    config = get_config()
    for key, value in change.items():
        section, name = key.split(".")
        config[section][name] = value
    memory = made()
    categories = dict.fromkeys(memory.categories, 0) | {category: 1}
    said = advice(dataclasses.replace(memory, categories=categories), config)
    assert said.startswith(f"Most of it is taken by {category}") and words in said


def test_a_decode_step_has_a_token_a_row_however_long_sequences_are_split():
    sizes = local_sizes(MODEL, dict(MESH, context=4), rows=8, length=1)
    assert sizes.length == 1 and sizes.tokens >= 1
