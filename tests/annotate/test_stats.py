"""The whole pass over a config's rows, and its page."""

import json

import pytest
from etils import epath

from marker_lm import markup
from marker_lm.annotate.stats import make_statistics
from marker_lm.annotate.stats_page import SECTIONS, render
from marker_lm.annotate.stats_summary import percent, summary, terminal_tables
from marker_lm.annotate.tally import GIVEN
from marker_lm.data.prepare import make_tokenizer
from marker_lm.data.sources import SourceError
from marker_lm.markers.taxonomy import load_taxonomy
from tests.pages import Page
from tests.tiny import make_rows, tiny_config, write_data, write_rows


def statistics(folder, config=None, **options):
    config = config or tiny_config(folder)
    options = {"threshold": 0.2, "workers": 0, "log": lambda line: None} | options
    return make_statistics(config, folder / "data", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("stats"), train=700, heldout=50)


@pytest.fixture(scope="module")
def stats(folder):
    return statistics(folder)


def test_counts_are_those_of_the_rows(stats):
    rows = make_rows(700)
    assert stats["splits"]["train"]["rows"] == 700 and stats["splits"]["heldout"]["rows"] == 50
    for name in ("lang", "task", "words"):
        marked = [row["markers"][name] for row in rows if name in row["markers"]]
        category = stats["categories"][name]
        assert category["rows"] == len(marked)
        assert category["coverage"] == pytest.approx(len(marked) / 700)
        if name != "words":
            each = [v for value in marked for v in ([value] if isinstance(value, str) else value)]
            assert category["values"] == {v: each.count(v) for v in category["values"]}
            assert sum(category["values"].values()) == len(each)
    assert stats["categories"]["lang"]["tail"] == ["ja"]
    assert (
        sum(n for _, n in stats["categories"]["words"]["histogram"])
        == (stats["categories"]["words"]["rows"])
    )
    assert sum(n for _, n in stats["lengths"]["prompt"]) == 700


def test_values_that_never_came(tmp_path, monkeypatch):
    folder = write_data(tmp_path)
    rows = [row for row in make_rows(100) if row["markers"].get("lang") != "ja"]
    write_rows(folder / "train.jsonl", rows)
    found = statistics(folder)
    assert found["categories"]["lang"]["unseen"] == ["ja"]
    monkeypatch.setattr(markup, "get_plotlyjs", lambda: "")
    assert "Never seen: ja." in Page(render(found, "marker-lm stats")).text


def test_who_filled_the_markers_is_told_from_annotated_rows(tmp_path):
    folder = write_data(tmp_path)
    rows = make_rows(60)
    told = {"lang": {"origin": "lang", "confidence": 0.95}}
    for row in rows:
        if "lang" in row["markers"]:
            row["marker_info"] = told
    write_rows(folder / "train.jsonl", rows)
    found = statistics(folder)["categories"]
    marked = {name: sum(name in row["markers"] for row in rows) for name in ("lang", "task")}
    assert found["lang"]["origins"] == {"lang": marked["lang"]}
    assert found["lang"]["confidences"] == [0] * 9 + [marked["lang"]]
    assert found["task"]["origins"] == {GIVEN: marked["task"]}


def test_everything_is_plain_json(stats):
    assert json.loads(json.dumps(stats, allow_nan=False)).keys() == stats.keys()


def test_any_number_of_processes_gives_the_same(folder, stats):
    other = statistics(folder, workers=2)
    for result in (other, stats):
        result["about"] |= {"seconds": 0, "rows_a_second": 0}
    assert other == stats


def test_rejected_rows_are_counted_and_no_reason_to_stop(tmp_path):
    folder = write_data(tmp_path, train=30, heldout=0)
    rows = make_rows(30) + [{"id": f"b{i}", "prompt": " ", "completion": "x"} for i in range(40)]
    write_rows(folder / "train.jsonl", rows)
    config = tiny_config(folder).unlock()
    config.data.tasks.rows.heldout = ""
    found = statistics(folder, config)
    assert found["splits"]["train"]["rejects"]["kinds"] == {"prompt is blank": 40}
    assert found["splits"]["train"]["rows"] == 30 and list(found["splits"]) == ["train"]
    assert "40 rows were rejected" in summary(found)[0]
    assert all(pool["heldout_rows"] == 0 for pool in found["strata"]["lang"]["pools"])
    render(found)


def test_tokens_are_those_of_the_tokenizer_once_it_is_there(tmp_path):
    folder = write_data(tmp_path, train=300, heldout=20)
    config = tiny_config(folder).unlock()
    config.data.update(tokenizer="train", vocab_size=400, prepared="")
    before = statistics(folder, config)
    assert before["about"]["token_unit"].startswith("bytes: the tokenizer is not there yet")
    data = epath.Path(folder / "data")
    make_tokenizer(config, load_taxonomy(config.taxonomy), data, lambda line: None)
    after = statistics(folder, config)
    assert after["about"]["token_unit"] == f"tokens of {folder / 'data' / 'tokenizer'}"
    assert after["token_costs"]["text"] < before["token_costs"]["text"] / 1.5


def test_duplicates_can_be_left_out(folder):
    found = statistics(folder, search=False)
    assert found["duplicates"] is None
    assert not any("repeat one before" in line for line in summary(found))
    assert "Near duplicates were not looked for." in Page(render(found)).text


def test_a_missing_file_is_one_sentence(tmp_path):
    write_data(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(SourceError, match="there is no .*train.jsonl"):
        statistics(tmp_path)


@pytest.fixture
def page(stats, monkeypatch):
    monkeypatch.setattr(markup, "get_plotlyjs", lambda: "")
    return Page(render(stats, "marker-lm stats --config=<my config>.py"))


def test_page_has_all_sections_and_loads_nothing(page):
    assert all(title in page.text for title in SECTIONS)
    assert page.sources and all(source.startswith("#") for source in page.sources)
    assert "marker-lm stats --config=<my config>.py" in page.text


def test_figures_hold_the_counts(page, stats):
    bars = [trace for f in page.figures for trace in f["data"] if trace["type"] == "bar"]
    drawn = {x: y for trace in bars for x, y in zip(trace["x"], trace["y"], strict=True)}
    for name in ("lang", "task", "size"):
        values = stats["categories"][name]["values"]
        assert {value: drawn[value] for value in values} == values
    logs = [f["layout"]["yaxis"].get("type") for f in page.figures]
    assert logs.count("log") == 3
    [heat] = [t for f in page.figures for t in f["data"] if t["type"] == "heatmap"]
    assert heat["x"] == ["size", "lang", "task"]


def test_values_are_escaped(stats, monkeypatch):
    monkeypatch.setattr(markup, "get_plotlyjs", lambda: "")
    text = json.dumps(stats).replace('"ja"', '"<script>alert(1)</script>"')
    made = render(json.loads(text))
    assert "<script>alert" not in made
    assert "<script>alert(1)</script>" in Page(made).text


def test_terminal_tables(stats, capsys):
    from rich.console import Console

    for table in terminal_tables(stats):
        Console(width=120).print(table)
    out = capsys.readouterr().out
    assert "lang" in out and "tail strata" in out and "ja" in out


def test_percent_never_rounds_something_to_nothing():
    assert percent(0) == "0.0\u00a0%" and percent(0.00001) == "<\u00a00.1\u00a0%"
    assert percent(0.5) == "50.0\u00a0%"
