"""Memory of a run on CPUs."""

import ctypes

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in malloc.h


def run_in_this_thread() -> None:
    """Lets CPUs run a step in the thread that asks for it; call it before JAX has any device.

    Elsewhere nothing changes. Nothing is lost either: the loop has no work beside a step on a CPU.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_memory() -> None:
    """Keeps the memory of a step for the next one, where a CPU trains in this thread.

    XLA asks for all temporaries of a step at once, anew in each step. The C library would give them
    back to the system after it, and fresh pages take an eighth of a small model's step. Only glibc
    can be told so; with others nothing changes.
    """
    if jax.default_backend() != "cpu":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # large pieces are of the heap too
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
