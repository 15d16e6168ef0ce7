"""cuDNN's attention: kernels for NVIDIA's GPUs, which never hold the matrix of all products.

They know no segment ids. There are two ways to say them:
  packed: where every segment begins and how long it is. Nothing is computed between tokens of
    different segments, and nothing of size L x L exists. GPUs from Hopper on can do this. JAX has
    it in a private module only, and how many segments a row may have is part of the shape.
  masked: a boolean mask [B, 1, L, L], of which JAX's public function makes an added bias.

What cuDNN can do depends on the GPU and on the versions of cuDNN, CUDA and JAX, and a way that it
can't do may fail or, worse, give wrong values. So a way is tried before it is used: `kernel` takes
the first that gives the values and gradients of plain attention on the GPU at hand.
"""

import functools
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from marker_lm.model.attention import MIXED, attention
from marker_lm.model.config import ModelConfig
from marker_lm.model.layout import gather, parts, split_over

# A packed row may have a segment for so many of its tokens. cuDNN keeps softmax statistics of the
# whole row for each segment, which then need no more memory than a mask (with up to 64 heads).
_TOKENS_PER_SEGMENT = 128
_TOLERANCE = 0.03  # of a trial, relative to the largest value: some roundings of bfloat16


def cudnn_attention(
    q_BxLxHxN: jax.Array,
    k_BxLxKxN: jax.Array,
    v_BxLxKxN: jax.Array,
    segment_ids_BxL: jax.Array,
    scale: float,
    window: int = 0,
    packed: bool = False,
) -> jax.Array:
    """Causal grouped-query attention [B, L, H, N] within segments.

    Under a mesh every device attends with its rows and heads; where the length is split too, with
    its part's queries to all keys, by a mask. The backward kernel wants softmax statistics that
    have no name: a remat policy that saves `MIXED` runs the forward kernel again all the same.

    Args:
      q_BxLxHxN, k_BxLxKxN, v_BxLxKxN: after RoPE, in bfloat16 or float16.
      segment_ids_BxL: int32; tokens see their own segment only, padding its own kind.
      scale: of the products.
      window: tokens that a token sees, itself included; 0 for all before it.
      packed: say segments by their places, in batches that allow it (see `can_pack`).
    """
    batch, length, heads, kv_heads = map(split_over, ("batch", "length", "heads", "kv_heads"))
    is_split = parts("length") > 1

    def masked(q, k, v, ids_Bxl, ids_BxL):
        first = jax.lax.axis_index(length) * ids_Bxl.shape[1] if length else 0
        mask_BxlxL = seen(ids_Bxl, ids_BxL, first, window)
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=mask_BxlxL[:, None],
            scale=scale,
            is_causal=not is_split,  # so that it skips blocks that the mask hides anyway
            implementation="cudnn",
        )

    def attend(q_BxlxHxN, k_BxlxKxN, v_BxlxKxN, ids_Bxl):
        k, v, ids_BxL = (gather(x, length) for x in (k_BxlxKxN, v_BxlxKxN, ids_Bxl))
        if is_split or not packed:
            return masked(q_BxlxHxN, k, v, ids_Bxl, ids_BxL)
        return jax.lax.cond(
            can_pack(ids_BxL),
            lambda: _packed(q_BxlxHxN, k, v, ids_BxL, scale, window),
            lambda: masked(q_BxlxHxN, k, v, ids_Bxl, ids_BxL),
        )

    if not jax.sharding.get_abstract_mesh().empty:
        attend = jax.shard_map(
            attend,
            in_specs=(
                PartitionSpec(batch, length, heads),
                PartitionSpec(batch, length, kv_heads),
                PartitionSpec(batch, length, kv_heads),
                PartitionSpec(batch, length),
            ),
            out_specs=PartitionSpec(batch, length, heads),
            check_vma=False,  # a mask has no gradient, and JAX's rules would ask for its type
        )
    return checkpoint_name(attend(q_BxLxHxN, k_BxLxKxN, v_BxLxKxN, segment_ids_BxL), MIXED)


def seen(ids_Bxl: jax.Array, ids_BxL: jax.Array, first: jax.Array | int, window: int) -> jax.Array:
    """Boolean [B, l, L]: which tokens of their rows the queries from place `first` on see."""
    distance_lxL = first + jnp.arange(ids_Bxl.shape[1])[:, None] - jnp.arange(ids_BxL.shape[1])
    near_lxL = (distance_lxL >= 0) & (distance_lxL < (window or ids_BxL.shape[1]))
    return (ids_Bxl[:, :, None] == ids_BxL[:, None, :]) & near_lxL


def most_segments(length: int) -> int:
    """How many segments a packed row of `length` tokens may have, padding counted as one."""
    return max(length // _TOKENS_PER_SEGMENT, 2)  # with one, cuDNN is not told of segments


def can_pack(ids_BxL: jax.Array) -> jax.Array:
    """Whether no row has too many segments, and ids ascend, but for padding at the end."""
    order_BxL = jnp.where(ids_BxL == 0, jnp.iinfo(jnp.int32).max, ids_BxL)
    steps_Bxl = order_BxL[:, 1:] - order_BxL[:, :-1]
    count_B = 1 + jnp.sum(steps_Bxl != 0, axis=1)
    return jnp.all(steps_Bxl >= 0) & jnp.all(count_B <= most_segments(ids_BxL.shape[1]))


def places(ids_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the segments of rows that can be packed lie, as cuDNN's offsets and lengths.

    Padding is a segment too: what cuDNN leaves out is memory that nobody wrote.

    Returns:
      int32 [B, M + 1], the first token of each segment, and int32 [B, M], its tokens; -1 for no
      segment. M is `most_segments`.
    """
    B, L = ids_BxL.shape
    begins_BxL = jnp.concatenate(
        [jnp.ones((B, 1), bool), ids_BxL[:, 1:] != ids_BxL[:, :-1]], axis=1
    )
    first_BxM = jnp.sort(jnp.where(begins_BxL, jnp.arange(L), L))[:, : most_segments(L) + 1]
    tokens_BxM = first_BxM[:, 1:] - first_BxM[:, :-1]
    first_BxM, tokens_BxM = (
        jnp.where(is_there, x, -1).astype(jnp.int32)
        for is_there, x in ((first_BxM < L, first_BxM), (tokens_BxM > 0, tokens_BxM))
    )
    return first_BxM, tokens_BxM


def _packed(q_BxLxHxN, k_BxLxKxN, v_BxLxKxN, ids_BxL, scale: float, window: int):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn  # private: it may move

    first_BxM, tokens_BxM = places(ids_BxL)
    # Up to 0.11.0, JAX looks for packed keys as if they had the heads of queries.
    k, v = (jnp.repeat(x, q_BxLxHxN.shape[2] // x.shape[2], 2) for x in (k_BxLxKxN, v_BxLxKxN))
    return cudnn.dot_product_attention(
        q_BxLxHxN,
        k,
        v,
        q_seqlen=tokens_BxM,
        kv_seqlen=tokens_BxM,
        q_offsets=first_BxM,
        kv_offsets=first_BxM,
        scale=scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
        sliding_window_length=window or None,
    )


def obstacle(config: ModelConfig, length: int, capability: str) -> str:
    """Why cuDNN can't attend for a model on a GPU of a compute capability; '' where it may."""
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8:
        return f"the GPU has compute capability {capability}; it wants NVIDIA's 8.0 (Ampere)"
    widest = 256 if float(capability) >= 9 else 128
    if config.attention_softcap:
        return f"it has no soft-cap of products (attention_softcap={config.attention_softcap})"
    if config.dtype != "bfloat16":
        return f"it computes in bfloat16, the model in {config.dtype} (model.dtype)"
    if config.head_size % 8 or config.head_size > widest:
        return f"heads have size {config.head_size}; it wants a multiple of 8 up to {widest}"
    if length % 2:
        return f"sequences have {length} tokens; it wants an even number (train.length)"
    return ""


@functools.cache
def fault(packed: bool, groups: int, head_size: int, window: int) -> str:
    """What goes wrong when cuDNN attends in this way, with so many query heads for a head of keys.

    Compares values and gradients of a small batch with those of plain attention, on this process's
    first device. '' if nothing is wrong.
    """
    with ThreadPoolExecutor(1) as apart:  # from the caller's mesh and tracing
        try:
            return apart.submit(_trial, packed, groups, head_size, window).result()
        except Exception as error:  # whatever JAX, XLA and cuDNN raise
            return f"{type(error).__name__}: {error}".splitlines()[0]


def _trial(packed: bool, groups: int, head_size: int, window: int) -> str:
    L, K = 512, 2
    ids = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], [151, 30, 204, 127], axis=1).astype(np.int32)
    real = (ids != 0)[:, :, None, None]
    random = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(random.normal(size=(2, L, heads, head_size)), jnp.bfloat16)
        for heads in (K * groups, K, K)
    )
    scale = head_size**-0.5

    def by_cudnn(q, k, v):
        return cudnn_attention(q, k, v, ids, scale, window, packed)

    def by_mask(q, k, v):
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
        return attention(q, k, v, seen(ids, ids, 0, window), scale)

    def values_and_gradients(attend):
        def total(q, k, v):
            mixed = attend(q, k, v).astype(jnp.float32)
            return jnp.sum(jnp.sin(mixed) * real), mixed

        (_, mixed), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
        return mixed, *gradients

    names = ("values", "gradients of queries", "gradients of keys", "gradients of values")
    for name, found, expected in zip(
        names, values_and_gradients(by_cudnn), values_and_gradients(by_mask), strict=True
    ):
        found, expected = (np.asarray(x, np.float32) for x in (found, expected))
        error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        if not error <= _TOLERANCE:  # NaN is no match
            return f"{name} are wrong by {error:.2g} of the largest"
    return ""


def kernel(config: ModelConfig, length: int) -> Callable[..., jax.Array] | None:
    """`cudnn_attention` in the best way that works here for a model's whole sequences.

    None if none does, with a warning that says why.
    """
    capability = str(jax.local_devices()[0].compute_capability)

    def first_fault(packed: bool) -> str:
        groups = config.heads // config.kv_heads
        windows = sorted({min(window, 100) for window in config.layer_windows})  # a trial is short
        faults = (fault(packed, groups, config.head_size, window) for window in windows)
        return next(filter(None, faults), "")

    # What can't be packed is masked, so a mask must work in any case.
    reason = obstacle(config, length, capability) or first_fault(packed=False)
    if reason:
        _warn(f"Attention runs without cuDNN: {reason}. It holds a layer's products in memory.")
        return None
    packed = float(capability) >= 9 and not first_fault(packed=True)
    return functools.partial(cudnn_attention, packed=packed)


@functools.cache
def _warn(message: str) -> None:
    """Logs a warning once."""
    logging.getLogger(__name__).warning(message)
