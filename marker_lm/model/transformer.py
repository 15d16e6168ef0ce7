"""The decoder-only transformer."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from marker_lm.model import cache as cache_lib
from marker_lm.model.attention import attention, segment_mask
from marker_lm.model.cache import KVCache
from marker_lm.model.config import ModelConfig
from marker_lm.model.params import ArrayInfo, attention_params, mlp_params, outer_params
from marker_lm.model.positions import apply_rope, rope_angles

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Context(NamedTuple):
    """What all blocks share: RoPE tables, mask, and where the cache is written."""

    cos_BxLxN2: jax.Array
    sin_BxLxN2: jax.Array
    mask_BxLxS: jax.Array
    slots_BxL: jax.Array | None


def rms_norm(x_BxLxD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale in float32, back in x's dtype (Zhang and Sennrich 2019)."""
    x = x_BxLxD.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return (x * scale_D.astype(jnp.float32)).astype(x_BxLxD.dtype)


def head_table(params, config: ModelConfig) -> jax.Array:
    """The head's table [V, D]: that of the embedding where they are tied."""
    return params["embedding" if config.tied_head else "head"]


def head_logits(table_VxD: jax.Array, config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Float32 logits [..., V] of final-norm hidden states [..., D]."""
    dtype = config.compute_dtype
    return jnp.einsum(
        "...d,vd->...v",
        hidden.astype(dtype),
        table_VxD.astype(dtype),
        preferred_element_type=jnp.float32,
    )


def declare(module: nn.Module, infos: dict[str, ArrayInfo]) -> dict[str, jax.Array]:
    """The module's parameters, as the abstract tree describes them."""
    return {name: module.param(name, i.init, i.shape, i.dtype) for name, i in infos.items()}


class Attention(nn.Module):
    """Pre-norm grouped-query attention with RoPE; without the residual."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD, layer, context: Context, cache: KVCache | None):
        c = self.config
        p = declare(self, attention_params(c))
        x = rms_norm(x_BxLxD, p["norm"], c.norm_eps)
        q, k, v = (
            jnp.einsum("bld,dhn->blhn", x, p[name].astype(x.dtype))
            for name in ("query", "key", "value")
        )
        q = nn.with_logical_constraint(q, ("batch", "length", "heads", "head"))
        k = nn.with_logical_constraint(k, ("batch", "length", "kv_heads", "head"))
        v = nn.with_logical_constraint(v, ("batch", "length", "kv_heads", "head"))
        q = apply_rope(q, context.cos_BxLxN2, context.sin_BxLxN2)
        k = apply_rope(k, context.cos_BxLxN2, context.sin_BxLxN2)
        if cache is not None:
            cache = cache.replace(
                k=cache_lib.write_layer(cache.k, layer, context.slots_BxL, k),
                v=cache_lib.write_layer(cache.v, layer, context.slots_BxL, v),
            )
            k, v = cache.k[layer].astype(x.dtype), cache.v[layer].astype(x.dtype)
        mixed_BxLxHxN = attention(q, k, v, context.mask_BxLxS)
        return jnp.einsum("blhn,hnd->bld", mixed_BxLxHxN, p["out"].astype(x.dtype)), cache


class MLP(nn.Module):
    """Pre-norm SwiGLU (Shazeer 2020, arXiv:2002.05202); without the residual."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD):
        c = self.config
        p = declare(self, mlp_params(c))
        x = rms_norm(x_BxLxD, p["norm"], c.norm_eps)
        gate_BxLxF = jnp.einsum("bld,df->blf", x, p["gate"].astype(x.dtype))
        up_BxLxF = jnp.einsum("bld,df->blf", x, p["up"].astype(x.dtype))
        mid = nn.with_logical_constraint(nn.silu(gate_BxLxF) * up_BxLxF, ("batch", "length", "mlp"))
        return jnp.einsum("blf,fd->bld", mid, p["down"].astype(x.dtype))


class Block(nn.Module):
    """One layer, in the form `nn.scan` wants: carry and layer number in, carry out."""

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, layer, context: Context):
        x, cache = carry
        mixed, cache = Attention(self.config, name="attention")(x, layer, context, cache)
        x = x + mixed
        x = x + MLP(self.config, name="mlp")(x)
        return (nn.with_logical_constraint(x, ("batch", "length", None)), cache), None


class Transformer(nn.Module):
    """Decoder-only transformer."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BxL: jax.Array,
        positions_BxL: jax.Array,
        segment_ids_BxL: jax.Array,
        cache: KVCache | None = None,
        return_hidden: bool = False,
    ) -> tuple[jax.Array, KVCache | None]:
        """Runs the model over whole sequences, or over new tokens after a cache.

        Without a cache a token sees the tokens of its own segment up to its position. With one,
        a row is one sequence: its tokens (segment id not 0) are written at their positions, and
        each sees all cached positions up to its own. Tokens of segment 0 are padding: nobody
        sees them, they are not cached, and what comes out for them means nothing.

        Args:
          tokens_BxL: int32 ids.
          positions_BxL: int32, from 0 in every segment; in a cached row they go on from its length.
          segment_ids_BxL: int32, 0 for padding.
          cache: what the rows hold so far. A token beyond its size yields NaN, never a wrong value.
          return_hidden: give final-norm hidden states; `head_logits` makes logits of them.

        Returns:
          float32 logits [B, L, V] or hidden states [B, L, D] in the compute dtype, and the cache
          with the new tokens (None without a cache).
        """
        c = self.config
        p = declare(self, outer_params(c))
        # The table is gathered along its width first: a lookup split along it splits badly.
        table_VxD = nn.with_logical_constraint(p["embedding"], ("vocab", None))
        x = table_VxD.astype(c.compute_dtype)[tokens_BxL]
        if cache is None:
            slots, mask = None, segment_mask(positions_BxL, segment_ids_BxL)
        else:
            slots, mask, length_B = cache_lib.cache_slots(cache, positions_BxL, segment_ids_BxL)
            beyond = (segment_ids_BxL != 0) & (positions_BxL >= cache.size)
            x = jnp.where(beyond[:, :, None], jnp.nan, x)
            cache = cache.replace(length=length_B)
        x = nn.with_logical_constraint(x, ("batch", "length", None))
        angles = rope_angles(positions_BxL, c.head_size, c.rope_base)
        context = Context(jnp.cos(angles), jnp.sin(angles), mask, slots)

        block = Block
        if c.remat != "none":
            block = nn.remat(block, policy=REMAT[c.remat], prevent_cse=not c.scan)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
            unroll=1 if c.scan else c.layers,
        )
        (x, cache), _ = blocks(c, name="layers")((x, cache), jnp.arange(c.layers), context)
        hidden_BxLxD = rms_norm(x, p["final_norm"], c.norm_eps)
        if return_hidden:
            return hidden_BxLxD, cache
        return head_logits(head_table(p, c), c, hidden_BxLxD), cache
