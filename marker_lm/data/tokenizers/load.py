"""A tokenizer from the name of its file or folder."""

from etils import epath

from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.tokenizers.bytes import BYTES_FILE, ByteTokenizer
from marker_lm.data.tokenizers.hf import TOKENIZER_FILE, load_hf
from marker_lm.data.tokenizers.sentencepiece import MODEL_FILE, load_sentencepiece


def load_tokenizer(spec: epath.PathLike) -> Tokenizer:
    """'bytes', a SentencePiece `*.model` file, a tokenizer.json, or a folder with a tokenizer.

    A folder is one that `save` wrote, or one of Hugging Face; where it has a tokenizer.json and a
    SentencePiece model, the first counts. Local or gs://.

    Raises FileNotFoundError or TokenizerError, each with one sentence.
    """
    if str(spec) == "bytes":
        return ByteTokenizer()
    path = epath.Path(spec)
    if path.name == TOKENIZER_FILE:
        path = path.parent
    elif path.is_file():
        return load_sentencepiece(path)
    if (path / TOKENIZER_FILE).is_file():
        return load_hf(path)
    if (path / MODEL_FILE).is_file():
        return load_sentencepiece(path / MODEL_FILE)
    if (path / BYTES_FILE).is_file():
        return ByteTokenizer()
    if path.is_dir():
        raise FileNotFoundError(
            f"the folder '{path}' holds no tokenizer ('{TOKENIZER_FILE}', '{MODEL_FILE}' or "
            f"'{BYTES_FILE}'); give a Hugging Face folder, or one that `marker-lm prepare` wrote"
        )
    raise FileNotFoundError(
        f"there is no tokenizer at '{spec}'; give 'bytes', a SentencePiece *.model file, "
        "or a folder with a tokenizer"
    )
