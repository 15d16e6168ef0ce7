"""The run of configs/command_r7b_v5p128.py on two v5e pods of 256 chips each.

    marker-lm plan --config=configs/command_r7b_2slices_v5e256.py
    launch/run.sh tpu-vm --config=configs/command_r7b_2slices_v5e256.py --workdir=gs://bucket/run \
        --zone=us-west4-a --config.init_from=gs://bucket/c4ai-command-r7b-12-2024 \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

The pods are replicas: only gradients go over the data centre's network. A pod has 16 sequences for
256 chips, so two chips share a sequence, and eight share the heads and the feed-forward.

The train step takes 9.7 GB a chip, of 16.9 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import command_r7b_v5p128


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = command_r7b_v5p128.get_config(arg).unlock()
    c.topology = "v5e:16x16*2"
    c.mesh.update(slice=2, data=1, fsdp=16, context=2, tensor=8)
    return c.lock()
