"""Operations by formula beside hand calculations, and bounds."""

import dataclasses
import math

import pytest

from configs.default import get_config
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.params import parameter_count
from marker_lm.plan.cost import (
    Flops,
    attention_flops,
    block_matrices,
    decode_flops,
    make_bounds,
    train_flops,
    train_traffic,
)
from marker_lm.plan.hlo import Collective, Collectives
from marker_lm.plan.topology import parse_topology

LLAMA = ModelConfig(
    vocab=128_256,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_size=128,
    ff=14_336,
    max_len=8192,
    tied_head=False,
    dtype="bfloat16",
)
TRAIN = get_config().train
L = 8192


def test_llama_31_8b_is_six_operations_a_parameter_and_token():
    # All parameters but the norms' scales and the embedding, which is looked up.
    norms = (2 * 32 + 1) * 4096
    matrices = parameter_count(LLAMA) - norms - 128_256 * 4096
    assert block_matrices(LLAMA) + 128_256 * 4096 == matrices
    assert matrices == pytest.approx(7.505e9, rel=1e-3)
    # Attention: 32 layers, two products, 32 heads of 128, keys met: half of the row and itself.
    attention = 32 * 2 * 2 * 32 * 128 * (L + 1) / 2
    assert attention_flops(LLAMA, L) == attention
    flops = train_flops(LLAMA, TRAIN, L, 16)
    assert flops.per_token == pytest.approx(6 * matrices + 3 * attention)
    assert flops.model == pytest.approx(flops.per_token * 16 * L)
    # As MaxText counts since July 2025: 6 N + 6 layers length width.
    assert flops.per_token == pytest.approx(6 * 7.505e9 + 6 * 32 * L * 4096, rel=1e-3)


def test_a_window_meets_fewer_keys():
    windowed = dataclasses.replace(LLAMA, windows=(4, 0))
    met_by_hand = sum(min(i + 1, 4) for i in range(L)) / L
    full = (L + 1) / 2
    expected = 4 * 32 * 128 * (16 * met_by_hand + 16 * full)
    assert attention_flops(windowed, L) == pytest.approx(expected)
    assert attention_flops(dataclasses.replace(LLAMA, windows=(2 * L,)), L) == attention_flops(
        LLAMA, L
    )


@pytest.mark.parametrize(
    ("remat", "blocks", "attention"),
    [("none", 0, 0), ("dots", 0, 1), ("attention", 1, 0), ("full", 1, 1), ("offload", 1, 1)],
)
def test_what_is_computed_again(remat, blocks, attention):
    flops = train_flops(dataclasses.replace(LLAMA, remat=remat), TRAIN, L, 1)
    again = blocks * 2 * block_matrices(LLAMA) + attention * attention_flops(LLAMA, L)
    assert flops.recomputed == pytest.approx(again * L)
    assert flops.executed == pytest.approx(flops.model + flops.recomputed)


def test_frozen_matrices_need_no_gradient():
    lora = dataclasses.replace(LLAMA, lora=LoRA(rank=8, alpha=16.0))
    factors = parameter_count(lora) - parameter_count(LLAMA)
    forward = 2 * (block_matrices(LLAMA) + factors + 128_256 * 4096)
    expected = 2 * forward + 2 * factors + 3 * attention_flops(LLAMA, L)
    assert train_flops(lora, TRAIN, L, 1).per_token == pytest.approx(expected)


def test_decoding_meets_the_whole_cache():
    flops = decode_flops(LLAMA, 32, 1000)
    matrices = block_matrices(LLAMA) + 128_256 * 4096
    assert flops.model == pytest.approx(32 * (2 * matrices + 4 * 32 * 32 * 128 * 1000))


def collective(kind, axes, payload, across, times=1):
    ways = 2 if kind == "all-reduce" else 1
    sent = payload if kind == "collective-permute" else ways * payload * (across - 1) // across
    return Collective(kind, axes, payload, sent, across, times, "")


def bounds(topology, mesh, *found, flops=1e15, hbm=1e9, tokens=1000):
    sent = Collectives(tuple(found), 0)
    return make_bounds(Flops(flops, 0.0, 1.0), hbm, sent, mesh, parse_topology(topology), tokens)


def test_bounds_of_a_pod():
    gathered = collective("all-gather", "fsdp", 1_600_000_000, 16, times=2)
    added = collective("all-reduce", "tensor", 400_000_000, 4)
    made = bounds("v5e:4x4", {"slice": 1}, gathered, added)
    assert made.compute == pytest.approx(1e15 / (16 * 197e12))
    assert made.hbm == pytest.approx(1e9 / 819e9)
    assert made.ici == {
        "fsdp": pytest.approx(2 * 1.5e9 / 200e9),
        "tensor": pytest.approx(0.6e9 / 200e9),
    }
    assert made.dcn == 0
    assert made.step_seconds == made.compute and made.by == "compute"
    assert made.tokens_per_second == pytest.approx(1000 / made.compute)
    assert made.mfu == pytest.approx(1.0)


def test_a_chip_of_two_devices_shares_its_links():
    one = collective("all-gather", "fsdp", 3_200_000_000, 32)
    made = bounds("tpu7x:2x2x4", {"slice": 1}, one)
    assert made.ici["fsdp"] == pytest.approx(3.1e9 / (600e9 / 2))


def test_between_slices_only_a_devices_part_is_sent():
    # 2 slices of 4: reduced within each first, then a quarter goes to the other slice and back.
    both = collective("all-reduce", "slice+fsdp", 8_000_000_000, 8)
    made = bounds("v5e:2x2*2", {"slice": 2, "fsdp": 4}, both, flops=1.0)
    assert made.dcn == pytest.approx(2 * 8e9 / 2 / 4 / 3.125e9)
    assert made.ici["fsdp"] == pytest.approx((both.sent - 2e9) / 200e9)
    assert made.by == "DCN"
    alone = collective("all-reduce", "slice", 1_000_000_000, 2)
    made = bounds("v5e:2x2*2", {"slice": 2, "fsdp": 4}, alone)
    assert made.dcn == pytest.approx(1e9 / 3.125e9)
    assert made.ici == {}


def test_traffic_of_a_step():
    sizes = {"parameters": 100, "trained": 40, "optimizer": 80}
    weights = 2 * (block_matrices(LLAMA) + 128_256 * 4096)
    assert train_traffic(LLAMA, sizes, 1, 3) == 300 + 2 * 3 * weights
    full = dataclasses.replace(LLAMA, remat="full")
    assert train_traffic(full, sizes, 2, 1) == 300 + 3 * math.floor(weights / 2)
