"""The compiled parts of decoding with a model's parameters, on its mesh."""

import functools

import jax
import numpy as np

from marker_lm.decoding import steps
from marker_lm.decoding.lengths import Units, no_units
from marker_lm.decoding.steps import Answers, Feed, State, Written
from marker_lm.model.cache import with_size
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import compiler_options
from marker_lm.sharding.rules import batch_shards, replicated, use_mesh


class Programs:
    """Each is compiled once for every shape that it meets; the sizes in slots.py keep those few.

    Args:
      params: parameters on the mesh.
      config: the model's.
      mesh: where the parameters live.
      ends: ids that end an answer.
      size: of the tokenizer: ids from here on are reserved for markers.
      cache: dtype of the cache, the compute dtype if ''.
    """

    def __init__(
        self, params, config: ModelConfig, mesh, ends: tuple[int, ...], size: int, cache: str = ""
    ):
        self.params, self.config, self.mesh = params, config, mesh
        dtype = cache or None
        self.measure(no_units(config.vocab))
        jit = functools.partial(jax.jit, compiler_options=compiler_options(mesh))
        self._empty = jit(
            functools.partial(steps.empty, config, dtype), static_argnames=("rows", "size")
        )
        self._read = jit(functools.partial(steps.read, config, dtype))
        self._put = jit(steps.put, donate_argnums=0)
        self._fit = jit(fit, static_argnums=1)
        self._write = jit(functools.partial(steps.write, config, ends, size), donate_argnums=2)
        self._pick = jit(steps.pick)

    def measure(self, units: Units) -> None:
        """Says by what answers are held to a length."""
        self._units = jax.device_put(units, replicated(self.mesh))

    def prompt_rows(self, most: int) -> int:
        """How many prompts are read at a time where there are `most` slots: one for each group of
        devices that shares a part of the batch. So no row is read because others are, and one gets
        the same numbers whoever else is there."""
        return min(batch_shards(self.mesh), most)

    def empty(self, rows: int, size: int) -> State:
        """Slots without rows."""
        with use_mesh(self.mesh):
            return self._empty(rows=rows, size=size)

    def fit(self, state: State, size: int) -> State:
        """The slots with a cache of another size."""
        with use_mesh(self.mesh):
            return self._fit(state, size)

    def read(self, tokens_PxL, real_PxL) -> State:
        """See `steps.read`."""
        with use_mesh(self.mesh):
            return self._read(self.params, tokens_PxL, real_PxL)

    def put(self, state: State, rows: State, at_P) -> State:
        """See `steps.put`. Takes the state; the rows can be put again."""
        with use_mesh(self.mesh):
            return self._put(state, rows, at_P)

    def write(
        self, state: State, feed: Feed, answers: Answers, count: int, hasty: bool
    ) -> tuple[State, Written]:
        """See `steps.write`; what was written is on the host. Takes the state."""
        with use_mesh(self.mesh):
            state, written = self._write(
                self.params, self._units, state, feed, answers, np.int32(count), np.bool_(hasty)
            )
        return state, jax.device_get(written)

    def pick(self, state: State, ids_RxA) -> np.ndarray:
        """See `steps.pick`; on the host."""
        with use_mesh(self.mesh):
            return np.asarray(self._pick(state.logits_RxV, ids_RxA))


def fit(state: State, size: int) -> State:
    return state._replace(cache=with_size(state.cache, size))
