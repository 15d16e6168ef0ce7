"""Markers of prompts without a completion, found on the fly."""

import pytest

from marker_lm.annotate.prompt_markers import PromptTagger
from marker_lm.annotate.registry import AnnotateError
from marker_lm.markers.taxonomy import load_taxonomy
from tests.annotate.server import serving
from tests.annotate.test_llm import by_schema

PAPER = load_taxonomy("paper")
LEVERS = tuple(PAPER.categories)


def config(server, **annotators):
    endpoint = {"url": server.url, "model": "m", "backoff": 0.01, "concurrency": 1}
    nobody = dict.fromkeys(PAPER.categories, ())
    return {"annotators": nobody | annotators, "llm": {"endpoint": endpoint}}


def test_the_language_of_a_prompt():
    tagger = PromptTagger("lang", PAPER, LEVERS)
    assert tagger.categories == ("lang",) and tagger.notes == ()
    prompts = [
        "Erzähle mir bitte etwas über Japan.",
        "日本について教えてください。",
        "7",
        "Hello you",
    ]
    tags = tagger.tag(prompts, [(), (), (), ("lang",)])
    assert [tag.get("lang", ("",))[0] for tag in tags] == ["German", "Japanese", "", ""]
    assert tags[0]["lang"][1] == "lang" and 0.5 < tags[0]["lang"][2] <= 1


def test_a_language_model_is_asked_for_what_is_lacking(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(by_schema) as server:
        tagger = PromptTagger(config(server, domain="llm", style="llm", lang="lang"), PAPER, LEVERS)
        assert set(tagger.categories) == {"domain", "style", "lang"}
        prompts = ["What is a fever?", "Was ist denn bitte ein Fieber?"]
        first, second = tagger.tag(prompts, [{"style"}, ()])
        tagger.close()
        assert first["domain"] == ("Medical", "llm", 0.8) and "style" not in first
        assert second["style"][0] == "Informal" and second["lang"][0] == "German"
        asked = [body["response_format"]["json_schema"]["schema"] for body in server.requests]
        assert [list(schema["properties"]) for schema in asked] == [
            ["domain"],
            ["domain"],
            ["style"],
        ]


def test_what_can_not_be_told_of_a_prompt_is_left_out(monkeypatch):
    with serving(by_schema) as server:
        own = config(server, domain="classifier", lang="lang", length_tokens="lengths")
        tagger = PromptTagger(own, PAPER, LEVERS)
    assert tagger.categories == ("lang",)
    [note] = tagger.notes
    assert "'classifier' must learn from rows first" in note


@pytest.mark.parametrize(
    ("annotators", "levers", "sentence"),
    [
        ("lagn", LEVERS, "'lagn' is no annotator; did you mean 'lang'"),
        ("lengths", LEVERS, "'lengths' can tell none of the model's levers; choose lang, llm"),
        ("lang", ("domain",), "'lang' can tell none of the model's levers"),
        ({"annotators": {"lang": ()}}, ("lang",), "the config can tell none"),
        ("classifier", ("lang",), "can tell none"),
    ],
)
def test_nothing_to_find_is_an_error(annotators, levers, sentence):
    with pytest.raises(AnnotateError, match=sentence) as caught:
        PromptTagger(annotators, PAPER, levers)
    assert "\n" not in str(caught.value)
