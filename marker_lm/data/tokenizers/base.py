"""What a tokenizer is, and the checks that all kinds share.

Reserved marker ids lie above `size` and are never produced by `encode`.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from etils import epath

# A text that every tokenizer of a model that writes text gives back.
PLAIN = "A plain text (of 1999):\nit's here,  and there.\n"


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
    lossless: bool  # whether decode(encode(text)) == text for every text

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without bos or eos."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, faster."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; pad, bos and eos are nothing, broken bytes become U+FFFD."""

    def piece(self, id: int) -> str:
        """What one id stands for: its characters, '<0xE3>' for a lone byte, '<eos>'."""

    def save(self, folder: epath.PathLike) -> None:
        """Writes what `load_tokenizer(folder)` reads."""


def check_text(text: str) -> bytes:
    """UTF-8 of `text`; raises TokenizerError for a lone surrogate, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
            f"{error.start}), which no UTF-8 text can hold; repair or leave out this text"
        ) from None


def check_ids(ids: Iterable[int], size: int) -> list[int]:
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < size:
            raise TokenizerError(
                f"the id {i} is outside this tokenizer (0 to {size - 1}); "
                "reserved marker ids are read by the marker codec, not by the tokenizer"
            )
    return ids
