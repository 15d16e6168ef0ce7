"""What the harness asks, against plain forward passes by hand."""

import dataclasses

import numpy as np
import pytest

from marker_lm.data.assembly import Kind, assemble
from marker_lm.data.chat import Turn, load_chat
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine, TooLongError
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.harness_model import HarnessModel
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import MAX_LEN, TOKENIZER, full_logits, log_softmax, make_engine

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role[0] + '>' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{{ '<a>' if add_generation_prompt }}"
)
PINNED = {"lang": "German", "words": 12}
PAIRS = [
    ("Name the capital of Japan.", " Tokyo"),
    ("Name the capital of Japan.", " Kyoto, of course"),
    ("Say hi.", "hi"),
    ("Name the capital of Japan.", " Tokyo"),
    ("Say hi.", ""),
]


@pytest.fixture(scope="module", params=[True, False], ids=["markers", "baseline"])
def engine(request):
    return make_engine("compact", blocks=request.param)


def pinned_of(engine):
    return PINNED if engine.layout.completion_side else {}


def by_hand(engine, context, text, markers, shown):
    """Log-likelihood of a text after a context and a list, and whether each id is the likeliest."""
    spans = engine.prompts.spans(Turn(context, text, markers))
    ids, kinds = assemble(engine.layout, spans, shown)
    logits = full_logits(engine, ids[:-1])
    at = np.flatnonzero(kinds == Kind.COMPLETION)[:-1]
    log_p = log_softmax(logits)
    best = logits[:, : TOKENIZER.size].argmax(-1)
    return sum(log_p[i - 1, ids[i]] for i in at), all(best[i - 1] == ids[i] for i in at)


@pytest.mark.parametrize("pins", [False, True])
def test_a_continuation_stands_after_the_models_own_list(engine, pins):
    pinned = pinned_of(engine) if pins else {}
    model = HarnessModel(engine, pinned)
    found = model.log_likelihoods(PAIRS)
    for (context, continuation), (nats, greedy) in zip(PAIRS, found, strict=True):
        [own] = engine.generate([context], Controls(pinned), Sampling(max_tokens=1))
        assert own.markers.items() >= pinned.items()
        text = continuation.removeprefix(" ")
        expected, is_greedy = by_hand(engine, context, text, own.markers, set(pinned))
        assert nats == pytest.approx(expected, abs=1e-3) and greedy == is_greedy
    assert found[0] == found[3] and found[4] == (0.0, True)


def test_markers_move_the_scores():
    engine = make_engine("compact")
    scores = [HarnessModel(engine, pins).log_likelihoods(PAIRS[:2]) for pins in ({}, PINNED)]
    assert scores[0] != scores[1]


def test_what_greedy_decoding_writes_is_greedy(engine):
    model = HarnessModel(engine, {})
    contexts = [f"{n} is a number" for n in range(60)]
    results = engine.generate(contexts, None, Sampling(max_tokens=1))
    # Of random parameters many an answer is no whole character.
    whole = [
        (context, result.text)
        for context, result in zip(contexts, results, strict=True)
        if result.tokens and tuple(TOKENIZER.encode(result.text)) == result.tokens
    ]
    whole = [(context, text) for context, text in whole if not text.startswith(" ")]
    assert len(whole) > 5
    assert all(greedy for _, greedy in model.log_likelihoods(whole))
    others = [(context, "q" if text != "q" else "z") for context, text in whole]
    assert not any(greedy for _, greedy in model.log_likelihoods(others))


def test_a_space_is_kept_where_answers_follow_prompts_directly():
    apart = make_engine("compact", blocks=False)
    direct = make_engine("compact", blocks=False, separator=())
    for engine, text in ((apart, "Tokyo"), (direct, " Tokyo")):
        [(nats, _)] = HarnessModel(engine, {}).log_likelihoods(PAIRS[:1])
        assert nats == pytest.approx(by_hand(engine, PAIRS[0][0], text, {}, ())[0], abs=1e-3)


def test_a_whole_text_is_scored_token_by_token(engine):
    pinned = pinned_of(engine)
    model = HarnessModel(engine, pinned)
    short, long = "Once upon a time", "".join(chr(97 + n % 26) for n in range(3 * MAX_LEN + 5))
    empty, first, whole = model.rolling(["", short, long])
    assert empty == 0
    assert first == pytest.approx(by_hand(engine, "", short, pinned, set(pinned))[0], abs=1e-3)
    # By hand: windows of as many tokens as fit, the last one moved back to be full.
    spans = engine.prompts.spans(Turn("", "", pinned))
    head = assemble(engine.layout, spans, set(pinned))[0][:-1].tolist()
    ids, room, total = TOKENIZER.encode(long), MAX_LEN + 1 - len(head), 0.0
    for start in range(0, len(ids), room):
        end = min(start + room, len(ids))
        window = [*head, *ids[max(end - room, 0) : end]]
        log_p = log_softmax(full_logits(engine, window[:-1]))
        counted = range(len(window) - (end - start), len(window))
        total += sum(log_p[i - 1, window[i]] for i in counted)
    assert whole == pytest.approx(total, abs=0.05)


def test_answers_end_at_stop_texts(engine):
    model = HarnessModel(engine, pinned_of(engine))
    sampling = Sampling(max_tokens=20)
    free = model.generate([("Say hi.", sampling), ("Name it.", sampling)])
    expected = engine.generate(["Say hi."], Controls(pinned_of(engine)), [sampling])
    assert free[0] == expected[0].text
    letter = free[1][3]
    stopped = dataclasses.replace(sampling, stop=(letter,))
    assert model.generate([("Name it.", stopped)]) == [free[1].split(letter)[0]]


def test_messages_are_contexts_too():
    chat = load_chat({"template": TEMPLATE, "system": ""}, TOKENIZER)
    plain = make_engine("compact")
    layout = dataclasses.replace(plain.layout, separator=(), eos=chat.end_id(TOKENIZER))
    known = plain.taxonomy, plain.codec, layout, TOKENIZER, plain.mesh, 4
    model = HarnessModel(Engine(plain.params, plain.config, *known, chat), {"words": 3})
    talk = [{"role": "user", "content": "Say hi."}]
    text, messages = model.log_likelihoods([("Say hi.", " hi"), (talk, " hi")])
    assert text == messages and text[0] < 0
    longer = [*talk, {"role": "assistant", "content": "hi"}, *talk]
    [(other, _)] = model.log_likelihoods([(longer, " hi")])
    assert other != text[0]


def test_what_can_not_be_asked(engine):
    model = HarnessModel(engine, {})
    sampling = Sampling(max_tokens=3)
    with pytest.raises(ValueError, match="the prompt ''... is refused: the prompt is empty"):
        model.generate([("fine", sampling), ("", sampling)])
    with pytest.raises(TooLongError, match="shorten it"):
        model.log_likelihoods([("x" * MAX_LEN, " y")])
    with pytest.raises(MarkerError, match="did you mean 'lang'"):
        HarnessModel(engine, {"lnag": "German"})
