"""What is asked, and how answers that do as they like are read."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.questions import (
    choices,
    complaint,
    cut_middle,
    messages,
    read_values,
    response_format,
    value_probability,
)
from marker_lm.markers.taxonomy import load_taxonomy

PAPER = load_taxonomy("paper")
DOMAIN, TASK, STYLE = (PAPER.category(name) for name in ("domain", "task", "style"))


def test_the_question_holds_all_definitions_and_the_text():
    system, user = messages([DOMAIN, TASK], "prompt", "What is a fever?")
    assert system["role"] == "system" and user["role"] == "user"
    for category in (DOMAIN, TASK):
        assert f"Category {category.name}: {category.definition}" in system["content"]
        for value, definition in category.values.items():
            assert f"- {value}: {definition}" in system["content"]
    assert "the prompt of an instruction" in system["content"]
    assert "What is a fever?" in user["content"]
    assert "answer to an instruction" in messages([STYLE], "completion", "x")[0]["content"]
    assert complaint([STYLE], "hm")[0] == {"role": "assistant", "content": "hm"}
    assert "Formal, Informal, Custom, Unspecified" in complaint([STYLE], "")[1]["content"]


def test_the_schema_allows_the_values_and_the_abstention_only():
    schema = response_format([DOMAIN, STYLE])["json_schema"]["schema"]
    assert schema["required"] == ["domain", "style"] and not schema["additionalProperties"]
    assert schema["properties"]["style"]["enum"] == [*STYLE.values, "Unspecified"]
    # The paper's domain has Unspecified as a value of its own: it is found and no abstention.
    assert schema["properties"]["domain"]["enum"] == list(DOMAIN.values) == choices(DOMAIN)
    assert read_values('{"domain": "Unspecified"}', [DOMAIN]) == {"domain": "Unspecified"}


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ('{"domain": "Medical"}', "Medical"),
        ('```json\n{"domain": "Medical"}\n```', "Medical"),
        ('Sure! Here it is: {"domain": "medical"} I hope this helps.', "Medical"),
        ('{"Domain": "social sciences"}', "SocialSciences"),
        ('<think>{maybe {"domain": "Code"}?}</think>{"domain": "Medical"} {}', "Medical"),
        ('{"domain": ["Medical"]}', "Medical"),
        ("Medical", "Medical"),
        (' "Medical".\n', "Medical"),
        ('{"domain": null}', None),
    ],
)
def test_answers_that_can_be_used(text, domain):
    assert read_values(text, [DOMAIN]) == {"domain": domain}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't help with that.",
        '{"domain": "Medicine"}',
        '{"domain": "!!"}',
        '{"domain": 3}',
        '{"domain": ["Medical", "Legal"]}',
        '{"domain": {"value": "Medical"}}',
        '{"domian": "Medical"}',
        '{"domain": "Medical"',
        "[1, 2]",
        "{" * 30_000,
        '{"domain":' * 5000,
        "null",
    ],
)
def test_answers_that_can_not_be_used(text):
    assert read_values(text, [DOMAIN]) == {}


def test_of_several_categories_the_good_ones_are_taken():
    text = '{"domain": "Medical", "task": "Chatting", "style": "Unspecified"}'
    assert read_values(text, [DOMAIN, TASK, STYLE]) == {"domain": "Medical", "style": None}
    assert read_values("Medical", [DOMAIN, TASK]) == {}


@given(st.sampled_from(list(DOMAIN.values)), st.sampled_from(list(TASK.values)))
def test_what_the_schema_asks_for_is_read_back(domain, task):
    text = json.dumps({"domain": domain, "task": task})
    assert read_values(text, [DOMAIN, TASK]) == {"domain": domain, "task": task}


@given(st.text(max_size=60), st.integers(2, 20))
def test_a_long_text_keeps_its_start_and_end(text, most):
    short = cut_middle(text, most)
    if len(text) <= most:
        assert short == text
    else:
        assert short.startswith(text[: most // 2]) and short.endswith(text[-(most // 2) :])
        assert f"{len(text) - most} characters left out" in short


def test_the_probability_of_a_value_is_that_of_its_tokens():
    tokens = [('{"', 0.0), ("task", 0.0), ('":', 0.0), (' "', -9.0), ("Code", math.log(0.5))]
    tokens += [("Fix", math.log(0.8)), ('",', math.log(0.9)), (' "domain":"Code"}', math.log(0.6))]
    text = "".join(token for token, _ in tokens)
    assert value_probability(text, tokens, "task") == pytest.approx(0.36)
    assert value_probability(text, tokens, "domain") == pytest.approx(0.6)
    assert value_probability(text, tokens, "style") is None
    assert value_probability("other", tokens, "task") is None
    assert value_probability(text, (), "task") is None
    bare = [("Co", math.log(0.5)), ("de", 0.0)]
    assert value_probability("Code", bare, "task") == pytest.approx(0.5)
