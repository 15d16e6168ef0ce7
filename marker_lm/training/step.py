"""The training state and the one jitted step that moves it.

`trained` are the paths of the parameters that training moves; None is `trained_paths(config)`: all,
or LoRA's factors. The state holds all parameters, and moments of the trained ones only.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import init_params
from marker_lm.sharding.rules import (
    batch_sharding,
    batch_shards,
    laid_out,
    param_shardings,
    tree_shardings_like,
    use_mesh,
)
from marker_lm.training.loss import batch_loss
from marker_lm.training.trainable import join, split, trained_paths

Trained = frozenset[str] | None


def init_state(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    key,
    pretrained=None,
    trained: Trained = None,
):
    """A new state: {'params', 'opt_state', 'step' int32}.

    `pretrained` has parameters that are not to be made; those that it lacks are.
    """
    params = init_params(config, key)
    if pretrained is not None:
        params = join(params, pretrained)
    moved, _ = split(params, trained or trained_paths(config))
    return {"params": params, "opt_state": optimizer.init(moved), "step": jnp.int32(0)}


def abstract_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh, trained: Trained = None
):
    """The state's shapes, dtypes and shardings: what jit, restore and the plan all start from."""
    shapes = jax.eval_shape(
        lambda key: init_state(config, optimizer, key, trained=trained), jax.random.key(0)
    )
    shardings = tree_shardings_like(shapes, shapes["params"], param_shardings(config, mesh), mesh)
    return laid_out(shapes, shardings)


def new_state(
    config: ModelConfig,
    optimizer,
    mesh,
    seed: int,
    pretrained=None,
    trained: Trained = None,
):
    """A fresh state, every parameter made on the devices that hold it.

    `pretrained` has parameters that are taken over, without a copy; it can't be used afterwards.
    """
    abstract = abstract_state(config, optimizer, mesh, trained)
    init = jax.jit(
        functools.partial(init_state, config, optimizer, trained=trained),
        out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
        donate_argnums=1,
    )
    with use_mesh(mesh):
        return init(jax.random.key(seed), pretrained)


def make_train_step(config: ModelConfig, optimizer, mesh, blocks: int, trained: Trained = None):
    """Returns jitted (state, batch) -> (state, metrics); the state is donated.

    Metrics are float32 scalars: loss, grad_norm (of what is trained), and sums of nats and tokens
    by kind.
    """
    trained = trained or trained_paths(config)
    abstract = abstract_state(config, optimizer, mesh, trained)
    state_shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def loss_fn(moved, frozen, batch):
        return batch_loss(join(moved, frozen), config, batch, blocks, batch_shards(mesh))

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, None),
    )
    def train_step(state, batch):
        moved, frozen = split(state["params"], trained)
        (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(moved, frozen, batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"], moved)
        params = join(optax.apply_updates(moved, updates), frozen)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), **sums}
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return _traced_on(mesh, train_step)


def make_eval_step(config: ModelConfig, mesh, blocks: int):
    """Returns jitted (params, batch) -> sums of nats and tokens by kind."""

    @functools.partial(jax.jit, in_shardings=(param_shardings(config, mesh), batch_sharding(mesh)))
    def eval_step(params, batch):
        return batch_loss(params, config, batch, blocks, batch_shards(mesh))[1]

    return _traced_on(mesh, eval_step)


def _traced_on(mesh, function):
    """Calls `function` with the mesh current, so that constraints on activations hold."""

    @functools.wraps(function)
    def call(*args):
        with use_mesh(mesh):
            return function(*args)

    return call
