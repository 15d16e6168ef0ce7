"""Llama 3.1 8B on a v6e pod of 16 chips, all parameters.

    marker-lm plan --config=configs/llama31_8b_v6e16.py
    launch/run.sh tpu-vm --config=configs/llama31_8b_v6e16.py --workdir=gs://bucket/run \
        --zone=us-east5-b --config.init_from=gs://bucket/Llama-3.1-8B-Instruct \
        --config.data.tasks.rows.train=gs://bucket/rows.jsonl.gz

The train step takes 11.0 GB a chip, of 33.6 (jax 0.10.2, libtpu 0.0.42.1); with
`:economy` 9.1 GB, and 2.1 GB of the host's memory for the blocks' inputs.
"""

from configs import pods


def get_config(arg: str = ""):
    """`arg` is the arm, 'economy', or both: 'baseline,economy'."""
    words = [word for word in arg.split(",") if word != "economy"]
    if len(words) > 1:
        raise ValueError(f"llama31_8b_v6e16.py:{arg} is no ARM, economy or ARM,economy.")
    c = pods.get_config("".join(words), "llama3.1-8b", "v6e:4x4")
    c.mesh.update(data=1, fsdp=16)
    c.model.update(ff_blocks=8)
    c.train.update(length=8192, batch=16, loss_blocks=32)
    c.train.update(learning_rate=2e-5, final_learning_rate=1e-5)
    if "economy" in arg.split(","):
        c.model.update(remat="offload")
    return c.lock()
