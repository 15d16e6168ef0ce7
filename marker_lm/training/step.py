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
from marker_lm.sharding.mesh import compiler_options
from marker_lm.sharding.rules import (
    batch_sharding,
    laid_out,
    param_shardings,
    tree_shardings_like,
    use_mesh,
)
from marker_lm.training import gradient, guard, rounding
from marker_lm.training.guard import new_guard
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
    """A new state: {'params', 'opt_state', 'guard', 'step' int32}.

    `pretrained` has parameters that are not to be made; those that it lacks are.
    """
    params = init_params(config, key)
    if pretrained is not None:
        params = join(params, pretrained)
    moved, _ = split(params, trained or trained_paths(config))
    return {
        "params": params,
        "opt_state": optimizer.init(moved),
        "guard": new_guard(),
        "step": jnp.int32(0),
    }


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


def abstract_batch(train, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a global batch: what a step is lowered with.

    Args:
      train: the `train` section of a config.
      mesh: that the batch is laid out on.
    """

    def array(dtype):
        shape = (train.batch, train.length)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))

    names = ("tokens", "targets", "segment_ids", "positions", "kinds")
    return {name: array(jnp.int32) for name in names} | {"weights": array(jnp.float32)}


def make_train_step(
    config: ModelConfig, optimizer, mesh, train, trained: Trained = None, seed: int = 0
):
    """Returns jitted (state, batch) -> (state, metrics); the state is donated.

    Metrics are float32 scalars: loss, grad_norm (of what is trained, before it is clipped), sums of
    nats and tokens by kind, and those of `guard.judge`. The function's `lower(abstract_state,
    abstract_batch)` is that of `jax.jit`.

    Args:
      config: of the model.
      optimizer: see `make_optimizer`.
      mesh: that state and batch are laid out on.
      train: the `train` section of a config.
      trained: see above.
      seed: of stochastic rounding.

    Raises:
      ValueError: values of `train` that do not go together, or not with model or mesh.
    """
    gradient.check(config, mesh, train)
    guard.check(train)
    trained = trained or trained_paths(config)
    abstract = abstract_state(config, optimizer, mesh, trained)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    moved_shardings, _ = split(shardings["params"], trained)
    if train.stochastic_rounding:
        rounding.check(split(abstract["params"], trained)[0])

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, None),
        compiler_options=compiler_options(mesh),
    )
    def train_step(state, batch):
        moved, frozen = split(state["params"], trained)
        loss, sums, grads = gradient.loss_and_gradient(
            config, mesh, train, moved_shardings, moved, frozen, batch
        )
        grad_norm = optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), grads))
        sound, after, facts = guard.judge(state["guard"], loss, grad_norm, train)

        updates, opt_state = jax.lax.with_sharding_constraint(
            optimizer.update(grads, state["opt_state"], moved),
            (moved_shardings, shardings["opt_state"]),
        )
        if train.stochastic_rounding:
            key = rounding.step_key(seed, state["step"])
            new = rounding.apply_updates(moved, updates, key)
        else:
            new = optax.apply_updates(moved, updates)
        if train.on_spike == "skip":
            old = moved, state["opt_state"]
            new, opt_state = jax.tree.map(
                lambda x, y: jnp.where(sound, x, y), (new, opt_state), old
            )
        state = {
            "params": join(new, frozen),
            "opt_state": opt_state,
            "guard": after,
            "step": state["step"] + 1,
        }
        return state, {"loss": loss, "grad_norm": grad_norm, **sums, **facts}

    return _traced_on(mesh, train_step)


def make_eval_step(config: ModelConfig, mesh, train):
    """Returns jitted (params, batch) -> sums of nats and tokens by kind."""

    @functools.partial(jax.jit, in_shardings=(param_shardings(config, mesh), batch_sharding(mesh)))
    def eval_step(params, batch):
        return batch_loss(params, config, batch, train.loss_blocks)[1]

    return _traced_on(mesh, eval_step)


def _traced_on(mesh, function):
    """Calls and lowers `function` with the mesh current: constraints on activations hold."""

    def on_mesh(run):
        @functools.wraps(run)
        def call(*args):
            with use_mesh(mesh):
                return run(*args)

        return call

    call = on_mesh(function)
    call.lower = on_mesh(function.lower)
    return call
