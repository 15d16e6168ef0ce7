"""Continuous batching: refill, invariance, what a marker block costs, and what a job is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.request import Request
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import Sampling, row_seed
from marker_lm.decoding.slots import Slots, cache_size, prompt_size
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from tests.decoding.small import (
    MAX_LEN,
    ORDER,
    TOKENIZER,
    between_spaces,
    full_logits,
    log_softmax,
    make_codec,
    make_config,
    make_engine,
    make_layout,
    make_params,
)

PINNED = dict(
    lang="Engl", score=2.5, style="a<b&c", topics=("art", "law"), words=-7, words_bucket="few"
)


@functools.cache
def engine_of(batch: int, template: str = "compact", mesh=None) -> Engine:
    one = make_engine(template)
    mesh = mesh or one.mesh
    params = jax.device_put(one.params, param_shardings(one.config, mesh))
    known = one.taxonomy, one.codec, one.layout, TOKENIZER
    engine = Engine(params, one.config, *known, mesh, batch)
    engine.measure("words", between_spaces)
    return engine


def mixed_requests(n: int) -> list[Request]:
    """Rows that differ in all that a row may differ in."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(n):
        pinned = {c: PINNED[c] for c in ORDER if random.random() < 0.25}
        free = [c for c in ORDER if c not in pinned]
        controls = Controls(
            pinned, frozenset(free[:1] if i % 3 else ()), frozenset(free[1:2] if i % 5 else ())
        )
        sampling = Sampling(
            temperature=float(random.choice([0, 0, 0.8, 1.5])),
            top_k=int(random.choice([0, 0, 20])),
            top_p=float(random.choice([1, 1, 0.9])),
            repetition_penalty=float(random.choice([1, 1, 1.3])),
            length=int(random.choice([0, 0, 5])),
            marker_temperature=float(random.choice([0, 1, 2])),
            max_tokens=int(random.integers(1, 40)),
            seed=int(random.integers(2**40)),
            stop=tuple("abcdefgm\x0b\x0e") if i % 7 == 0 else (),
        )
        guidance = Guidance(float(random.choice([0, 1.5]))) if i % 10 == 9 else None
        prompt = f"{i}: " + "tell me more " * int(random.integers(0, 9))
        rows.append(Request(prompt, controls, sampling, guidance))
    return rows


def same(a: Result, b: Result) -> bool:
    """Equal texts and markers; figures are the same but for rounding."""
    assert a.probability == pytest.approx(b.probability, rel=1e-4)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-4, abs=1e-4)
    exact = {"probability": {}, "log_likelihood": 0.0}
    return dataclasses.replace(a, **exact) == dataclasses.replace(b, **exact)


def test_two_hundred_rows_through_sixteen_slots_are_two_hundred_single_runs():
    requests = mixed_requests(200)
    together = dict(engine_of(16).run(requests))
    assert sorted(together) == list(range(200))
    for number, request in enumerate(requests):
        [(_, alone)] = engine_of(16).run([request])
        assert same(alone, together[number]), number
        assert make_codec("compact").parse([*engine_of(16).layout.open, *written(alone)])
    assert {r.reason for r in together.values()} >= {"stop", "max_tokens"}
    backwards = dict(engine_of(16).run(requests[::-1]))
    assert all(same(backwards[199 - n], result) for n, result in together.items())


def written(result: Result) -> list[int]:
    codec = make_codec("compact")
    spans = [codec.marker(c, v) for c, v in result.markers.items()]
    return [*sum(map(list, spans), []), *codec.close]


def test_other_numbers_of_slots_give_the_same_texts():
    requests = mixed_requests(24)
    wide = dict(engine_of(16).run(requests))
    for batch in (1, 3):
        narrow = dict(engine_of(batch).run(requests))
        assert all(same(narrow[n], wide[n]) for n in range(24))


def test_rows_may_be_given_one_at_a_time_and_come_in_the_order_of_their_ends():
    engine, taken = engine_of(3), []

    def source():
        for i, size in enumerate([30, 2, 20, 2, 2]):
            taken.append(i)
            yield Request(f"row {i}", Controls(PINNED), Sampling(max_tokens=size))

    order = []
    for number, _ in engine.run(source()):
        order.append((number, len(taken)))
    numbers = [number for number, _ in order]
    assert sorted(numbers) == [0, 1, 2, 3, 4] and numbers[:2] == [1, 3]
    assert order[0][1] == 4, "three slots and one that waits"


def run_slots(engine: Engine, requests, refill: bool = True) -> Slots:
    """The slots after a job, with what it took."""
    slots = Slots(engine.programs, engine.batch, 1)
    waiting = [engine.answer(i, request) for i, request in enumerate(requests)]
    while waiting or slots.answers:
        if refill or not slots.answers:
            some, waiting = waiting[: len(slots.free)], waiting[len(slots.free) :]
            slots.add(some)
        list(slots.advance(hasty=refill and bool(waiting), watched=False))
    return slots


def test_ended_rows_make_room_at_once():
    sizes = np.random.default_rng(1).integers(1, 60, 48)
    requests = [Request("x", Controls(PINNED), Sampling(max_tokens=int(n))) for n in sizes]
    engine = engine_of(8)
    steps = run_slots(engine, requests).steps
    without = run_slots(engine, requests, refill=False).steps
    assert sizes.sum() / 8 <= steps <= sizes.sum() / 8 + 60, "hardly more than a full device takes"
    assert without > 1.4 * steps


@pytest.mark.parametrize("template", ["text", "compact"])
def test_a_pinned_block_costs_one_prefill_and_no_steps(template):
    engine = engine_of(3, template)
    for size in (1, 7):
        requests = [Request("Hi.", Controls(PINNED), Sampling(max_tokens=size))] * 3
        slots = run_slots(engine, requests)
        plain = run_slots(
            make_engine("text", blocks=False),
            [dataclasses.replace(r, controls=Controls()) for r in requests],
        )
        assert slots.steps == plain.steps == size
    few = run_slots(engine, requests[:1])
    assert few.prompts == 1
    free = run_slots(engine, [Request("Hi.", Controls(), Sampling(max_tokens=1))])
    assert free.steps > 1, "a block that is not pinned takes some"


@pytest.mark.parametrize("guidance", [None, Guidance(1.5)], ids=["plain", "guided"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_answers_to_one_prompt_read_it_once(batch, guidance):
    engine, pinned = engine_of(batch), Controls(PINNED)
    asked = [("one", 5), ("two " * 30, 5), ("three", 2), ("two " * 30, 1), ("four", 5)]
    requests = [
        Request(prompt, pinned, Sampling(1.0, max_tokens=2 + seed, seed=seed), guidance)
        for prompt, n in asked
        for seed in range(n)
    ]
    if guidance is None:
        # What was read last is kept; sizes that are read together may change the order.
        assert run_slots(engine, requests).prompts in (4, 5)
    together = dict(engine.run(requests))
    for number, request in enumerate(requests):
        [(_, alone)] = engine.run([request])
        assert same(alone, together[number])


def test_another_prompt_of_the_same_length_is_read_anew():
    engine = engine_of(1)
    requests = [Request(text, Controls(PINNED), Sampling(max_tokens=3)) for text in "abba"]
    assert run_slots(engine, requests).prompts == 3
    results = engine.generate(
        [r.prompt for r in requests], Controls(PINNED), Sampling(max_tokens=3)
    )
    assert same(results[0], results[3]) and same(results[1], results[2])
    assert results[0].log_likelihood != results[1].log_likelihood


def test_pinned_values_come_back_unchanged():
    engine, random = engine_of(16), np.random.default_rng(2)
    requests = []
    for i in range(64):
        pinned = {c: PINNED[c] for c in ORDER if random.random() < 0.5}
        sampling = Sampling(2.0, marker_temperature=2.0, max_tokens=2, seed=i)
        requests.append(Request("x", Controls(pinned), sampling))
    for number, result in engine.run(requests):
        pinned = requests[number].controls.pinned
        assert {c: result.markers[c] for c in pinned} == pinned
        assert result.pinned == tuple(c for c in ORDER if c in pinned)
        assert all(result.probability[c] == 1 for c in pinned)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["compact", "text"])
def test_ten_thousand_blocks_of_an_untrained_model_parse(template, monkeypatch):
    engine, codec = engine_of(250, template), make_codec(template)
    n = 10_000 if template == "compact" else 500
    tokens: dict[int, list[int]] = {}
    monkeypatch.setattr(
        engine, "_result", lambda answer: tokens.update({answer.number: answer.lanes[0].block})
    )
    requests = (
        Request("x", Controls(), Sampling(2.0, marker_temperature=2.0, max_tokens=1, seed=i))
        for i in range(n)
    )
    for _ in engine.run(requests):
        pass
    assert len(tokens) == n
    for block in tokens.values():
        markers, consumed = codec.parse(block.tokens)
        assert consumed == len(block.tokens) and markers == block.markers
    assert len({tuple(block.tokens) for block in tokens.values()}) > n / 4
    assert {c for block in tokens.values() for c in block.markers} == set(ORDER)


def test_an_untrained_model_of_other_rows_of_settings_shares_one_program():
    engine = engine_of(3)
    compiled = engine.programs._write._cache_size
    list(engine.run(mixed_requests(6)))
    before = compiled()
    rows = [
        Request("x", Controls(PINNED), Sampling(t, k, p, max_tokens=n, seed=9))
        for t, k, p, n in [(0.3, 7, 0.5, 3), (0, 0, 1, 9), (2.0, 0, 0.2, 40)]
    ]
    list(engine.run(rows))
    assert compiled() == before


def test_the_log_likelihood_is_that_of_a_forward_pass():
    engine = engine_of(3)
    rows = [
        Request("Name it.", Controls(PINNED), Sampling(t, k, max_tokens=12, seed=5))
        for t, k in [(0, 0), (1.5, 0), (0.7, 5)]
    ]
    for number, result in engine.run(rows):
        lane = engine.lane("Name it.", engine.check(rows[number].controls), rows[number].sampling)
        ids = [*lane.ids, *result.tokens]
        log_p = log_softmax(full_logits(engine, ids))
        expected = sum(log_p[at - 1, ids[at]] for at in range(len(lane.ids), len(ids)))
        assert result.reason == "max_tokens"
        assert result.log_likelihood == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_sharded_over_a_mesh():
    config = dataclasses.replace(make_config("compact"), kv_heads=2)
    params, codec = make_params(config), make_codec("compact")
    layout = make_layout("compact")
    results = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(data=2, fsdp=2, tensor=2)):
        placed = jax.device_put(params, param_shardings(config, mesh))
        engine = Engine(placed, config, codec.taxonomy, codec, layout, TOKENIZER, mesh, 8)
        engine.measure("words", between_spaces)
        results.append(dict(engine.run(mixed_requests(12))))
    assert all(same(results[0][n], results[1][n]) for n in range(12))


def test_bad_rows_are_news_of_the_job_and_do_not_end_it():
    good = Sampling(max_tokens=3)
    rows = [
        Request("", sampling=good),
        Request("fine", sampling=good),
        Request("x" * MAX_LEN, sampling=good),
        Request("x", Controls({"lagn": "German"}), good),
        Request("x", Controls({"words": 3, "words_bucket": "many"}), good),
        Request([{"role": "user", "content": "hi"}], sampling=good),
        Request("x", guidance=Guidance(2.0, categories=frozenset({"lagn"}))),
        Request("x", guidance=Guidance(2.0, Controls({"lang": "Germn"}))),
        Request("fine too", sampling=good),
    ]
    found = {update.number: update for update in engine_of(3).stream(rows) if update.result}
    reasons = {n: u.result for n, u in found.items() if isinstance(u.result, str)}
    assert set(found) - set(reasons) == {1, 8}
    for number, part in {
        0: "the prompt is empty",
        2: "tokens with its markers",
        3: "did you mean 'lang'",
        4: "contradict each other",
        5: "messages need a chat template",
        6: "did you mean 'lang'",
        7: "did you mean 'German'",
    }.items():
        assert part in reasons[number] and "\n" not in reasons[number]
    with pytest.raises(ValueError, match="the prompt is empty"):
        engine_of(3).generate(["x", ""])


@pytest.mark.parametrize("stop", [(), tuple("abcdefgm\x0b\x0e")])
def test_a_stream_adds_up_to_the_results(stop):
    requests = [
        dataclasses.replace(r, sampling=dataclasses.replace(r.sampling, stop=stop))
        for r in mixed_requests(12)
    ]
    texts, results, updates = {}, {}, 0
    for update in engine_of(3).stream(requests):
        assert update.number not in results, "nothing comes after the result"
        texts[update.number] = texts.get(update.number, "") + update.text
        updates += 1
        if update.result is not None:
            results[update.number] = update.result
    for number, result in engine_of(3).run(requests):
        assert same(results[number], result)
        # A row may break off within a character, which the byte tokenizer shows as such.
        assert texts[number] == result.text
        assert not any(one in result.text for one in stop)
    assert updates > len(requests), "long answers come in pieces"


def test_generate_takes_one_of_each_for_all_or_one_a_row():
    engine = engine_of(3)
    sampling = Sampling(1.0, marker_temperature=1.0, max_tokens=5, seed=7)
    seeds = [dataclasses.replace(sampling, seed=row_seed(7, n)) for n in range(4)]
    pinned = Controls({"lang": "German"})
    one = engine.generate(["x"] * 4, pinned, sampling)
    each = engine.generate(["x"] * 4, [pinned] * 4, seeds, [None] * 4)
    assert all(map(same, one, each)) and len({r.tokens for r in one}) == 4
    assert engine.generate([]) == []


def test_sizes_are_few_and_fit():
    assert [prompt_size(n, 512) for n in (1, 32, 33, 49, 65, 97, 400, 513)] == [
        *(32, 32, 48, 64, 96, 128, 512, 768)
    ]
    assert prompt_size(90, 100) == 96 and prompt_size(100, 100) == 128
    assert [cache_size(n, 1000) for n in (1, 128, 129, 700, 1030)] == [128, 128, 256, 1024, 2048]
    for most in (64, 500, 8192):
        sizes = {prompt_size(n, most) for n in range(1, most + 1)}
        assert all(prompt_size(n, most) >= n for n in range(1, most + 60)) and len(sizes) < 20
        assert all(cache_size(n, most) >= n for n in range(1, most + 60))
