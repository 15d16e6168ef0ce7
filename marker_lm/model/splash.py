"""Splash attention: the Pallas kernel for TPUs, which never holds the matrix of all products."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec

from marker_lm.model.attention import MIXED
from marker_lm.model.layout import gather, parts, split_over

LANES = 128  # sizes of a TPU's vector registers: blocks and heads are multiples of it
# Tokens of a block of queries or keys, where they divide the sequence: the larger, the fewer times
# keys are read, and the fewer steps. The largest block of queries that fits a TPU v5e's fast memory
# beside all that a step needs has so many bytes.
_BLOCKS = (1024, 512, 256, LANES)
_BLOCK_BYTES = 512 * 1024
_COMPUTED = 512  # keys of a block whose products exist at once


def splash_attention(
    q_BxLxHxN: jax.Array,
    k_BxLxKxN: jax.Array,
    v_BxLxKxN: jax.Array,
    segment_ids_BxL: jax.Array,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """Causal grouped-query attention [B, L, H, N] within segments.

    Under a mesh every device runs the kernel on its rows and heads. Where the length is split too,
    a device has the queries of its part and gathers all keys and values. The parts are contiguous,
    so causal work is not even: the last of n parts has (2n - 1) / n times the mean (1.75 times with
    4 parts), and the others wait for it.

    What a remat policy may save is named `MIXED`: the mixed values and the log of each softmax's
    denominator, all that the backward kernels need beside their inputs.

    Args:
      q_BxLxHxN, k_BxLxKxN, v_BxLxKxN: after RoPE, in the compute dtype.
      segment_ids_BxL: int32; tokens see their own segment only, padding its own kind.
      scale: of the products.
      softcap: c of c tanh(x / c) on the scaled products; 0 for none.
      window: tokens that a token sees, itself included; 0 for all before it.
      interpret: run the kernel without a TPU, slowly, for tests.

    Raises:
      ValueError: a device's part of the length is no multiple of 128.
    """
    L, H, N = q_BxLxHxN.shape[1:]
    if L % (parts("length") * LANES):
        raise ValueError(
            f"sequences have {L} tokens in {parts('length')} parts (train.length, mesh.context); "
            f"splash attention wants parts that are multiples of {LANES}."
        )
    kernel = _kernel(L, H, (N + -N % LANES) * q_BxLxHxN.dtype.itemsize, softcap, window, interpret)
    mesh = jax.sharding.get_abstract_mesh()
    batch, length, heads, kv_heads = map(split_over, ("batch", "length", "heads", "kv_heads"))

    def attend(kernel, q_BxlxHxN, k_BxlxKxN, v_BxlxKxN, ids_Bxl):
        k_BxLxKxN, v_BxLxKxN, ids_BxL = (gather(x, length) for x in (k_BxlxKxN, v_BxlxKxN, ids_Bxl))
        mixed_BxHxlxN = jax.vmap(kernel)(
            _heads_first(q_BxlxHxN * scale),
            _heads_first(k_BxLxKxN),
            _heads_first(v_BxLxKxN),
            kernels.SegmentIds(ids_Bxl, ids_BxL),
        )
        return mixed_BxHxlxN.swapaxes(1, 2)[..., :N]

    if not mesh.empty:
        attend = jax.shard_map(
            attend,
            in_specs=(
                # Of its mask, a device's kernel gets the rows of its queries.
                kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, length))),
                PartitionSpec(batch, length, heads),
                PartitionSpec(batch, length, kv_heads),
                PartitionSpec(batch, length, kv_heads),
                PartitionSpec(batch, length),
            ),
            out_specs=PartitionSpec(batch, length, heads),
            check_vma=False,  # the kernel's outputs carry no such types
        )
    return attend(kernel, q_BxLxHxN, k_BxLxKxN, v_BxLxKxN, segment_ids_BxL)


def _heads_first(x_BxLxHxN: jax.Array) -> jax.Array:
    """[B, H, L, N], N filled up with zeros to whole lanes: they change no product."""
    short = -x_BxLxHxN.shape[-1] % LANES
    return jnp.pad(x_BxLxHxN.swapaxes(1, 2), ((0, 0), (0, 0), (0, 0), (0, short)))


def _kernel(L: int, heads: int, bytes: int, softcap: float, window: int, interpret: bool):
    """The kernel for one shape. Its mask is known here: blocks that nobody sees are never read.

    `bytes` are those of one query.
    """
    mask = masks.LocalMask((L, L), (window - 1, 0), 0) if window else masks.CausalMask((L, L))
    block = next(n for n in _BLOCKS if L // parts("length") % n == 0 and n * bytes <= _BLOCK_BYTES)
    computed = min(block, _COMPUTED)
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=parts("length"),
        attn_logits_soft_cap=softcap or None,
        # The fused backward kernel would keep queries' gradients once for every block of keys.
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=computed,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=computed,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        residual_checkpoint_name=MIXED,
        interpret=interpret,
    )
