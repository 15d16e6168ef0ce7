"""Llama 3.2 1B on a v5e pod of 16 chips, all parameters.

    marker-lm plan --config=configs/llama32_1b_v5e16.py
    launch/run.sh tpu-vm --config=configs/llama32_1b_v5e16.py --workdir=gs://bucket/run \
        --zone=us-west4-a --config.init_from=gs://bucket/Llama-3.2-1B-Instruct \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

The train step takes 4.7 GB a chip, of 16.9 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = pods.get_config(arg, "llama3.2-1b", "v5e:4x4")
    c.mesh.update(data=1, fsdp=16)
    c.train.update(length=4096, batch=64, loss_blocks=32)
    c.train.update(learning_rate=5e-5, final_learning_rate=2.5e-5)
    return c.lock()
