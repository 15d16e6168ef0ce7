"""Conversations: what a template writes, what of it is learned, and that they stay whole."""

import dataclasses
import json
import pickle
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data import plan as plan_module
from marker_lm.data.assembly import Answers, assemble_rows
from marker_lm.data.batch_print import head_line, lines
from marker_lm.data.batch_view import Reader, summary
from marker_lm.data.cache import Cache
from marker_lm.data.chat import Chat, ChatError, load_chat, mark_conversations
from marker_lm.data.example import Example, RowError
from marker_lm.data.loader import iterate
from marker_lm.data.mixture import row_factors
from marker_lm.data.parse import parse_row
from marker_lm.data.plan import TOO_LONG, kept_markers
from marker_lm.data.rejects import Rejects
from marker_lm.data.row_format import RowFormat
from marker_lm.data.setup import SetupError, make_setup, train_batches
from marker_lm.data.sources import read_examples
from marker_lm.data.spans import Spans, flatten_spans, value_number
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from tests.cache_files import write_cache
from tests.data.chat_models import MODELS, make_chat, make_tokenizer
from tests.tiny import tiny_config, tiny_taxonomy, write_rows

PLAIN = (  # of a tokenizer without special tokens but eos
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt }}"
)


def talk(*texts, **markers):
    """Messages of user and assistant in turns; the markers are of the last answer."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    if markers:
        said[-1]["markers"] = markers
    return said


def spans_of(example, codec, tokenizer):
    """The rows of a cache that the SeqIO task makes of an example, without TensorFlow."""

    def ids(values):
        return np.asarray(values, np.int32)

    rows = [
        Spans(
            example.id if len(example.turns) == 1 else f"{example.id}#{number}",
            ids(tokenizer.encode(turn.prompt)),
            ids(tokenizer.encode(turn.completion)),
            {c: ids(codec.marker(c, value)) for c, value in turn.markers.items()},
            {
                c: value_number(codec.taxonomy.categories[c], value)
                for c, value in turn.markers.items()
                if codec.taxonomy.categories[c].is_closed
            },
        )
        for number, turn in enumerate(example.turns, 1)
    ]
    return rows


@dataclasses.dataclass
class Made:
    batches: object
    reader: Reader
    examples: list
    spans: list  # of each example


def make(folder, rows, chat, tokenizer, arm="baseline", system="", rows_per_shard=16, **train):
    """Batches of rows, and what they are made of."""
    taxonomy = tiny_taxonomy(folder)
    config = tiny_config(folder, arm, **train).unlock()
    config.data.chat.update(template=chat.template, system=chat.system)
    codec = MarkerCodec(taxonomy, config.template, tokenizer)
    examples = [parse_row(row, taxonomy, {}, f"row:{i}", chat=chat) for i, row in enumerate(rows)]
    spans = [spans_of(example, codec, tokenizer) for example in examples]
    flat = [one for some in spans for one in some]
    mark_conversations(chat, tokenizer, [example.turns for example in examples], flat)
    tasks = [{"name": "rows", "rows": len(rows), "rate": 1.0}]
    manifest = {"categories": list(taxonomy.categories), "tasks": tasks}
    write_cache(flat, folder / "cache", manifest, rows_per_shard=rows_per_shard)
    setup = make_setup(config, taxonomy, tokenizer)
    batches = train_batches(config, setup, Cache(folder / "cache"), slice(None))
    return Made(batches, Reader(setup.layout, codec, tokenizer), examples, spans)


def bracketed(segment):
    """The text of a segment, with brackets around what has a weight in the loss."""
    texts = [f"[[{s.text}]]" if s.weight else s.text for s in segment.spans]
    return "".join(texts).replace("]][[", "")


GOLDEN = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
        "<|im_start|>assistant\n[[Hello!<|im_end|>]]\n<|im_start|>user\nSay yes<|im_end|>\n"
        "<|im_start|>assistant\n[[yes\nno<|im_end|>]]"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[Hello!<|eot_id|>]]"
        "<|start_header_id|>user<|end_header_id|>\n\nSay yes<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[yes\nno<|eot_id|>]]"
    ),
    # After [/INST] the model itself writes the spaces around its answer.
    "llama2": (
        "<s>[INST] Hi there [/INST][[ Hello! </s>]]<s>[INST] Say yes [/INST][[ yes\nno </s>]]"
    ),
    "mistral": "<s>[INST] Hi there[/INST][[ Hello!</s>]][INST] Say yes[/INST][[ yes\nno</s>]]",
    "gemma": (
        "<bos><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n"
        "[[Hello!<end_of_turn>]]\n<start_of_turn>user\nSay yes<end_of_turn>\n"
        "<start_of_turn>model\n[[yes\nno<end_of_turn>]]"
    ),
    "command_r": (
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi there<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[[Hello!<|END_OF_TURN_TOKEN|>]]"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Say yes<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[[yes\nno<|END_OF_TURN_TOKEN|>]]"
    ),
    "phi3": (
        "<|user|>\nHi there<|end|>\n<|assistant|>\n[[Hello!<|end|>]]\n<|user|>\nSay yes<|end|>\n"
        "<|assistant|>\n[[yes\nno<|end|>]]"
    ),
}
TALK = talk("Hi there", "Hello!", "Say yes", "yes\nno")


@pytest.mark.parametrize("name", GOLDEN)
def test_exactly_the_answers_are_learned(tmp_path, name):
    chat, tokenizer = make_chat(name), make_tokenizer(name)
    rows = [{"messages": TALK}, {"messages": talk("Bye", "Good bye")}]
    made = make(tmp_path, rows, chat, tokenizer, length=200)
    batch = made.batches[0]
    [packed] = [p for r in range(4) if (p := made.reader.sequence(batch, r)).segments]
    assert [segment.faults for segment in packed.segments] == [(), ()]
    long, short = sorted(packed.segments, key=lambda s: -len(s.turns))
    assert bracketed(long) == GOLDEN[name]
    assert "[[" in bracketed(short) and bracketed(short).count("[[") == 1
    # Each token of an answer is a target once; its first token is predicted too.
    n = sum(len(one.completion) + 1 for some in made.spans for one in some)
    assert (batch["weights"] > 0).sum() == n
    assert not batch["weights"][batch["segment_ids"] == 0].any()


def test_each_turn_has_its_own_markers(tmp_path):
    chat, tokenizer = make_chat("chatml"), make_tokenizer("chatml")
    messages = talk("Hi", "Hallo", "Again", "Hello")
    messages[1]["markers"] = {"lang": "de", "words": 1}
    row = {"messages": messages, "markers": {"lang": "en", "task": "Repeat"}}
    made = make(tmp_path, [row], chat, tokenizer, "markers", length=200)
    first, second = made.examples[0].turns
    wanted = {"lang": "de", "task": ("Repeat",), "words": 1, "size": "short"}
    assert first.markers == wanted
    assert second.markers == {"lang": "en", "task": ("Repeat",)}
    batch = made.batches[0]
    [segment] = [s for r in range(4) for s in made.reader.sequence(batch, r).segments]
    assert segment.faults == ()
    for turn, wanted in zip(segment.turns, (first, second), strict=True):
        assert {**turn.shown, **turn.dropped} == wanted.markers
    assert bracketed(segment).endswith("Hello<|im_end|>]]")
    counts = summary(batch, [made.reader.sequence(batch, r) for r in range(4)])
    assert (counts["segments"], counts["turns"]) == (1, 2)
    assert "1 segments with 2 turns" in head_line(0, 1, batch, counts)
    shown = [line.plain for r in range(4) for line in lines(r, made.reader.sequence(batch, r))]
    assert sum("[completion w=1 n=" in line for line in shown) == 2


def test_a_prompt_and_its_completion_are_a_turn_too(tmp_path):
    chat, tokenizer = make_chat("chatml", "Speak up."), make_tokenizer("chatml")
    row = {"id": "a", "prompt": "Hi", "completion": "Hello"}
    made = make(tmp_path, [row], chat, tokenizer, length=200)
    batch = made.batches[0]
    [segment] = [s for r in range(4) for s in made.reader.sequence(batch, r).segments]
    assert bracketed(segment) == (
        "<|im_start|>system\nSpeak up.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[[Hello<|im_end|>]]"
    )
    assert made.batches.cache.index.begins_N is None and made.spans[0][0].id == "a"


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
WORDS = TEXTS.filter(lambda text: text.strip() and "<eos>" not in text)
TALKS = st.integers(1, 4).flatmap(lambda n: st.lists(WORDS, min_size=2 * n, max_size=2 * n))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "qwen3"])
def test_tokens_of_the_pieces_are_those_of_the_whole_text(name):
    chat, tokenizer = make_chat(name), make_tokenizer(name)
    codec_taxonomy = tiny_taxonomy(Path(tempfile.mkdtemp()))
    codec = MarkerCodec(codec_taxonomy, "compact", tokenizer)

    @settings(deadline=None, max_examples=60)
    @given(TALKS)
    def check(texts):
        example = parse_row({"messages": talk(*texts)}, codec_taxonomy, chat=chat)
        rows = spans_of(example, codec, tokenizer)
        mark_conversations(chat, tokenizer, [example.turns], rows)
        assert [row.begins for row in rows] == [True] + [False] * (len(rows) - 1)
        assert not any(row.apart for row in rows)

    check()


def test_other_tokens_than_those_of_the_whole_text_are_counted():
    class Greedy(ByteTokenizer):
        """'>y' is one token, which reaches over the border of prompt and answer."""

        size = 260

        def encode(self, text):
            return [259 if part == ">y" else i for part in _pairs(text) for i in _ids(part)]

        def encode_batch(self, texts):
            return [self.encode(text) for text in texts]

    def _ids(part):
        return [0] if part == ">y" else ByteTokenizer().encode(part)

    def _pairs(text):
        pieces = text.split(">y")
        return [p for piece in pieces[:-1] for p in (piece, ">y")] + pieces[-1:]

    chat = load_chat({"template": PLAIN}, Greedy())
    taxonomy = tiny_taxonomy(Path(tempfile.mkdtemp()))
    codec = MarkerCodec(taxonomy, "compact", Greedy())
    for answer, is_apart in (("yes", True), ("no", False)):
        example = parse_row({"messages": talk("a", "b", "c", answer)}, taxonomy, chat=chat)
        rows = spans_of(example, codec, Greedy())
        mark_conversations(chat, Greedy(), [example.turns], rows)
        assert [row.apart for row in rows] == [is_apart, False]


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_conversations_stay_whole_on_any_hosts_and_after_restarts(data):
    talks = data.draw(st.lists(TALKS, min_size=1, max_size=12), "talks")
    length, too_long = data.draw(st.integers(40, 160)), data.draw(st.sampled_from(TOO_LONG))
    window = data.draw(st.sampled_from([3, 1 << 18]), "window")
    arm = data.draw(st.sampled_from(["baseline", "markers"]), "arm")
    rows = [
        {"id": f"r{i}", "messages": talk(*texts, words=i), "markers": {"lang": "en"}}
        for i, texts in enumerate(talks)
    ]
    tokenizer = ByteTokenizer()
    chat = load_chat({"template": PLAIN}, tokenizer)
    plan_module.WINDOW, before = window, plan_module.WINDOW
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings_ = dict(length=length, too_long=too_long, batch=4)
            try:
                made = make(Path(folder), rows, chat, tokenizer, arm, **settings_)
            except SetupError as error:
                assert "nothing to train on" in str(error)
                return
            batches = made.batches
            wanted = [batches[step] for step in range(len(batches))]
            check_segments(made, wanted, too_long)
            start = data.draw(st.integers(0, len(wanted)), "restart")
            after = list(iterate(batches, start, len(wanted), threads=2))
            for batch, same in zip(after, wanted[start:], strict=True):
                assert all((batch[name] == same[name]).all() for name in same)
            for hosts in (2, 4):
                each = 4 // hosts
                found = []
                for host in range(hosts):
                    part = slice(host * each, (host + 1) * each)
                    one = type(batches)(
                        batches.cache, batches.stream, 2, batches.planner.mixture, part
                    )
                    found.append([one[step] for step in range(len(one))])
                for step, batch in enumerate(wanted):
                    for name in batch:
                        joined = np.concatenate([host[step][name] for host in found])
                        assert (joined == batch[name]).all()
    finally:
        plan_module.WINDOW = before


def check_segments(made, wanted, too_long):
    """Each segment is a conversation as training writes it; whole, but for those too long."""
    batches, seen = made.batches, []
    stream, index = batches.stream, batches.cache.index
    flat = [one for some in made.spans for one in some]
    first_of = np.cumsum([0, *map(len, made.spans)])
    for step, batch in enumerate(wanted):
        pieces, row_P = batches.pieces(step)
        slots = np.zeros(len(batch["tokens"]), int)
        kept_PxC = kept_markers(
            stream.layout,
            stream.dropout,
            stream.seed,
            pieces.visits_P,
            index.example_hash_N[pieces.rows_P],
            pieces.progress_P,
        )
        begins = np.flatnonzero(pieces.begins_P)
        for p, end in zip(begins, [*begins[1:], len(pieces)], strict=True):
            number = int(np.flatnonzero(first_of == pieces.rows_P[p])[0])
            turns = list(range(first_of[number], first_of[number + 1]))
            assert pieces.rows_P[p:end].tolist() == turns[: end - p]
            ids, weights = write(stream, flat, pieces, kept_PxC, p, end)
            b, at = row_P[p], slots[row_P[p]]
            assert (row_P[p:end] == b).all()
            here = slice(at, at + len(ids) - 1)
            assert batch["tokens"][b, here].tolist() == ids[:-1]
            assert batch["targets"][b, here].tolist() == ids[1:]
            assert batch["weights"][b, here].tolist() == weights[1:]
            assert batch["positions"][b, here].tolist() == list(range(len(ids) - 1))
            assert len(set(batch["segment_ids"][b, here].tolist())) == 1
            slots[b] += len(ids) - 1
            whole = end - p == len(turns) and pieces.size_P[end - 1] > len(
                flat[turns[-1]].completion
            )
            seen.append((number, whole, len(turns)))
    cut = {int(row) for row in batches.summary.rows("truncated")}
    split = {int(row) for row in batches.summary.rows("split")}
    for number, whole, turns in seen:
        row = int(first_of[number])
        assert whole or row in cut | split
        assert too_long != "reject" or whole
        assert row not in split or turns == 1
    placed = {number for number, _, _ in seen}
    left_out = {int(row) for row in batches.summary.rows("rejected")}
    assert {int(first_of[n]) for n in range(len(made.spans)) if n not in placed} <= left_out


def write(stream, flat, pieces, kept_PxC, p, end):
    """Ids and weights of the pieces p to end, by the assembly of one turn after the other."""
    ids, weights = [], []
    categories = tuple(dict.fromkeys(stream.layout.prompt_side + stream.layout.completion_side))
    for turn in range(p, end):
        rows = flatten_spans([flat[pieces.rows_P[turn]]], categories)
        answers = Answers(
            pieces.start_P[turn : turn + 1].astype(np.int64),
            pieces.size_P[turn : turn + 1].astype(np.int64),
        )
        found, kinds, _ = assemble_rows(stream.layout, rows, kept_PxC[turn : turn + 1], answers)
        ids += found.tolist()
        weights += [1.0 if kind >= 3 else 0.0 for kind in kinds]
    return ids, weights


def test_a_conversation_too_long_is_cut_at_its_end(tmp_path):
    chat, tokenizer = load_chat({"template": PLAIN}, ByteTokenizer()), ByteTokenizer()
    rows = [{"messages": talk("a" * 10, "b" * 10, "c" * 10, "d" * 100, "e", "f")}]
    for too_long in ("truncate_completion", "split"):
        made = make(tmp_path / too_long, rows, chat, tokenizer, length=100, too_long=too_long)
        summary_ = made.batches.summary
        assert summary_.rows("truncated").tolist() == [0] and not len(summary_.rows("split"))
        plan = made.batches.plan(0, 0)
        assert plan.pieces.rows_P.tolist() == [0, 1] and plan.used_slots == 100
        assert plan.cut_tokens == 101 + 2 - int(plan.pieces.size_P[1])
        assert "lose the end of their completion" in "\n".join(summary_.lines())
    with pytest.raises(SetupError, match="nothing to train on: 3 rows"):
        make(tmp_path / "reject", rows, chat, tokenizer, length=100)


def test_up_sampling_counts_a_conversation_by_its_rarest_turn(tmp_path):
    chat, tokenizer = load_chat({"template": PLAIN}, ByteTokenizer()), ByteTokenizer()
    rare = talk("a", "b", "c", "d")
    rare[1]["markers"] = {"lang": "de"}
    rows = [{"messages": rare, "markers": {"lang": "en"}}]
    rows += [{"messages": talk("a", "b"), "markers": {"lang": "en"}} for _ in range(9)]
    taxonomy = tiny_taxonomy(tmp_path)
    made = make(tmp_path, rows, chat, tokenizer, length=200)
    factors = row_factors(made.batches.cache.index, taxonomy, {"lang": {"de": 3.0}}, {}, 20.0)
    assert factors.tolist() == [3.0] + [1.0] * 9


REFUSED = [
    ({"messages": []}, "messages are empty", "list of messages is empty"),
    ({"messages": "hi"}, "messages are not a list", "the messages are a str, not a list"),
    ({"messages": ["hi"]}, "message is not an object", "message 1 is a str"),
    (
        {"messages": [*talk("a", "b"), {"role": "user", "content": "c"}]},
        "last message is not an answer",
        "the last message has the role 'user' and no answer",
    ),
    (
        {"messages": [{"role": "sytem", "content": "x"}, *talk("a", "b")]},
        "unknown role",
        "message 1 has the role 'sytem'; it must be one of system, user",
    ),
    ({"messages": talk("a", 3)}, "content is not a string", "content of message 2 is 3"),
    ({"messages": talk("a", None)}, "content is not a string", "content of message 2 is None"),
    ({"messages": talk("a", " ")}, "content is blank", "content of message 2 is blank"),
    (
        {"messages": talk("a", "b", lagn="en")},
        "unknown category",
        "message 2: .*'lagn'",
    ),
    ({"messages": talk("a", "b", lang="xx")}, "bad value of lang", "message 2: .*'xx'"),
    (
        {"messages": [{"role": "assistant", "content": "b", "markers": [1]}]},
        "markers are not an object",
        "the markers of message 1 are \\[1\\], not an object",
    ),
    (
        {"messages": [{"role": "user", "content": "a", "markers": {"lang": "en"}}, TALK[1]]},
        "markers of a question",
        "message 1 has markers and the role 'user'",
    ),
    (
        {"messages": talk("a", "b"), "prompt": "a"},
        "messages and a prompt",
        "has messages .* and a prompt",
    ),
    ({"messages": talk("a\ud800", "b")}, "lone surrogate", "message 1 holds a lone surrogate"),
    (
        {"messages": talk("a", "b</s>")},
        "message holds the end of an answer",
        "message 2 holds '</s>'",
    ),
    (
        {"messages": [*talk("a", "b"), {"role": "assistant", "content": "c"}]},
        "chat template refuses",
        "refuses the messages: roles must alternate",
    ),
]


def test_damaged_rows_are_rejected_with_their_reason(tmp_path):
    rows = [{"id": str(n), **row} for n, (row, _, _) in enumerate(REFUSED)]
    rows.append({"id": "good", "messages": TALK})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taxonomy = tiny_taxonomy(tmp_path)
    with Rejects(tmp_path / "rejects.jsonl", max_share=1.0) as rejects:
        found = list(read_examples(path, taxonomy, None, rejects, chat=make_chat("llama2")))
    assert [example.id for example in found] == ["good"]
    assert rejects.rejected == len(REFUSED) and rejects.rows == len(REFUSED) + 1
    reported = [json.loads(line) for line in (tmp_path / "rejects.jsonl").open()]
    for line, (row, kind, reason) in zip(reported, REFUSED, strict=True):
        with pytest.raises(RowError, match=reason) as caught:
            parse_row(row, taxonomy, chat=make_chat("llama2"))
        assert caught.value.kind == kind and str(caught.value) == line["reason"]
        assert "\n" not in line["reason"]


def test_a_template_that_drops_thinking():
    chat = make_chat("qwen3")
    [turn] = chat.turns(talk("a", "yes"))
    assert turn.completion == "<think>\n\n</think>\n\nyes" and chat.answer(turn.completion) == "yes"
    thought = "<think>\nhm\n</think>\n\nyes"
    assert chat.turns(talk("a", thought))[0].completion == thought
    for first in ("no", thought):
        with pytest.raises(ChatError, match="message 2 .* leaves out its thinking"):
            chat.turns(talk("a", first, "b", "yes"))


def test_contents_are_trimmed_where_the_template_trims_them():
    for name, wanted in (("llama3", "b"), ("llama2", " b "), ("chatml", "  b \n")):
        assert make_chat(name).turns(talk(" a ", "  b \n"))[0].completion == wanted
    upper = Chat(PLAIN.replace("m.content", "m.content|upper"), {"eos_token": "<eos>"})
    with pytest.raises(ChatError, match="changes the answers"):
        upper.turns(talk("a", "b"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "is no Jinja: line 1"),
        ("{{ messages.clear() }}", "refuses the messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages"),
        ("{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}", "which is no token"),
        (PLAIN.replace("eos_token", "'<end>'"), "'<end>', which takes 5 tokens"),
        (PLAIN.replace("'<assistant>' if", "'<bot>' if"), "another text before an answer"),
        ("model", "the tokenizer has no chat template"),
        ("/nowhere/x.jinja", "there is no such file"),
    ],
)
def test_templates_that_cannot_be_used(template, reason):
    with pytest.raises(ChatError, match=reason) as caught:
        load_chat({"template": template, "system": ""}, ByteTokenizer())
    assert "\n" not in str(caught.value)


def test_templates_from_files_and_copies(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(PLAIN)
    chat = load_chat({"template": str(path), "system": ""}, ByteTokenizer())
    assert chat == load_chat({"template": PLAIN, "system": ""}, ByteTokenizer())
    assert pickle.loads(pickle.dumps(chat)).turns(TALK) == chat.turns(TALK)
    assert load_chat({"template": "", "system": ""}, ByteTokenizer()) is None


def test_functions_that_templates_use():
    template = (
        "{{ {'b': 'é<'} | tojson }}{{ strftime_now('%Y')[:2] }}{% for m in messages %}"
        "{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m.role[0] + ':' }}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endfor %}"
        "{{ 'a:' if add_generation_prompt }}"
    )
    chat = load_chat({"template": template, "system": ""}, ByteTokenizer())
    tool = {"role": "tool", "content": ""}
    turns = chat.turns([tool, *talk("x", "y")])
    assert chat.text(turns) == '{"b": "é<"}20u:x<eos>a:y<eos>'


def test_without_a_template_messages_are_read_for_annotators():
    taxonomy = tiny_taxonomy(Path(tempfile.mkdtemp()))
    messages = [{"role": "system", "content": "s"}, *talk("a", "b", "c", "d", words=1)]
    example = parse_row({"messages": messages, "extra": 1}, taxonomy, RowFormat())
    assert (example.prompt, example.completion) == ("c", "d")
    assert example.markers == {"words": 1, "size": "short"} and example.extra == {"extra": 1}
    assert example.turns == () and len(example.messages) == 5


def test_prepare_writes_conversations(tmp_path):
    pytest.importorskip("seqio")
    from marker_lm.data.inputs import data_key
    from marker_lm.data.prepare import prepare
    from marker_lm.markers.taxonomy import load_taxonomy

    tiny_taxonomy(tmp_path)
    rows = [{"id": "a", "messages": TALK, "markers": {"lang": "en"}}]
    rows += [{"id": "b", "prompt": "Hi", "completion": "Ho"}, {"id": "c", "messages": []}]
    rows += [{"id": "d", "messages": talk("x", "y", "z", "w", "u", "v", words=3)}]
    write_rows(tmp_path / "train.jsonl", rows)
    config = tiny_config(tmp_path).unlock()
    config.data.tasks.rows.heldout = ""
    config.data.max_reject_share = 0.5
    said = []
    with pytest.raises(ChatError, match="the row 'a' has messages, but data.chat.template is ''"):
        prepare(config, tmp_path / "none", said.append)
    make_tokenizer("chatml").save(tmp_path / "model")
    config.data.tokenizer = str(tmp_path / "model")
    config.data.chat.template = "model"
    manifest = prepare(config, tmp_path / "prepared", said.append)["train"]
    assert manifest["tasks"][0]["rows"] == 3 and manifest["rows"] == 6
    assert manifest["rejects"]["kinds"] == {"messages are empty": 1}
    about = manifest["chat"]
    assert about["template"] == make_chat("chatml").template
    assert (about["conversations"], about["tokenized_apart"]) == (3, 0)
    assert any("3 conversations with 6 answers" in line for line in said)
    cache = Cache(tmp_path / "prepared" / "train")
    assert cache.index.begins_N.tolist() == [True, False, True, True, False, False]
    ids = [cache.read(i).id for i in range(6)]
    assert ids == ["a#1", "a#2", "b", "d#1", "d#2", "d#3"]
    taxonomy, tokenizer = load_taxonomy(config.taxonomy), make_tokenizer("chatml")
    codec = MarkerCodec(taxonomy, config.template, tokenizer)
    examples = [parse_row(rows[n], taxonomy, chat=make_chat("chatml")) for n in (0, 1, 3)]
    wanted = [one for example in examples for one in spans_of(example, codec, tokenizer)]
    for i, one in enumerate(wanted):
        found = cache.read(i)
        assert found.prompt.tolist() == one.prompt.tolist() and list(found.markers) == list(
            one.markers
        )
        assert found.completion.tolist() == one.completion.tolist()
    before = data_key(config, taxonomy)
    config.data.chat.system = "Be kind."
    other = data_key(config, taxonomy)
    config.data.chat.template = PLAIN.replace("eos_token", "'<|im_end|>'")
    assert len({before, other, data_key(config, taxonomy)}) == 3


@pytest.mark.extra
@pytest.mark.parametrize("name", MODELS)
def test_the_text_and_its_tokens_are_those_of_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    tokenizer, chat = make_tokenizer(name), make_chat(name)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    talks = [talk("Hi there", "Hello!"), talk(" é\n東京 ", "  yes  no \n")]
    talks += [] if name == "qwen3" else [TALK, talk(*"a b c d e f".split())]
    for messages in talks:
        whole = theirs.apply_chat_template(messages, tokenize=False)
        turns = chat.turns(messages)
        assert whole.startswith(chat.text(turns))
        rest = whole[len(chat.text(turns)) :]
        assert rest in ("", "\n", "\n<|endoftext|>")
        eos = chat.end_id(tokenizer)
        own = [
            i
            for turn in turns
            for i in [*tokenizer.encode(turn.prompt), *tokenizer.encode(turn.completion), eos]
        ]
        ids = theirs.apply_chat_template(messages, return_dict=False)
        assert own + tokenizer.encode(rest) == ids
        asked = theirs.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_dict=False
        )
        last = chat.turns(messages[:-1], asked=True)
        assert chat.text(last).removesuffix(chat.end) == theirs.decode(asked)


def test_an_example_of_messages_must_have_turns():
    tasks = pytest.importorskip("marker_lm.data.tasks")
    example = Example("x", "a", "b", {}, {}, {}, TALK)
    with pytest.raises(ChatError, match="the row 'x' has messages"):
        tasks._rows_of(example)
