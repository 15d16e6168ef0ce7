"""What an evaluation leaves out, and why."""

import dataclasses

from marker_lm.evaluation.benchmark import Benchmark
from marker_lm.evaluation.run import _fitting
from tests.decoding.small import make_engine
from tests.evaluation.made_up import item


def test_prompts_that_cannot_be_asked_are_left_out_with_the_reason():
    engine, said = make_engine(), []
    prompts = ("fine", " ", "x" * 5000, "fine too")
    items = [dataclasses.replace(item(str(i), "en"), prompt=p) for i, p in enumerate(prompts)]
    benchmark = Benchmark(items, {}, {})
    left = _fitting(benchmark, [engine], 0, said.append)
    assert [one.prompt for one in left.items] == ["fine", "fine too"]
    assert said == [*left.notes]
    assert "2 of 4 held-out prompts are left out" in said[0]
    assert "the first: the prompt is empty" in said[0]
    assert _fitting(left, [engine], 0, said.append) is left and len(said) == 1
