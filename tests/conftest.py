"""Settings that must stand before jax or tensorflow is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The tests compile much and compute little.
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_backend_optimization_level=1",
    ]
).strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
