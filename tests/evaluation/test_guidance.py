"""The guidance experiment on a made-up engine whose obedience follows the weight by design."""

import dataclasses

import pytest

from marker_lm.evaluation import findings, page, report
from marker_lm.evaluation.benchmark import Item
from marker_lm.evaluation.guidance import guidance_curves
from marker_lm.markers.dropout import hash_ids
from tests.evaluation.made_up import LANGS, answer, benchmark, item


class Engine:
    class layout:
        completion_side = ("lang", "format")


def rows(split: str, count: int) -> list[Item]:
    languages = {"lang": LANGS, "format": ("Plain", "JSON")}
    return [item(f"{split}{n}", LANGS[n % 3], split=split, open=languages) for n in range(count)]


def decoder(obeys):
    """Answers 'lang/format'; obeys(lever, split, weight) is the share of items that obey."""
    calls = []

    def decode(items, pins, guidance, split):
        [lever] = pins[0]
        weight = guidance.weight if guidance else 1.0
        calls.append((lever, split, weight, len(items)))
        texts = []
        for n, (one, pin) in enumerate(zip(items, pins, strict=True)):
            assert pin[lever] != one.markers[lever] and one.id.startswith(split)
            shown = dict(one.markers)
            if n < obeys(lever, split, weight) * len(items):
                shown |= pin
            texts.append(answer(f"{shown['lang']}/{shown['format']}/x"))
        return texts

    return decode, calls


@pytest.fixture
def splits():
    return benchmark(rows("dev", 60)), benchmark(rows("test", 90))


def test_the_weight_is_chosen_on_dev_and_told_of_test(splits):
    shares = {1.0: 0.5, 1.5: 0.6, 2.0: 0.9, 3.0: 0.7}

    def obeys(lever, split, weight):
        if lever == "format":
            return 0.95
        return shares[weight] if split == "dev" else min(1.0, 0.3 * weight)

    decode, calls = decoder(obeys)
    found = guidance_curves(Engine, *splits, decode, seed=0, rows=(40, 80))
    assert found["lever"] == "lang" and found["best"] == 2.0
    assert [row["obeyed"] for row in found["dev"]] == list(shares.values())
    assert [row["obeyed"] for row in found["test"]] == pytest.approx(
        [0.3, 0.45, 0.6, 0.9], abs=0.01
    )
    assert {row["n"] for row in found["dev"]} == {40} and {r["n"] for r in found["test"]} == {80}
    assert found["difference"]["diff"] == pytest.approx(0.3, abs=0.01)
    assert found["difference"]["low"] > 0
    assert len(calls) == len(set(calls)) == 1 + 4 + 4, "nothing is decoded twice"
    sentence = findings.guidance_sentence(found)
    assert "weight 2, the best on other rows, raises how often “lang”" in sentence
    assert "+30.0" in sentence and "80 held-out rows" in sentence


def test_a_weight_that_only_looks_good_on_dev(splits):
    decode, _ = decoder(lambda lever, split, w: 0.5 if split == "test" else 0.4 + 0.1 * w)
    found = guidance_curves(Engine, *splits, decode, seed=0, lever="lang")
    assert found["best"] == 3.0 and found["difference"]["diff"] == 0
    assert "does not clearly change" in findings.guidance_sentence(found)


def test_no_weight_is_better(splits):
    decode, _ = decoder(lambda lever, split, w: 0.8 / w)
    found = guidance_curves(Engine, *splits, decode, seed=0, lever="lang", weights=(2, 3))
    assert found["best"] == 1.0 and [row["weight"] for row in found["dev"]] == [1, 2, 3]
    assert "no weight was better than none" in findings.guidance_sentence(found)


def test_equal_weights_the_smallest_change(splits):
    decode, _ = decoder(lambda lever, split, w: 0.5)
    assert guidance_curves(Engine, *splits, decode, seed=0)["best"] == 1.0


def test_answers_that_cant_be_told_are_left_out_in_pairs(splits):
    decode, _ = decoder(lambda lever, split, w: min(1.0, 0.3 * w))

    def with_doubt(items, pins, guidance, split):
        texts = decode(items, pins, guidance, split)
        weight = guidance.weight if guidance else 1.0
        doubted = hash_ids([i.id for i in items]) % 5 == (1 if weight == 1 else 2)
        return [
            dataclasses.replace(text, text="?/?/x") if doubt else text
            for text, doubt in zip(texts, doubted, strict=True)
        ]

    found = guidance_curves(Engine, *splits, with_doubt, seed=0, lever="lang")
    assert found["best"] == 3.0
    assert found["difference"]["n"] < min(row["n"] for row in found["test"]) < 90


def test_without_an_open_lever_there_is_nothing_to_try():
    closed = benchmark([item("a", "de")])
    assert guidance_curves(Engine, closed, closed, None, seed=0) is None


def test_the_section_of_the_report(splits, tmp_path):
    decode, _ = decoder(lambda lever, split, w: min(1.0, 0.3 * w))
    found = guidance_curves(Engine, *splits, decode, seed=0, lever="lang")
    results = {"arms": [{"name": "markers"}], "guidance": found}
    html = report.write_report(results, tmp_path).read_text("utf-8")
    assert "guidance weight w" in html and "w = 1.5" in html
    assert findings.guidance_sentence(found) in html
    assert "Guidance was not tried" in page.render(report.clean_results({"arms": []}))
    lacking = {k: v for k, v in found.items() if k != "best"}
    with pytest.raises(report.ReportError, match="guidance lacks 'best'"):
        report.clean_results({"guidance": lacking})
