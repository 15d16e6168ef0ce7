"""The tables of the report, worked out by hand."""

import dataclasses

import pytest

from marker_lm.evaluation import tables
from tests.evaluation.made_up import answer, benchmark, item

ITEMS = [
    item("a", "de", key="de/Plain/a", determined=("lang", "format")),
    item("b", "en", key="en/Plain/b", open={"lang": ["de", "en", "fi"]}, determined=("format",)),
    item("c", "fi", key="fi/Plain/c"),
    item("d", "fi", key="fi/Plain/d", open={"lang": ["fi"]}),
    item("e", "de", "JSON", key="de/JSON/e", split="unseen"),
    item("f", "en", "JSON", key="en/JSON/f", split="unseen"),
]
OWN = [{c: i.markers[c] for c in ("lang", "format")} for i in ITEMS]
ASKED = [OWN[0], OWN[1] | {"lang": "fi"}, *OWN[2:]]
ANSWERS = {
    "markers": {
        "inferred": [
            answer("de/Plain/a", lang="de", format="Plain", words=3),
            answer("de/Plain/b", lang="de", format="Plain", words=4),
            answer("fi/Plain/c", lang="fi", format="JSON"),
            answer("de/Plain/d", lang="de"),
            answer("de/JSON/e", lang="de"),
            answer("en/JSON/x", lang="fi"),
        ],
        "pinned": [
            answer(" de/Plain/a\n"),
            answer("en/Plain/b"),
            answer("fi/JSON/c"),
            answer("?/Plain/d"),
            answer("de/JSON/x"),
            answer("en/Plain/x"),
        ],
        "moved": [answer("de/Plain/a"), answer("fi/Plain/b"), *[answer("?/?/?")] * 4],
    },
    "baseline": {"plain": [answer("en/Plain/wrong")] * 6},
}
BENCHMARK = benchmark(ITEMS)


def pick(rows, value, **where):
    (row,) = (r for r in rows if all(r[k] == v for k, v in where.items()))
    return row["n"], row[value]


def test_quality_is_over_held_out_rows():
    rows = tables.quality(BENCHMARK, ANSWERS, ASKED)
    assert {(r["arm"], r["mode"]) for r in rows} == {
        ("markers", "inferred"), ("markers", "pinned"), ("baseline", "plain")
    }  # fmt: skip

    def exact(mode, stratum, arm="markers"):
        return pick(rows, "mean", arm=arm, mode=mode, stratum=stratum)

    assert exact("inferred", "all") == (4, 0.5)
    assert exact("inferred", "head") == (2, 0.5)
    assert exact("inferred", "tail") == (2, 0.5)
    assert exact("pinned", "all") == (4, 0.5), "white space around an answer is nothing"
    assert exact("pinned", "head") == (2, 1.0)
    assert exact("pinned", "tail") == (2, 0.0)
    assert exact("plain", "all", "baseline") == (4, 0.0)
    assert all(r["low"] <= r["mean"] <= r["high"] for r in rows)


def test_moved_levers_have_a_key_of_their_own():
    made = benchmark(ITEMS, key=lambda item, want: f"{want['lang']}/{want['format']}/{item.id}")
    rows = [r for r in tables.quality(made, ANSWERS, ASKED) if r["mode"] == "moved"]
    assert {r["arm"] for r in rows} == {"markers"}
    assert pick(rows, "mean", stratum="head") == (2, 1.0)  # 'fi/Plain/b' was asked for and came
    assert pick(rows, "mean", stratum="tail") == (2, 0.0)


def test_differences_are_paired_and_apart_where_nothing_is_open():
    rows = tables.differences(BENCHMARK, ANSWERS)
    assert {(r["a"], r["b"]) for r in rows} == {
        ("markers/inferred", "baseline/plain"), ("markers/pinned", "baseline/plain")
    }  # fmt: skip

    def diff(mode, stratum, metric="exact_match"):
        return pick(rows, "diff", a=f"markers/{mode}", stratum=stratum, metric=metric)

    assert diff("inferred", "all") == (4, 0.5)
    assert diff("pinned", "head") == (2, 1.0)
    assert diff("pinned", "tail") == (2, 0.0)
    assert diff("pinned", "tail minus head") == (4, -1.0)
    # b and d leave something open; one item alone has no interval, so head and tail are left out.
    closed = "exact_match where nothing is open"
    assert diff("inferred", "all", closed) == (2, 1.0)
    assert [r["stratum"] for r in rows if r["metric"] == closed] == ["all", "all"]


def test_another_marked_arm_is_compared_mode_by_mode():
    marked = ANSWERS["markers"]
    rows = tables.differences(BENCHMARK, {"markers": marked, "shuffled": dict(marked)})
    assert {(r["a"], r["b"]) for r in rows} == {
        (f"markers/{mode}", f"shuffled/{mode}") for mode in ("inferred", "pinned")
    }
    assert {r["diff"] for r in rows} == {0.0}


def test_control_by_check_and_stratum():
    rows = tables.control(BENCHMARK, ANSWERS, OWN, ASKED)

    def obeyed(category, check, stratum="all", arm="markers"):
        return pick(rows, "obeyed", arm=arm, category=category, check=check, stratum=stratum)

    # d can't be told; the unseen pairs e and f don't count here.
    assert obeyed("lang", "pinned") == (3, 1.0)
    assert obeyed("lang", "pinned", "tail") == (1, 1.0)
    assert obeyed("format", "pinned") == (4, 0.75)
    assert obeyed("format", "pinned", "tail") == (2, 0.5)
    assert obeyed("lang", "pinned", arm="baseline") == (4, 0.25)
    # Only b leaves a choice: d has one value to choose from.
    assert obeyed("lang", "pinned, prompt leaves it open") == (1, 1.0)
    assert obeyed("lang", "moved to another value") == (1, 1.0)
    assert obeyed("lang", "moved to another value", arm="baseline") == (1, 0.0)
    # Both at once on the pairs that training never had: e is right, f has the wrong format.
    unseen = "pinned, pair never seen in training"
    assert obeyed("lang + format", unseen) == (2, 0.5)
    assert obeyed("lang + format", unseen, "head") == (2, 0.5)
    assert not [r for r in rows if r["check"] == unseen and r["stratum"] == "tail"]
    bars = {(r["category"], r["check"], r["stratum"]): r["bar"] for r in rows}
    assert bars["lang", "pinned", "all"] == 0.9
    assert bars["lang", "pinned", "tail"] is None and bars["format", "pinned", "all"] is None


def test_a_demand_that_nothing_can_be_held_against_is_not_left_out():
    silent = dataclasses.replace(BENCHMARK, checks={"lang": lambda text, asked: None})
    [row] = [r for r in tables.control(silent, ANSWERS, OWN, ASKED) if r["arm"] == "markers"]
    assert row["bar"] == 0.9 and row["n"] == 0 and row["obeyed"] is None


def test_a_lever_that_could_not_be_moved_is_not_counted_as_moved():
    asked = list(OWN)
    rows = tables.control(BENCHMARK, ANSWERS, OWN, asked)
    assert not [r for r in rows if r["check"] == "moved to another value"]
    assert tables.asked_got(BENCHMARK, ANSWERS["markers"]["moved"], OWN, asked) == {}


def test_inference_apart_by_what_the_prompt_determines():
    rows = tables.inference(BENCHMARK, ANSWERS)
    assert {r["arm"] for r in rows} == {"markers"}

    def accuracy(category, where, stratum="all"):
        return pick(rows, "accuracy", category=category, where=where, stratum=stratum)

    assert accuracy("lang", "prompt determines it") == (3, pytest.approx(2 / 3))
    assert accuracy("lang", "prompt determines it", "tail") == (2, 0.5)
    assert accuracy("lang", "prompt leaves it open") == (1, 0.0)
    assert accuracy("format", "prompt determines it") == (2, 1.0)
    # A marker that is not written is wrong.
    assert accuracy("format", "prompt leaves it open") == (2, 0.0)
    assert accuracy("words", "prompt leaves it open") == (4, 0.25)
    bars = {(r["category"], r["where"], r["stratum"]): r["bar"] for r in rows}
    assert bars["lang", "prompt determines it", "all"] == 0.8
    assert bars["lang", "prompt determines it", "head"] is None


def test_a_set_of_values_is_right_as_a_whole():
    items = [
        dataclasses.replace(one, markers=one.markers | {"topics": ("law", "news")})
        for one in (item("a", "de", determined=None), item("b", "en", determined=None))
    ]
    inferred = [answer("", topics=("law", "news")), answer("", topics=("law",))]
    rows = tables.inference(benchmark(items), {"markers": {"inferred": inferred}})
    assert pick(rows, "accuracy", category="topics", stratum="all") == (2, 0.5)
    assert "topics" not in tables.inferred_confusion(benchmark(items), inferred)


def test_inference_where_nobody_knows_what_is_determined():
    items = [item("a", "de", determined=None), item("b", "en", determined=None)]
    answers = {"markers": {"inferred": [answer("", lang="de"), answer("", lang="de")]}}
    rows = tables.inference(benchmark(items), answers)
    assert pick(rows, "accuracy", where="all rows", stratum="all") == (2, 0.5)
    confusion = tables.inferred_confusion(benchmark(items), answers["markers"]["inferred"])
    assert confusion["lang"] == {"labels": ["de", "en"], "matrix_true_x_inferred": [[1, 0], [1, 0]]}


def test_asked_got_counts_moved_levers():
    moved = ANSWERS["markers"]["moved"]
    table = tables.asked_got(BENCHMARK, moved, OWN, ASKED)
    assert table == {"lang": {"labels": ["fi"], "matrix_asked_x_got": [[1]]}}
    wrong = [moved[0], answer("en/JSON/b"), *moved[2:]]
    table = tables.asked_got(BENCHMARK, wrong, OWN, ASKED)
    assert table["lang"] == {"labels": ["fi", "en"], "matrix_asked_x_got": [[0, 1], [0, 0]]}


def test_confusion_is_over_what_the_prompt_determines_and_closed_values():
    found = tables.inferred_confusion(BENCHMARK, ANSWERS["markers"]["inferred"])
    assert set(found) == {"lang", "format"}, "no matrix of numbers"
    # True: de a, fi c, fi d, de e, en f; inferred: de, fi, de, de, fi.
    assert found["lang"]["labels"] == ["de", "fi", "en"]
    assert found["lang"]["matrix_true_x_inferred"] == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert found["format"] == {"labels": ["Plain"], "matrix_true_x_inferred": [[2]]}


def test_tables_of_a_benchmark_without_checks():
    """Such as rows of a taxonomy without formats: the rest is measured all the same."""
    items = [item(str(n), "de") for n in range(3)]
    bare = benchmark(items)
    bare = type(bare)(items, bare.strata, {})
    answers = {
        "markers": {m: [answer("x", lang="de")] * 3 for m in ("inferred", "pinned", "moved")}
    }
    assert tables.control(bare, answers, [{}] * 3, [{}] * 3) == []
    assert tables.asked_got(bare, answers["markers"]["moved"], [{}] * 3, [{}] * 3) == {}
    quality = tables.quality(bare, answers, [{}] * 3)
    assert pick(quality, "mean", mode="inferred", stratum="all") == (3, 0.0)
