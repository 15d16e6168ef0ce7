"""Any tokenizer as a tokenizer.json, with reserved tokens for markers, so that others can serve it.

The forms that SentencePiece models take there are those that transformers gives them
(convert_slow_tokenizer.py).
"""

import base64
import json
from collections.abc import Iterable
from typing import Any

from marker_lm.data.tokenizers.base import PLAIN, Tokenizer, TokenizerError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.hf import BYTE_CHARACTERS, HFTokenizer
from marker_lm.data.tokenizers.json_content import Content
from marker_lm.data.tokenizers.sentencepiece import (
    SPACE_PIECE,
    SentencePieceTokenizer,
    parse_model,
)
from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.markers.template import reserved_tokens

# The kinds of SentencePiece's ModelProto.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_UNIGRAM, _BPE = 1, 2
# The library takes the name of a byte piece in a text for that piece, unless it is cut before.
_BYTE_NAME = r"<(?=0x[0-9A-F]{2}>)"
_PROBES = (
    PLAIN,
    "",
    " ",
    "\n\n\t x  y   z \r\n",
    '<x0A> <b> [1, 2.5, -3e-7] {"key": null}',
    "Schlüssel: Größe, ¿qué tal? Ça va, naïve façade.",
    "def f(x):\n    return x ** 12345  # 0123456789\n",
    "ประเทศไทย คือ อะไร 日本の首都は東京です。 大韓民國 안녕하세요",
    "የኢትዮጵያ ሕዝብ नमस्ते दुनिया שלום مرحبا Привет мир",
    "\x00\x01\x7f\u200b\u2028\ufeff\ufffd e\u0301 \ufb01 \uff21 \U00010348",
    "\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaa ababababababab \\/\\/\\/ ----====----",
)


def with_marker_tokens(tokenizer: Tokenizer, taxonomy: Taxonomy) -> HFTokenizer:
    """The tokenizer as a tokenizer.json, with the reserved tokens of the compact template.

    They are added special tokens under the names of `markers.template.reserved_tokens`, with the
    ids that `MarkerCodec` gives them: from `tokenizer.size` on. So whoever serves the model can
    steer it by text, and with special tokens skipped, answers come without their markers. It is
    for serving: in training no text may become a marker.

    Raises:
      TokenizerError: a name is a token already, or the tokenizer can't be a tokenizer.json.
    """
    hf = as_hf(tokenizer)
    content = json.loads(hf.json)
    names = reserved_tokens(taxonomy)
    known = hf.vocabulary()
    for name in names:
        if name in known:
            raise TokenizerError(
                f"the tokenizer has a token {name!r} already (id {known[name]}), which is the name "
                "of a reserved marker token; rename the category in the taxonomy"
            )
    added = [_added(name, tokenizer.size + i) for i, name in enumerate(names)]
    return hf.replace({**content, "added_tokens": [*(content.get("added_tokens") or []), *added]})


def as_hf(tokenizer: Tokenizer, probes: Iterable[str] = ()) -> HFTokenizer:
    """The tokenizer as a tokenizer.json, with the same ids.

    Of a SentencePiece model they are compared on a set of hard texts, on the text of every piece,
    and on `probes`. Ids may still differ in a text with U+2581, which stands for a space in a
    tokenizer.json, and in one with the name of a control or byte piece ('</s>', '<0x0A>'). Where a
    unigram model can cut a text in two equally likely ways, the same pieces may come in another
    order.

    Raises:
      TokenizerError: ids would differ; the sentence says of what.
    """
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer
    if isinstance(tokenizer, ByteTokenizer):
        return _check(tokenizer, _bytes(), probes)
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _check(tokenizer, _sentencepiece(tokenizer), probes)
    raise TokenizerError(
        f"a {type(tokenizer).__name__} can't be written as tokenizer.json; use one of bytes, "
        "SentencePiece or a Hugging Face folder"
    )


def _check(tokenizer: Tokenizer, hf: HFTokenizer, probes: Iterable[str]) -> HFTokenizer:
    if hf.size != tokenizer.size:
        raise TokenizerError(
            f"as tokenizer.json the tokenizer has {hf.size} ids and not {tokenizer.size}; "
            "keep the SentencePiece file for serving"
        )
    control = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id}
    pieces = (tokenizer.decode([i]) for i in range(tokenizer.size) if i not in control)
    texts = [*_PROBES, *(text for text in pieces if SPACE_PIECE not in text), *probes]
    pairs = zip(texts, tokenizer.encode_batch(texts), hf.encode_batch(texts), strict=True)
    unigram = json.loads(hf.json)["model"]["type"] == "Unigram"
    for text, ids, theirs in pairs:
        if ids != theirs and not (unigram and sorted(ids) == sorted(theirs)):
            raise TokenizerError(
                f"as tokenizer.json the tokenizer would give {text[:60]!r} the ids {theirs[:8]} "
                f"and not {ids[:8]}; keep the SentencePiece file for serving"
            )
    return hf


def _bytes() -> HFTokenizer:
    vocab = {character: 3 + byte for character, byte in BYTE_CHARACTERS.items()}
    special = {"pad_token": "<|pad|>", "eos_token": "<|eos|>", "unk_token": "<|unk|>"}
    switches = dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), False)
    byte_level = {"type": "ByteLevel", **switches}
    content = _content(
        model={"type": "BPE", "vocab": vocab, "merges": []},
        pre_tokenizer=byte_level,
        decoder=byte_level,
        added=[_added(text, id) for id, text in enumerate(special.values())],
    )
    return HFTokenizer(content, special)


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> HFTokenizer:
    proto = parse_model(tokenizer.model)
    kind = proto.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        raise TokenizerError(
            "only unigram and BPE models of SentencePiece can be written as tokenizer.json; "
            "keep the SentencePiece file for serving"
        )
    normalizers: list[Content] = []
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        charsmap = base64.b64encode(charsmap).decode()
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    normalizers.append(_replace(" ", SPACE_PIECE))
    pieces = list(proto.pieces)
    model = _unigram(pieces, tokenizer) if kind == _UNIGRAM else _bpe(pieces, tokenizer)
    named = {"pad_token": tokenizer.pad_id, "eos_token": tokenizer.eos_id}
    named |= {"unk_token": tokenizer.unk_id, "bos_token": tokenizer.bos_id}
    special = {name: pieces[id].piece for name, id in named.items() if id is not None}
    kinds = _CONTROL, _USER_DEFINED
    marked = [i for i, one in enumerate(pieces) if one.type in kinds or i == tokenizer.unk_id]
    content = _content(
        model=model,
        normalizer={"type": "Sequence", "normalizers": normalizers},
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": _BYTE_NAME},
            "behavior": "Isolated",
            "invert": False,
        },
        decoder={
            "type": "Sequence",
            "decoders": [_replace(SPACE_PIECE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        added=[_added(pieces[i].piece, i, pieces[i].type != _USER_DEFINED) for i in marked],
    )
    return HFTokenizer(content, {**special, "add_bos_token": tokenizer.bos_id is not None})


def _unigram(pieces: list[Any], tokenizer: SentencePieceTokenizer) -> Content:
    return {
        "type": "Unigram",
        "unk_id": tokenizer.unk_id,
        "vocab": [[one.piece, one.score] for one in pieces],
        "byte_fallback": True,
    }


def _bpe(pieces: list[Any], tokenizer: SentencePieceTokenizer) -> Content:
    """Every way to make a piece of two others is a merge; those of better pieces come first."""
    scores = {one.piece: one.score for one in pieces if one.type == _NORMAL}
    merges = [
        (-scores[piece], piece[:at], piece[at:])
        for piece in scores
        for at in range(1, len(piece))
        if piece[:at] in scores and piece[at:] in scores
    ]
    merges.sort(key=lambda merge: merge[0])
    return {
        "type": "BPE",
        "unk_token": pieces[tokenizer.unk_id].piece,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {one.piece: i for i, one in enumerate(pieces)},
        "merges": [[left, right] for _, left, right in merges],
    }


def _replace(old: str, new: str) -> Content:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _added(text: str, id: int, special: bool = True) -> Content:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": text, **flags, "special": special}


def _content(
    *, model: Content, decoder: Content, added: list[Content], **parts: Content
) -> Content:
    """A whole tokenizer.json; fields of a BPE model that the library needs are filled in."""
    if model["type"] == "BPE":
        empty = dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        model = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, **empty, **model}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": parts.get("normalizer"),
        "pre_tokenizer": parts.get("pre_tokenizer"),
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
