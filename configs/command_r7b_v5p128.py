"""Command R7B with the paper's hyper-parameters, on a v5p pod of 128 chips.

    marker-lm plan --config=configs/command_r7b_v5p128.py
    launch/run.sh tpu-vm --config=configs/command_r7b_v5p128.py --workdir=gs://bucket/run \
        --zone=us-east5-a --config.init_from=gs://bucket/c4ai-command-r7b-12-2024 \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

"Treasure Hunt" (arXiv 2506.14702, section 3.2) fine-tunes a 7B model of Cohere's for 8,000 steps,
two epochs of 2.7 million rows, in batches of 32. Those are 675 rows a step, so the 32 sequences are
long and packed; their length is not given, 8,192 tokens hold some 20 rows. With 32 sequences for
128 chips, four chips share one: each has a quarter of the heads and of the feed-forward.

The train step takes 26.0 GB a chip, of 102.8 (jax 0.10.2, libtpu 0.0.42.1).
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm."""
    c = pods.get_config(arg, "command-r7b", "v5p:4x4x8")
    c.mesh.update(data=1, fsdp=32, tensor=4)
    c.model.update(remat="none")  # there is room
    c.markers.update(example_dropout=0.5, marker_dropout=0.5)
    c.train.update(length=8192, batch=32, epochs=2, steps=8000, loss_blocks=8)
    c.train.update(learning_rate=2.5e-4, final_learning_rate=1.25e-4, warmup_steps=10)
    return c.lock()
