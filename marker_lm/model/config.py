"""The shape and the switches of a transformer."""

import dataclasses
import difflib

import jax.numpy as jnp

REMAT_POLICIES = ("none", "full", "dots")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer: RoPE, grouped-query attention, RMSNorm, SwiGLU.

    Attributes:
      vocab: V, number of token ids (tokenizer and reserved marker ids together).
      width: D, size of the residual stream.
      layers: number of blocks.
      heads: H, query heads.
      kv_heads: K, key-value heads; divides `heads`.
      head_size: N, size of one head; even, because RoPE turns pairs.
      ff: F, hidden size of the feed-forward part.
      max_len: longest sequence the model is meant for; callers size batches and caches by it.
      rope_base: base of the RoPE wavelengths.
      norm_eps: epsilon of RMSNorm.
      tied_head: whether the output head is the embedding table.
      dtype: compute dtype; norms, softmax and logits are float32 in any case.
      param_dtype: dtype in which parameters are stored.
      scan: compile one block and scan it over the layers; False unrolls the layers (faster on
        CPU, slower to compile). The parameters are the same, stacked along `layers`.
      remat: what the backward pass computes again: 'none' nothing, 'full' whole blocks, 'dots'
        all but the matrix products with weights.

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
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    tied_head: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

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
        _check_choice("remat", self.remat, REMAT_POLICIES)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("param_dtype", self.param_dtype, DTYPES)

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{name} is {value!r}; choose one of {', '.join(choices)} (nearest: {nearest})."
        )
