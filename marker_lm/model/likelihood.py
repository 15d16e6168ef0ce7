"""Likelihood of a batch: cross-entropy over a large vocabulary without ever holding all logits."""

import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.transformer import Transformer, head_logits


def token_nll(params, config: ModelConfig, hidden_BxLxD, targets_BxL, blocks: int):
    """Negative log-likelihood of each target in nats, float32 [B, L].

    The length is cut into `blocks` pieces and each piece's [B, L / blocks, V] logits are computed,
    used and forgotten; the backward pass computes them again. The batch axis stays whole, so it
    stays sharded. `blocks` must divide L.
    """
    B, L, D = hidden_BxLxD.shape
    if L % blocks:
        raise ValueError(f"loss_blocks={blocks} does not divide the sequence length {L}.")

    @jax.checkpoint
    def piece(hidden_BxlxD, targets_Bxl):
        logits_BxlxV = head_logits(params, config, hidden_BxlxD)
        picked_Bxl = jnp.take_along_axis(logits_BxlxV, targets_Bxl[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits_BxlxV, axis=-1) - picked_Bxl

    if blocks == 1:
        return piece(hidden_BxLxD, targets_BxL)
    hidden = hidden_BxLxD.reshape(B, blocks, L // blocks, D).swapaxes(0, 1)
    targets = targets_BxL.reshape(B, blocks, L // blocks).swapaxes(0, 1)
    _, nll = jax.lax.scan(lambda _, x: (None, piece(*x)), None, (hidden, targets))
    return nll.swapaxes(0, 1).reshape(B, L)


def batch_nll(params, config: ModelConfig, batch, blocks: int):
    """Negative log-likelihood of every target of a batch, float32 [B, L]."""
    hidden_BxLxD, _ = Transformer(config).apply(
        {"params": params},
        batch["tokens"],
        batch["positions"],
        batch["segment_ids"],
        return_hidden=True,
    )
    return token_nll(params, config, hidden_BxLxD, batch["targets"], blocks)
