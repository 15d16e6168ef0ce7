"""What XLA needs to be told on CPUs."""

import jax


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit`, such that little memory is used at once; elsewhere none.

    Its own order would widen all int8 matrices of a step before it multiplies by the first.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
