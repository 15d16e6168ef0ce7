"""Likelihood of a batch: cross-entropy over a large vocabulary without ever holding all logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.transformer import Transformer, head_logits, head_slope, head_table


def batch_nll(params, config: ModelConfig, batch, weights_BxL, wanted_BxL, blocks: int, groups=1):
    """`weighted_nll` of the targets of a batch."""
    hidden_BxLxD, _ = Transformer(config).apply(
        {"params": params},
        batch["tokens"],
        batch["positions"],
        batch["segment_ids"],
        return_hidden=True,
    )
    return weighted_nll(
        head_table(params, config),
        config,
        hidden_BxLxD,
        batch["targets"],
        weights_BxL,
        wanted_BxL,
        blocks,
        groups,
    )


def weighted_nll(
    table_VxD,
    config: ModelConfig,
    hidden_BxLxD,
    targets_BxL,
    weights_BxL,
    wanted_BxL,
    blocks: int,
    groups: int = 1,
):
    """The weighted sum of the wanted targets' negative log-likelihoods, and each of them.

    The wanted targets are moved together and cut into pieces; the logits of a piece are computed,
    used and forgotten. Pieces without a wanted target are skipped, so prompts and padding cost
    nothing. The gradient of the sum is made in the same pass, while the logits are at hand: they
    are never computed twice.

    Args:
      table_VxD: the head.
      config: of the model.
      hidden_BxLxD: final-norm hidden states.
      targets_BxL: int32 ids.
      weights_BxL: float32; no gradient flows to them.
      wanted_BxL: bool; the weight of every other target must be 0.
      blocks: pieces that the tokens of a group are cut into; divides their number.
      groups: the batch is split into so many, and tokens move within theirs only: on a mesh, the
        number of devices that the batch is split over.

    Returns:
      The sum, a float32 scalar, and float32 nats [B, L], 0 where not wanted, without a gradient.
    """
    B, L, D = hidden_BxLxD.shape
    T = B // groups * L
    if T % blocks:
        raise ValueError(f"loss_blocks={blocks} does not divide the {T} tokens of a device's rows.")

    wanted_GxT = wanted_BxL.reshape(groups, T)
    order_GxT = jnp.argsort(~wanted_GxT, axis=1, stable=True)
    targets_GxT, weights_GxT = (
        jnp.take_along_axis(x_BxL.reshape(groups, T), order_GxT, axis=1)
        for x_BxL in (targets_BxL, weights_BxL)
    )
    hidden_GxTxD = nn.with_logical_constraint(
        hidden_BxLxD.reshape(groups, T, D), ("batch", None, None)
    )
    hidden_GxTxD = jnp.take_along_axis(hidden_GxTxD, order_GxT[:, :, None], axis=1)
    pieces = -(-jnp.max(jnp.sum(wanted_GxT, axis=1)) // (T // blocks))
    total, nll_GxT = _front_nll(
        config, T // blocks, table_VxD, hidden_GxTxD, targets_GxT, weights_GxT, pieces
    )
    nll_GxT = jnp.take_along_axis(nll_GxT, jnp.argsort(order_GxT, axis=1), axis=1)
    return total, jax.lax.stop_gradient(jnp.where(wanted_GxT, nll_GxT, 0.0).reshape(B, L))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _front_nll(config, size, table_VxD, hidden_GxTxD, targets_GxT, weights_GxT, pieces):
    """The weighted sum and the nats [G, T] of the first `pieces` pieces of `size` tokens."""

    def piece(i, nll_GxT):
        hidden, targets = (_cut(x, i, size) for x in (hidden_GxTxD, targets_GxT))
        logits, normalizer = _logits(table_VxD, config, hidden)
        return _put(nll_GxT, i, normalizer - _pick(logits, targets))

    nll_GxT = jax.lax.fori_loop(0, pieces, piece, jnp.zeros(targets_GxT.shape, jnp.float32))
    return jnp.sum(weights_GxT * nll_GxT), nll_GxT


def _front_nll_and_gradient(
    config, size, table_VxD, hidden_GxTxD, targets_GxT, weights_GxT, pieces
):
    """The same, and the gradient of the sum with respect to table and hidden states."""
    table = table_VxD.astype(config.compute_dtype)

    def piece(i, carry):
        nll_GxT, d_table_VxD, d_hidden_GxTxD = carry
        hidden, targets, weights = (
            _cut(x, i, size) for x in (hidden_GxTxD, targets_GxT, weights_GxT)
        )
        logits, normalizer = _logits(table_VxD, config, hidden)
        nll_GxT = _put(nll_GxT, i, normalizer - _pick(logits, targets))
        p_GxtxV = jnp.exp(logits - normalizer[..., None])
        is_target_GxtxV = jnp.arange(logits.shape[-1]) == targets[..., None]
        d_logits = weights[..., None] * (p_GxtxV - is_target_GxtxV)
        d_logits = (d_logits * head_slope(config, logits)).astype(table.dtype)
        d_table_VxD += jnp.einsum(
            "gtv,gtd->vd", d_logits, hidden, preferred_element_type=jnp.float32
        )
        d_hidden = jnp.einsum("gtv,vd->gtd", d_logits, table)
        return nll_GxT, d_table_VxD, _put(d_hidden_GxTxD, i, d_hidden)

    zeros = (
        jnp.zeros(targets_GxT.shape, jnp.float32),
        nn.with_logical_constraint(jnp.zeros(table_VxD.shape, jnp.float32), ("vocab", "embed")),
        jnp.zeros_like(hidden_GxTxD),
    )
    nll_GxT, *gradient = jax.lax.fori_loop(0, pieces, piece, zeros)
    return (jnp.sum(weights_GxT * nll_GxT), nll_GxT), gradient


def _scaled(config, size, gradient, cotangents):
    d_table_VxD, d_hidden_GxTxD = gradient
    scale = cotangents[0]
    d_table_VxD = (scale * d_table_VxD).astype(config.param_dtype)
    d_hidden_GxTxD = (scale * d_hidden_GxTxD).astype(d_hidden_GxTxD.dtype)
    return d_table_VxD, d_hidden_GxTxD, None, None, None


_front_nll.defvjp(_front_nll_and_gradient, _scaled)


def _logits(table_VxD, config, hidden):
    logits = head_logits(table_VxD, config, hidden)
    return logits, jax.nn.logsumexp(logits, axis=-1)


def _pick(logits, targets):
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _cut(x_GxTx, i, size: int):
    return jax.lax.dynamic_slice_in_dim(x_GxTx, i * size, size, axis=1)


def _put(x_GxTx, i, piece):
    at = i * piece.shape[1]
    return jax.lax.dynamic_update_slice_in_dim(x_GxTx, piece.astype(x_GxTx.dtype), at, axis=1)
