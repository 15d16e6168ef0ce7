"""From the tokenizer in a GGUF file to the content of a Hugging Face tokenizer.json.

Two kinds are known: byte-level BPE ('gpt2') and SentencePiece's BPE ('llama'). The regular
expressions are those of llama.cpp (src/llama-vocab.cpp) and of the models' own tokenizer.json.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.gguf_config import Metadata
from marker_lm.data.tokenizers.hf import HFTokenizer
from marker_lm.data.tokenizers.sentencepiece import SPACE_PIECE

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # gguf.TokenType
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Where a text is cut before merging, one expression after the other.
_CUTS = {
    "smollm": (r"\p{N}", _GPT2),
    "gpt-2": (_GPT2,),
    "llama-bpe": (_LLAMA3.replace("{DIGITS}", "{1,3}"),),
    "qwen2": (_LLAMA3.replace("{DIGITS}", ""),),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
_COMPOSES = {"qwen2"}  # Unicode is composed first (NFC)
_WHOLE_WORDS_FIRST = {"llama-bpe"}  # a piece that is a token is not taken apart and merged again
_BEGINS = {"llama-bpe"}  # puts bos before a text unless the file says otherwise


def tokenizer(metadata: Metadata) -> HFTokenizer:
    """The tokenizer of the file, with its special tokens and chat template.

    Raises:
      ConvertError: it is of a kind that is not known, or damaged.
      TokenizerError: it loses text, or has no eos.
    """
    template = metadata.get("tokenizer.chat_template")
    return HFTokenizer(
        tokenizer_json(metadata),
        special_tokens(metadata) | ({"chat_template": template} if template else {}),
        generation(metadata),
    )


def tokenizer_json(metadata: Metadata) -> dict[str, Any]:
    """The content of tokenizer.json. Raises ConvertError as `tokenizer` does."""
    tokens = _tokens(metadata)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        parts = _byte_level(metadata, tokens)
        begins = metadata.get("tokenizer.ggml.pre") in _BEGINS
    elif kind == "llama":
        parts = _sentencepiece(metadata, tokens)
        begins = True
    else:
        raise ConvertError(
            f"{metadata.path} has a tokenizer of the kind {kind!r}; "
            "'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE) can be imported"
        )
    begins = metadata.get("tokenizer.ggml.add_bos_token", begins)
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(metadata, tokens),
        "post_processor": _begin(tokens[bos], bos) if begins and bos is not None else None,
        **parts,
    }


def special_tokens(metadata: Metadata) -> dict[str, str]:
    """bos_token, eos_token, pad_token and unk_token as text, as far as the file names them."""
    tokens = _tokens(metadata)
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {
        f"{name}_token": metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        for name, theirs in names.items()
    }
    wrong = [id for id in ids.values() if id is not None and not 0 <= id < len(tokens)]
    if wrong:
        raise ConvertError(
            f"{metadata.path} names the special token {wrong[0]}, but has only {len(tokens)} "
            "tokens; the file is damaged: get it again"
        )
    return {name: tokens[id] for name, id in ids.items() if id is not None}


def generation(metadata: Metadata) -> dict[str, Any]:
    """generation_config.json: the ids that begin, end and pad a text."""
    ids = {
        name: metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "padding")
    }
    ends = [ids[name] for name in ("eos", "eot") if ids[name] is not None]
    named = {
        "bos_token_id": ids["bos"],
        "eos_token_id": sorted(set(ends)) if len(set(ends)) > 1 else (ends or [None])[0],
        "pad_token_id": ids["padding"],
    }
    return {name: id for name, id in named.items() if id is not None}


def _tokens(metadata: Metadata) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ConvertError(
            f"{metadata.path} holds no tokenizer ('tokenizer.ggml.tokens' is missing); "
            "get a file that has one"
        )
    return tokens


def _types(metadata: Metadata, tokens: Sequence[str]) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ConvertError(
            f"{metadata.path} has {len(tokens)} tokens and {len(types)} token types; "
            "the file is damaged: get it again"
        )
    return types


def _vocabulary(metadata: Metadata, tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for id, token in enumerate(tokens) if vocabulary[token] != id)
        raise ConvertError(
            f"{metadata.path} has the token {twice!r} more than once; no tokenizer.json can say so"
        )
    return vocabulary


def _added_tokens(metadata: Metadata, tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens that are found in a text as they are, before it is cut.

    Those that a user of SentencePiece defined are found after its normalisation: they may be
    runs of spaces.
    """
    normalized = metadata.get("tokenizer.ggml.model") == "llama"
    return [
        {
            "id": id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": normalized and type == _USER_DEFINED,
            "special": type != _USER_DEFINED,
        }
        for id, (token, type) in enumerate(zip(tokens, _types(metadata, tokens), strict=True))
        if type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _begin(token: str, id: int) -> dict[str, Any]:
    """A post-processor that puts `token` before a text."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    one = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, one],
        "pair": [first, one, first, other],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


def _byte_level(metadata: Metadata, tokens: Sequence[str]) -> dict[str, Any]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in _CUTS:
        near = difflib.get_close_matches(name, _CUTS, n=1, cutoff=0.0)[0]
        raise ConvertError(
            f"{metadata.path} cuts texts as {name!r} ('tokenizer.ggml.pre'); known are "
            f"{', '.join(_CUTS)} (nearest: {near}). Take the tokenizer.json of the model"
        )
    merges = [merge.split(" ", 1) for merge in metadata.get("tokenizer.ggml.merges", [])]
    cuts = [
        {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
        for cut in _CUTS[name]
    ]
    return {
        "normalizer": {"type": "NFC"} if name in _COMPOSES else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*cuts, _BYTE_LEVEL | {"use_regex": False}],
        },
        "decoder": _BYTE_LEVEL | {"use_regex": True},
        "model": _bpe(_vocabulary(metadata, tokens), merges)
        | {"ignore_merges": name in _WHOLE_WORDS_FIRST},
    }


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _bpe(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocabulary),
        "merges": list(merges),
    }


def _sentencepiece(metadata: Metadata, tokens: Sequence[str]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise ConvertError(
            f"{metadata.path} has {len(tokens)} tokens and {len(scores or [])} scores, which say "
            "what is merged first; the file is damaged: get it again"
        )
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    return sentencepiece_parts(
        _vocabulary(metadata, tokens),
        [
            score if type == _NORMAL else None
            for score, type in zip(scores, _types(metadata, tokens), strict=True)
        ],
        unknown=None if unknown is None else tokens[unknown],
        space_first=metadata.get("tokenizer.ggml.add_space_prefix", True),
    )


def sentencepiece_parts(
    vocabulary: Mapping[str, int],
    scores: Sequence[float | None],
    unknown: str | None,
    space_first: bool,
) -> dict[str, Any]:
    """The parts of a tokenizer.json that merge as SentencePiece's BPE does, by score.

    Args:
      vocabulary: pieces, with U+2581 for a space and '<0x0A>' for a byte -> ids 0, 1, ...
      scores: of each id; None for pieces that no merge may make.
      unknown: the piece of what is not in the vocabulary.
      space_first: a space is put before every text (and taken away again on decoding).
    """
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_PIECE}
    first = [{"type": "Prepend", "prepend": SPACE_PIECE}] if space_first else []
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE_PIECE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_first else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*first, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders + strip},
        "model": _bpe(vocabulary, _merges(vocabulary, scores))
        | {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
    }


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float | None]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the best score first."""
    ranked = []
    for piece, id in vocabulary.items():
        if scores[id] is None:
            continue
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[id], id, left, right, piece[:cut], piece[cut:]))
    return [(left, right) for *_, left, right in sorted(ranked)]
