"""Rows of messages: one answer is annotated like a completion, several are refused."""

import json

from marker_lm.data.example import parse_row
from marker_lm.data.sources import read_rows
from marker_lm.markers.taxonomy import load_taxonomy
from tests.annotate.made import run, write_rows


def messages(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_one_answer_is_annotated_and_several_are_refused(tmp_path):
    rows = [
        {"id": "one", "messages": messages("Say hello to me", "hello to you")},
        {"id": "two", "messages": messages("a", "b", "c", "d")},
        {"id": "plain", "prompt": "Say hello", "completion": "hello you"},
    ]
    out, manifest = run(tmp_path, write_rows(tmp_path / "rows.jsonl", rows), max_reject_share=0.5)
    written = [row for _, _, row in read_rows(out / "rows")]
    assert [row["id"] for row in written] == ["one", "plain"]
    assert [row["markers"]["words"] for row in written] == [3, 2]
    assert written[0]["messages"] == rows[0]["messages"]
    assert manifest["rejects"]["kinds"] == {"several answers": 1}
    [refused] = [json.loads(line) for line in (out / "rejects.jsonl").open()]
    assert "the row has 2 answers, and markers are found for one" in refused["reason"]
    taxonomy = load_taxonomy(str(tmp_path / "taxonomy.yaml"))
    assert parse_row(written[0], taxonomy).markers["words"] == 3
