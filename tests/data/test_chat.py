"""Chat templates: what they write, what of it is learned, and rows that can't be written."""

import json
import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from marker_lm.data.batch_print import head_line, lines
from marker_lm.data.batch_view import summary
from marker_lm.data.chat import Chat, ChatError, load_chat, mark_conversations
from marker_lm.data.example import Example, RowError
from marker_lm.data.parse import parse_row
from marker_lm.data.rejects import Rejects
from marker_lm.data.row_format import RowFormat
from marker_lm.data.sources import read_examples
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from tests.data.chat_models import MODELS, make_chat, make_tokenizer
from tests.data.conversations import PLAIN, TALK, TALKS, make, spans_of, talk
from tests.tiny import tiny_taxonomy


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
