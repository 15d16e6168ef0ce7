"""The same loop on real text: instruction rows of many sources, a small model from scratch, on CPU.

    for ARM in markers baseline; do
      marker-lm train --config=configs/mix.py:$ARM,/data/mix --workdir=/tmp/mix/$ARM \
          --config.data.prepared=/tmp/mix/data
    done
    marker-lm evaluate --config=configs/mix.py:markers,/data/mix --out=/tmp/mix/report \
        --arm=markers=/tmp/mix/markers --arm=baseline=/tmp/mix/baseline

Any folder will do that has train*.jsonl.gz and heldout*.jsonl.gz with rows of this form:
instruction, input, output, language, domain [..], task [..], code_language, format, words.
"""

from configs import default


def get_config(arg: str = "markers,data/mix"):
    """`arg` is ARM,FOLDER."""
    arm, _, folder = arg.partition(",")
    c = default.get_config(arm or "markers").unlock()
    c.taxonomy = "configs/mix.yaml"
    c.template = "compact"
    c.plan_arms = ("markers", "baseline", "shuffled")
    c.data.tasks = {
        "mix": {
            "train": f"{folder or 'data/mix'}/train*.jsonl.gz",
            "heldout": f"{folder or 'data/mix'}/heldout*.jsonl.gz",
            "rate": 1.0,
        }
    }
    with c.data.rows.ignore_type():  # several fields make the prompt, and a mapping the markers
        c.data.rows.update(
            prompt=("instruction", "input"),
            completion="output",
            markers={
                "domain": "domain[0]",
                "task": "task[0]",
                "lang": "language",
                "code_type": "code_language",
                "format": "format",
                "length_tokens": "words",
            },
            cut_at={"domain": " -> ", "task": " -> "},
            value_maps={
                "format": {
                    "plain": "Plain",
                    "markdown": "Markdown",
                    "code_block": "Code",
                    "list": "Enumeration",
                    "table": "Tabular",
                    "json": "JSON",
                }
            },
        )
    levers = ("code_type", "domain", "format", "lang", "length_bucket", "task")
    c.markers.prompt_side = levers
    c.markers.completion_side = levers
    c.data.share = 0.02  # about 6,000 rows
    c.data.vocab_size = 8192
    c.model.update(width=192, layers=4, heads=6, kv_heads=3, head_size=32, ff=512)
    c.model.update(dtype="float32", scan=False)
    c.train.update(length=512, batch=8, epochs=2, learning_rate=2e-3, final_learning_rate=1e-4)
    c.train.update(warmup_steps=30, eval_every=100, save_every=100, loss_blocks=16)
    c.decode.update(batch=32, max_tokens=64)
    c.eval.update(rows=100, tail_share=0.05)
    return c.lock()
