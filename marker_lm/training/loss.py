"""The training loss: weighted by span kind, normalised by answer tokens."""

import jax.numpy as jnp

from marker_lm.data.assembly import Kind
from marker_lm.model.config import ModelConfig
from marker_lm.model.likelihood import batch_nll

# Measured whatever their loss weight is.
MEASURED = (Kind.COMPLETION_MARKERS, Kind.COMPLETION)


def batch_loss(
    params, config: ModelConfig, batch, blocks: int, z_loss: float = 0.0, answer_tokens=None
):
    """Weighted loss over the number of answer tokens, and per-kind sums for the metrics.

    Easy marker tokens would dilute the answer if the divisor counted them, so it counts targets of
    kind COMPLETION only.

    Args:
      params, config: of the model.
      batch: see data/loader.py.
      blocks, z_loss: see `model.likelihood.weighted_nll`.
      answer_tokens: what to divide by, where `batch` is a piece of a larger one.

    Returns:
      loss: float32 scalar.
      sums: float32 scalars: 'tokens' that are not padding, and '<kind>_nats' and '<kind>_tokens'.
    """
    kinds_BxL, weights_BxL = batch["kinds"], batch["weights"]
    wanted_BxL = (weights_BxL != 0) | jnp.isin(kinds_BxL, jnp.asarray(MEASURED))
    total, nll_BxL = batch_nll(params, config, batch, weights_BxL, wanted_BxL, blocks, z_loss)
    if answer_tokens is None:
        answer_tokens = jnp.sum(kinds_BxL == Kind.COMPLETION)
    sums = {"tokens": jnp.sum(kinds_BxL != Kind.PADDING).astype(jnp.float32)}
    for kind in MEASURED:
        of_kind = kinds_BxL == kind
        sums[f"{kind.name.lower()}_nats"] = jnp.sum(jnp.where(of_kind, nll_BxL, 0.0))
        sums[f"{kind.name.lower()}_tokens"] = jnp.sum(of_kind).astype(jnp.float32)
    return total / jnp.maximum(answer_tokens, 1), sums
