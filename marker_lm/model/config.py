"""The shape and the switches of a transformer."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

REMAT_POLICIES = ("none", "dots", "attention", "full", "offload")
DTYPES = ("float32", "bfloat16")
ACTIVATIONS = ("silu", "gelu")
NORMS = ("rms", "layer")
QK_NORMS = ("none", "shared", "per_head")
ROPE_SCALINGS = ("linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How RoPE frequencies are stretched, so that a model reads further than it was trained to.

    Attributes:
      kind: 'linear' divides all frequencies (Chen et al. 2023, arXiv:2306.15595); 'llama3' divides
        the low ones, with a ramp between (Llama 3.1); 'yarn' does so by rotations and also
        sharpens the attention (Peng et al. 2023, arXiv:2309.00071).
      factor: how much further.
      original_len: tokens that the model was trained on before; not used by 'linear'.
      low, high: where the ramp lies: of 'llama3' wavelengths original_len / low and / high, of
        'yarn' rotations within original_len (there high is the paper's beta, low its alpha).
      magnitude: of 'yarn', what cosines and sines are multiplied by; 0 is 0.1 ln(factor) + 1.
    """

    kind: str
    factor: float
    original_len: int = 0
    low: float = 1.0
    high: float = 4.0
    magnitude: float = 0.0

    def __post_init__(self):
        _check_choice("rope_scaling.kind", self.kind, ROPE_SCALINGS)
        if self.factor < 1:
            raise ValueError(f"rope_scaling.factor is {self.factor}; it must be at least 1.")
        if self.kind != "linear" and self.original_len < 1:
            raise ValueError(f"rope_scaling {self.kind!r} needs original_len, the length before.")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank factors beside matrices of the blocks (Hu et al. 2021, arXiv:2106.09685).

    A matrix W acts as W + alpha / rank * A B. There is no dropout on what A is applied to.

    Attributes:
      rank: of A B.
      alpha: how much A B counts, so that the learning rate need not follow the rank.
      targets: regular expression that is searched for in paths such as 'layers/attention/query';
        '' is all matrices of the blocks.
    """

    rank: int
    alpha: float
    targets: str = ""

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}; it must be at least 1.")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha is {self.alpha}; it must be more than 0.")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(
                f"lora.targets={self.targets!r} is no regular expression: {error}."
            ) from None

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer: RoPE, grouped-query attention, gated feed-forward.

    The defaults are those of Llama; other families differ by the switches.

    Attributes:
      vocab: V, number of token ids (tokenizer and reserved marker ids together).
      width: D, size of the residual stream.
      layers: number of blocks.
      heads: H, query heads.
      kv_heads: K, key-value heads; divides `heads`.
      head_size: N, size of one head; even, because RoPE turns pairs.
      ff: F, hidden size of the feed-forward part.
      max_len: longest sequence the model is meant for; callers size batches and caches by it.
      activation: of the gate: 'silu', or 'gelu' (its tanh form).
      norm: 'rms' (RMSNorm), or 'layer' (LayerNorm without bias).
      norm_eps: epsilon of the norms.
      norm_offset: added to every scale; 1 in Gemma, whose scales are stored as what differs from 1.
      post_norms: norms also after attention and feed-forward, before the residual.
      parallel: attention and feed-forward side by side, from one norm (Cohere).
      qk_norm: norm of queries and keys before RoPE, over each head: 'none', 'shared' (one scale of
        size N), 'per_head'.
      qkv_bias: biases of query, key and value.
      attention_scale: of the products of queries and keys; 0 is 1 / sqrt(N).
      attention_softcap: c of c tanh(x / c) on those products; 0 for none.
      windows: how far back each layer sees, in tokens and itself included, cycled over the layers;
        0 sees all. () lets every layer see all.
      rope_base: base of the RoPE wavelengths.
      rope_local_base: the same in layers with a window; 0 is `rope_base`.
      rope_scaling: stretches the frequencies of `rope_base`, not those of `rope_local_base`.
      rope_interleaved: RoPE turns the pairs (2i, 2i + 1) of a head, not (i, i + N/2).
      rope_everywhere: False leaves RoPE out where a layer has no window.
      tied_head: whether the output head is the embedding table.
      embedding_scale: what embeddings are multiplied by.
      logit_scale: what logits are multiplied by.
      logit_softcap: c of c tanh(x / c) on logits; 0 for none.
      lora: low-rank factors beside the blocks' matrices; None for none.
      dtype: compute dtype; norms, softmax and logits are float32 in any case.
      param_dtype: dtype in which parameters are stored; LoRA's factors are float32 in any case.
      scan: compile one block and scan it over the layers; False unrolls the layers (faster on
        CPU, slower to compile). The parameters are the same, stacked along `layers`.
      remat: what the backward pass computes again: 'none' nothing, 'dots' all but the matrix
        products with weights, 'attention' all but attention, 'full' whole blocks, 'offload' too,
        and the blocks' inputs wait for it in the host's memory.
      ff_blocks: pieces that the feed-forward's hidden units are computed in, one after the other,
        so that few of them exist at once; divides `ff`.

    Raises:
      ValueError: a value is impossible; the message names the field and the mend.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ff: int
    max_len: int
    activation: str = "silu"
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    post_norms: bool = False
    parallel: bool = False
    qk_norm: str = "none"
    qkv_bias: bool = False
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    windows: tuple[int, ...] = ()
    rope_base: float = 10_000.0
    rope_local_base: float = 0.0
    rope_scaling: RopeScaling | None = None
    rope_interleaved: bool = False
    rope_everywhere: bool = True
    tied_head: bool = True
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    lora: LoRA | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    ff_blocks: int = 1

    def __post_init__(self):
        for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_size", "ff", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads is {self.heads} and kv_heads is {self.kv_heads}; "
                "kv_heads must divide heads."
            )
        if self.head_size % 2:
            raise ValueError(f"head_size is {self.head_size}; RoPE needs an even one.")
        if self.ff_blocks < 1 or self.ff % self.ff_blocks:
            raise ValueError(
                f"ff_blocks is {self.ff_blocks}; it must divide ff, which is {self.ff}."
            )
        if min(self.windows, default=0) < 0:
            raise ValueError(f"windows is {self.windows}; a layer's window is 0 (all) or more.")
        if self.parallel and self.post_norms:
            raise ValueError("parallel and post_norms are both set; no family has both.")
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("norm", self.norm, NORMS)
        _check_choice("qk_norm", self.qk_norm, QK_NORMS)
        _check_choice("remat", self.remat, REMAT_POLICIES)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("param_dtype", self.param_dtype, DTYPES)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """The reverse of `dataclasses.asdict`, also after a way through JSON."""
        fields = dict(fields)
        fields["windows"] = tuple(fields.get("windows", ()))
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        if fields.get("lora"):
            fields["lora"] = LoRA(**fields["lora"])
        return cls(**fields)

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of every layer, 0 where it sees all."""
        cycle = self.windows or (0,)
        return tuple(cycle[layer % len(cycle)] for layer in range(self.layers))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{name} is {value!r}; choose one of {', '.join(choices)} (nearest: {nearest})."
        )
