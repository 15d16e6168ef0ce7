"""Lengths: each unit against what it is by definition, in scripts with and without spaces."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.lengths import UNITS, make, paragraphs, sentences, words
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.atlas import languages
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Category, Taxonomy, load_taxonomy


def made(*units, describes="completion", **config):
    categories = {
        f"n{i}": Category(f"n{i}", "integer", "a length", "computed", describes, unit=unit)
        for i, unit in enumerate(units)
    }
    return make(config, Taxonomy("made", categories))


def count(annotator, prompt, completion):
    (found,) = annotator.annotate([Example("a", prompt, completion, {}, {})])
    assert all(one.confidence == 1 for one in found.values())
    return [found[name].value for name in annotator.categories]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        (" ... -- !", 0),
        ("Hello, world's end_of 3.14 well-known lines", 7),
        ("_foo bar_", 2),
        ("한국어 문장입니다", 2),
        ("我喜欢吃苹果。", 6),
        ("カタカナ", 1),
        ("ひらがな", 4),
        ("กิน", 2),
        ("don’t can't", 2),
        ("a\u200bb", 2),
    ],
)
def test_words(text, number):
    assert words(text) == number


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_are_the_pieces_between_boundaries_that_hold_a_letter_or_digit(text):
    pieces = regex.split(r"\b", text, flags=regex.WORD | regex.V1)
    assert words(text) == sum(regex.search(r"[\p{L}\p{N}]", piece) is not None for piece in pieces)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("!!!", 0),
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ("Pi is 3.14 and so on.", 1),
        ("The U.S.A. is big.", 1),
        ("See e.g. this one.", 1),
        ('He said "Go." Then he left.', 2),
        ("Wait... what? Yes.", 2),
        ("我喜欢。你呢？好！", 3),
        ("मैं घर गया। वह आया।", 2),
        ("line one\nline two", 2),
        ("«Да.» — сказал он. Потом ушёл.", 2),
    ],
)
def test_sentences(text, number):
    assert sentences(text) == number


def test_paragraphs():
    assert paragraphs("") == paragraphs(" \n\n ") == 0
    assert paragraphs("a\nb") == 1
    assert paragraphs("a\n\nb\n \t\nc\r\n\r\nd\n") == 4
    assert paragraphs("a\n\n\n\nb") == 2


def test_every_unit_is_what_it_is_called():
    text = "Grüße, Welt! 東京へ。\n\nEnde."
    units = [unit for unit in UNITS if unit != "words (NLTK)"]
    counts = dict(zip(units, count(made(*units, tokenizer="bytes"), "p", text), strict=True))
    assert counts == {
        "model tokens": len(text.encode("utf-8")),
        "words (UAX 29)": 6,
        "words (UAX 29, touching ones taken as one)": len(languages.words(text)),
        "characters": len(text),
        "sentences (UAX 29)": 3,
        "paragraphs (split on blank lines)": 2,
    }


@pytest.mark.extra
def test_nltk_words_are_those_of_alpaca_eval_li():
    text = 'He said: "Don\'t go (yet)..." It cost $3.50, no?'
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        with pytest.raises(SettingsError, match="pip install nltk"):
            made("words (NLTK)")
        return
    import string

    tokens = NLTKWordTokenizer().tokenize(text)
    assert count(made("words (NLTK)"), "p", text) == [
        len([token for token in tokens if token not in string.punctuation])
    ]


def test_a_prompt_is_counted_where_the_category_describes_it():
    assert count(made("characters", describes="prompt"), "four", "x") == [4]
    assert count(made("characters"), "four", "x") == [1]


def test_units_that_cannot_be_counted():
    with pytest.raises(SettingsError, match=r"'words \(UAX29\)'.*did you mean 'words \(UAX 29\)'"):
        made("words (UAX29)")
    with pytest.raises(SettingsError, match="a unit that cannot be counted; it must be one of"):
        made("furlongs")
    with pytest.raises(SettingsError, match="'model tokens' needs lengths.tokenizer"):
        made("model tokens")
    with pytest.raises(SettingsError, match="no key 'tokeniser'; did you mean 'tokenizer'"):
        made("characters", tokeniser="bytes")


@pytest.mark.parametrize("name", ["paper", "atlas"])
def test_the_shipped_taxonomies_name_known_units(name):
    taxonomy = load_taxonomy(name)
    annotator = make({}, taxonomy)
    assert "length_tokens" in annotator.categories
    assert taxonomy.category("length_tokens").unit in UNITS
