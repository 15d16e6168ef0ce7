"""SentencePiece models: those trained here, which lose no text, and those of others."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import sentencepiece
from etils import epath

from marker_lm.data.tokenizers.base import PLAIN, TokenizerError, check_ids, check_text

SPACE_PIECE = "\u2581"  # SentencePiece writes a space with this character
MODEL_FILE = "tokenizer.model"
# Every way in which a tokenizer is known to lose text: runs of spaces, spaces at the borders,
# control characters, SentencePiece's own names, compositions, characters outside any vocabulary.
_PROBE = "  a\n\n\tb  <0x0A></s> ⁇ e\u0301\u00e9\uff21 \u4e00\U00010348\x00 "


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback.

    A model that puts a space before every text or removes spaces (Llama 2) has that switched off,
    with a line in the log, because spans are tokenized apart and joined; `model` and `save` have
    the changed model. A model that normalizes texts (NFKC) goes on doing so, and is not `lossless`.

    Attributes (besides those of `Tokenizer`):
      model: the bytes of the *.model file.
    """

    def __init__(self, model: bytes):
        """Raises TokenizerError for a model without eos, or that can't give plain texts back."""
        self._processor = _processor(bytes(model))
        self.model = _keep_spaces(bytes(model))
        if self.model != model:
            self._processor = _processor(self.model)
        processor = self._processor
        self.size = processor.vocab_size()
        self.eos_id = processor.eos_id()
        if self.eos_id < 0:
            raise TokenizerError("the SentencePiece model has no eos piece; train it with one")
        self.unk_id = processor.unk_id()
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.pad_id = processor.pad_id() if processor.pad_id() >= 0 else self.eos_id
        self.hash = hashlib.sha256(self.model).hexdigest()
        self._space_piece_ids = [
            processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_PIECE.encode("utf-8")
        ]
        self._control = {self.pad_id, self.eos_id, self.bos_id}
        ids = processor.encode(_PROBE)
        if self.unk_id in ids:
            raise TokenizerError(
                "the SentencePiece model does not know every character; it needs "
                "byte_fallback=True (`train_sentencepiece` sets it)"
            )
        if processor.decode(processor.encode(PLAIN)) != PLAIN:
            rule = parse_model(self.model).normalizer_spec.name
            raise TokenizerError(
                "the SentencePiece model does not even give a plain English text with two spaces "
                f"and line breaks back; its normalization rule is '{rule}', and 'identity' or "
                "'nfkc' would do"
            )
        self.lossless = processor.decode(ids) == _PROBE

    def encode(self, text: str) -> list[int]:
        check_text(text)
        if SPACE_PIECE in text:
            return self._encode_around_space_piece(text)
        return self._processor.encode(text)  # for a list it would start threads

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(texts)
        for text in texts:
            check_text(text)
        odd = {i: text for i, text in enumerate(texts) if SPACE_PIECE in text}
        if not odd:
            return self._processor.encode(texts)
        all_ids = self._processor.encode(["" if i in odd else t for i, t in enumerate(texts)])
        for i, text in odd.items():
            all_ids[i] = self._encode_around_space_piece(text)
        return all_ids

    def _encode_around_space_piece(self, text: str) -> list[int]:
        """U+2581 itself is written as its three bytes: as a piece it would decode to a space."""
        first, *rest = self._processor.encode(text.split(SPACE_PIECE))
        ids = list(first)
        for part in rest:
            ids += self._space_piece_ids + part
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        ids = [i for i in check_ids(ids, self.size) if i not in self._control]
        return self._processor.decode(ids)

    def piece(self, id: int) -> str:
        [id] = check_ids([id], self.size)
        named = {self.pad_id: "<pad>", self.eos_id: "<eos>"}
        return named.get(id) or self._processor.IdToPiece(id).replace(SPACE_PIECE, " ")

    def save(self, folder: epath.PathLike) -> None:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model)

    def __reduce__(self):
        return SentencePieceTokenizer, (self.model,)


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise TokenizerError(
            f"the bytes given are not a SentencePiece model ({error}); "
            "give the file that SentencePiece wrote (usually *.model)"
        ) from None
    return processor


def _keep_spaces(model: bytes) -> bytes:
    """The model without dummy prefix and with all spaces; the same bytes where it is so already."""
    proto = parse_model(model)
    spec = proto.normalizer_spec
    names = [
        name for name in ("add_dummy_prefix", "remove_extra_whitespaces") if getattr(spec, name)
    ]
    if not names:
        return model
    for name in names:
        setattr(spec, name, False)
    logging.getLogger(__name__).warning(
        "SentencePiece model: switched off for spans: %s", ", ".join(names)
    )
    return proto.SerializeToString()


def parse_model(model: bytes) -> Any:
    """The bytes of a *.model file as SentencePiece's ModelProto."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def load_sentencepiece(path: epath.PathLike) -> SentencePieceTokenizer:
    """The tokenizer of a `*.model` file; raises TokenizerError."""
    try:
        return SentencePieceTokenizer(epath.Path(path).read_bytes())
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
