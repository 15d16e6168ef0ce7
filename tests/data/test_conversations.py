"""Conversations through cache, plan and batches: they stay whole, and turns keep their order."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data import plan as plan_module
from marker_lm.data.assembly import Answers, assemble_rows
from marker_lm.data.cache import Cache
from marker_lm.data.chat import ChatError, load_chat
from marker_lm.data.loader import iterate
from marker_lm.data.mixture import row_factors
from marker_lm.data.parse import parse_row
from marker_lm.data.plan import TOO_LONG, kept_markers
from marker_lm.data.setup import SetupError
from marker_lm.data.spans import flatten_spans
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from tests.data.chat_models import make_chat, make_tokenizer
from tests.data.conversations import PLAIN, TALK, TALKS, make, spans_of, talk
from tests.tiny import tiny_config, tiny_taxonomy, write_rows


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
