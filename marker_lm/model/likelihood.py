"""Likelihood of a batch: cross-entropy over a large vocabulary without ever holding all logits.

On a mesh the head is split by vocabulary over all devices that hold a part of it, and the tokens
come to it: a piece of the hidden states is gathered, every device makes its part of the logits, and
only normalizers and the gradient of the hidden states are added up. So neither the head nor its
gradient is ever whole on a device. The batch stands as [R, G, T, ...]: R replicas of the
parameters, G devices that share one, T tokens each.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.layout import parts
from marker_lm.model.matrix import Matrix
from marker_lm.model.transformer import Transformer, head_logits, head_slope, head_table

_NEVER = -1e9  # the logit of no id: its probability is 0, and a soft-cap's slope there is finite


def batch_nll(
    params, config: ModelConfig, batch, weights_BxL, wanted_BxL, blocks: int, z_loss: float = 0.0
):
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
        z_loss,
    )


def weighted_nll(
    table_VxD,
    config: ModelConfig,
    hidden_BxLxD,
    targets_BxL,
    weights_BxL,
    wanted_BxL,
    blocks: int,
    z_loss: float = 0.0,
):
    """The weighted sum of the wanted targets' negative log-likelihoods, and each of them.

    The wanted targets are moved together and cut into pieces; the logits of a piece are computed,
    used and forgotten. Pieces without a wanted target are skipped, so prompts and padding cost
    nothing. The gradient of the sum is made in the same pass, while the logits are at hand: they
    are never computed twice.

    Args:
      table_VxD: the head, an array or a `Matrix`.
      config: of the model.
      hidden_BxLxD: final-norm hidden states.
      targets_BxL: int32 ids.
      weights_BxL: float32; no gradient flows to them.
      wanted_BxL: bool; the weight of every other target must be 0.
      blocks: pieces that a device's tokens are cut into; divides their number.
      z_loss: z of the term z * log(Z)^2 that is added to each target's loss in the sum, Z being the
        normalizer of its probabilities (PaLM, arXiv:2204.02311, section 5). It is not in the nats.

    Returns:
      The sum, a float32 scalar, and float32 nats [B, L], 0 where not wanted, without a gradient.

    Raises:
      ValueError: `blocks` does not divide the tokens.
    """
    if isinstance(table_VxD, Matrix):
        table_VxD = table_VxD.dense(config.compute_dtype)
    grouped, ungrouped = _groups(*targets_BxL.shape)
    wanted_RxGxT, targets_RxGxT, weights_RxGxT, hidden_RxGxTxD = map(
        grouped, (wanted_BxL, targets_BxL, weights_BxL, hidden_BxLxD)
    )
    T = targets_RxGxT.shape[-1]
    if T % blocks:
        raise ValueError(f"loss_blocks={blocks} does not divide the {T} tokens of a device's rows.")

    order_RxGxT = jnp.argsort(~wanted_RxGxT, axis=-1, stable=True)
    targets_RxGxT, weights_RxGxT = (
        jnp.take_along_axis(x, order_RxGxT, axis=-1) for x in (targets_RxGxT, weights_RxGxT)
    )
    hidden_RxGxTxD = jnp.take_along_axis(hidden_RxGxTxD, order_RxGxT[..., None], axis=2)
    pieces = -(-jnp.max(jnp.sum(wanted_RxGxT, axis=-1)) // (T // blocks))
    total, nll_RxGxT = _front_nll(
        config, T // blocks, z_loss, table_VxD, hidden_RxGxTxD, targets_RxGxT, weights_RxGxT, pieces
    )
    nll_RxGxT = jnp.take_along_axis(nll_RxGxT, jnp.argsort(order_RxGxT, axis=-1), axis=-1)
    nll_BxL = ungrouped(jnp.where(wanted_RxGxT, nll_RxGxT, 0.0))
    return total, jax.lax.stop_gradient(nll_BxL)


def _groups(B: int, L: int):
    """Functions from [B, L, ...] to [R, G, T, ...] and back; no token leaves its device."""
    R, F, C = parts("replica"), parts("batch") // parts("replica"), parts("length")
    if B % (R * F) or L % C:  # scoring has batches that are not split
        R, F, C = 1, 1, 1
    split = R, F, B // (R * F), C, L // C

    def grouped(x_BxLx):
        rest = x_BxLx.shape[2:]
        x = x_BxLx.reshape(*split, *rest).swapaxes(2, 3).reshape(R, F * C, -1, *rest)
        return _constrain(x, "replica", "gathered")

    def ungrouped(x_RxGxT):
        x = x_RxGxT.reshape(R, F, C, B // (R * F), L // C).swapaxes(2, 3).reshape(B, L)
        return _constrain(x, "batch", "length")

    return grouped, ungrouped


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _front_nll(config, size, z_loss, table_VxD, hidden_RxGxTxD, targets, weights, pieces):
    """The weighted sum and the nats [R, G, T] of the first `pieces` pieces of `size` tokens."""
    table, logits_of = _head(config, table_VxD)

    def piece(i, carry):
        total, nll = carry
        hidden, target, weight = (_cut(x, i, size) for x in (hidden_RxGxTxD, targets, weights))
        logits, normalizer = logits_of(table, hidden)
        nats = normalizer - _pick(logits, target)
        total += jnp.sum(weight * (nats + z_loss * normalizer**2))
        return total, _put(nll, i, nats)

    zeros = jnp.float32(0), jnp.zeros(targets.shape, jnp.float32)
    return jax.lax.fori_loop(0, pieces, piece, zeros)


def _front_nll_and_gradient(
    config, size, z_loss, table_VxD, hidden_RxGxTxD, targets, weights, pieces
):
    """The same, and the gradient of the sum with respect to table and hidden states."""
    table, logits_of = _head(config, table_VxD)
    R = hidden_RxGxTxD.shape[0]

    def piece(i, carry):
        total, nll, d_table_RxDxV, d_hidden = carry
        hidden, target, weight = (_cut(x, i, size) for x in (hidden_RxGxTxD, targets, weights))
        logits, normalizer = logits_of(table, hidden)
        nats = normalizer - _pick(logits, target)
        total += jnp.sum(weight * (nats + z_loss * normalizer**2))
        p_RxGxtxV = jnp.exp(logits - normalizer[..., None])
        slope = 1 + 2 * z_loss * normalizer
        d_logits = weight[..., None] * (slope[..., None] * p_RxGxtxV - _is(target, logits))
        d_logits = (d_logits * head_slope(config, logits)).astype(table.dtype)
        # One sum for each copy of the parameters: they are added up once, after the loop.
        d_table_RxDxV += jnp.einsum(
            "rgtd,rgtv->rdv", hidden, d_logits, preferred_element_type=jnp.float32
        )
        d_piece = jnp.einsum("rgtv,vd->rgtd", d_logits, table)
        return total, _put(nll, i, nats), d_table_RxDxV, _put(d_hidden, i, d_piece)

    d_table_RxDxV = jnp.zeros((R, *table.shape[::-1]), jnp.float32)
    zeros = (
        jnp.float32(0),
        jnp.zeros(targets.shape, jnp.float32),
        _constrain(d_table_RxDxV, "replica", None, "loss_vocab"),
        jnp.zeros_like(hidden_RxGxTxD),
    )
    total, nll, d_table_RxDxV, d_hidden = jax.lax.fori_loop(0, pieces, piece, zeros)
    d_table_VxD = jnp.sum(d_table_RxDxV, axis=0).T[: table_VxD.shape[0]]
    return (total, nll), (d_table_VxD, d_hidden)


def _scaled(config, size, z_loss, gradient, cotangents):
    d_table_VxD, d_hidden = gradient
    scale = cotangents[0]
    d_table_VxD = (scale * d_table_VxD).astype(config.param_dtype)
    d_table_VxD = _constrain(d_table_VxD, "vocab", "embed")
    return d_table_VxD, (scale * d_hidden).astype(d_hidden.dtype), None, None, None


_front_nll.defvjp(_front_nll_and_gradient, _scaled)


def _head(config: ModelConfig, table_VxD):
    """The head split by vocabulary, filled up to equal parts, and a function from it to logits.

    That takes hidden states [R, G, t, D] to float32 logits [R, G, t, V] and normalizers [R, G, t].
    """
    V = table_VxD.shape[0]
    short = -V % parts("loss_vocab")
    table = _constrain(table_VxD.astype(config.compute_dtype), "vocab", "embed")
    table = _constrain(jnp.pad(table, ((0, short), (0, 0))), "loss_vocab")

    def logits_of(table, hidden):
        logits = head_logits(table, config, hidden)
        if short:
            logits = jnp.where(jnp.arange(V + short) < V, logits, _NEVER)
        logits = _constrain(logits, "replica", None, None, "loss_vocab")
        return logits, jax.nn.logsumexp(logits, axis=-1)

    return table, logits_of


def _is(target, logits):
    """Whether a logit is the target's; [R, G, t, V]."""
    return jnp.arange(logits.shape[-1]) == target[..., None]


def _pick(logits, target):
    # A sum, not a lookup: each device adds what it has of the vocabulary.
    return jnp.sum(jnp.where(_is(target, logits), logits, 0.0), axis=-1)


def _cut(x_RxGxTx, i, size: int):
    """Piece i of every device's tokens, on all devices that share the parameters."""
    piece = jax.lax.dynamic_slice_in_dim(x_RxGxTx, i * size, size, axis=2)
    piece = _constrain(piece, "replica", "gathered")  # or all pieces would be gathered at once
    return _constrain(piece, "replica")


def _put(x_RxGxTx, i, piece):
    at = i * piece.shape[2]
    piece = _constrain(piece.astype(x_RxGxTx.dtype), "replica", "gathered")
    return jax.lax.dynamic_update_slice_in_dim(x_RxGxTx, piece, at, axis=2)


def _constrain(x, *axes: str | None):
    """Lays x out by its first logical axes; the others are whole."""
    return nn.with_logical_constraint(x, axes + (None,) * (x.ndim - len(axes)))
