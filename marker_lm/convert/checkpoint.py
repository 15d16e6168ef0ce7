"""A pretrained model that can be opened: a Hugging Face folder, a GGUF file, an architecture."""

from etils import epath
from ml_collections import ConfigDict

from marker_lm.convert.architecture import open_architecture
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.gguf_file import open_gguf
from marker_lm.convert.pretrained import Pretrained
from marker_lm.convert.safetensors_file import SafetensorsSource, read_json
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.tokenizers.load import load_tokenizer

# Beside the files of Hugging Face, in a folder that was exported from a run.
TAXONOMY_FILE = "taxonomy.yaml"
ABOUT_FILE = "marker_lm.json"
TOKENIZER_FOLDER = "marker_lm_tokenizer"


def open_init_from(config: ConfigDict) -> Pretrained | None:
    """The pretrained model that a training config begins from; None where it begins from nothing.

    Raises ConvertError as `open_pretrained`.
    """
    return open_pretrained(config.init_from) if config.init_from else None


def config_tokenizer(config: ConfigDict, pretrained: Pretrained | None = None) -> Tokenizer | None:
    """The pretrained model's tokenizer, where a training config asks for it; else None.

    `pretrained` is what the config begins from, where it has been opened already.
    """
    if config.data.tokenizer != "pretrained":
        return None
    pretrained = pretrained or open_init_from(config)
    return pretrained and pretrained.tokenizer()


def open_pretrained(path: epath.PathLike) -> Pretrained:
    """Opens a Hugging Face folder or a .json file of an architecture alone, local or gs://, or a
    .gguf file on a local disk.

    Raises ConvertError: it is not there, not whole, or none of the three.
    """
    if str(path).endswith(".gguf"):
        return open_gguf(path)
    if str(path).endswith(".json"):
        return open_architecture(path)
    folder = epath.Path(path)
    if not folder.is_dir():
        raise ConvertError(
            f"there is no checkpoint at '{path}'; give a Hugging Face folder (config.json and "
            "*.safetensors) or a .gguf file."
        )
    generation, about, own = (
        folder / name for name in ("generation_config.json", ABOUT_FILE, TOKENIZER_FOLDER)
    )
    return Pretrained(
        path=str(path),
        config=read_json(folder / "config.json"),
        tensors=SafetensorsSource(folder),
        generation=read_json(generation) if generation.exists() else {},
        load_tokenizer=lambda: load_tokenizer(own if own.exists() else folder),
        about=read_json(about) if about.exists() else {},
    )
