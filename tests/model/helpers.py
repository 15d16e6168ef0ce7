"""Small models and batches for the model tests."""

import functools

import jax
import numpy as np

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import abstract_arrays
from marker_lm.model.transformer import Transformer

SMALL = dict(
    vocab=29, width=12, layers=3, heads=4, kv_heads=2, head_size=6, ff=20, max_len=16, scan=True
)


def small_config(**changes) -> ModelConfig:
    return ModelConfig(**(SMALL | changes))


@functools.cache
def make_params(config: ModelConfig):
    """Parameters of sizes as after training, norms off 1; by NumPy, which need not compile."""
    random = np.random.default_rng(0)

    def make(path, array):
        mean, std = (1, 0.1) if "norm" in jax.tree_util.keystr(path) else (0, 0.3)
        return random.normal(mean, std, array.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(make, abstract_arrays(config))


@functools.partial(jax.jit, static_argnums=0, static_argnames="return_hidden")
def forward(config, params, tokens, positions, segment_ids, cache=None, return_hidden=False):
    return Transformer(config).apply(
        {"params": params}, tokens, positions, segment_ids, cache, return_hidden
    )


def random_tokens(config: ModelConfig, batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab, (batch, length), dtype=np.int32)


def plain(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segment ids of one unpadded sequence a row."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return tokens, positions, np.ones_like(tokens)
