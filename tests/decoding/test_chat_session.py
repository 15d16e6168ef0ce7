"""A conversation with levers, line by line, without a terminal and without a model."""

import pytest

from marker_lm.decoding.chat_events import Answered, Levers, Piece, Said
from marker_lm.decoding.chat_session import COMMANDS, ChatSession
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.sampling import Sampling
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.fake import FakeEngine, lines


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def session(engine):
    return ChatSession(engine)


def follow(session, *given):
    return [event for line in given for event in session.handle(line)]


def said(session, line) -> str:
    [event] = session.handle(line)
    assert isinstance(event, Said)
    return event.text


def test_an_answer_comes_in_pieces_and_then_whole(session, engine):
    *pieces, last = session.handle(" Hello there ")
    assert pieces == [Piece("You"), Piece(" said"), Piece(" Hello"), Piece(" there")]
    assert last == Answered(last.result) and last.result.text == "You said Hello there"
    assert engine.requests[0].prompt == "Hello there" and engine.requests[0].guidance is None
    assert follow(session, "", "  ") == []


def test_levers_hold_until_they_are_freed(session, engine):
    assert said(session, "/set lang=German") == "lang is pinned to German"
    assert said(session, "/set topics=music; art") == "topics is pinned to art; music"
    said(session, "/ban style")
    said(session, "/ask score")
    follow(session, "a")
    assert engine.requests[-1].controls == Controls(
        {"lang": "German", "topics": ("art", "music")}, frozenset({"style"}), frozenset({"score"})
    )
    said(session, "/ban lang")
    said(session, "/set score=2")
    assert session.controls == Controls(
        {"topics": ("art", "music"), "score": 2.0}, frozenset({"style", "lang"})
    )
    said(session, "/free topics")
    assert set(session.controls.pinned) == {"score"}
    said(session, "/free")
    assert session.controls == Controls()


def test_all_levers_are_shown(session):
    follow(session, "/set lang=Engl", "/ban style", "/ask words")
    [event] = session.handle("/levers")
    assert isinstance(event, Levers)
    states = {lever.category: (lever.state, lever.value) for lever in event.levers}
    assert states["lang"] == ("pinned", "Engl") and states["style"] == ("banned", None)
    assert states["words"] == ("asked", None) and states["topics"] == ("free", None)
    takes = {lever.category: lever.takes for lever in event.levers}
    assert takes["lang"] == "English, Engl, German" and takes["words"] == "integer of words"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/sett lang=German", "no command /sett; did you mean 'set'"),
        ("/set lnag=German", "unknown category 'lnag'.*did you mean 'lang'"),
        ("/set lang=Germann", "did you mean 'German'"),
        ("/set lang", "/set lang is not /set CATEGORY=VALUE"),
        ("/set lang=", "is not /set CATEGORY=VALUE"),
        ("/set words_bucket=many", "contradict each other"),
        ("/free lnag", "no lever 'lnag'; did you mean 'lang'"),
        ("/ban zzz", "no lever 'zzz'; it has lang"),
        ("/ask styl", "did you mean 'style'"),
        ("/guide", "is not a number; write /guide 2.0"),
        ("/guide 2 lnag", "did you mean 'lang'"),
        ("/temperature hot", "/temperature hot is not a number"),
        ("/temperature -1", "temperature is -1.0; it must be 0"),
        ("/seed 1.5", "/seed 1.5 is not a number"),
        ("/sweep words", "'words' is a number, so its values can't all be tried"),
        ("/sweep lang", "no prompt yet; write /sweep lang PROMPT"),
        ("/save", "needs the name of a file"),
        ("refuse", "the prompt is refused"),
    ],
)
def test_what_can_not_be_followed_changes_nothing(session, line, sentence):
    follow(session, "/set words=3", "/guide 2.0 words")
    before = session.controls, session.sampling, session.guidance, list(session.lines)
    with pytest.raises(ValueError, match=sentence) as caught:
        follow(session, line)
    assert "\n" not in str(caught.value)
    assert (session.controls, session.sampling, session.guidance, session.lines) == before


def test_settings_and_seeds(session, engine):
    follow(
        session,
        "/temperature 0.5",
        "/top_k 7",
        "/top_p 0.9",
        "/repetition_penalty 1.2",
        "/max_tokens 9",
        "/seed 4",
    )
    follow(session, "a", "b", "/seed 4", "c")
    asked = [request.sampling for request in engine.requests]
    assert asked[0] == Sampling(0.5, 7, 0.9, 1.2, max_tokens=9, seed=4)
    assert [sampling.seed for sampling in asked] == [4, 5, 4]


def test_answers_are_held_where_the_number_is_pinned(engine):
    session = ChatSession(engine, counters={"words": len})
    assert said(session, "/hold words") == "answers are held to words, where it is pinned"
    assert engine.measured == "words"
    follow(session, "a", "/set words=40", "b", "/sweep style", "/free words", "c")
    follow(session, "/set words=30")
    assert said(session, "/hold") == "nothing is held"
    follow(session, "d")
    assert [request.sampling.length for request in engine.requests] == [0, 40, 40, 40, 0, 0]
    assert [line["sampling"].get("length") for line in session.lines[:2]] == [None, 40]
    with pytest.raises(ValueError, match="/hold word: nothing counts that; did you mean 'words'?"):
        follow(session, "/hold word")


def test_guidance_is_on_what_is_pinned(session, engine):
    assert said(session, "/guide 2.5 lang") == "lang is guided with weight 2.5"
    follow(session, "/set lang=German", "b", "/sweep style")
    for request in engine.requests:
        assert request.guidance == Guidance(2.5, categories=frozenset({"lang"}))
    assert said(session, "/guide 1") == "no guidance"
    follow(session, "c")
    assert engine.requests[-1].guidance is None


def test_without_a_template_each_prompt_stands_alone(session, engine):
    follow(session, "a", "b")
    assert [request.prompt for request in engine.requests] == ["a", "b"]


def test_a_conversation_is_read_whole_with_its_markers():
    engine = FakeEngine(conversations=True)
    session = ChatSession(engine)
    follow(session, "/set lang=German", "a", "/free lang", "b", "blank", "c")
    assert [m["role"] for m in engine.requests[0].prompt] == ["system", "user"]
    second = engine.requests[1].prompt
    assert [m["role"] for m in second] == ["system", "user", "assistant", "user"]
    assert second[2]["content"] == "You said a" and second[2]["markers"] == {"lang": "German"}
    texts = [m["content"] for m in engine.requests[3].prompt]
    assert texts == ["Be kind.", "a", "You said a", "b", "You said b", "c"], "no blank answer"
    assert said(session, "/reset") == "the conversation begins anew"
    follow(session, "d")
    assert [m["content"] for m in engine.requests[-1].prompt] == ["Be kind.", "d"]


@pytest.mark.parametrize("conversations", [True, False])
def test_ctrl_c_stops_an_answer_and_not_the_session(conversations):
    engine = FakeEngine(conversations)
    session = ChatSession(engine)
    follow(session, "a")
    engine.interrupt = 1
    shown = []
    with pytest.raises(KeyboardInterrupt):
        for event in session.handle("b"):
            shown.append(event)
    assert shown == [Piece("You")]
    engine.interrupt = None
    follow(session, "c")
    prompt = engine.requests[-1].prompt
    texts = [m["content"] for m in prompt] if conversations else [prompt]
    assert "b" not in texts and texts[-1] == "c"
    assert [line["prompt"] for line in session.lines] == ["a", "c"]
    assert engine.requests[-1].sampling.seed == 1


def test_a_sweep_answers_with_every_value_in_order(session, engine):
    follow(session, "/set words_bucket=many", "/ban lang", "hello")
    events = follow(session, "/sweep lang")
    assert [event.value for event in events] == ["lang=English", "lang=Engl", "lang=German"]
    assert [event.result.markers["lang"] for event in events] == ["English", "Engl", "German"]
    asked = engine.requests[1:]
    assert {request.prompt for request in asked} == {"hello"}
    assert all(request.controls.pinned["words_bucket"] == "many" for request in asked)
    assert session.controls.banned == {"lang"}, "the lever itself has not moved"
    follow(session, "/sweep style other words")
    assert engine.requests[-1].prompt == "other words"
    assert [line.get("sweep") for line in session.lines[:4]] == [
        None, "lang=English", "lang=Engl", "lang=German",
    ]  # fmt: skip
    refused = follow(session, "/sweep style refuse")
    assert refused == [Said(f"style={v}: the prompt is refused.") for v in ("a<b&c", "a")]


def test_answers_are_saved(session, tmp_path):
    path = tmp_path / "talk.jsonl"
    follow(session, "/set topics=law", "/guide 2", "/seed 3", "はい", "/ban lang", "b")
    assert said(session, f"/save {path}") == f"2 answers: {path}"
    first, second = lines(path)
    assert first["prompt"] == "はい" and first["text"] == "You said はい"
    assert first["markers"] == {"lang": "English", "topics": ["law"]}
    assert first["pinned"] == ["topics"] and first["guidance"] == 2.0
    assert first["sampling"]["seed"] == 3 and "lang" not in second["markers"]
    follow(session, "c")
    assert said(session, f"/save {path}") == f"3 answers: {path}"
    other = ChatSession(FakeEngine())
    with pytest.raises(ValueError, match="is there already"):
        follow(other, f"/save {path}")
    with pytest.raises(ValueError, match="can't be written"):
        follow(session, f"/save {tmp_path / 'none' / 'x'}")


def test_help_and_quit(session):
    assert all(f"/{name} " in said(session, "/help") for name in COMMANDS)
    assert session.open
    assert follow(session, "/quit") == [] and not session.open


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/se", ["/set", "/seed"]),
        ("", []),
        ("Hel", []),
        ("/set wo", ["/set words=", "/set words_bucket="]),
        ("/set lang=E", ["/set lang=English", "/set lang=Engl"]),
        ("/set nothing=", []),
        ("/free st", ["/free style"]),
        ("/guide 2 lang to", ["/guide 2 lang topics"]),
        ("/temperature l", []),
    ],
)
def test_completion(session, line, found):
    assert session.complete(line) == found


def test_a_session_begins_with_controls_that_are_checked(engine):
    session = ChatSession(engine, Controls({"words": "3"}), Sampling(seed=9))
    assert session.controls.pinned == {"words": 3}
    with pytest.raises(MarkerError, match="did you mean 'lang'"):
        ChatSession(engine, Controls({"lnag": "x"}))


def test_a_model_without_markers_has_no_levers():
    session = ChatSession(FakeEngine(blocks=False))
    assert follow(session, "/levers") == [Levers(())]
    with pytest.raises(ValueError, match="no lever 'lang'; it has none"):
        follow(session, "/sweep lang x")
    *_, last = follow(session, "a")
    assert last.result.markers == {}
