"""Operations of a step by formula, and the least time that a pod could need for it.

XLA's own count takes the body of a loop once and knows no kernels; it is not used.
"""

import dataclasses

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import parameter_count
from marker_lm.plan.hlo import Collectives
from marker_lm.plan.topology import Topology
from marker_lm.training.flops import token_flops
from marker_lm.training.trainable import trained_paths

SLICE = "slice"  # the mesh axis over the data centre's network


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating point operations of one step over the whole pod; a multiply and an add are two.

    Attributes:
      model: of forward and backward pass, every slot of a batch a token. Attention is counted
        causally: a query meets the keys up to its own (within its layer's window), of one sequence
        as long as the row. Shorter packed ones meet fewer.
      recomputed: what the backward pass computes again under the config's remat.
      per_token: `model` over the tokens.
    """

    model: float
    recomputed: float
    per_token: float

    @property
    def executed(self) -> float:
        return self.model + self.recomputed


def block_matrices(config: ModelConfig) -> int:
    """Elements of the matrices of all blocks, LoRA's factors left out."""
    D, H, K, N = config.width, config.heads, config.kv_heads, config.head_size
    return config.layers * (D * (H + 2 * K) * N + H * N * D + 3 * D * config.ff)


def attention_flops(config: ModelConfig, length: int) -> float:
    """Forward, of one token in the mean over a row of `length`, of all layers.

    Two products (with keys and with values), 2 H N operations for each key that is met.
    """
    met = 0.0
    for window in config.layer_windows:
        window = min(window or length, length)
        met += (window * (window + 1) / 2 + (length - window) * window) / length
    return 4 * config.heads * config.head_size * met


def train_flops(config: ModelConfig, train, length: int, batch: int) -> Flops:
    """Of one step of training on `batch` rows of `length` slots.

    The gradient by activations costs as much as the forward pass, and that by the trained matrices
    once more their part of it: 6 operations a parameter and token where all are trained
    (Kaplan et al. 2020, arXiv:2001.08361), attention added.
    """
    factors = parameter_count(config, trained_paths(config)) if config.lora else 0
    blocks = 2.0 * (block_matrices(config) + factors)
    attention = attention_flops(config, length)
    # Backward, attention has two products for each of its own.
    model = token_flops(config, trained_paths(config, train.trainable)) + 3 * attention
    again = {
        "none": 0.0,
        "dots": attention,
        "attention": blocks,
        "full": blocks + attention,
        "offload": blocks + attention,
    }[config.remat]
    tokens = batch * length
    return Flops(model * tokens, again * tokens, model)


def decode_flops(config: ModelConfig, rows: int, length: int) -> Flops:
    """Of reading one token of each row, `length` tokens being in its cache."""
    attention = (
        4
        * config.heads
        * config.head_size
        * sum(min(window or length, length) for window in config.layer_windows)
    )
    model = 2.0 * (block_matrices(config) + config.vocab * config.width) + attention
    return Flops(model * rows, 0.0, model)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least seconds that a step can take, for each reason; the truth is more than the largest.

    Attributes:
      compute: executed operations at peak.
      hbm: memory traffic that can't be avoided.
      ici: mesh axes -> what is sent along them over all links of a chip at once.
      dcn: what is sent between slices.
      tokens: of a step.
      model_flops: of a step over the pod.
      peak_flops: of the pod, a second.
    """

    compute: float
    hbm: float
    ici: dict[str, float]
    dcn: float
    tokens: int
    model_flops: float
    peak_flops: float

    @property
    def step_seconds(self) -> float:
        """No step is faster: all of it could run side by side at best."""
        return max(self.compute, self.hbm, sum(self.ici.values()), self.dcn)

    @property
    def by(self) -> str:
        """What bounds the step."""
        times = {
            "compute": self.compute,
            "HBM": self.hbm,
            "ICI": sum(self.ici.values()),
            "DCN": self.dcn,
        }
        return max(times, key=times.get)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_seconds

    @property
    def mfu(self) -> float:
        return self.model_flops / (self.step_seconds * self.peak_flops)


def make_bounds(
    flops: Flops, hbm_bytes: float, sent: Collectives, mesh_shape, topology: Topology, tokens: int
) -> Bounds:
    """Bounds from counts of one step.

    Args:
      flops: over the whole pod.
      hbm_bytes: that a device must move at least.
      sent: the program's collectives.
      mesh_shape: sizes of the mesh's axes by name.
      topology: the pod.
      tokens: of a step over the whole pod.
    """
    chip = topology.chip
    slices = mesh_shape.get(SLICE, 1)
    ici: dict[str, float] = {}
    dcn = 0.0
    for c in sent.all:
        axes = c.axes.split("+")
        bytes_ = c.sent * c.times
        if SLICE in axes and slices > 1:
            # Best within the slices first: then a device sends only its part to the others.
            within = 1 if c.kind == "collective-permute" else max(c.across // slices, 1)
            outside = c.payload * c.times * (slices - 1) / slices / within
            outside *= 2 if c.kind == "all-reduce" else 1
            dcn += bytes_ if c.kind == "collective-permute" else outside
            bytes_ = max(bytes_ - outside, 0.0) if within > 1 else 0.0
            axes.remove(SLICE)
        if bytes_:
            name = "+".join(axes) or "?"
            ici[name] = ici.get(name, 0.0) + bytes_
    device_ici = chip.ici_gbs * 1e9 / chip.devices
    peak = topology.chips * chip.tflops * 1e12
    return Bounds(
        compute=flops.executed / peak,
        hbm=hbm_bytes / (chip.hbm_gbs * 1e9 / chip.devices),
        ici={name: value / device_ici for name, value in ici.items()},
        dcn=dcn / (chip.dcn_gbs * 1e9 / chip.devices),
        tokens=tokens,
        model_flops=flops.model,
        peak_flops=peak,
    )


def train_traffic(config: ModelConfig, sizes: dict[str, int], tensor: int, accumulate: int) -> int:
    """HBM bytes that a device moves at least in a step of training.

    The state is read once, and what moves is written; the blocks' matrices and the head, in the
    compute dtype and split by `tensor` only, are read in each pass of each piece of the batch.
    """
    passes = 2 + (config.remat in ("full", "attention", "offload"))
    weights = block_matrices(config) + config.vocab * config.width
    read = weights * config.compute_dtype.itemsize // tensor
    state = sizes["parameters"] + sizes["trained"] + 2 * sizes["optimizer"]
    return state + passes * accumulate * read


def decode_traffic(config: ModelConfig, sizes: dict[str, int], tensor: int) -> int:
    """The same of reading one token a row: parameters once, and the caches."""
    weights = block_matrices(config) + config.vocab * config.width
    read = max(weights * config.compute_dtype.itemsize // tensor, sizes["parameters"])
    return read + sizes["cache"]
