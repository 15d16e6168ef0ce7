"""A pretrained model that can be opened: a Hugging Face folder or a GGUF file."""

import dataclasses
from collections.abc import Callable

from etils import epath

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.safetensors_file import SafetensorsSource, read_json
from marker_lm.convert.source import TensorSource
from marker_lm.data.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A pretrained model, opened but not read.

    Attributes:
      path: where it lies.
      config: as in config.json.
      tensors: the weights.
      generation: as in generation_config.json, {} where there is none.
      load_tokenizer: reads the tokenizer.
    """

    path: str
    config: dict
    tensors: TensorSource
    generation: dict
    load_tokenizer: Callable[[], Tokenizer]

    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer. Raises TokenizerError or FileNotFoundError."""
        return self.load_tokenizer()


def open_pretrained(path: epath.PathLike) -> Pretrained:
    """Opens a Hugging Face folder or a .gguf file, local or gs://.

    Raises ConvertError: it is not there, not whole, or neither of the two.
    """
    if str(path).endswith(".gguf"):
        from marker_lm.convert.gguf_file import open_gguf

        return open_gguf(path)
    folder = epath.Path(path)
    if not folder.is_dir():
        raise ConvertError(
            f"there is no checkpoint at '{path}'; give a Hugging Face folder (config.json and "
            "*.safetensors) or a .gguf file."
        )
    generation = folder / "generation_config.json"
    return Pretrained(
        path=str(path),
        config=read_json(folder / "config.json"),
        tensors=SafetensorsSource(folder),
        generation=read_json(generation) if generation.exists() else {},
        load_tokenizer=lambda: load_tokenizer(folder),
    )
