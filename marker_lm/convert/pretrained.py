"""What a pretrained model is before it is read."""

import dataclasses
from collections.abc import Callable

from marker_lm.convert.source import TensorSource
from marker_lm.data.tokenizers.base import Tokenizer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A pretrained model, opened but not read.

    Attributes:
      path: where it lies.
      config: as in config.json.
      tensors: the weights.
      generation: as in generation_config.json, {} where there is none.
      load_tokenizer: reads the tokenizer.
      about: as in marker_lm.json, {} where the model was not exported from a run.
    """

    path: str
    config: dict
    tensors: TensorSource
    generation: dict
    load_tokenizer: Callable[[], Tokenizer]
    about: dict = dataclasses.field(default_factory=dict)

    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer. Raises TokenizerError, FileNotFoundError or ConvertError."""
        return self.load_tokenizer()

    def need_weights(self) -> None:
        """Raises ConvertError where there is an architecture alone, see convert/architecture.py."""
        self.tensors.names()
