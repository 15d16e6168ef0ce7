"""Qwen3 0.6B on a v5e pod of 16 chips, all parameters.

    marker-lm plan --config=configs/qwen3_0p6b_v5e16.py
    launch/run.sh tpu-vm --config=configs/qwen3_0p6b_v5e16.py --workdir=gs://bucket/run \
        --zone=us-west4-a --config.init_from=gs://bucket/Qwen3-0.6B \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

The train step takes 2.6 GB a chip, of 16.9 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = pods.get_config(arg, "qwen3-0.6b", "v5e:4x4")
    c.mesh.update(data=1, fsdp=16)
    c.train.update(length=2048, batch=128, loss_blocks=32)
    c.train.update(learning_rate=1e-4, final_learning_rate=5e-5)
    return c.lock()
