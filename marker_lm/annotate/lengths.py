"""Counts lengths, each in the unit that the taxonomy names: units are never mixed.

A bucket of a length follows from its number and is filled in where rows are read
(data/row_markers.py).
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.settings import SettingsError, settings_from
from marker_lm.data.example import Example
from marker_lm.markers.category import mend
from marker_lm.markers.taxonomy import Taxonomy

Counter = Callable[[Sequence[str]], list[int]]  # counts of many texts

# A word is what lies between two word boundaries of UAX 29 and has a letter or a digit: from the
# first of these to the boundary.
_WORD = regex.compile(r"[\p{L}\p{N}].*?\b", regex.WORD | regex.V1 | regex.DOTALL)
# Where a sentence of UAX 29 ends: a paragraph separator (SB4), or a terminator with the closing
# marks and spaces behind it (SB9 to SB11), but not a full stop within a number (SB6) or an
# abbreviation like U.S.A. (SB7), nor one that a lower-case word follows (SB8), nor before a comma
# or another terminator (SB8a). Marks that join the terminator are passed over (SB5).
_JOINED = r"[\p{SB=EX}\p{SB=FO}]*+"
_CLOSING = rf"(?:\p{{SB=CL}}{_JOINED})*+(?:\p{{SB=SP}}{_JOINED})*+"
_NEXT = r"(?![\p{SB=SC}\p{SB=ST}\p{SB=AT}])"
_SENTENCE_END = regex.compile(
    r"[\p{SB=SE}\p{SB=CR}\p{SB=LF}]"
    rf"|\p{{SB=ST}}{_JOINED}{_CLOSING}{_NEXT}"
    rf"|\p{{SB=AT}}{_JOINED}(?!\p{{SB=NU}})(?!(?<=[\p{{SB=UP}}\p{{SB=LO}}]\p{{SB=AT}})\p{{SB=UP}})"
    rf"{_CLOSING}{_NEXT}"
    r"(?![^\p{SB=LE}\p{SB=UP}\p{SB=LO}\p{SB=SE}\p{SB=CR}\p{SB=LF}\p{SB=ST}\p{SB=AT}]*+\p{SB=LO})",
    regex.V1,
)
_BLANK_LINE = regex.compile(r"(?:\r\n|[\n\r])[^\S\n\r]*(?:\r\n|[\n\r])")
_TELLS = regex.compile(r"[\p{L}\p{N}]")


def words(text: str) -> int:
    """Words by UAX 29 without a dictionary.

    Chinese, Japanese kana but katakana, Thai, Lao, Khmer and Burmese, which have no spaces, count
    one word a letter with its marks; runs of katakana and Korean words count once.
    """
    return sum(1 for _ in _WORD.finditer(text))


def sentences(text: str) -> int:
    """Sentences by the default rules of UAX 29 that hold a letter or a digit.

    Languages that end no sentence with a mark, such as Thai, count one a line.
    """
    return sum(_TELLS.search(piece) is not None for piece in _SENTENCE_END.split(text))


def paragraphs(text: str) -> int:
    """Pieces between blank lines that are not blank themselves."""
    return sum(bool(piece.strip()) for piece in _BLANK_LINE.split(text))


def _each(count: Callable[[str], int]) -> Callable[..., Counter]:
    return lambda settings: lambda texts: [count(text) for text in texts]


def _nltk_words(settings: "Settings") -> Counter:
    """Tokens of NLTK's word tokenizer that are not punctuation, as AlpacaEval-LI counts
    (arXiv 2406.17744, section 3.1)."""
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        raise SettingsError(
            "lengths: the unit 'words (NLTK)' needs the package nltk; pip install nltk"
        ) from None
    tokenize = NLTKWordTokenizer().tokenize
    return lambda texts: [sum(t not in string.punctuation for t in tokenize(x)) for x in texts]


def _model_tokens(settings: "Settings") -> Counter:
    if not settings.tokenizer:
        raise SettingsError(
            "lengths: the unit 'model tokens' needs lengths.tokenizer: 'bytes', a SentencePiece "
            "*.model file or a folder with a saved tokenizer"
        )
    from marker_lm.data.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(settings.tokenizer)
    return lambda texts: [len(ids) for ids in tokenizer.encode_batch(texts)]


def _touching_words(settings: "Settings") -> Counter:
    from marker_lm.data.atlas import languages

    return lambda texts: [len(languages.words(text)) for text in texts]


# The unit of a category in the taxonomy -> its counter, made from the settings.
UNITS: Mapping[str, Callable[..., Counter]] = {
    "model tokens": _model_tokens,
    "words (UAX 29)": _each(words),
    "words (UAX 29, touching ones taken as one)": _touching_words,
    "words (NLTK)": _nltk_words,
    "characters": _each(len),
    "sentences (UAX 29)": _each(sentences),
    "paragraphs (split on blank lines)": _each(paragraphs),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """tokenizer: of 'model tokens', as data.tokenizer.load_tokenizer takes it."""

    tokenizer: str = ""


class Lengths:
    """An Annotator that counts what the computed integer categories of a taxonomy describe."""

    name = "lengths"

    def __init__(self, settings: Settings, taxonomy: Taxonomy):
        counted = {
            name: category
            for name, category in taxonomy.categories.items()
            if category.type == "integer" and category.origin == "computed"
        }
        for name, category in counted.items():
            if category.unit not in UNITS:
                raise SettingsError(
                    f"lengths: {name} is a number of {category.unit!r}, a unit that cannot be "
                    f"counted; {mend(category.unit, UNITS)} Mend the unit in the taxonomy, or set "
                    f"annotators.{name} to () and give the number in the rows"
                )
        self.categories = tuple(counted)
        self._describes = {name: category.describes for name, category in counted.items()}
        self._count = {name: UNITS[c.unit](settings) for name, c in counted.items()}

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        found: list[dict[str, Found]] = [{} for _ in examples]
        for name, count in self._count.items():
            lacking = [i for i, example in enumerate(examples) if name not in example.markers]
            texts = [getattr(examples[i], self._describes[name]) for i in lacking]
            for i, number in zip(lacking, count(texts), strict=True):
                found[i][name] = Found(number)
        return found


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> Lengths:
    """The annotator from its section of the config, see Settings.

    Raises SettingsError for a unit that is not known, or that lacks what it is counted with.
    """
    return Lengths(settings_from(Settings, config, "lengths"), taxonomy)
