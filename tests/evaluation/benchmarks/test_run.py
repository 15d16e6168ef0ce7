"""Items, answers and scores come together, and nothing gets lost without being counted."""

import json

import pytest

from marker_lm.data.blocks import SourceError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.job import Job
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmarks.records import read_records
from marker_lm.evaluation.benchmarks.registry import BENCHMARKS, load_benchmark, settings_help
from marker_lm.evaluation.benchmarks.run import (
    decode,
    read_answers,
    read_items,
    rows_jsonl,
    score_answers,
)
from tests.evaluation.benchmarks.made import Parrot, scored, table, write_jsonl

CHARACTERS = {"unit": "characters"}


def limited(*prompts):
    return [{"prompt": prompt, "max_len": 5} for prompt in prompts]


def test_every_benchmark_of_the_registry_says_what_it_measures():
    for name in BENCHMARKS:
        text = settings_help(name)
        assert text.startswith(f"{name}: ") and "Settings:" in text
    with pytest.raises(ValueError, match="did you mean 'length'"):
        load_benchmark("lenght")


def test_what_has_no_score_is_counted_with_its_reason(tmp_path):
    rows = [*limited("a", "b", "c", "d"), {"prompt": "e"}]
    answers = ["12345678", {"error": "too long"}, " ", "12"]
    benchmark = load_benchmark("length", CHARACTERS)
    items, bad = read_items(benchmark, [write_jsonl(tmp_path / "d.jsonl", rows)])
    assert len(bad) == 1 and "d.jsonl:5: the row needs one of 'max_len' and 'target'" in bad[0]
    lines = [a if isinstance(a, dict) else {"text": a} for a in answers]
    lines = [{"prompt": p, **a} for p, a in zip("abcd", lines, strict=True)]
    pairs, notes = read_answers(items, write_jsonl(tmp_path / "a.jsonl", lines[:3]))
    result = score_answers(benchmark, pairs, bad, notes)
    assert result.skipped == {
        "not answered: too long": 1,
        "the answer is empty": 1,
        "there is no answer": 1,
        "the row of the data is bad": 1,
    }
    assert table(result)["all"]["violation"] == 1
    found = json.loads(json.dumps(result.to_dict()))
    assert found["scored"] == 1 and found["lines"][0]["violation"]["n"] == 1
    assert found["lines"][0]["signed_error"]["low"] is None  # of one item there is no interval
    assert [("skipped" in json.loads(line)) for line in rows_jsonl(result)] == [False, *[True] * 3]


def test_answers_find_their_items(tmp_path):
    benchmark = load_benchmark("length", CHARACTERS)
    rows = [{"id": "x", "prompt": "p", "max_len": 5}, {"key": 7, "prompt": "p", "max_len": 5}]
    items, _ = read_items(benchmark, [write_jsonl(tmp_path / "d.jsonl", [*rows, *limited("q")])])
    assert [item.id for item in items] == ["x", "7", "2"]
    answers = [
        {"prompt": "p", "text": "first"},
        {"prompt": "p", "text": "second"},
        {"id": "2", "text": "by id"},
        {"id": "2", "text": "again"},
        {"prompt": "nobody asked", "text": "stray"},
    ]
    pairs, notes = read_answers(items, write_jsonl(tmp_path / "a.jsonl", answers))
    texts = [(item.id, answer["text"]) for item, answer in pairs]
    assert texts == [("x", "first"), ("7", "second"), ("2", "by id"), ("2", "again")]
    assert "1 answers are not used" in notes[0] and "a.jsonl:5" in notes[0]
    assert "several answers" in notes[1]


def test_a_model_answers_what_has_no_answer_and_is_not_refused(tmp_path):
    benchmark = load_benchmark("length", CHARACTERS | {"marker": "characters"})
    rows = limited("one", "much too long a prompt for this parrot to say", "three", "four")
    items, _ = read_items(benchmark, [write_jsonl(tmp_path / "d.jsonl", rows)])
    parrot = Parrot()
    everywhere = Controls(pinned={"lang": "de", "characters": 9})
    with Job(tmp_path / "answers.jsonl", {}, len(items)) as job:
        job.add(3, {"id": "2", "prompt": "three", "text": "of an earlier call"})
        decode(benchmark, parrot, items, everywhere, Sampling(), job)
    answers = list(job.results())
    assert [answer.get("text") for answer in answers] == ["one", None, "of an earlier call", "four"]
    assert answers[1]["error"] == "the prompt is too long"
    assert parrot.pinned == [{"lang": "de", "characters": 5}] * 2
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3"]


def test_a_json_list_and_a_csv_file_are_read(tmp_path):
    (tmp_path / "a.json").write_text('[{"instruction": "é"}, 3]', "utf-8")
    (tmp_path / "b.csv").write_text('id,text\n1,"two\nlines"\n2\n', "utf-8")
    (_, row), (place, error) = read_records(tmp_path / "a.json")
    assert row == {"instruction": "é"} and place.endswith("a.json:2") and "int" in str(error)
    (_, row), (_, error) = read_records(tmp_path / "b.csv")
    assert row == {"id": "1", "text": "two\nlines"} and "2 fields" in str(error)
    for name, text in (("c.json", "{}"), ("d.json", "["), ("e.csv", "id\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match=name):
            list(read_records(tmp_path / name))


def test_data_without_an_item_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no item for 'length'.*the first of 1 bad rows"):
        scored(tmp_path, "length", [{"prompt": "p"}])
