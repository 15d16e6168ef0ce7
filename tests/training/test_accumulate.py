"""A batch in pieces has the gradient of the whole batch, however unequal the pieces are."""

import dataclasses

import jax
import numpy as np
import pytest

from marker_lm.model.params import init_params
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding, param_shardings, use_mesh
from marker_lm.training import gradient
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import abstract_batch, abstract_state, make_train_step
from tests.training.steps import MODEL, make_batch, one_device, put, settings

# On one device pieces of two rows have 16, 1, 0 and 17 answer tokens.
UNEVEN = make_batch(3, answers=[16, 0, 0, 1, 0, 0, 15, 2])


def gradients(batch, mesh, model=MODEL, **changes):
    """Loss, sums and gradient of a fresh model on a batch."""
    train, shardings = settings(**{"z_loss": 0.01} | changes), param_shardings(model, mesh)
    params = jax.device_put(init_params(model, jax.random.key(0)), shardings)

    @jax.jit
    def find(params, batch):
        return gradient.loss_and_gradient(model, mesh, train, shardings, params, {}, batch)

    with use_mesh(mesh):
        return jax.device_get(find(params, put(batch, mesh)))


@pytest.fixture(scope="module")
def whole():
    return gradients(UNEVEN, one_device())


def test_pieces_have_the_gradient_of_the_whole(whole):
    loss, sums, gradient = gradients(UNEVEN, one_device(), accumulate=4)
    np.testing.assert_allclose(loss, whole[0], rtol=1e-6)
    assert sums["completion_tokens"] == whole[1]["completion_tokens"] == 34
    for name, value in sums.items():
        np.testing.assert_allclose(value, whole[1][name], rtol=1e-6)
    for x, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole[2]), strict=True):
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


def test_pieces_on_a_mesh(whole):
    mesh = make_mesh(data=2, fsdp=2, context=2)
    loss, _, gradient = gradients(UNEVEN, mesh, accumulate=2, loss_blocks=1)
    np.testing.assert_allclose(loss, whole[0], rtol=1e-5)
    for x, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole[2]), strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-5, atol=2e-6 * np.abs(want).max())


def test_rows_stay_on_their_devices():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    batch = {"tokens": jax.ShapeDtypeStruct((16, 8), np.int32, sharding=batch_sharding(mesh))}
    with use_mesh(mesh):
        cut = jax.jit(lambda batch: gradient.cut(batch, mesh, 2))
        hlo = cut.lower(batch).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in hlo
    rows = np.arange(16)[:, None] * np.ones(8, np.int32)
    with use_mesh(mesh):
        found = cut({"tokens": jax.device_put(rows.astype(np.int32), batch_sharding(mesh))})
    assert found["tokens"].shape == (2, 8, 8)
    assert sorted(np.asarray(found["tokens"])[:, :, 0].ravel()) == list(range(16))


def test_pieces_need_less_memory():
    model = dataclasses.replace(MODEL, layers=4, ff=128)
    sizes = []
    for pieces in (1, 4):
        train = settings(batch=32, accumulate=pieces)
        optimizer, mesh = make_optimizer(train, 10), one_device()
        step = make_train_step(model, optimizer, mesh, train)
        compiled = step.lower(abstract_state(model, optimizer, mesh), abstract_batch(train, mesh))
        sizes.append(compiled.compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        (dict(data=4, tensor=2), dict(accumulate=3), r"batch=8 .*accumulate=3 times the 4 parts"),
        (dict(data=8), dict(accumulate=2), r"use a multiple of 16, or accumulate less"),
        (dict(data=8), dict(accumulate=0), r"does not divide by train.accumulate=0"),
        (dict(data=8), dict(gradient_dtype="float16"), r"'float16' is not one of bfloat16, float"),
        (dict(data=8), dict(gradient_dtype="bfloat16"), r"would round what model.dtype=float32"),
    ],
)
def test_what_is_not_possible_is_told(sizes, changes, message):
    train = settings(**changes)
    with pytest.raises(ValueError, match=message):
        make_train_step(MODEL, make_optimizer(train, 10), make_mesh(**sizes), train)


def test_bfloat16_gradients_are_those_of_a_bfloat16_model():
    """Casting the matrices before the derivative changes no bit of their gradients."""
    model = dataclasses.replace(MODEL, dtype="bfloat16")
    want = gradients(UNEVEN, one_device(), model)
    found = gradients(UNEVEN, one_device(), model, gradient_dtype="bfloat16")
    assert found[0] == want[0]
    for x, y in zip(jax.tree.leaves(found[2]), jax.tree.leaves(want[2]), strict=True):
        assert (x.dtype, y.dtype) == ("bfloat16", "float32")
        np.testing.assert_allclose(x.astype(np.float32), y, rtol=4e-3, atol=1e-6)
    matrix = [g["layers"]["mlp"]["up"].astype(np.float32) for g in (found[2], want[2])]
    np.testing.assert_array_equal(*matrix)
