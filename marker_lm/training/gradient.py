"""The gradient of a batch's loss: of the whole batch at once, or of its pieces one by one."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from marker_lm.data.assembly import Kind
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.rules import batch_sharding, batch_shards
from marker_lm.training.loss import batch_loss
from marker_lm.training.optimizer import is_vector
from marker_lm.training.trainable import join


def check(config: ModelConfig, mesh, train) -> None:
    """Raises ValueError where the batch can't be cut, or the gradient's dtype is not possible."""
    shards = batch_shards(mesh)
    if train.accumulate < 1 or train.batch % (train.accumulate * shards):
        raise ValueError(
            f"train.batch={train.batch} does not divide by train.accumulate={train.accumulate} "
            f"times the {shards} parts that the mesh splits rows into (slice * data * fsdp); "
            f"use a multiple of {max(train.accumulate, 1) * shards}, or accumulate less."
        )
    if train.gradient_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"train.gradient_dtype={train.gradient_dtype!r} is not one of bfloat16, float32."
        )
    if train.gradient_dtype == "bfloat16" and config.dtype != "bfloat16":
        raise ValueError(
            f"train.gradient_dtype=bfloat16 would round what model.dtype={config.dtype} computes; "
            "use train.gradient_dtype=float32."
        )


def loss_and_gradient(config: ModelConfig, mesh, train, shardings, moved, frozen, batch):
    """The loss of a batch, sums for its metrics, and the gradient.

    With train.accumulate = A > 1 the rows are cut into A pieces and go through the model one after
    the other, so that activations need an Ath of the memory. Each piece counts by its answer
    tokens: the gradient is that of the whole batch, however unequal the pieces are.

    Args:
      config: of the model.
      mesh: of the batch.
      train: the `train` section of a config: accumulate, gradient_dtype, loss_blocks and z_loss
        count.
      shardings: of `moved`.
      moved, frozen: the parameters that are trained and the others.
      batch: see data/loader.py.

    Returns:
      loss: float32 scalar.
      sums: see `batch_loss`.
      gradient: like `moved`, in train.gradient_dtype.
    """
    dtype = jnp.dtype(train.gradient_dtype)
    answer_tokens = jnp.sum(batch["kinds"] == Kind.COMPLETION)
    point = _matrices_in_bfloat16(moved) if dtype == jnp.bfloat16 else moved

    def part(batch):
        def loss_fn(point):
            params = join(point, frozen)
            return batch_loss(params, config, batch, train.loss_blocks, train.z_loss, answer_tokens)

        (loss, sums), gradient = jax.value_and_grad(loss_fn, has_aux=True)(point)
        gradient = jax.tree.map(lambda x: x.astype(dtype), gradient)
        return loss, sums, jax.lax.with_sharding_constraint(gradient, shardings)

    if train.accumulate == 1:
        return part(batch)
    pieces = cut(batch, mesh, train.accumulate)

    def add(total, batch):
        return jax.tree.map(jnp.add, total, part(batch)), None

    shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], pieces))
    loss, sums, gradient = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    gradient = jax.lax.with_sharding_constraint(gradient, shardings)
    return jax.lax.scan(add, (loss, sums, gradient), pieces)[0]


def _matrices_in_bfloat16(params):
    """The parameters, matrices of the blocks in bfloat16.

    The model casts these matrices anyway. A gradient has the dtype of what it is taken by: cast
    before, the gradients of the blocks never exist in float32. The tables' add up over many tokens.
    """

    def cast(path, x):
        is_matrix = path[0].key == "layers" and not is_vector(path)
        return x.astype(jnp.bfloat16) if is_matrix else x

    return jax.tree.map_with_path(cast, params)


def cut(batch, mesh, pieces: int):
    """The arrays [B, L] of a batch as [pieces, B / pieces, L], every row on the device it is on."""
    shards = batch_shards(mesh)
    rows, length = batch_sharding(mesh).spec
    sharding = NamedSharding(mesh, PartitionSpec(None, rows, length))

    def cut_array(x_BxL):
        B, L = x_BxL.shape
        x = x_BxL.reshape(shards, pieces, B // shards // pieces, L)
        x = x.swapaxes(0, 1).reshape(pieces, B // pieces, L)
        return jax.lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(cut_array, batch)
