"""The memory of a job is what its cache and parameters take when it runs."""

import jax

from marker_lm.decoding import slots
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.memory import job_memory
from marker_lm.decoding.request import Request
from marker_lm.decoding.sampling import Sampling
from tests.decoding.small import make_engine


def requests():
    long = Sampling(max_tokens=150)
    yield Request("x" * 90, Controls(asked=frozenset({"lang"})), long)
    yield Request("short", Controls({"lang": "German"}), Sampling(max_tokens=5))


def test_a_job_never_holds_more(monkeypatch):
    engine, held = make_engine("compact"), []
    advance = slots.Slots.advance

    def watched(self, **how):
        yield from advance(self, **how)
        held.append(sum(leaf.nbytes for leaf in jax.tree.leaves(self._state)))

    monkeypatch.setattr(slots.Slots, "advance", watched)
    memory = job_memory(engine, [engine.answer(n, one) for n, one in enumerate(requests())])
    assert len(list(engine.run(requests()))) == 2
    assert max(held) <= memory.cache, "not more than was said"
    assert max(held) >= memory.cache / 2, "and not far less"
    assert memory.rows == engine.batch
    assert memory.params == sum(leaf.nbytes for leaf in jax.tree.leaves(engine.params))


def test_guided_rows_have_slots_of_their_own():
    engine = make_engine("compact")
    plain = [engine.answer(0, Request("a", Controls({"lang": "Engl"})))]
    guided = [engine.answer(0, Request("a", Controls({"lang": "Engl"}), guidance=Guidance(2.0)))]
    one, two, both = (job_memory(engine, some) for some in (plain, guided, plain + guided))
    assert both.cache == one.cache + two.cache and both.rows == one.rows + two.rows
    assert job_memory(engine, []).cache == 0
    assert str(one).endswith(f"of cache for {engine.batch} rows of up to {one.tokens} tokens")
