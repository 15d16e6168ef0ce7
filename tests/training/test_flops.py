"""Model FLOPs: counted by hand, and by the compiler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.data.assembly import Kind
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.params import init_params, parameter_count
from marker_lm.training.flops import make_step_flops, token_flops
from marker_lm.training.trainable import trained_paths
from tests.model.helpers import forward

MODEL = ModelConfig(
    vocab=32, width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=24, max_len=8, scan=False
)
MATRICES = 2 * (16 * 16 * 2 + 2 * 16 * 8 + 3 * 16 * 24)  # of both layers


def test_a_token_takes_six_flops_a_parameter_of_a_matrix():
    assert token_flops(MODEL, trained_paths(MODEL)) == 6 * (MATRICES + 32 * 16)
    untied = dataclasses.replace(MODEL, tied_head=False)
    assert token_flops(untied, trained_paths(untied)) == 6 * (MATRICES + 32 * 16)


def test_frozen_matrices_have_no_gradient():
    model = dataclasses.replace(MODEL, lora=LoRA(rank=2, alpha=4.0))
    trained = trained_paths(model)
    factors = parameter_count(model, trained)
    assert token_flops(model, trained) == 4 * (MATRICES + 32 * 16) + 6 * factors


@pytest.mark.parametrize("windows", [(), (3,), (2, 0)])
def test_attention_counts_what_a_token_sees(windows):
    model = dataclasses.replace(MODEL, windows=windows)
    trained = trained_paths(model)
    # Segments of 5 and 3 tokens, then padding.
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0]], np.int32)
    kinds = np.where(np.arange(10) < 8, Kind.COMPLETION, Kind.PADDING)[None].astype(np.int32)
    found = make_step_flops(model, trained)(kinds, positions)
    pairs = 0
    for window in model.layer_windows:
        for length in (5, 3):
            seen = np.tril(np.ones((length, length)))
            pairs += np.triu(seen, -(window - 1)).sum() if window else seen.sum()
    assert found == 8 * token_flops(model, trained) + 12 * 16 * pairs


def test_the_compiler_counts_the_same_matrix_products():
    # A forward pass of one segment; the compiler counts the whole square of attention, and all else
    # (norms, softmax, RoPE), which is little for a wide model.
    model = dataclasses.replace(MODEL, width=512, head_size=64, ff=2048, vocab=4096, max_len=64)
    L = 64
    tokens = jnp.zeros((1, L), jnp.int32)
    positions = jnp.arange(L)[None]
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

    compiled = forward.lower(
        model, params, tokens, positions, jnp.ones((1, L), jnp.int32)
    ).compile()
    counted = compiled.cost_analysis()["flops"]
    expected = L * token_flops(model, trained_paths(model)) / 3
    expected += 4 * model.heads * model.head_size * L * L * model.layers
    assert expected == pytest.approx(counted, rel=0.05)
