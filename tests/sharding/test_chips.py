"""The table of chips is found by what JAX calls a device."""

import jax
import pytest

from marker_lm.sharding.chips import CHIPS, find_chip


def test_a_device_kind_has_one_chip():
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))
    assert all(find_chip(kind).device_kinds.count(kind) == 1 for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H200", "h200")],
)
def test_the_chip_of_a_device_kind(kind, name):
    assert find_chip(kind).name == name


def test_a_cpu_has_no_peak():
    assert find_chip(jax.devices()[0].device_kind) is None


def test_two_devices_of_a_tpu7x_are_one_chip():
    # 2307 TFLOP/s, 192 GB and 7380 GB/s are published of a chip.
    chip = CHIPS["tpu7x"]
    assert chip.bf16_flops * chip.devices == 2307e12
    assert chip.hbm_bytes * chip.devices == 192 * 2**30
