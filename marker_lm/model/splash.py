"""Splash attention: the Pallas kernel for TPUs, which never holds the matrix of all products."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128  # sizes of a TPU's vector registers: blocks and heads are multiples of it
_BLOCK = 512  # tokens of a block of queries or keys, where the sequence is as long


def platform() -> str:
    """What the current mesh's devices are: 'cpu', 'gpu' or 'tpu'; without a mesh, JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


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

    Under a mesh every device runs the kernel on its rows and heads.

    Args:
      q_BxLxHxN, k_BxLxKxN, v_BxLxKxN: after RoPE, in the compute dtype.
      segment_ids_BxL: int32; tokens see their own segment only, padding its own kind.
      scale: of the products.
      softcap: c of c tanh(x / c) on the scaled products; 0 for none.
      window: tokens that a token sees, itself included; 0 for all before it.
      interpret: run the kernel without a TPU, slowly, for tests.

    Raises:
      ValueError: the length is no multiple of 128.
    """
    L, H, N = q_BxLxHxN.shape[1:]
    if L % LANES:
        raise ValueError(
            f"sequences have {L} tokens; splash attention wants a multiple of {LANES} "
            "(train.length)."
        )
    kernel = _kernel(L, H, softcap, window, interpret)

    def attend(q_BxHxLxN, k_BxKxLxN, v_BxKxLxN, ids_BxL):
        return jax.vmap(kernel)(
            q_BxHxLxN, k_BxKxLxN, v_BxKxLxN, kernels.SegmentIds(ids_BxL, ids_BxL)
        )

    if not jax.sharding.get_abstract_mesh().empty:
        q_spec, kv_spec, ids_spec = (
            nn.logical_to_mesh_axes(axes)
            for axes in (
                ("batch", "heads", None, None),
                ("batch", "kv_heads", None, None),
                ("batch", None),
            )
        )
        attend = jax.shard_map(
            attend,
            in_specs=(q_spec, kv_spec, kv_spec, ids_spec),
            out_specs=q_spec,
            check_vma=False,  # the kernel's outputs carry no such types
        )
    q, k, v = (_heads_first(x) for x in (q_BxLxHxN * scale, k_BxLxKxN, v_BxLxKxN))
    mixed_BxHxLxN = attend(q, k, v, segment_ids_BxL)
    return mixed_BxHxLxN.swapaxes(1, 2)[..., :N]


def _heads_first(x_BxLxHxN: jax.Array) -> jax.Array:
    """[B, H, L, N], N filled up with zeros to whole lanes: they change no product."""
    short = -x_BxLxHxN.shape[-1] % LANES
    return jnp.pad(x_BxLxHxN.swapaxes(1, 2), ((0, 0), (0, 0), (0, 0), (0, short)))


def _kernel(L: int, heads: int, softcap: float, window: int, interpret: bool):
    """The kernel for one shape. Its mask is known here: blocks that nobody sees are never read."""
    mask = masks.LocalMask((L, L), (window - 1, 0), 0) if window else masks.CausalMask((L, L))
    block = next(size for size in (_BLOCK, 256, LANES) if L % size == 0)
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap or None,
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
