"""What the recipes for pods share: whole models, fine-tuned with markers in their own template."""

from pathlib import Path

from ml_collections import ConfigDict

from configs import default

ARCHITECTURES = Path(__file__).resolve().parent / "architectures"


def get_config(arm: str, architecture: str, topology: str) -> ConfigDict:
    """An unlocked config.

    Args:
      arm: as in configs/default.py.
      architecture: a file of configs/architectures. `marker-lm plan` needs no more; to train,
        `init_from` names the folder with the model's weights and tokenizer.
      topology: the pod.
    """
    c = default.get_config(arm).unlock()
    c.init_from = str(ARCHITECTURES / f"{architecture}.json")
    c.template = "text"  # markers as words that the model knows already
    c.data.tokenizer = "pretrained"
    c.data.chat.template = "model"
    c.topology = topology
    c.model.update(dtype="bfloat16", param_dtype="float32", scan=True, remat="full")
    c.train.update(gradient_dtype="bfloat16", save_minutes=15.0, keep_every=2000)
    return c
