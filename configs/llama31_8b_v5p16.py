"""Llama 3.1 8B on a v5p pod of 16 chips, all parameters.

    marker-lm plan --config=configs/llama31_8b_v5p16.py
    launch/run.sh tpu-vm --config=configs/llama31_8b_v5p16.py --workdir=gs://bucket/run \
        --zone=us-east5-a --config.init_from=gs://bucket/Llama-3.1-8B-Instruct \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

The train step takes 11.1 GB a chip, of 102.8 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = pods.get_config(arg, "llama3.1-8b", "v5p:2x2x4")
    c.mesh.update(data=1, fsdp=16)
    c.model.update(ff_blocks=8)
    c.train.update(length=4096, batch=32, loss_blocks=32)
    c.train.update(learning_rate=2e-5, final_learning_rate=1e-5)
    return c.lock()
