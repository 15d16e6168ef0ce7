"""Tokenizers: text to ids and back, exactly. TensorFlow is not needed.

Both kinds shipped here turn any text into ids that decode to the very same text. Reserved
marker ids lie above `size` and are never produced by `encode`.
"""

import hashlib
import heapq
import io
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Protocol, runtime_checkable

import sentencepiece
from etils import epath

_SPACE_PIECE = "\u2581"  # SentencePiece writes a space with this character
_MODEL_FILE = "tokenizer.model"
_BYTES_FILE = "tokenizer.bytes"
# Every way in which a tokenizer is known to lose text: runs of spaces, spaces at the borders,
# control characters, SentencePiece's own names, compositions, characters outside any vocabulary.
_PROBE = "  a\n\n\tb  <0x0A></s> ⁇ e\u0301\u00e9\uff21 \u4e00\U00010348\x00 "


class TokenizerError(ValueError):
    """A text or a tokenizer model that cannot be used; the message is one sentence."""


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of marker_lm needs of a tokenizer."""

    size: int  # ids are 0 .. size - 1
    pad_id: int
    eos_id: int
    bos_id: int | None
    unk_id: int
    hash: str  # hexadecimal; equal for equal tokenizers

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without bos or eos; `decode(encode(text)) == text`."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, faster."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; pad, bos and eos are nothing, broken bytes become U+FFFD."""

    def piece(self, id: int) -> str:
        """What one id stands for: its characters, '<0xE3>' for a lone byte, '<eos>'."""

    def save(self, folder: epath.PathLike) -> None:
        """Writes what `load_tokenizer(folder)` reads."""


def _check_text(text: str) -> bytes:
    """UTF-8 of `text`; raises TokenizerError for a lone surrogate, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
            f"{error.start}), which no UTF-8 text can hold; repair or leave out this text"
        ) from None


def _check_ids(ids: Iterable[int], size: int) -> list[int]:
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < size:
            raise TokenizerError(
                f"the id {i} is outside this tokenizer (0 to {size - 1}); "
                "reserved marker ids are read by the marker codec, not by the tokenizer"
            )
    return ids


class ByteTokenizer:
    """UTF-8 bytes as ids: pad 0, eos 1, unk 2, byte b is 3 + b."""

    size = 259
    pad_id = 0
    eos_id = 1
    bos_id = None
    unk_id = 2
    hash = hashlib.sha256(b"marker_lm bytes, offset 3").hexdigest()

    def encode(self, text: str) -> list[int]:
        return [3 + b for b in _check_text(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        ids = _check_ids(ids, self.size)
        raw = b"".join(bytes([i - 3]) if i >= 3 else b"\xff" if i == 2 else b"" for i in ids)
        return raw.decode("utf-8", errors="replace")

    def piece(self, id: int) -> str:
        [id] = _check_ids([id], self.size)
        if id < 3:
            return ("<pad>", "<eos>", "<unk>")[id]
        return chr(id - 3) if id - 3 < 128 else f"<0x{id - 3:02X}>"

    def save(self, folder: epath.PathLike) -> None:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _BYTES_FILE).write_text(self.hash + "\n")


class SentencePieceTokenizer:
    """A SentencePiece model that loses no text: byte fallback, no normalisation, no added space.

    Raises TokenizerError for a model that cannot give every text back.
    """

    def __init__(self, model: bytes):
        self.model = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise TokenizerError(
                f"the bytes given are not a SentencePiece model ({error}); "
                "give the file that SentencePiece wrote (usually *.model)"
            ) from None
        processor = self._processor
        self.size = processor.vocab_size()
        self.eos_id = processor.eos_id()
        self.unk_id = processor.unk_id()
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.pad_id = max(processor.pad_id(), 0)
        self.hash = hashlib.sha256(self.model).hexdigest()
        self._space_piece_ids = [
            processor.piece_to_id(f"<0x{b:02X}>") for b in _SPACE_PIECE.encode("utf-8")
        ]
        self._control = {i for i in (processor.pad_id(), self.eos_id, self.bos_id) if i is not None}
        if self.eos_id < 0:
            raise TokenizerError("the SentencePiece model has no eos piece; train it with one")
        ids = processor.encode(_PROBE)
        if self.unk_id in ids or processor.decode(ids) != _PROBE:
            raise TokenizerError(
                "the SentencePiece model does not give every text back as it was; it needs "
                "byte_fallback=True, normalization_rule_name='identity', add_dummy_prefix=False "
                "and remove_extra_whitespaces=False (`train_sentencepiece` sets these)"
            )

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(texts)
        for text in texts:
            _check_text(text)
        odd = {i: text for i, text in enumerate(texts) if _SPACE_PIECE in text}
        if not odd:
            return self._processor.encode(texts)
        all_ids = self._processor.encode(["" if i in odd else t for i, t in enumerate(texts)])
        for i, text in odd.items():
            all_ids[i] = self._encode_around_space_piece(text)
        return all_ids

    def _encode_around_space_piece(self, text: str) -> list[int]:
        """U+2581 itself is written as its three bytes: as a piece it would decode to a space."""
        first, *rest = self._processor.encode(text.split(_SPACE_PIECE))
        ids = list(first)
        for part in rest:
            ids += self._space_piece_ids + part
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        ids = [i for i in _check_ids(ids, self.size) if i not in self._control]
        return self._processor.decode(ids)

    def piece(self, id: int) -> str:
        [id] = _check_ids([id], self.size)
        named = {self.pad_id: "<pad>", self.eos_id: "<eos>"}
        return named.get(id) or self._processor.IdToPiece(id).replace(_SPACE_PIECE, " ")

    def save(self, folder: epath.PathLike) -> None:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MODEL_FILE).write_bytes(self.model)

    def __reduce__(self):
        return SentencePieceTokenizer, (self.model,)


def load_tokenizer(spec: epath.PathLike) -> Tokenizer:
    """'bytes', a SentencePiece `*.model` file, or a folder written by `save`.

    Raises FileNotFoundError or TokenizerError, each with one sentence.
    """
    if str(spec) == "bytes":
        return ByteTokenizer()
    path = epath.Path(spec)
    if path.is_file():
        return SentencePieceTokenizer(path.read_bytes())
    if (path / _MODEL_FILE).is_file():
        return SentencePieceTokenizer((path / _MODEL_FILE).read_bytes())
    if (path / _BYTES_FILE).is_file():
        return ByteTokenizer()
    if path.is_dir():
        raise FileNotFoundError(
            f"the folder '{spec}' holds no tokenizer ('{_MODEL_FILE}' or '{_BYTES_FILE}'); "
            "give a folder that `marker-lm prepare` wrote"
        )
    raise FileNotFoundError(
        f"there is no tokenizer at '{spec}'; give 'bytes', a SentencePiece *.model file, "
        "or a folder with a saved tokenizer"
    )


def _training_lines(texts: Iterable[str], max_chars: int) -> Iterator[str]:
    """Texts, cut where they are long: the trainer leaves overlong ones out without a word."""
    for text in texts:
        _check_text(text)
        text = text.replace("\0", "")  # the trainer keeps U+0000 for its own use
        for start in range(0, len(text), max_chars):
            yield text[start : start + max_chars]


def _sample(texts: Iterable[str], most: int) -> Iterable[str]:
    """`most` of the texts, 0 for all. The trainer's own sample is another one in every run."""
    random = Random(0)
    return heapq.nsmallest(most, texts, key=lambda _: random.random()) if most else texts


def train_sentencepiece(
    texts: Iterable[str],
    size: int,
    *,
    model_type: str = "unigram",
    character_coverage: float = 0.9995,
    max_texts: int = 0,
    threads: int = 2,
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model of at most `size` pieces that gives every text back.

    Whole texts are given to the trainer, newlines included, so pieces may span a newline: on
    multilingual instructions this takes 3 % fewer tokens than newlines as symbols of their own.
    `max_texts` > 0 trains on a random sample of that many texts, always the same of the same texts.
    Ids: pad 0, eos 1, unk 2, no bos.
    Raises TokenizerError when there is too little text, or too small a size, for a model.
    """
    model = io.BytesIO()
    errors: list[Exception] = []

    def lines() -> Iterator[str]:
        try:
            yield from _training_lines(_sample(texts, max_texts), max_chars=4096)
        except Exception as error:
            errors.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            required_chars=_SPACE_PIECE + "0123456789.-",
            split_digits=True,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            max_sentence_length=1 << 20,
            num_threads=threads,
            minloglevel=2,
        )
    except (RuntimeError, StopIteration) as error:
        if errors:  # the trainer makes a text of its own of what the texts raise
            raise errors[0] from None
        raise TokenizerError(
            f"SentencePiece could not train a model of {size} pieces ({error}); "
            "give more text, or a size of at least 259 plus the number of characters"
        ) from None
    return SentencePieceTokenizer(model.getvalue())
