import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.data.atlas import languages, render, rows
from marker_lm.evaluation import atlas_checks as checks


@pytest.fixture(scope="module")
def splits():
    return rows.generate(6000)


def test_every_generated_row_passes(splits):
    for row in (row for split in splits.values() for row in split):
        text, markers = row["completion"], row["markers"]
        format, lang = markers["format"], markers["lang"]
        for other in checks.FORMATS:
            assert checks.check_format(text, other) == (other == format), (text, other)
        assert checks.language_obeyed(text, format, lang), (text, checks.scores(text))
        assert checks.length_bucket(text, format) == markers["length_bucket"]
        assert checks.length_tokens(text, format) == markers["length_tokens"]
        assert checks.exact_match(text + "\n", row["key"])


def test_another_language_is_noticed(splits):
    """The same facts answered in another language are not taken for the one asked."""
    ties = 0
    for row in splits["heldout"][:300]:
        asked = row["markers"]["lang"]
        other = "Korean" if asked == "Swedish" else "Swedish"
        text = rows.answer_key(row["fact"], other, "Plain", row["markers"]["length_bucket"])
        assert checks.language_obeyed(text, "Plain", other)
        if checks.language_obeyed(text, "Plain", asked):
            # Names that two languages write alike tie: 'euro', 'Laos'.
            found = checks.scores(text)
            assert found[asked] == found[other] == 1, text
            ties += 1
    assert ties <= 0.1 * 300


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("JSON", '["a"'), ("JSON", '"a"'), ("JSON", "[]"), ("JSON", "['a']"), ("JSON", "3"),
        ("XML", "<list><item>a</list>"), ("XML", "a"), ("XML", "<list></list>"),
        ("XML", "<a>b</a><a>c</a>"), ("XML", "<list><item>a & b</item></list>"),
        ("Enumeration", "- a\n- b"), ("Enumeration", "2. a\n3. b"), ("Enumeration", "1. "),
        ("Enumeration", "1. a\n\nb"), ("Enumeration", "1. 1. a"), ("Enumeration", "1 a"),
        ("Tabular", "|a|b|"), ("Tabular", "|1|\n|-|"), ("Tabular", "|1|2|\n|-|\n|a|b|"),
        ("Tabular", "|1|\n|-|\n|a|\n\nb"), ("Tabular", "|1|\n|-|\n||"),
        ("Markdown", "a\n- b"), ("Markdown", "- a"), ("Markdown", "#a"), ("Markdown", "# a\n1. b"),
        ("Markdown", "# a\nb"), ("Markdown", "# "),
        ("Plain", '["a"]'), ("Plain", "<list>a"), ("Plain", "1. a\n2. b"), ("Plain", "# a"),
        ("Plain", "|a|b|"), ("Plain", "- a\n- b"), ("Plain", '["a","b'), ("Plain", "**a**"),
        ("Plain", ""), ("Plain", " \n"), ("JSON", ""), ("Tabular", ""), ("Markdown", " "),
        ("Unknown", "a"),
    ],
)  # fmt: skip
def test_broken_formats_are_refused(format, text):
    assert not checks.check_format(text, format)
    assert checks.items(text, format) is None


@pytest.mark.parametrize(
    ("format", "text", "expected"),
    [
        ("Plain", "43,5 a, b\n\nc", ["43,5 a", "b", "c"]),
        ("Plain", "13. Mai 2024", ["13. Mai 2024"]),
        ("Plain", "日本、2024年", ["日本", "2024年"]),
        ("JSON", '{"a": ["b", {"c": 3}]}', ["b", "3"]),
        ("XML", "<r>\n <i>a &amp; b</i><j><k>c</k></j></r>", ["a & b", "c"]),
        ("Enumeration", "1. a\n1. *b*\n\n1. 13\\. c", ["a", "b", "13. c"]),
        ("Tabular", "| n | m |\n|---|:-:|\n| a | b\\|c |", ["a", "b|c"]),
        ("Markdown", "## a\n\n* **b**\n* c\n\n## d", ["a", "b", "c", "d"]),
    ],
)
def test_items(format, text, expected):
    assert checks.items(text, format) == expected


def test_items_undo_the_renderers_for_any_letters():
    letters = st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=8)
    content = st.integers(1, 4).flatmap(
        lambda k: st.lists(st.lists(letters, min_size=k, max_size=k), min_size=1, max_size=3)
    )

    @settings(max_examples=60, deadline=None)
    @given(content, st.sampled_from(checks.FORMATS))
    def undone(groups, format):
        text = render.FORMATS[format](groups, "English")
        assert checks.items(text, format) == [item for items in groups for item in items]

    undone()


def test_language_of_texts():
    assert checks.got_language("Japanischer Yen") == "German"
    assert checks.got_language('["日本円"]', "JSON") == "Japanese"
    assert checks.got_language("Japanischer Yen", "Plain", asked="English") == "German"
    assert checks.got_language("zzz qqq") == "unknown"
    assert checks.language_obeyed("zzz qqq", "Plain", "German") is False
    assert checks.language_obeyed("Angola", "Plain", "German") is True
    assert checks.language_obeyed("Angola", "Plain", "Swedish") is True
    # No letters, no evidence.
    assert checks.language_obeyed("300", "Plain", "German") is None
    assert checks.got_language("<list><item>300</item></list>", "XML") is None
    # Markup is no English.
    assert checks.got_language("<list><item>Japanischer Yen</item></list>", "XML") == "German"


def test_a_mix_of_languages_is_the_one_of_most_letters():
    text = "|1|2|3|\n|-|-|-|\n|Deutschland|Russland|France|"
    assert checks.got_language(text, "Tabular") == "German"
    assert checks.scores("") == {}


@pytest.mark.parametrize("lang", languages.LANGUAGES)
def test_lexicon_is_of_its_own_language(lang):
    words = checks.lexicon(lang)
    assert len(words) > 500
    assert checks.got_language(languages.name("language", "ja", lang), asked=lang) == lang


def test_length_bucket_edges():
    assert [checks.length_bucket(" ".join("a" * n)) for n in (0, 3, 4, 20, 21)] == [
        "concise", "concise", "medium", "medium", "long",
    ]  # fmt: skip
    # Tags are no words, unless they are all there is to count.
    assert checks.length_tokens("<l><i>a</i><i>b</i></l>", "XML") == 2
    assert checks.length_tokens("<l><i>a</i><i>b", "XML") > 2
