import itertools
import json
import subprocess
import sys
from collections import Counter

import pytest

from marker_lm.data.atlas import facts, languages, render, rows

PAPER_TASKS = {
    "QuestionAnswering", "Translation", "Explanation", "OpenEnded", "Reasoning", "Classification",
    "Rewrite", "InformationExtraction",
}  # fmt: skip
DOMAINS = {"Geography", "Finance", "Languages", "Calendar", "Measurement", "Numbers"}
LEVERS = [name for name, ask in facts.ASKS.items() if ask.lever]


@pytest.fixture(scope="module")
def splits():
    return rows.generate(24_000)


def levers(row):
    markers = row["markers"]
    return markers["lang"], markers["format"], markers["length_bucket"]


def test_size_and_breadth(splits):
    assert sum(map(len, splits.values())) == 24_000
    assert len(splits["train"]) >= 20_000
    assert len(languages.LANGUAGES) >= 25
    assert len({script for _, script in languages.LANGUAGES.values()}) >= 8
    train = splits["train"]
    assert {r["markers"]["domain"] for r in train} == DOMAINS
    assert {r["markers"]["task"] for r in train} == PAPER_TASKS
    assert {r["markers"]["format"] for r in train} == set(render.FORMATS)
    assert {r["markers"]["length_bucket"] for r in train} == set(rows.LENGTHS)
    assert max(r["markers"]["length_paragraphs"] for r in train) >= 4
    assert min(r["markers"]["length_tokens"] for r in train) == 1


def test_languages_are_long_tailed(splits):
    speakers, shares = languages.speakers(), languages.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert list(shares) == list(speakers)
    assert 1300 < speakers["English"] < 1900 and 2 < speakers["Armenian"] < 6
    tail = rows.strata()["tail"]
    assert len(tail) == 13 and set(tail) == set(sorted(speakers, key=speakers.get)[:13])
    counts = Counter(r["markers"]["lang"] for r in splits["train"])
    total = len(splits["train"])
    assert 0.04 < sum(counts[lang] for lang in tail) / total < 0.05
    assert all(counts[lang] / total < 0.05 for lang in tail)
    assert min(counts[lang] for lang in languages.LANGUAGES) >= 30


def test_heldout_and_unseen_have_enough_of_head_and_tail(splits):
    tail = set(rows.strata()["tail"])
    heldout = Counter(r["markers"]["lang"] in tail for r in splits["heldout"])
    assert heldout[False] >= 600 and heldout[True] >= 400
    unseen = Counter(r["markers"]["lang"] in tail for r in splits["unseen"])
    assert unseen[False] >= 200 and unseen[True] >= 100


def test_the_key_is_recomputed_from_the_fact(splits):
    for split in splits.values():
        for row in split[:3000]:
            fact = json.loads(json.dumps(row["fact"]))
            assert row["completion"] == row["key"] == rows.answer_key(fact, *levers(row))
            assert row["markers"] == rows.markers_of(fact, *levers(row))


def test_unseen_pairs_are_in_no_other_split(splits):
    def pairs(name):
        return {(r["markers"]["lang"], r["markers"]["format"]) for r in splits[name]}

    assert pairs("unseen") == rows.UNSEEN
    assert not rows.UNSEEN & (pairs("train") | pairs("dev") | pairs("heldout"))
    of_lang = Counter(lang for lang, _ in rows.UNSEEN)
    of_format = Counter(format for _, format in rows.UNSEEN)
    assert max(of_lang.values()) == 1 and max(of_format.values()) <= 4


def test_splits_share_no_combination_nor_text(splits):
    def combos(name):
        return [rows.combination(r["fact"], *levers(r)) for r in splits[name]]

    def texts(name):
        return {(r["prompt"], r["completion"]) for r in splits[name]}

    for name in ("dev", "heldout", "unseen"):
        assert len(set(combos(name))) == len(splits[name])
        assert not texts("train") & texts(name)
    for a, b in itertools.combinations(splits, 2):
        assert not set(combos(a)) & set(combos(b)), (a, b)
    ids = [r["id"] for split in splits.values() for r in split]
    assert len(set(ids)) == len(ids)


def test_levers_are_open_or_said(splits):
    train = splits["train"]
    for lever in ("lang", "format"):
        rest = [r for r in train if r["fact"]["ask"] != "find"]
        share = sum(lever in r["open"] for r in rest) / len(rest)
        assert 0.37 < share < 0.43
        assert all((lever in r["open"]) != (lever in r["determined"]) for r in train)
    for row in train:
        assert not set(row["open"]) & set(row["determined"])
        assert all(row["markers"][c] in values for c, values in row["open"].items())
    lever_rows = [r for r in train if r["fact"]["ask"] in LEVERS]
    share = sum("length_bucket" in r["open"] for r in lever_rows) / len(lever_rows)
    assert 0.37 < share < 0.43


@pytest.mark.parametrize("lang", languages.LANGUAGES)
def test_length_lever_holds_for_every_fact(lang):
    """Whatever the prompt, a lever's answer is in the bucket asked for, in every language."""
    for name in LEVERS:
        if name.startswith("about"):
            first = name.removeprefix("about_")
            homes = facts.TERRITORIES if first == "territory" else facts.HOME_OF_CURRENCY.values()
            homes = facts.HOME_OF_LANGUAGE.values() if first == "language" else homes
            found = [{"ask": name, "of": of, "first": first} for of in homes]
        else:
            kind = name.removeprefix("list_")
            starts = range(2, 12) if kind == "number" else facts.LISTS[kind]
            found = [{"ask": name, "kind": kind, "from": start} for start in starts]
        for fact in found:
            for bucket in rows.LENGTHS:
                assert rows.bucket_of(facts.content(fact, lang, bucket)) == bucket, fact


def test_same_seed_same_rows():
    first, again, other = (rows.generate(700, seed) for seed in (3, 3, 4))
    assert first == again
    assert first["train"] != other["train"]


def test_rows_do_not_depend_on_what_babel_was_asked_before():
    """Babel's own aliases do: see languages."""
    code = (
        "import hashlib, json\nfrom babel import Locale\n"
        "for c in {}: Locale.parse(c).months['stand-alone']['wide'][1]\n"
        "from marker_lm.data.atlas import rows\n"
        "print(hashlib.sha256(json.dumps(rows.generate(700)).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code.format(order)], capture_output=True, text=True, check=True
        ).stdout
        for order in ([], ["zh", "fi", "hi", "en"])
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65


def test_write(tmp_path):
    summary = rows.write(tmp_path / "atlas", n=700)
    lines = (tmp_path / "atlas" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows.generate(700)["train"]
    assert summary["rows"] == {"train": 635, "dev": 18, "heldout": 35, "unseen": 12}
    assert sum(summary["task"].values()) == pytest.approx(1)


def test_too_few_rows_is_an_error():
    with pytest.raises(ValueError, match="n is 100"):
        rows.generate(100)


def test_words():
    assert languages.words("日本、2024年5月13日") == ("日本", "2024年5月13日")
    assert languages.words("dollar des États-Unis") == ("dollar", "des", "États", "Unis")
    assert languages.words("ประเทศไทย, 1.250 l’été.") == ("ประเทศไทย", "1.250", "l’été")
    assert languages.words(" - , ") == ()


@pytest.mark.parametrize(
    ("fact", "lang", "expected"),
    [
        ({"ask": "currency_of", "of": "JP"}, "German", "Japanischer Yen"),
        ({"ask": "language_of", "of": "BR"}, "Russian", "португальский"),
        ({"ask": "continent_of", "of": "EG"}, "Greek", "Αφρική"),
        ({"ask": "later_month", "of": "11", "by": 3}, "English", "February"),
        ({"ask": "later_day", "of": "6", "by": 2}, "French", "mardi"),
        ({"ask": "currency_where", "of": "ja"}, "English", "Japanese Yen"),
        ({"ask": "sum", "a": 4, "b": 8, "scale": "million"}, "Hindi", "1.2 करोड़"),
        ({"ask": "date", "value": "2024-05-13"}, "Spanish", "13 de mayo de 2024"),
        ({"ask": "amount", "value": 43, "of": "EUR"}, "Polish", "43 euro"),
        ({"ask": "quantity", "value": 5, "of": "length-kilometer"}, "Chinese", "5公里"),
        ({"ask": "quantity", "value": 3, "of": "duration-hour"}, "Russian", "3 часа"),
        ({"ask": "number", "value": 3, "scale": "billion"}, "Swedish", "3 miljarder"),
        ({"ask": "day_or_month", "kind": "weekday", "of": "0"}, "German", "Tage"),
    ],
)
def test_answers(fact, lang, expected):
    assert rows.answer_key(fact, lang, "Plain") == expected


def test_formats():
    content = [["1. a", "b|c"], ["d", "e"]]
    shown = {format: make(content, "English") for format, make in render.FORMATS.items()}
    assert shown == {
        "Plain": "1. a, b|c\n\nd, e",
        "JSON": '[["1. a","b|c"],["d","e"]]',
        "XML": "<list><p><i>1. a</i><i>b|c</i></p><p><i>d</i><i>e</i></p></list>",
        "Enumeration": "1. 1\\. a\n2. b\\|c\n\n3. d\n4. e",
        "Tabular": "|1|2|\n|-|-|\n|1\\. a|b\\|c|\n|d|e|",
        "Markdown": "# 1. a\n- b\\|c\n# d\n- e",
    }
    assert render.plain([["日本", "法国"]], "Chinese") == "日本、法国"
