"""What is asked of a run from outside, and that all its processes hear of it at the same step."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from marker_lm.sharding.rules import replicated


@contextlib.contextmanager
def remember(number: int) -> Iterator[Callable[[], bool]]:
    """Inside, a signal is only remembered; yields a function that says whether it came."""
    came: list[int] = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(number, before)


def make_any_process(mesh: Mesh) -> Callable[[Sequence[bool]], jax.Array]:
    """Returns wishes of this process -> bool[wishes], which of them any process has.

    All processes must call it, each time in the same place. The answer comes from the devices: who
    looks at it waits for all that was given to them before.
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    any_of = jax.jit(lambda wishes_DxW: wishes_DxW.any(0), out_shardings=replicated(mesh))

    def any_process(wishes: Sequence[bool]) -> jax.Array:
        ours = np.asarray([wishes], bool)
        shape = (mesh.size, len(wishes))
        return any_of(jax.make_array_from_callback(shape, sharding, lambda _: ours))

    return any_process
