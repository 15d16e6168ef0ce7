"""Texts that come in token by token: stops, characters of several tokens, and nothing too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.data.chat import Chat
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.text import Text, held

TOKENIZER = ByteTokenizer()
EOS = TOKENIZER.eos_id
CHAT = Chat(
    "{% for m in messages %}{{ '<' + m.role[0] + '>' }}"
    "{{ ' ' + m.content + '\\n' + eos_token if m.role == 'assistant' else m.content + '\\n' }}"
    "{% endfor %}{{ '<a>' if add_generation_prompt }}",
    {"eos_token": "</s>"},
)


def read(ids, sizes, stop=(), stop_ids=(), chat=None):
    """The Text of ids that come in pieces, what was shown after each, and how many were taken."""
    text = Text(TOKENIZER, chat, (EOS,), Sampling(stop=stop, stop_ids=stop_ids))
    shown, taken, at = [], 0, 0
    for size in sizes:
        piece = ids[at : at + size]
        at += size
        took = text.take(piece)
        taken += took
        shown.append(text.news(ended=bool(text.reason) or at >= len(ids)))
        if text.reason or at >= len(ids):
            break
    return text, shown, taken


def pieces(ids, random) -> list[int]:
    return [random.randint(1, 5) for _ in range(len(ids) + 1)]


@given(st.text("aän東🙂. \n", max_size=12), st.randoms(use_true_random=False))
def test_pieces_add_up_and_no_character_is_shown_broken(written, random):
    ids = TOKENIZER.encode(written)
    text, shown, _ = read(ids, pieces(ids, random))
    assert "".join(shown) == written == text.whole()
    assert "\ufffd" not in "".join(shown)


@given(
    st.text("ab東.", max_size=14),
    st.lists(st.text("ab東.", min_size=1, max_size=3), max_size=3).map(tuple),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_stop_texts_cut_where_they_begin_however_the_tokens_come(written, stop, ends, random):
    ids = TOKENIZER.encode(written) + [EOS] * ends + TOKENIZER.encode("later") * ends
    text, shown, taken = read(ids, pieces(ids, random), stop)
    alone, _, count = read(ids, [1] * (len(ids) + 1), stop)
    whole, _, all_at_once = read(ids, [len(ids) + 1], stop)
    assert text.whole() == alone.whole() == whole.whole() == "".join(shown)
    assert text.ids == alone.ids == whole.ids and taken == count == all_at_once
    found = [n for n in range(1, len(written) + 1) if any(s in written[:n] for s in stop)]
    if found:
        before = written[: found[0]]
        assert text.whole() == before[: min(before.find(s) for s in stop if s in before)]
        assert text.reason == "stop" and TOKENIZER.decode(text.ids) == before
    else:
        assert text.whole() == written
        assert text.reason == ("end" if ends else "")


def test_nothing_is_shown_that_may_become_a_stop_text():
    ids = TOKENIZER.encode("one. En")
    _, shown, _ = read([*ids, *TOKENIZER.encode("d.")], [1] * 9, stop=("End.", "x"))
    assert "".join(shown) == "one. " and shown[5:] == [""] * 4
    text, shown, _ = read(ids, [1] * 7, stop=("End.",))
    assert "".join(shown) == "one. En" and shown[-1] == "En" and text.reason == ""


def test_stop_tokens_end_a_text_and_are_not_in_it():
    ids = TOKENIZER.encode("one.two")
    text, shown, taken = read(ids, [3, 9], stop_ids=(TOKENIZER.encode(".")[0],))
    assert (text.whole(), text.reason, taken) == ("one", "stop", 4)
    assert shown == ["one", ""]


@given(st.randoms(use_true_random=False))
def test_what_a_chat_template_writes_around_an_answer_is_never_shown(random):
    ids = [*TOKENIZER.encode(" hi\n there\n"), EOS]
    text, shown, _ = read(ids, pieces(ids, random), chat=CHAT)
    assert "".join(shown) == "hi\n there" == text.whole() and text.reason == "end"


def test_broken_bytes_are_shown_when_they_are_sure_to_be_broken():
    ids = [*TOKENIZER.encode("a"), TOKENIZER.encode("東")[0], *TOKENIZER.encode("b")]
    _, shown, _ = read(ids, [1, 1, 1])
    assert shown == ["a", "", "\ufffdb"]
    _, shown, _ = read(ids[:2], [1, 1])
    assert shown == ["a", "\ufffd"]


@pytest.mark.parametrize(
    "text, end, size", [("abc", "cd", 1), ("abc", "bcd", 2), ("ab", "abc", 2), ("x", "a", 0)]
)
def test_held(text, end, size):
    assert held(text, end) == size and held("", end) == held(text, "") == 0
