"""What is measured of a run, on random tiny models."""

import math

import pytest
from ml_collections import ConfigDict

from marker_lm.annotate.checks import make_checks
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmark import Item
from marker_lm.experiment import measure
from marker_lm.experiment.measure import Subject
from marker_lm.experiment.registration import Asked
from tests.decoding.small import MAX_LEN, ORDER, make_engine

CONFIG = {"arm": "markers", "train": {"loss_weights": {"completion_markers": 1.0}}}


@pytest.mark.parametrize(
    ("arm", "template"),
    [("markers", "compact"), ("prompt_only", "compact"), ("prompt_only", "text")],
)
def test_rows_that_do_not_fit_are_left_out(arm, template, monkeypatch):
    layout = {"prompt_side": ORDER, "completion_side": ORDER if arm == "markers" else ()}
    engine = make_engine(template, **layout)
    config = ConfigDict(CONFIG | {"arm": arm})
    monkeypatch.setattr(measure, "load_engine", lambda workdir: (engine, config))
    markers = {"lang": "English", "style": "a<b&c", "topics": ("art", "law", "music")}
    rows = [
        Item(str(length), "Say it.", "a" * length, markers)
        for length in (10, *range(MAX_LEN - 140, MAX_LEN, 5))
    ]
    assert math.isfinite(measure.dev_nats("", rows))
    with pytest.raises(ValueError, match="no dev item fits"):
        measure.dev_nats("", rows[-1:])


def test_answers_are_held_where_a_number_is_pinned(monkeypatch):
    engine = make_engine("compact")
    asked_for = []

    def generate(prompts, controls, sampling):
        asked_for.append(sampling)
        return Engine.generate(engine, prompts, controls, sampling)

    monkeypatch.setattr(engine, "generate", generate)
    rows = [
        Item("long", "Say it.", "word " * 25, {"words": 25, "words_bucket": "many"}),
        Item("other", "Say it.", "word " * 30, {"words": 30, "words_bucket": "many"}),
        Item("short", "Say it.", "word " * 3, {"words": 3, "words_bucket": "few"}),
        Item("wrong", "Say it.", "word " * 90, {"words": 25}),
    ]
    prompts = {row.id: row.prompt for row in rows}
    asked = Asked(frozenset(prompts), prompts, {}, Sampling(max_tokens=4), hold="words")
    checks = make_checks(engine.taxonomy)
    found = list(measure.answers(Subject(engine, ConfigDict(CONFIG), rows, asked, checks)))
    held = {(r.item, r.metric) for r in found if r.metric.endswith(", held")}
    metrics = ("words, held", "words_bucket, held")
    assert held == {(row, metric) for row in ("long", "other") for metric in metrics}
    [lengths] = [sampling for sampling in asked_for if not isinstance(sampling, Sampling)]
    assert [one.length for one in lengths] == [25, 30]
    assert lengths[0].seed != lengths[1].seed
