"""What is set right in a tokenizer.json before its ids can stand for spans of a sequence."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from marker_lm.data.tokenizers.base import TokenizerError

Content = dict[str, Any]  # a parsed tokenizer.json

_MODELS = ("BPE", "Unigram")
_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def check_content(content: Any) -> None:
    """Raises TokenizerError unless `content` is a tokenizer.json of a model that keeps spaces."""
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not model.get("vocab"):
        raise TokenizerError(
            "tokenizer.json has no 'model' with a 'vocab'; give the file that the `tokenizers` "
            "library wrote"
        )
    # Files of before 2020 have no type; only BPE has merges.
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram")
    if kind not in _MODELS:
        raise TokenizerError(
            f"tokenizer.json holds a {kind} model, which does not give spaces and line breaks "
            f"back; give one of the kinds {' and '.join(_MODELS)}"
        )


def for_spans(content: Content) -> tuple[Content, list[str]]:
    """The content under which texts are tokenized whole, apart, and come back; and what changed.

    A space before every text ('dummy prefix': a Prepend normalizer, or Metaspace and ByteLevel that
    add one) is switched off, and so is the decoder's Strip that takes it away again: spans stand in
    the middle of a sequence, where the space would be a character that no text has. Truncation,
    padding and the random dropout of merges are switched off too.
    """
    content = dict(content)
    changes: list[str] = []
    for part in _LISTS:
        content[part] = _without_prefix(content.get(part), part, changes)
    for part in ("truncation", "padding"):
        if content.get(part):
            changes.append(part)
        content[part] = None
    if content["model"].get("dropout"):
        changes.append("dropout")
        content["model"] = {**content["model"], "dropout": None}
    return content, list(dict.fromkeys(changes))


def _without_prefix(node: Content | None, part: str, changes: list[str]) -> Content | None:
    if not isinstance(node, Mapping):
        return node
    kind = node.get("type")
    if kind == "Sequence":
        inner = [_without_prefix(one, part, changes) for one in node[_LISTS[part]]]
        kept = [one for one in inner if one is not None]
        return {**node, _LISTS[part]: kept} if kept else None
    if kind == "Prepend" or (kind == "Strip" and node.get("content") == " "):
        changes.append("the space before every text")
        return None
    if kind == "Metaspace" and node.get("prepend_scheme", "always") != "never":
        changes.append("the space before every text")
        rest = {key: value for key, value in node.items() if key != "add_prefix_space"}
        return {**rest, "prepend_scheme": "never"}
    if kind == "ByteLevel" and part == "pre_tokenizer" and node.get("add_prefix_space", True):
        changes.append("the space before every text")
        return {**node, "add_prefix_space": False}
    return dict(node)


def build(content: Content) -> tokenizers.Tokenizer:
    """The library's tokenizer, whose added tokens have the ids that the file gives them.

    Raises TokenizerError where that can't be: the library numbers added tokens by itself, one after
    the other, whatever the file says.
    """
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises no other class
        raise TokenizerError(
            f"the `tokenizers` library can't read tokenizer.json ({error}); write the file again "
            "with a current version of the library"
        ) from None
    for token in content.get("added_tokens") or ():
        got = library.token_to_id(token["content"])
        if got != token["id"]:
            raise TokenizerError(
                f"tokenizer.json gives the added token {token['content']!r} the id {token['id']}, "
                f"but the `tokenizers` library gives it {got}; correct 'added_tokens'"
            )
    return library


def place_added_tokens(content: Content) -> Content:
    """The content with those added tokens in the model's vocabulary that have a gap before them.

    The library numbers added tokens by itself, one after the other from the size of the vocabulary
    on, unless the vocabulary holds them.

    Raises TokenizerError for two tokens of one id, and for a gap that can't be kept.
    """
    added = content.get("added_tokens") or []
    model = content["model"]
    listed = isinstance(model["vocab"], list)  # of Unigram: the place in the list is the id
    ids = {piece: i for i, (piece, _) in enumerate(model["vocab"])} if listed else model["vocab"]
    owner = {id: piece for piece, id in ids.items()}
    if len(owner) < len(ids):
        twice = next(piece for piece, id in ids.items() if owner[id] != piece)
        raise TokenizerError(
            f"tokenizer.json gives {twice!r} and {owner[ids[twice]]!r} the same id {ids[twice]}; "
            "every token needs an id of its own"
        )
    for token in added:
        content_, id = token["content"], token["id"]
        if owner.setdefault(id, content_) != content_ or ids.get(content_, id) != id:
            other = owner[id] if owner[id] != content_ else content_
            raise TokenizerError(
                f"the id {id} of the added token {content_!r} collides with {other!r} (id "
                f"{ids.get(other, id)}) in tokenizer.json; every token needs an id of its own"
            )
    outside = sorted(t["id"] for t in added if t["content"] not in ids)
    if outside == list(range(len(ids), len(ids) + len(outside))):
        return content
    if listed:
        raise TokenizerError(
            f"the ids of the added tokens in tokenizer.json begin at {outside[0]} and not at "
            f"{len(ids)}, and a Unigram model can't have ids without a token; add tokens between"
        )
    named = {t["content"]: t["id"] for t in added}
    return {**content, "model": {**model, "vocab": {**model["vocab"], **named}}}


def bos_processor(token: str, id: int | None) -> Content | None:
    """The post-processor that puts one token before every text; None for no id."""
    if id is None:
        return None
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }
