"""Language confusion: by hand, and against a second, plain writing of the official definitions."""

import random
import string

import pytest

from marker_lm.evaluation.benchmarks.detectors import FTZ, load_detector
from marker_lm.evaluation.benchmarks.language_confusion import (
    LanguageConfusion,
    normalize,
    read_words,
)
from marker_lm.evaluation.benchmarks.run import read_items
from tests.data.small import shared_data
from tests.evaluation.benchmarks.made import scored, table

ENGLISH = ("table", "river", "cat", "Paris", "cloud")
LINES = {
    "ru": "это очень хорошая и большая река",
    "ar": "هذا نهر كبير وجميل جدا في المدينة",
    "de": "das ist ein sehr schöner großer Fluss",
    "en": "this is a very beautiful and big river",
}


def by_letters(line):
    """A detector whose answers are known: by the first letter that tells."""
    for letter in line:
        for language, start, end in (("ru", "а", "я"), ("ar", "ا", "ي")):
            if start <= letter <= end:
                return language, 0.9
    return ("de", 0.3) if "unklar" in line else ("de", 0.8) if "ein" in line else ("en", 0.8)


@pytest.fixture
def detector(monkeypatch):
    monkeypatch.setattr(
        "marker_lm.evaluation.benchmarks.language_confusion.load_detector",
        lambda name: ("by letters", by_letters),
    )


def _words(folder):
    (folder / "words").write_text("\n".join(ENGLISH), "utf-8")
    return str(folder / "words")


def response(language, *lines, source="okapi", task="monolingual"):
    text = "\n".join(lines)
    return {"task": task, "source": source, "language": language, "completion": text}


def test_a_response_by_hand(tmp_path, detector):
    rows = [
        response("ru", LINES["ru"], LINES["ru"]),  # clean
        response("ru", LINES["ru"] + " table", "cat"),  # an English word; a short line
        response("ru", LINES["ru"] + " cat Paris"),  # too short, and not in lower case
        response("ru", LINES["ru"], LINES["en"] + " table"),  # a bad line: no word is looked at
        response("ru", "да", "table river cat cloud"),  # no line has five tokens
        response("ru", LINES["ru"] + "\nQ: " + LINES["en"]),  # cut before the next question
        response("de", LINES["de"] + " table"),  # Latin script: words tell nothing
        response("de", "das ist hier wohl etwas unklar"),  # not over 0.3
    ]
    result = scored(tmp_path, "language_confusion", rows, words=_words(tmp_path))
    found = table(result)
    assert result.skipped == {"no line has 5 tokens": 1}
    ru = found["monolingual / okapi / ru"]
    assert ru["LPR"] == 4 / 5 and ru["WPR"] == 3 / 4
    assert ru["LCPR"] == pytest.approx(2 * 0.8 * 0.75 / 1.55)
    assert found["monolingual / okapi / de"] == {"LPR": 1 / 2}
    assert found["monolingual / all / all"]["LPR"] == pytest.approx((0.8 + 0.5) / 2)
    assert found["monolingual / all / all"]["WPR"] == 3 / 4
    assert "Languages were detected by by letters, probability over 0.3." in result.notes


def test_averages_are_over_sources_then_languages(tmp_path, detector):
    good, bad = LINES["ru"], LINES["en"]
    rows = [response("ru", good, source="a")] * 3
    rows += [response("ru", bad, source="b"), response("de", LINES["de"], source="b")]
    rows += [response("ru", bad, source="b", task="crosslingual")]
    found = table(scored(tmp_path, "language_confusion", rows))
    assert found["monolingual / all / ru"]["LPR"] == 0.5  # 1 and 0, however many rows
    assert found["monolingual / b / all"]["LPR"] == 0.5
    assert found["monolingual / all / all"]["LPR"] == 0.75
    assert found["crosslingual / all / all"]["LPR"] == 0


def test_where_nothing_can_be_looked_at_the_rate_is_1_and_said(tmp_path, detector):
    rows = [response("ru", LINES["en"]), response("ar", "لا")]
    result = scored(tmp_path, "language_confusion", rows, words=_words(tmp_path))
    found = table(result)
    assert found["monolingual / okapi / ru"] == {"LPR": 0, "WPR": 1, "LCPR": 0}
    assert found["monolingual / okapi / ar"]["LPR"] == 1
    assert any("In 2 groups there was nothing to look at" in note for note in result.notes)


def plain_metrics(completions, language, words):
    """The official definitions once more, in the plainest way."""
    skipped = bad = wordy = clean = 0
    for text in completions:
        text = text[: text.index("\nQ:")] if "\nQ:" in text else text
        text = "".join(c for c in text.strip() if c not in string.punctuation)
        lines = [line.split() for line in text.replace("—", " ").replace("،", "").split("\n")]
        lines = [tokens for tokens in lines if not len(tokens) < 5]
        if not lines:
            skipped += 1
            continue
        labels = [by_letters(" ".join(tokens)) for tokens in lines]
        if any(label != language or not share > 0.3 for label, share in labels):
            bad += 1
            continue
        clean += 1
        wordy += any(token in words for tokens in lines for token in tokens)
    counted = len(completions) - skipped
    lpr = 1 - bad / counted if counted else 1.0
    if language not in ("ar", "hi", "ja", "ko", "ru", "zh"):
        return {"LPR": lpr}
    wpr = 1 - wordy / clean if clean else 1.0
    return {"LPR": lpr, "WPR": wpr, "LCPR": 2 * lpr * wpr / (lpr + wpr) if lpr + wpr else 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_many_made_responses_agree_with_a_second_implementation(tmp_path, detector, seed):
    draw = random.Random(seed)
    pieces = [*LINES.values(), *LINES.values(), *ENGLISH, "да", "—", "،", "...", "unklar", "\nQ: x"]
    words = {word for word in ENGLISH if word.islower() and len(word) > 3}
    made = {language: [] for language in ("ru", "ar", "de")}
    for language in made:
        for _ in range(60):
            parts = draw.choices([*pieces, LINES[language], LINES[language]], k=draw.randint(0, 4))
            made[language].append("".join(p + draw.choice((" ", "\n", ", ")) for p in parts))
    rows = [response(language, text) for language, texts in made.items() for text in texts]
    found = table(scored(tmp_path, "language_confusion", rows, words=_words(tmp_path)))
    for language, texts in made.items():
        plain = plain_metrics(texts, language, words)
        assert 0.02 < plain["LPR"] < 0.98
        assert found[f"monolingual / okapi / {language}"] == pytest.approx(plain, abs=1e-12)


def test_punctuation_goes_but_for_what_is_not_ascii():
    assert normalize(" a.b, c—d، e! \nQ: f") == "ab cd e".replace("cd", "c d")
    assert normalize("«да»") == "«да»"


def test_py3langid_is_a_detector():
    name, detect = load_detector("py3langid")
    assert name == "py3langid"
    for language, line in LINES.items():
        assert detect(line)[0] == language
    with pytest.raises(ValueError, match="no language detector 'nowhere.bin'"):
        load_detector("nowhere.bin")


@pytest.mark.extra
def test_the_model_of_fasttext_is_a_detector():
    pytest.importorskip("fasttext")
    name, detect = load_detector(FTZ)
    assert name == "fastText lid.176.ftz"
    for language, line in LINES.items():
        label, share = detect(line)
        assert label == language and 0.3 < share <= 1.001


@pytest.mark.extra
def test_chinese_and_japanese_lines_are_cut_into_words(tmp_path, monkeypatch):
    pytest.importorskip("jieba")
    pytest.importorskip("fugashi")
    monkeypatch.setattr(
        "marker_lm.evaluation.benchmarks.language_confusion.load_detector",
        lambda name: ("all", lambda line: ("zh" if "我" in line else "ja", 1.0)),
    )
    rows = [
        response("zh", "我今天去北京看我的朋友们"),
        response("zh", "我去。"),  # too few words
        response("ja", "今日は友達と東京へ行きました"),
        response("ja", "今日は table 友達と東京へ行きました"),
    ]
    result = scored(tmp_path, "language_confusion", rows, words=_words(tmp_path))
    assert result.skipped == {"no line has 5 tokens": 1}
    found = table(result)
    assert found["monolingual / okapi / zh"]["WPR"] == 1
    assert found["monolingual / okapi / ja"]["WPR"] == 1 / 2


def test_the_published_prompts_and_words_are_read():
    folder = shared_data() / "eval"
    items, bad = read_items(LanguageConfusion(), [folder / "language_confusion_benchmark.jsonl.gz"])
    assert len(items) == 6586 and not bad
    words = read_words(folder / "lcb_words.txt.gz")
    assert "river" in words and "cat" not in words and "Paris" not in words
