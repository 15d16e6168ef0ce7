"""A process that trains on CPUs keeps the memory of a step."""

import platform
import subprocess
import sys

import jax
import pytest

from marker_lm.training import host_memory

FAULTS = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from marker_lm.training.host_memory import keep_memory, run_in_this_thread
if sys.argv[1] == "kept":
    run_in_this_thread()
    keep_memory()
step = jax.jit(lambda x: jnp.sort(jnp.sin(x[:, None] + x) @ jnp.cos(x[:, None] + x)).sum())
x = jnp.arange(3000.0)
step(x).block_until_ready()
faults = []
for _ in range(7):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults))  # the heap may grow once or twice more
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_step_asks_the_system_for_no_fresh_pages():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 3000 * 3000 * 4 // 4096  # of one array of the step: over 32 MiB, so always mapped
    assert faults("kept") < pages < faults("as it is")


def test_only_where_a_cpu_trains(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: pytest.fail("asked the C library"))
    host_memory.keep_memory()
