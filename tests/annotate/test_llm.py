"""The annotator that asks a language model, against a real server."""

import json
import math
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from marker_lm.annotate.annotator import Annotator, Found
from marker_lm.annotate.endpoint_config import EndpointError
from marker_lm.annotate.ledger import BudgetError
from marker_lm.annotate.llm import make
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from tests.annotate.server import Reply, chat, serving

ROOT = Path(__file__).resolve().parents[2]
PAPER = load_taxonomy("paper")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def annotator(server, categories=("domain", "task"), endpoint=None, **more):
    settings = {"url": server.url, "model": "m", "backoff": 0.01, **(endpoint or {})}
    return make({"endpoint": settings, "categories": categories, **more}, PAPER)


def example(prompt, completion="c", id="1", **markers):
    return Example(id, prompt, completion, markers, {})


def text_of(body):
    return re.fullmatch(r"<text>\n(.*)\n</text>", body["messages"][1]["content"], re.DOTALL)[1]


def by_schema(body, _):
    """What a good server answers: from the schema, Medical, QuestionAnswering and Informal."""
    wanted = {"domain": "Medical", "task": "QuestionAnswering", "style": "Informal"}
    names = body["response_format"]["json_schema"]["schema"]["properties"]
    return chat(json.dumps({name: wanted[name] for name in names}))


GOOD = {"domain": Found("Medical", 0.8), "task": Found("QuestionAnswering", 0.8)}


def test_one_call_fills_all_categories_of_a_prompt():
    with serving(by_schema) as server:
        tagger = annotator(server)
        assert isinstance(tagger, Annotator) and tagger.name == "llm"
        assert tagger.annotate([example("What is a fever?"), example("b", id="2")]) == [GOOD, GOOD]
        assert len(server.requests) == 2 and server.requests[0]["temperature"] == 0.0
        assert {text_of(body) for body in server.requests} == {"What is a fever?", "b"}
        assert tagger.annotate([]) == []
        facts = tagger.facts()
        assert (facts["model"], facts["requests"], facts["answers_kept"]) == ("m", 2, 2)
        assert +tagger.counts == {}


def test_one_call_a_category_as_in_the_paper():
    with serving(by_schema) as server:
        assert annotator(server, one_call=False).annotate([example("a")]) == [GOOD]
        schemas = [r["response_format"]["json_schema"]["schema"] for r in server.requests]
        assert sorted(schema["required"] for schema in schemas) == [["domain"], ["task"]]


def test_only_what_lacks_is_asked_of_what_it_describes():
    with serving(by_schema) as server:
        tagger = annotator(server, ("domain", "task", "style"))
        found = tagger.annotate([example("p", "the answer", task="Translation")])
        assert found == [{"domain": Found("Medical", 0.8), "style": Found("Informal", 0.8)}]
        assert sorted(map(text_of, server.requests)) == ["p", "the answer"]
        full = example("p", domain="Code", task="CodeFix", style="Formal")
        assert tagger.annotate([full]) == [{}] and len(server.requests) == 2


def test_a_prompt_is_tagged_on_the_fly():
    with serving(by_schema) as server:
        found = annotator(server, ("domain", "style"), {"concurrency": 1}).tag("What is a fever?")
        assert {name: one.value for name, one in found.items()} == {
            "domain": "Medical",
            "style": "Informal",
        }
        assert list(map(text_of, server.requests)) == ["What is a fever?"] * 2
        assert "best answer" in server.requests[1]["messages"][0]["content"]


def test_confidence_comes_from_log_probabilities_and_has_a_threshold():
    tokens = [('{"', 0.0), ("domain", 0.0), ('":"', 0.0), ("Medical", math.log(0.5)), ('"', 0.0)]
    tokens += [(',"task":"', 0.0), ("QuestionAnswering", math.log(0.9)), ('"}', 0.0)]
    reply = chat("".join(token for token, _ in tokens), logprobs=tokens)
    with serving(lambda *_: reply) as server:
        (found,) = annotator(server).annotate([example("a")])
        assert found["domain"].confidence == pytest.approx(0.5)
        assert found["task"].confidence == pytest.approx(0.9)
        assert server.requests[0]["logprobs"] is True
        tagger = annotator(server, threshold=0.6)
        assert set(tagger.annotate([example("a")])[0]) == {"task"}
        assert tagger.counts["under threshold"] == 1
        annotator(server, logprobs=False).annotate([example("a")])
        assert "logprobs" not in server.requests[-1]


def test_a_server_that_ignores_the_schema_is_read_all_the_same():
    says = 'Gladly!\n```json\n{"Domain": "medical", "task": "question answering"}\n```'
    with serving(lambda *_: chat(says)) as server:
        assert annotator(server).annotate([example("a")]) == [GOOD]
        assert len(server.requests) == 1
    with serving(lambda *_: chat("**Medical**")) as server:
        tagger = annotator(server, ("domain",), structured="none")
        assert tagger.annotate([example("a")]) == [{"domain": Found("Medical", 0.8)}]
        assert "response_format" not in server.requests[0]


def test_a_wrong_answer_is_asked_again_once_with_what_is_wrong():
    def wrong_first(body, _):
        again = len(body["messages"]) > 2
        return chat(
            '{"task": "QuestionAnswering"}' if again else '{"domain": "Medical", "task": 1}'
        )

    with serving(wrong_first) as server:
        tagger = annotator(server)
        assert tagger.annotate([example("a"), example("b")]) == [GOOD, GOOD]
        assert len(server.requests) == 4 and +tagger.counts == {"asked again": 2}
        second = [body for body in server.requests if len(body["messages"]) > 2][0]
        assert second["messages"][2]["content"] == '{"domain": "Medical", "task": 1}'
        names = second["response_format"]["json_schema"]["schema"]["required"]
        assert names == ["task"]


@pytest.mark.parametrize("text", ["", None, "{", '{"domain": "Medicine"}', "no idea"])
def test_what_stays_unusable_is_an_abstention_and_counted(text):
    with serving(lambda *_: chat(text)) as server:
        tagger = annotator(server, ("domain",))
        assert tagger.annotate([example("a"), example("b")]) == [{}, {}]
        assert len(server.requests) == 4
        assert +tagger.counts == {"asked again": 2, "unusable": 2}


def test_unspecified_is_an_abstention():
    with serving(lambda *_: chat('{"task": "Unspecified"}')) as server:
        tagger = annotator(server, ("task",))
        assert tagger.annotate([example("a")]) == [{}]
        assert len(server.requests) == 1 and +tagger.counts == {"abstained": 1}


def test_long_texts_are_cut_for_the_question_only():
    with serving(by_schema) as server:
        tagger, one = annotator(server, max_chars=20), example("a" * 50 + "b" * 50)
        assert tagger.annotate([one]) == [GOOD]
        assert text_of(server.requests[0]) == (
            "a" * 10 + "\n[... 80 characters left out ...]\n" + "b" * 10
        )
        assert one.prompt == "a" * 50 + "b" * 50 and +tagger.counts == {"cut": 1}
        assert tagger.facts()["cut"] == 1


def test_refused_rows_abstain_but_not_all_of_them():
    def filtered(body, number):
        return Reply(400, b"filtered") if text_of(body) == "bad" else by_schema(body, number)

    with serving(filtered) as server:
        tagger = annotator(server)
        assert tagger.annotate([example("bad"), example("good")]) == [{}, GOOD]
        assert +tagger.counts == {"refused": 1}
    with serving(lambda *_: Reply(400, b"unknown field response_format")) as server:
        with pytest.raises(EndpointError, match="unknown field .*llm.structured='none'"):
            annotator(server).annotate([example(str(i)) for i in range(30)])


def test_a_pickled_tagger_works_elsewhere(tmp_path):
    with serving(by_schema) as server:
        tagger = annotator(server, endpoint={"cache": str(tmp_path / "a.db")})
        assert tagger.annotate([example("a")]) == [GOOD]
        copy = pickle.loads(pickle.dumps(tagger))
        assert copy.annotate([example("a")]) == [GOOD]
        assert len(server.requests) == 1


def test_the_budget_stops_it_and_a_new_run_goes_on(tmp_path):
    money = {"cache": str(tmp_path / "a.db"), "price_in": 1.0, "budget": 0.007, "concurrency": 2}
    rows = [example(f"question {i}", id=str(i)) for i in range(60)]
    with serving(by_schema) as server:
        with pytest.raises(BudgetError, match="raise endpoint.budget"):
            annotator(server, endpoint=money).annotate(rows)
        first = len(server.requests)
        assert 0 < first < 60
        found = annotator(server, endpoint={**money, "budget": 10.0}).annotate(rows)
        assert found == [GOOD] * 60 and len(server.requests) == 60


RUN = """
import sys
from marker_lm.annotate.llm import make
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import load_taxonomy
endpoint = {"url": sys.argv[1], "model": "m", "cache": sys.argv[2], "concurrency": 4}
tagger = make({"endpoint": endpoint, "categories": ("domain", "task")}, load_taxonomy("paper"))
print(tagger.annotate([Example(str(i), f"q{i}", "c", {}, {}) for i in range(60)]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_resumed(tmp_path):
    def slowly(body, number):
        time.sleep(0.02)
        return by_schema(body, number)

    with serving(slowly) as server:
        command = [sys.executable, "-c", RUN, server.url, str(tmp_path / "a.db")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(server.requests) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(server.requests)
        assert 20 <= before < 60
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.count("Found(value='Medical'") == 60
        # Only what was under way at the kill, four at most, is asked a second time.
        assert 60 <= len(server.requests) <= 64
        assert {text_of(body) for body in server.requests} == {f"q{i}" for i in range(60)}


@pytest.mark.parametrize(
    ("section", "error", "says"),
    [
        ({}, EndpointError, "endpoint.url is ''"),
        ({"structured": "xml"}, EndpointError, "llm.structured is 'xml'.*schema, json, none"),
        (
            {"max_char": 5},
            SettingsError,
            "llm: there is no key 'max_char'; did you mean 'max_chars'",
        ),
        ({"max_chars": 0}, EndpointError, "max_chars is 0"),
        ({"threshold": 2}, EndpointError, "threshold is 2"),
        ({"categories": ("domian",)}, MarkerError, "did you mean 'domain'"),
        ({"categories": ("quality",)}, MarkerError, "'quality' of type 'number'"),
    ],
)
def test_bad_sections(section, error, says):
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m"} if section else {}
    with pytest.raises(error, match=says):
        make({"endpoint": endpoint, **section}, PAPER)


def test_of_a_category_with_several_values_a_list_is_asked_for():
    several = Taxonomy("several", {"domain": replace(PAPER.category("domain"), several=True)})
    with serving(lambda *_: chat('{"domain": ["Math", "medical", "Unspecified"]}')) as server:
        section = {"endpoint": {"url": server.url, "model": "m"}, "categories": ("domain",)}
        (found,) = make(section, several).annotate([example("a")])
        assert found["domain"].value == ("Medical", "Unspecified", "Math")
        schema = server.requests[0]["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["domain"]["type"] == "array"


def test_by_default_it_fills_what_is_classified():
    made = make({"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}, PAPER)
    assert made.categories == ("task", "domain", "format")
