"""Public peaks of the chips that models are trained on.

Sources: TPUs, "TPU v4" to "TPU7x" of Google Cloud's TPU documentation
(cloud.google.com/tpu/docs/system-architecture-tpu-vm); GPUs, the data sheets of NVIDIA, dense
bfloat16 (those of sheets that count sparsity are halved).
"""

import dataclasses

_GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do at best.

    A device is a whole chip or GPU; TPU7x alone shows each chip as two devices, and has the figures
    of one of them here.

    Attributes:
      name: short one, as in a topology's name.
      device_kinds: what `jax.Device.device_kind` says.
      bf16_flops: operations a second on dense bfloat16; a multiplication and an addition are two.
      hbm_bytes: memory.
      hbm_bandwidth: bytes a second between memory and cores.
      ici_bandwidth: bytes a second that the links to its neighbours send, all links together, in
        one direction; NVLink's of a GPU.
      devices: of JAX, that are one chip.
    """

    name: str
    device_kinds: tuple[str, ...]
    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    devices: int = 1


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275e12, 32 * _GiB, 1228e9, 300e9),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * _GiB, 819e9, 200e9),
        Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * _GiB, 2765e9, 600e9),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * _GiB, 1638e9, 400e9),
        Chip("tpu7x", ("TPU7x",), 2307e12 / 2, 96 * _GiB, 7380e9 / 2, 600e9 / 2, devices=2),
        Chip(
            "a100-40gb",
            ("NVIDIA A100-SXM4-40GB",),
            312e12,
            40 * _GiB,
            1555e9,
            300e9,
        ),
        Chip(
            "a100-80gb",
            ("NVIDIA A100-SXM4-80GB",),
            312e12,
            80 * _GiB,
            2039e9,
            300e9,
        ),
        Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 80 * _GiB, 3350e9, 450e9),
        Chip("h200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4800e9, 450e9),
        Chip("b200", ("NVIDIA B200",), 2250e12, 180 * 10**9, 7700e9, 900e9),
    )
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None for one that is not known, such as a CPU."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)
