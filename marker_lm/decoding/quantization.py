"""What int8 costs in score: the same answers scored with the weights as they are and rounded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.decoding.steps import pad, read_hidden, round_up
from marker_lm.model.cache import init_cache
from marker_lm.model.config import ModelConfig
from marker_lm.model.likelihood import weighted_nll
from marker_lm.model.matrix import decoding_params
from marker_lm.model.transformer import head_table
from marker_lm.sharding.rules import device_bytes, use_mesh


@dataclasses.dataclass(frozen=True)
class Quantization:
    """A model read with int8 weights or an int8 cache, beside itself.

    Attributes:
      tokens: that were scored.
      nats: a token, in the mean, as the model is.
      quantized_nats: the same with int8.
      weights, quantized_weights: bytes of a device.
      cache, quantized_cache: the same of one row of the rows' padded length.
    """

    tokens: int
    nats: float
    quantized_nats: float
    weights: int
    quantized_weights: int
    cache: int
    quantized_cache: int

    @property
    def change(self) -> float:
        """Nats a token that int8 adds; negative where it scores better."""
        return self.quantized_nats - self.nats

    def __str__(self) -> str:
        sizes = (
            f"weights {self.weights / 1e6:.1f} -> {self.quantized_weights / 1e6:.1f} MB, cache of "
            f"a row {self.cache / 1e6:.2f} -> {self.quantized_cache / 1e6:.2f} MB"
        )
        return (
            f"int8: {self.nats:.4f} -> {self.quantized_nats:.4f} nats a token ({self.change:+.4f}) "
            f"on {self.tokens:,} tokens; {sizes}"
        )


def compare_quantized(
    params, config: ModelConfig, mesh, rows, weights: str = "", cache: str = "", batch: int = 8
) -> Quantization:
    """Scores rows of text twice, through a cache as in decoding.

    Args:
      params: of training, LoRA merged, on the mesh.
      config: the model's.
      rows: (ids, wanted) pairs: the ids of a sequence, and whether each of them is to be scored;
        the first can't be.
      weights, cache: '' or 'int8', what is compared.
      batch: rows at a time.

    Raises:
      ValueError: no token is wanted, or `weights` is not known.
    """
    rows = [(np.asarray(ids, np.int32), np.asarray(wanted, bool)) for ids, wanted in rows]
    tokens = sum(int(wanted[1:].sum()) for _, wanted in rows)
    if not tokens:
        raise ValueError("there is no token to score; give rows with answers.")
    nats, sizes = [], []
    for kinds in (("", ""), (weights, cache)):
        with use_mesh(mesh):
            read, model = decoding_params(params, config, kinds[0])
            score = jax.jit(functools.partial(_nats, model, kinds[1]))
            longest = round_up(max(len(ids) for ids, _ in rows), 32)
            starts = range(0, len(rows), batch)
            parts = (_padded(rows[start : start + batch], batch, longest) for start in starts)
            nats.append(sum(float(score(read, *part)) for part in parts) / tokens)
            row = jax.jit(functools.partial(init_cache, model, 1, longest, kinds[1]))()
        sizes.append((device_bytes(read), device_bytes(row.layers)))
    (whole, whole_cache), (small, small_cache) = sizes
    return Quantization(tokens, *nats, whole, small, whole_cache, small_cache)


def _padded(rows, batch: int, length: int):
    """int32 ids, and bools of which are real and which are wanted, all [B, L]."""
    ids_BxL, real_BxL = pad([ids for ids, _ in rows], length, batch)
    wanted_BxL = np.zeros((batch, length), bool)
    for i, (ids, wanted) in enumerate(rows):
        wanted_BxL[i, : len(ids) - 1] = wanted[1:]  # a token's target is the next one
    return ids_BxL, real_BxL, wanted_BxL


def _nats(config: ModelConfig, dtype: str, params, ids_BxL, real_BxL, wanted_BxL):
    """The sum over the wanted targets."""
    B, L = ids_BxL.shape
    cache = init_cache(config, B, L, dtype)
    hidden_BxLxD, _ = read_hidden(config, params, cache, ids_BxL, real_BxL)
    targets_BxL = jnp.roll(ids_BxL, -1, axis=1)
    head = head_table(params, config)
    weights_BxL = wanted_BxL.astype(jnp.float32)
    blocks = L // 32
    return weighted_nll(head, config, hidden_BxLxD, targets_BxL, weights_BxL, wanted_BxL, blocks)[0]
