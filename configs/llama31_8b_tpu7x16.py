"""Llama 3.1 8B on 16 chips of TPU7x, all parameters.

    marker-lm plan --config=configs/llama31_8b_tpu7x16.py
    launch/run.sh gke --config=configs/llama31_8b_tpu7x16.py --workdir=gs://bucket/run \
        --image=REGISTRY/marker-lm:1 --config.init_from=gs://bucket/Llama-3.1-8B-Instruct \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

JAX shows each chip as two devices.

The train step takes 104.8 GB a chip, of 203.5 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = pods.get_config(arg, "llama3.1-8b", "tpu7x:2x2x4")
    c.mesh.update(data=1, fsdp=32)
    c.model.update(remat="dots")  # there is room
    c.train.update(length=8192, batch=64, loss_blocks=32)
    c.train.update(learning_rate=2e-5, final_learning_rate=1e-5)
    return c.lock()
