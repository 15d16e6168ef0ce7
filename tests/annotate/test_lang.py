import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.annotate import lang
from marker_lm.annotate.annotator import Annotator
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy

ROOT = Path(__file__).resolve().parents[2]
HELDOUT = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"


def taxonomy(*values):
    category = {
        "name": "lang", "type": "closed", "definition": "Language.", "origin": "computed",
        "describes": "completion", "values": [[value, "A language."] for value in values],
    }  # fmt: skip
    return Taxonomy.from_dict({"name": "test", "categories": [category]})


def example(completion):
    return Example("1", "?", completion, {}, {})


@pytest.fixture(scope="module")
def paper():
    return lang.make({}, load_taxonomy("paper"))


def found(annotator, completion):
    return {k: v.value for k, v in annotator.annotate([example(completion)])[0].items()}.get("lang")


SENTENCES = {
    "English": "The library is closed on Sundays, so we went to the park.",
    "German": "Am Sonntag ist die Bücherei geschlossen, deshalb gingen wir in den Park.",
    "French": "La bibliothèque est fermée le dimanche, alors nous sommes allés au parc.",
    "Polish": "W niedzielę biblioteka jest zamknięta, więc poszliśmy do parku.",
    "Russian": "В воскресенье библиотека закрыта, поэтому мы пошли в парк.",
    "Ukrainian": "У неділю бібліотека зачинена, тому ми пішли до парку.",
    "Greek": "Την Κυριακή η βιβλιοθήκη είναι κλειστή και πήγαμε στο πάρκο.",
    "Hebrew": "הספרייה סגורה ביום ראשון ולכן הלכנו לפארק.",
    "Arabic": "المكتبة مغلقة يوم الأحد لذلك ذهبنا إلى الحديقة.",
    "Persian": "کتابخانه یکشنبه ها بسته است، پس به پارک رفتیم.",
    "Hindi": "पुस्तकालय रविवार को बंद रहता है, इसलिए हम बगीचे में गए।",
    "Chinese": "图书馆星期天不开门，所以我们去了公园。",
    "Japanese": "日曜日は図書館が休みなので、公園に行きました。",
    "Korean": "일요일에는 도서관이 문을 닫아서 공원에 갔습니다.",
    "Vietnamese": "Thư viện đóng cửa vào chủ nhật nên chúng tôi đi công viên.",
}


def test_is_an_annotator_of_all_values_of_the_paper(paper):
    assert isinstance(paper, Annotator)
    assert paper.categories == ("lang",)
    assert paper.unsaid == () and paper.notes == ()


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences(paper, language):
    result = paper.annotate([example(SENTENCES[language])])[0]["lang"]
    assert result.value == language
    assert 0.5 < result.confidence <= 1


@pytest.mark.parametrize(
    "shell",
    [
        "```python\nfor name in names:\n    print('the value of the name is', name)\n```\n\n{}",
        "<article><title lang='en'>{}</title></article>",
        '{{"the answer of the question": "{}", "number of the page": 12}}',
        "{} https://example.org/the/name/of/this/page/is/very/long",
        "{} $\\text{{where}} \\sqrt{{x}} = \\frac{{then}}{{with}}$",
        "`print the name of the file` {} `the_name_of_the_file`",
    ],
)
def test_markup_is_no_language(paper, shell):
    assert found(paper, shell.format(SENTENCES["German"])) == "German"


def test_escaped_json_is_read(paper):
    assert found(paper, json.dumps([SENTENCES["Greek"]])) == "Greek"
    assert found(paper, json.dumps({"the name of the thing": SENTENCES["Hindi"]})) == "Hindi"


@pytest.mark.parametrize(
    "text",
    ["42", "3.14 = 2 * 1.57", "```\nThe name of the file\n```", "https://example.org/name", "-> ?",
     "<p></p>", "A", "[1, 2, 3]", "😀😀😀", "x_1 = foo(bar_2)"],
)  # fmt: skip
def test_no_language_no_marker(paper, text):
    assert paper.annotate([example(text)]) == [{}]


def test_another_language_than_the_taxonomys_is_left_out(paper):
    assert found(paper, "Sunnudagar eru skemmtilegir því þá er bókasafnið lokað.") is None
    assert found(paper, "ვივლით პარკში, რადგან ბიბლიოთეკა დაკეტილია.") is None


@pytest.mark.parametrize(
    ("value", "language"),
    [("de", "German"), ("deu", "German"), ("German", "German"), ("german", "German"),
     ("de-AT", "German"), ("iw", "Hebrew"), ("zho", "Chinese"), ("zh_Hans", "Chinese"),
     ("Farsi", "Persian"), ("cmn", "Chinese")],
)  # fmt: skip
def test_a_value_is_a_code_or_a_name(value, language):
    annotator = lang.make({}, taxonomy(value, "English", "Basque"))
    assert annotator.unsaid == ()
    assert found(annotator, SENTENCES[language]) == value


def test_codes_of_the_config():
    config = {"codes": {"Deutsch": "de", "Slavic": ["pl", "ru", "uk"]}}
    annotator = lang.make(config, taxonomy("Deutsch", "Slavic"))
    assert found(annotator, SENTENCES["German"]) == "Deutsch"
    assert found(annotator, SENTENCES["Polish"]) == "Slavic"
    assert found(annotator, SENTENCES["Ukrainian"]) == "Slavic"
    with pytest.raises(MarkerError, match="Deutsh"):
        lang.make({"codes": {"Deutsh": "de"}}, taxonomy("Deutsch"))


def test_varieties_go_to_the_language_that_is_there():
    sentence = "Eg veit ikkje kva dei heiter, men me kjem frå same bygda."
    assert found(lang.make({}, taxonomy("no", "da")), sentence) == "no"
    assert found(lang.make({}, taxonomy("no", "nn")), sentence) == "nn"
    known = ("ary", "arz", "ar")
    assert lang.value_of_code(["Arabic"], {}, known) == dict.fromkeys(known, "Arabic")
    assert lang.value_of_code(["ar", "arz"], {}, known) == {"ary": "ar", "arz": "arz", "ar": "ar"}


def test_what_it_cannot_tell_is_listed():
    annotator = lang.make({}, taxonomy("English", "Klingonese", "pt-BR", "pt-PT", "kw"))
    assert annotator.unsaid == ("Klingonese", "pt-BR", "pt-PT", "kw")
    assert annotator.notes == (
        "lang: the identifier tells 1 of 5 values of lang; it can't tell Klingonese, pt-BR, pt-PT,"
        " kw.",
    )
    with pytest.raises(ValueError, match="knows none of the values of 'lang', such as 'Klingon'"):
        lang.make({}, taxonomy("Klingon"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"treshold": 0.5}, "lang: there is no key 'treshold'; did you mean 'threshold'?"),
        ({"threshold": 2}, "lang: threshold is 2; it must be in 0..1"),
        ({"threshold": "high"}, "lang: threshold is 'high', a str"),
        (
            {"codes": {"de": 5}},
            "lang: codes has 5 for 'de'; give an ISO 639 code or several",
        ),
        ({"letters": True}, "lang: letters is True, a bool"),
    ],
)
def test_bad_config(config, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        lang.make(config, taxonomy("de"))


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=200), min_size=1, max_size=4))
def test_any_text_alone_or_among_others(paper, texts):
    examples = [example(text) for text in texts]
    together = paper.annotate(examples)
    assert together == [paper.annotate([each])[0] for each in examples]
    for each in together:
        assert not each or 0.15 <= each["lang"].confidence <= 1


def test_time_does_not_grow_with_the_text(paper):
    """Looks at the beginning only: what stands far behind changes nothing."""
    text = SENTENCES["German"] + " "
    assert found(paper, text * 100 + SENTENCES["Greek"] * 100_000) == "German"


def test_single_sentences_of_many_languages():
    if not HELDOUT.exists():
        pytest.skip(f"there is no {HELDOUT}")
    mix = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
    annotator = lang.make({}, mix)
    # The mix's taxonomy lists languages by their frequency.
    top = [v for v in mix.category("lang").values if v not in annotator.unsaid][:40]
    with gzip.open(HELDOUT, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["source"] == "tatoeba" and row["language"] in top]
    results = annotator.annotate([example(row["output"]) for row in rows])
    right = [f["lang"].value == r["language"] for f, r in zip(results, rows, strict=True) if f]
    assert len(rows) > 1900
    assert len(right) / len(rows) > 0.98
    assert sum(right) / len(rows) >= 0.95
    assert sum(right) / len(right) >= 0.96
