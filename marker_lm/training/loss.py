"""The training loss: weighted by span kind, normalised by answer tokens."""

import jax.numpy as jnp

from marker_lm.data.assembly import Kind


def answer_normalised(nll_BxL, batch):
    """Weighted loss over the number of answer tokens, and per-kind sums for the metrics.

    Easy marker tokens would dilute the answer if the divisor counted them (PAPER.md section 11), so
    the divisor counts targets of kind COMPLETION only.

    Returns:
      loss: float32 scalar.
      sums: float32 scalars: 'tokens' that are not padding, and '<kind>_nats' and '<kind>_tokens'.
    """
    kinds_BxL = batch["kinds"]
    answer_tokens = jnp.sum(kinds_BxL == Kind.COMPLETION)
    loss = jnp.sum(batch["weights"] * nll_BxL) / jnp.maximum(answer_tokens, 1)
    sums = {"tokens": jnp.sum(kinds_BxL != Kind.PADDING).astype(jnp.float32)}
    for kind in (Kind.COMPLETION_MARKERS, Kind.COMPLETION):
        of_kind = kinds_BxL == kind
        sums[f"{kind.name.lower()}_nats"] = jnp.sum(jnp.where(of_kind, nll_BxL, 0.0))
        sums[f"{kind.name.lower()}_tokens"] = jnp.sum(of_kind).astype(jnp.float32)
    return loss, sums
