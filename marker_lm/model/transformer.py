"""The decoder-only transformer."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from marker_lm.model import cache as cache_lib
from marker_lm.model import lora
from marker_lm.model.attention import MIXED, attention, segment_mask, within_window
from marker_lm.model.cache import KVCache, LayerCache, Place
from marker_lm.model.config import ModelConfig
from marker_lm.model.kernels import kernel_for
from marker_lm.model.layout import parts
from marker_lm.model.matrix import Matrix
from marker_lm.model.params import (
    ArrayInfo,
    attention_params,
    mlp_params,
    norm_params,
    outer_params,
)
from marker_lm.model.positions import Rotation, apply_rope, rotations

_LAYER_INPUT = "layer_input"
REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(MIXED),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Context(NamedTuple):
    """What all blocks share: positions, rotations, and the mask or where the cache is written."""

    positions_BxL: jax.Array
    segment_ids_BxL: jax.Array
    rotation: Rotation
    local_rotation: Rotation
    mask_BxLxL: jax.Array | None
    place: Place | None


def norm(config: ModelConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    """The config's norm over the last axis, in float32, back in x's dtype.

    'rms' is x / rms(x) * scale (Zhang and Sennrich 2019); 'layer' takes the mean away before.
    """
    y = x.astype(jnp.float32)
    if config.norm == "layer":
        y -= jnp.mean(y, axis=-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + config.norm_eps)
    return (y * (scale.astype(jnp.float32) + config.norm_offset)).astype(x.dtype)


def embed(config: ModelConfig, table_VxD: jax.Array | Matrix, tokens_BxL: jax.Array) -> jax.Array:
    """The tokens' rows of the table, scaled, [B, L, D] in the compute dtype.

    Every device looks up its part of the width for the tokens of all that share the table; then
    they exchange. So neither the table nor its gradient is ever whole on a device.
    """
    replicas = "replica" if tokens_BxL.shape[0] % parts("replica") == 0 else None
    tokens_BxL = nn.with_logical_constraint(tokens_BxL, (replicas, None))
    # Looked up before it is cast: the gradients of a frequent token add up in the table's dtype.
    rows = table_VxD.rows(tokens_BxL) if isinstance(table_VxD, Matrix) else table_VxD[tokens_BxL]
    x = rows.astype(config.compute_dtype)
    x = nn.with_logical_constraint(x, (replicas, None, "embed"))
    # In two steps: in one, from fsdp and context at once, XLA would make the whole array.
    x = nn.with_logical_constraint(x, ("batch", None, "length"))
    return x * jnp.asarray(config.embedding_scale, x.dtype)


def head_table(params, config: ModelConfig) -> jax.Array | Matrix:
    """The head's table [V, D]: that of the embedding where they are tied."""
    return params["embedding" if config.tied_head else "head"]


def head_logits(table_VxD: jax.Array | Matrix, config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Float32 logits [..., V] of final-norm hidden states [..., D]."""
    dtype = config.compute_dtype
    if isinstance(table_VxD, Matrix):
        products = table_VxD.times(hidden.astype(dtype), jnp.float32)
    else:
        products = jnp.einsum(
            "...d,vd->...v",
            hidden.astype(dtype),
            table_VxD.astype(dtype),
            preferred_element_type=jnp.float32,
        )
    logits = config.logit_scale * products
    cap = config.logit_softcap
    return cap * jnp.tanh(logits / cap) if cap else logits


def head_slope(config: ModelConfig, logits: jax.Array) -> jax.Array | float:
    """Derivative of `head_logits` by the plain products of hidden states and table."""
    cap = config.logit_softcap
    return config.logit_scale * (1 - (logits / cap) ** 2 if cap else 1.0)


def declare(module: nn.Module, infos: dict[str, ArrayInfo]) -> dict[str, jax.Array]:
    """The module's parameters, as the abstract tree or `decoding_infos` describe them."""
    held = module.variables.get("params", {})
    return {
        name: held[name]
        if isinstance(held.get(name), Matrix)
        else module.param(name, i.init, i.shape, i.dtype)
        for name, i in infos.items()
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, matrix: jax.Array, inputs: int) -> jax.Array:
    """x [..., inputs] times a matrix [inputs, outputs].

    The matrix's gradient has x on the left: JAX's own has x on the right, for which XLA on CPUs
    writes what comes from the outputs, transposed, element by element.
    """
    return jnp.tensordot(x, matrix, inputs)


def _product_forward(x, matrix, inputs: int):
    return jnp.tensordot(x, matrix, inputs), (x, matrix)


def _product_backward(inputs: int, saved, dy):
    x, matrix = saved
    outputs = matrix.ndim - inputs
    rest = tuple(range(x.ndim - inputs))
    dx = jnp.tensordot(
        dy, matrix, (tuple(range(dy.ndim - outputs, dy.ndim)), tuple(range(inputs, matrix.ndim)))
    )
    return dx, jnp.tensordot(x, dy, (rest, rest))


product.defvjp(_product_forward, _product_backward)


def linear(config: ModelConfig, p, name: str, x: jax.Array, inputs: int = 1) -> jax.Array:
    """x [..., inputs] times the matrix `name` [inputs, outputs] of p, in x's dtype.

    A LoRA adds scale (x A) B: A B is never made, so no step needs its memory or the gradient of W.
    """
    if isinstance(p[name], Matrix):
        return p[name].times(x)
    y = product(x, p[name].astype(x.dtype), inputs)
    if lora.A.format(name) in p:
        a, b = (p[factor.format(name)].astype(x.dtype) for factor in (lora.A, lora.B))
        y += config.lora.scale * jnp.tensordot(jnp.tensordot(x, a, inputs), b, 1)
    return y


class Attention(nn.Module):
    """Grouped-query attention with RoPE; norms and residual are the block's."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD, window, context: Context, cache: LayerCache | None):
        c = self.config
        p = declare(self, attention_params(c))
        q, k, v = (self._heads(p, name, x_BxLxD) for name in ("query", "key", "value"))
        q = nn.with_logical_constraint(q, ("batch", "length", "heads", "head"))
        k = nn.with_logical_constraint(k, ("batch", "length", "kv_heads", "head"))
        v = nn.with_logical_constraint(v, ("batch", "length", "kv_heads", "head"))
        rotation = context.rotation
        if c.windows:
            rotation = jax.tree.map(
                lambda local, other: jnp.where(window > 0, local, other),
                context.local_rotation,
                rotation,
            )
        q = apply_rope(q, rotation, c.rope_interleaved)
        k = apply_rope(k, rotation, c.rope_interleaved)
        if cache is None:
            mixed_BxLxHxN = self._mix(q, k, v, window, context)
        else:
            mixed_BxLxHxN, cache = self._mix_cached(q, k, v, window, context.place, cache)
        return linear(c, p, "out", mixed_BxLxHxN, inputs=2), cache

    def _mix_cached(self, q, k, v, window: int, place: Place, cache: LayerCache):
        """Attention [B, L, H, N] to what is cached and the new tokens, and the cache with them."""
        c = self.config
        scale = c.attention_scale or c.head_size**-0.5
        seen, cache = cache_lib.extend_layer(cache, place, k, v, ring=window > 0)
        mask_BxLxS = seen.mask_BxLxS
        if window:
            positions = place.positions_BxL, seen.positions_BxS
            mask_BxLxS = within_window(mask_BxLxS, *positions, window)
        k, v = seen.k_BxKxNxS.transpose(0, 3, 1, 2), seen.v_BxKxSxN.swapaxes(1, 2)
        return attention(q, k, v, mask_BxLxS, scale, c.attention_softcap), cache

    def _mix(self, q, k, v, window, context: Context):
        """Attention [B, L, H, N] within whole sequences, by a kernel where there is one."""
        c = self.config
        scale = c.attention_scale or c.head_size**-0.5
        kernel = kernel_for(c, q.shape[1], scale)
        if kernel is not None:
            sizes = sorted(set(c.layer_windows))
            kernels = [functools.partial(kernel, window=size) for size in sizes]
            number = jnp.searchsorted(jnp.asarray(sizes), window)
            return jax.lax.switch(number, kernels, q, k, v, context.segment_ids_BxL)
        mask_BxLxL = context.mask_BxLxL
        if c.windows:
            positions = context.positions_BxL, context.positions_BxL
            mask_BxLxL = within_window(mask_BxLxL, *positions, window)
        # Where the length is split, the queries of a part see the keys of all.
        k, v = (nn.with_logical_constraint(x, ("batch", None, "kv_heads", "head")) for x in (k, v))
        return checkpoint_name(attention(q, k, v, mask_BxLxL, scale, c.attention_softcap), MIXED)

    def _heads(self, p, name: str, x_BxLxD):
        """Queries, keys or values [B, L, heads, N], before RoPE."""
        y = linear(self.config, p, name, x_BxLxD)
        if self.config.qkv_bias:
            y += p[f"{name}_bias"].astype(y.dtype)
        if f"{name}_norm" in p:
            y = norm(self.config, y, p[f"{name}_norm"])
        return y


ACTIVATION = {"silu": nn.silu, "gelu": nn.gelu}


class MLP(nn.Module):
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202); norms and residual are the block's."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD):
        c = self.config
        infos = mlp_params(c)
        p = declare(self, infos)
        if c.ff_blocks == 1:
            return feed_forward(c, p, x_BxLxD)
        cut, whole = cut_hidden(p, infos, c.ff_blocks)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def piece(y_BxLxD, cut_piece):
            # Laid out as stored, or all pieces would be gathered at once.
            cut_piece = {
                name: nn.with_logical_constraint(x, infos[name].axes)
                for name, x in cut_piece.items()
            }
            y = feed_forward(c, cut_piece | whole, x_BxLxD)
            return y_BxLxD + y.astype(y_BxLxD.dtype), None

        y_BxLxD, _ = jax.lax.scan(piece, jnp.zeros(x_BxLxD.shape, jnp.float32), cut)
        return y_BxLxD.astype(x_BxLxD.dtype)


def feed_forward(config: ModelConfig, p, x_BxLxD: jax.Array) -> jax.Array:
    """down (act(gate x) * up x), [B, L, D], of all hidden units that p has."""
    gate_BxLxF, up_BxLxF = (linear(config, p, name, x_BxLxD) for name in ("gate", "up"))
    mid_BxLxF = ACTIVATION[config.activation](gate_BxLxF) * up_BxLxF
    mid_BxLxF = nn.with_logical_constraint(mid_BxLxF, ("batch", "length", "mlp"))
    return linear(config, p, "down", mid_BxLxF)


def cut_hidden(p, infos: dict[str, ArrayInfo], blocks: int) -> tuple[dict, dict]:
    """The feed-forward's parameters in pieces of hidden units, and those that have none.

    The pieces are stacked on a new first axis. Every device cuts its own units, so none leaves it.
    """
    cut, whole = {}, {}
    for name, x in p.items():
        if "mlp" not in infos[name].axes:
            whole[name] = x
            continue
        at = infos[name].axes.index("mlp")
        before, after, ways = x.shape[:at], x.shape[at + 1 :], parts("mlp")
        x = x.reshape(*before, ways, blocks, x.shape[at] // (ways * blocks), *after)
        cut[name] = jnp.moveaxis(x, at + 1, 0).reshape(blocks, *before, -1, *after)
    return cut, whole


class Block(nn.Module):
    """One layer, in the form `nn.scan` wants: carry and the layer's own in, carry out."""

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, window, context: Context):
        c = self.config
        scales = declare(self, norm_params(c))
        attend, feed = Attention(c, name="attention"), MLP(c, name="mlp")
        x, cache = carry
        x = checkpoint_name(x, _LAYER_INPUT)
        normed = norm(c, x, scales["attention_norm"])
        mixed, cache = attend(normed, window, context, cache)
        if c.parallel:
            x = x + mixed + feed(normed)
        elif c.post_norms:
            x = x + norm(c, mixed, scales["attention_post_norm"])
            x = x + norm(c, feed(norm(c, x, scales["mlp_norm"])), scales["mlp_post_norm"])
        else:
            x = x + mixed
            x = x + feed(norm(c, x, scales["mlp_norm"]))
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
        x = embed(c, p["embedding"], tokens_BxL)
        mask_BxLxL, place = None, None
        if cache is None:
            mask_BxLxL = segment_mask(positions_BxL, segment_ids_BxL)
        else:
            place = cache_lib.find_place(cache, positions_BxL, segment_ids_BxL)
            beyond = (segment_ids_BxL != 0) & (positions_BxL >= cache.size)
            x = jnp.where(beyond[:, :, None], jnp.nan, x)
        x = nn.with_logical_constraint(x, ("batch", "length", None))
        turned = rotations(c, positions_BxL)
        context = Context(positions_BxL, segment_ids_BxL, *turned, mask_BxLxL, place)
        layers = self.variables["params"].get("layers")
        if cache is None and not isinstance(layers, tuple):
            x = self._scan(x, context)
        else:
            x, cache = self._each(x, context, layers, cache)
        hidden_BxLxD = norm(c, x, p["final_norm"])
        if return_hidden:
            return hidden_BxLxD, cache
        return head_logits(head_table(p, c), c, hidden_BxLxD), cache

    def _scan(self, x_BxLxD, context: Context):
        """All blocks over whole sequences, the parameters stacked."""
        c = self.config
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
        windows = jnp.asarray(c.layer_windows, jnp.int32)
        (x_BxLxD, _), _ = blocks(c, name="layers")((x_BxLxD, None), windows, context)
        return x_BxLxD

    def _each(self, x_BxLxD, context: Context, layers, cache: KVCache | None):
        """One block after another: caches differ in size, and a slice of a stack is a copy."""
        c = self.config
        caches = []
        for number, window in enumerate(c.layer_windows):
            p = layers[number] if isinstance(layers, tuple) else _layer(layers, number)
            held = None if cache is None else cache.layers[number]
            block = Block(c, parent=None)
            (x_BxLxD, held), _ = block.apply({"params": p}, (x_BxLxD, held), window, context)
            caches.append(held)
        if cache is not None:
            cache = cache.replace(layers=tuple(caches), length=context.place.after_B)
        return x_BxLxD, cache


def _layer(stacked, number: int):
    """The parameters of one block."""
    return jax.tree.map(lambda x: x[number], stacked)
