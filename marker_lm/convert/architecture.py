"""A model's architecture without its weights: a config.json by itself, under any name.

configs/architectures has some. That is all that `marker-lm plan` needs: no weight is downloaded to
learn what a pod needs.
"""

from typing import NoReturn

import numpy as np
from etils import epath

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.pretrained import Pretrained
from marker_lm.convert.safetensors_file import read_json
from marker_lm.convert.source import Index


def open_architecture(path: epath.PathLike) -> Pretrained:
    """The model that a config.json describes; whoever asks for weights or tokenizer is refused.

    Raises ConvertError: there is no file, or it is no JSON object.
    """
    if not epath.Path(path).exists():
        raise ConvertError(f"there is no {path}; configs/architectures has such files.")
    refused = _Nothing(str(path))
    return Pretrained(
        path=str(path),
        config=read_json(epath.Path(path)),
        tensors=refused,
        generation={},
        load_tokenizer=refused.tokenizer,
    )


class _Nothing:
    """The tensors and the tokenizer that are not there. Whatever is asked for raises ConvertError.

    Attributes:
      path: of the config.json.
    """

    def __init__(self, path: str):
        self.path = path

    def names(self) -> list[str]:
        self._refuse("weights")

    def shape(self, name: str) -> tuple[int, ...]:
        self._refuse("weights")

    def dtype(self, name: str) -> np.dtype:
        self._refuse("weights")

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        self._refuse("weights")

    def tokenizer(self):
        self._refuse("tokenizer")

    def _refuse(self, what: str) -> NoReturn:
        raise ConvertError(
            f"{self.path} is a model's architecture alone and has no {what}, which `marker-lm plan`"
            " does without; name the folder with the model's weights and tokenizer: "
            "--config.init_from=/models/..."
        )
