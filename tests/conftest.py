"""Settings that must stand before jax or tensorflow is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # On a busy machine a device may wait long for the others.
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        # The tests compile much and compute little.
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_backend_optimization_level=1",
    ]
).strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
