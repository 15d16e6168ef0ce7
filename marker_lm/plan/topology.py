"""Names of TPU pods, and what is publicly known of their chips."""

import dataclasses
import difflib
import importlib.util
import math
import os
import re

from marker_lm.sharding import chips

GIB = 2**30


class PlanError(ValueError):
    """A plan that can't be made: one sentence."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do, by its maker's public figures.

    Attributes:
      name: as in the name of a topology.
      axes: of its network, a torus of two or three dimensions.
      devices: that JAX sees in a chip.
      tflops: peak, dense bfloat16, in 10^12 operations a second.
      hbm_gib: memory that the compiler lets a program have, in GiB; it keeps the rest back.
      hbm_gbs: bandwidth of that memory, in GB/s.
      ici_gbs: what a chip can send to its neighbours, all links together and one way, in GB/s.
      dcn_gbs: a chip's part of the data centre's network, one way, in GB/s.
      price: relative price of a chip-hour.
    """

    name: str
    axes: int
    devices: int
    tflops: float
    hbm_gib: float
    hbm_gbs: float
    ici_gbs: float
    dcn_gbs: float
    price: float

    @property
    def hbm_bytes(self) -> int:
        return int(self.hbm_gib * GIB)


def _chip(name: str, axes: int, hbm_gib: float, dcn_gbs: float, price: float) -> Chip:
    peak = chips.CHIPS[name]  # of a device
    return Chip(
        name,
        axes,
        peak.devices,
        peak.bf16_flops * peak.devices / 1e12,
        hbm_gib,
        peak.hbm_bandwidth * peak.devices / 1e9,
        peak.ici_bandwidth * peak.devices / 1e9,
        dcn_gbs,
        price,
    )


# hbm_gib: the compiler's own limit (libtpu 0.0.42). dcn_gbs: docs.cloud.google.com/tpu/docs/{v5e,
# v6e,v5p,tpu7x}, given there in Gbit/s, of v5e for a pod of 256. price: rough dollars of a
# chip-hour, of TPU7x in proportion to v5p's peak; prices change, so give yours (--price).
CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v5e", 2, 15.75, 3.125, 1.20),
        _chip("v6e", 2, 31.25, 12.5, 2.70),
        _chip("v5p", 3, 95.74, 6.25, 4.20),
        _chip("tpu7x", 3, 189.5, 12.5, 21.0),
    )
}
_LONGEST = 16  # chips on a side of a pod with a network of two dimensions


@dataclasses.dataclass(frozen=True)
class Topology:
    """A pod, or several that the data centre's network joins.

    Attributes:
      chip: of all of them.
      shape: chips along each axis of a pod's network.
      slices: how many pods.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        slices = f"*{self.slices}" if self.slices > 1 else ""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}{slices}"

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return self.slices * math.prod(self.shape)

    def devices(self) -> list:
        """The devices as the compiler knows them. Raises PlanError where there is no compiler."""
        from jax.experimental import topologies

        extra = {"num_slices": self.slices} if self.slices > 1 else {}
        if math.prod(self.shape) == 1:  # else a host has four chips
            extra["chips_per_host_bounds"] = (1, 1, 1)
        name = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        try:
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **extra)
        except Exception as error:  # of JAX's runtime, which has no types for it
            raise PlanError(f"the compiler does not know the topology {self}: {error}") from None
        return list(found.devices)


def parse_topology(name: str) -> Topology:
    """A topology of a name such as v5e:4x4, v5p:2x2x4, tpu7x:2x2x4, or v5e:16x16*2 (two slices).

    Raises PlanError: no such chip, or a shape that its pods do not have.
    """
    match = re.fullmatch(r"([a-z0-9]+)[:-](\d+(?:x\d+)*)(?:\*(\d+))?", name.strip().lower())
    if not match:
        raise PlanError(
            f"topology={name!r} is not CHIP:SHAPE; write v5e:4x4, v6e:4x4, v5p:2x2x4, tpu7x:2x2x4, "
            "or v5e:16x16*2 for two slices. Plans are for TPUs only."
        )
    if match[1] not in CHIPS:
        near = difflib.get_close_matches(match[1], CHIPS, n=1, cutoff=0.0)[0]
        raise PlanError(
            f"topology={name!r}: there is no chip {match[1]!r}; plans are for {', '.join(CHIPS)} "
            f"(nearest: {near})."
        )
    chip, slices = CHIPS[match[1]], int(match[3] or 1)
    shape = tuple(map(int, match[2].split("x")))
    rules = f"a pod of {chip.name} has {chip.axes} sides, the first two of them even"
    if chip.axes == 2:
        rules += f" and none over {_LONGEST}"
    if not _possible(chip, shape) or slices < 1:
        near = _nearest(chip, math.prod(shape))
        many = f"*{slices}" if slices > 1 else ""
        raise PlanError(
            f"topology={name!r}: {rules} (or it is a single chip); the nearest is "
            f"{chip.name}:{'x'.join(map(str, near))}{many}."
        )
    return Topology(chip, shape, slices)


def _possible(chip: Chip, shape: tuple[int, ...]) -> bool:
    if len(shape) != chip.axes or min(shape) < 1:
        return False
    if chip.axes == 2 and max(shape) > _LONGEST:
        return False
    return set(shape) == {1} or (shape[0] % 2 == 0 and shape[1] % 2 == 0)


def _nearest(chip: Chip, chips: int) -> tuple[int, ...]:
    """The usual shape whose number of chips is nearest: sides are powers of two, much alike."""
    usual = []
    for power in range(13 if chip.axes == 3 else 9):
        sides = [1] * chip.axes
        for doubling in range(power):
            # The last side grows first where the others are as long: 2x2x1, 2x2x2, 2x2x4, 2x4x4.
            order = [0, 1, *range(2, chip.axes)] if doubling < 2 else range(chip.axes - 1, -1, -1)
            side = min(order, key=lambda axis: sides[axis])
            sides[side] *= 2
        shape = tuple(sides)
        if _possible(chip, shape):
            usual.append(shape)
    return min(usual, key=lambda shape: abs(math.log(max(chips, 1) / math.prod(shape))))


def prepare_environment() -> None:
    """Makes JAX compile for TPUs on a machine that has none. Call it before JAX is imported.

    Raises PlanError: the compiler is not installed.
    """
    if not os.environ.get("TPU_LIBRARY_PATH") and importlib.util.find_spec("libtpu") is None:
        raise PlanError(
            "the compiler for TPUs is not installed; it needs no TPU: pip install 'marker-lm[tpu]'"
        )
    os.environ["JAX_PLATFORMS"] = "cpu"  # a TPU of this machine may be busy, and is not needed
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not wait for a cloud's metadata server
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several programs are compiled side by side
