"""The words that say what each reserved token of the compact template means."""

import string
from typing import Any

from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.markers.template import category_token, reserved_tokens, value_token

_OPEN = "begin of the list of properties"
_CLOSE = "end of the list of properties"

MarkerRows = list[tuple[int, tuple[int, ...]]]


def marker_rows(taxonomy: Taxonomy, codec: MarkerCodec, tokenizer: Any) -> MarkerRows:
    """(reserved id, ids of the words of its definition) of every reserved token, by ascending id.

    A category has its definition, a value its own, or its name where that has no words. Words stand
    alone and as they do within a sentence, with a space before them; no ids are empty. [] for the
    'text' template, which has no reserved ids.
    """
    if not codec.n_reserved:
        return []
    meanings = dict(zip(reserved_tokens(taxonomy), (_OPEN, _CLOSE), strict=False))
    for category in taxonomy.categories.values():
        meanings[category_token(category.name)] = _either(category.definition, category.name)
        for value, definition in category.values.items():
            meanings[value_token(category.name, value)] = _either(definition, value)
    return [
        (int(tokenizer.size) + number, _word_ids(meaning, tokenizer))
        for number, meaning in enumerate(meanings.values())
    ]


def _words(text: str) -> list[str]:
    words = (word.strip(string.punctuation) for word in text.split())
    return [word for word in words if word]


def _either(definition: str, name: str) -> str:
    return definition if _words(definition) else name


def _word_ids(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(id for word in _words(text) or [text] for id in tokenizer.encode(f" {word}"))
