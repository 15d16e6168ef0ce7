"""Conversations at decoding: written as in training, scored and answered turn after turn."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from marker_lm.data.assembly import Kind, assemble
from marker_lm.data.chat import load_chat
from marker_lm.data.example import RowError
from marker_lm.data.parse import parse_row
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.rows import read_rows
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.markers.taxonomy import MarkerError
from marker_lm.sharding.mesh import make_mesh
from tests.decoding.small import (
    TOKENIZER,
    full_logits,
    log_softmax,
    make_codec,
    make_config,
    make_layout,
    make_params,
    make_taxonomy,
)

TEMPLATE = (  # the model writes a space before its answer
    "{% for m in messages %}{{ '<' + m.role[0] + '>' }}"
    "{{ ' ' + m.content + eos_token if m.role == 'assistant' else m.content + '\\n' }}{% endfor %}"
    "{{ '<a>' if add_generation_prompt }}"
)
TALK = [
    {"role": "user", "content": "Say hi."},
    {"role": "assistant", "content": "hi", "markers": {"lang": "German", "words": 1}},
    {"role": "user", "content": "Again."},
]


@pytest.fixture(scope="module")
def engine():
    chat = load_chat({"template": TEMPLATE, "system": ""}, TOKENIZER)
    codec, config = make_codec("compact"), make_config("compact")
    layout = dataclasses.replace(make_layout("compact"), separator=(), eos=chat.end_id(TOKENIZER))
    mesh = make_mesh(devices=jax.devices()[:1])
    known = codec.taxonomy, codec, layout, TOKENIZER
    return Engine(make_params(config), config, *known, mesh, 4, chat)


def trained(engine, answer, markers):
    """Ids and kinds of the conversation with this answer, as training writes it, bare prompts."""
    said = {"role": "assistant", "content": answer, "markers": markers}
    example = parse_row({"messages": [*TALK, said]}, make_taxonomy(), chat=engine.chat)
    turns = [assemble(engine.layout, engine.prompts.spans(turn), ()) for turn in example.turns]
    return [np.concatenate(column) for column in zip(*turns, strict=True)], len(turns[0][0])


def test_scoring_a_turn_is_the_full_forward_pass(engine):
    markers = {"lang": "English", "words": 2, "words_bucket": "few"}
    [score] = Scorer(engine).score([TALK], ["hi again"], [markers])
    (ids, kinds), second = trained(engine, "hi again", markers)
    logs = log_softmax(full_logits(engine, ids[:-1]))
    nats = -logs[np.arange(len(ids) - 1), ids[1:]]
    at = np.arange(1, len(ids)) >= second
    for kind in (Kind.COMPLETION, Kind.COMPLETION_MARKERS):
        chosen = at & (kinds[1:] == kind)
        assert score.tokens[kind.name] == chosen.sum() > 0
        assert score.nats[kind.name] == pytest.approx(nats[chosen].sum(), abs=1e-3)
    np.testing.assert_allclose(score.token_nats, nats, atol=1e-4)
    assert score.tokens["COMPLETION"] == len(TOKENIZER.encode(" hi again")) + 1


def test_an_answer_is_what_the_whole_forward_pass_writes(engine):
    controls = Controls(pinned={"lang": "German", "words": 2}, banned=frozenset({"score"}))
    [result] = engine.generate([TALK], [controls], Sampling(max_tokens=6))
    (ids, _), second = trained(engine, "x", result.markers)
    # What is pinned stands on the prompt side too.
    turns = engine.prompts.turns([*TALK], None)
    last = engine.prompts.spans(dataclasses.replace(turns[-1], markers=result.markers))
    own = assemble(engine.layout, last, {"lang", "words"})[0][:-1].tolist()
    ids = [*ids[:second].tolist(), *own]
    for token in result.tokens:
        assert int(full_logits(engine, ids)[-1][: TOKENIZER.size].argmax()) == token
        ids.append(token)
    assert result.text == TOKENIZER.decode(result.tokens).removeprefix(" ")


def test_a_text_is_the_message_of_a_user(engine):
    as_messages = [[{"role": "user", "content": "Say hi."}]]
    sampling = Sampling(max_tokens=4)
    assert engine.generate(["Say hi."], None, sampling) == engine.generate(
        as_messages, None, sampling
    )
    assert [t.prompt for t in engine.prompts.turns("Say hi.")] == ["<u>Say hi.\n<a>"]
    [turn] = engine.prompts.turns("Say hi.", "hi")
    assert turn.completion == " hi"


def test_the_posterior_given_earlier_turns(engine):
    [posterior] = Scorer(engine).posterior([TALK], "lang")
    logs = {}
    (ids, _), second = trained(engine, "x", {})
    turn = engine.prompts.turns(TALK)[-1]
    head = [*ids[:second].tolist(), *TOKENIZER.encode(turn.prompt), *engine.layout.open]
    for value in ("English", "Engl", "German"):
        marker = list(engine.codec.marker("lang", value))
        whole = log_softmax(full_logits(engine, head + marker))
        logs[value] = sum(whole[len(head) + i - 1, token] for i, token in enumerate(marker))
    total = np.logaddexp.reduce(list(logs.values()))
    for value, log in logs.items():
        assert posterior[value] == pytest.approx(np.exp(log - total), abs=1e-3)


def test_either_end_stops_a_text(engine):
    ends = dataclasses.replace(engine.layout, eos=TOKENIZER.encode("~")[0])
    args = engine.taxonomy, engine.codec, ends, TOKENIZER, engine.mesh, 4
    other = Engine(engine.params, engine.config, *args, engine.chat)
    assert other.ends == (TOKENIZER.encode("~")[0], TOKENIZER.eos_id)
    sampled = Sampling(temperature=1.0, max_tokens=300)
    results = other.generate(["Say hi.", "a", "b", "c"], None, sampled)
    for result in results:
        assert not set(other.ends) & set(result.tokens)
    assert any(result.finished for result in results)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (" ", "the prompt is empty"),
        ([], "list of messages is empty"),
        (TALK[:2], "the last message is an answer"),
        ([{"role": "user"}], "content of message 1 is None"),
    ],
)
def test_prompts_that_cannot_be_answered(engine, prompt, reason):
    assert reason in engine.refusal(prompt, Controls())
    with pytest.raises(ValueError, match=reason):
        engine.generate([prompt])


def test_markers_of_earlier_answers_are_checked(engine):
    bad = [TALK[0], TALK[1] | {"markers": {"lagn": "x"}}, TALK[2]]
    with pytest.raises(MarkerError, match="lagn"):
        engine.generate([bad])


def test_messages_need_a_template(engine):
    args = engine.taxonomy, engine.codec, make_layout("compact"), TOKENIZER, engine.mesh, 4
    plain = Engine(engine.params, engine.config, *args)
    assert "messages need a chat template" in plain.refusal(TALK, Controls())


def test_messages_of_a_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": TALK, "markers": {"lang": "German"}}) + "\n")
    [(_, row)] = read_rows(path, ("prompt",))
    assert row["prompt"] == TALK and row["markers"] == {"lang": "German"}
    for row, reason in (
        ({"messages": TALK[:2]}, "the last message is an answer"),
        ({"messages": TALK, "prompt": "x"}, "messages and a prompt"),
        ({"messages": "x"}, "the messages are a str"),
    ):
        path.write_text(json.dumps(row) + "\n")
        [(place, error)] = read_rows(path, ("prompt",))
        assert place == f"{path}:1" and isinstance(error, RowError) and reason in str(error)
