"""What is measured of a run, on random tiny models."""

import math

import pytest
from ml_collections import ConfigDict

from marker_lm.evaluation.benchmark import Item
from marker_lm.experiment import measure
from tests.decoding.small import MAX_LEN, ORDER, make_engine


@pytest.mark.parametrize(
    ("arm", "template"),
    [("markers", "compact"), ("prompt_only", "compact"), ("prompt_only", "text")],
)
def test_rows_that_do_not_fit_are_left_out(arm, template, monkeypatch):
    layout = {"prompt_side": ORDER, "completion_side": ORDER if arm == "markers" else ()}
    engine = make_engine(template, **layout)
    config = ConfigDict({"arm": arm, "train": {"loss_weights": {"completion_markers": 1.0}}})
    monkeypatch.setattr(measure, "load_engine", lambda workdir: (engine, config))
    markers = {"lang": "English", "style": "a<b&c", "topics": ("art", "law", "music")}
    rows = [
        Item(str(length), "Say it.", "a" * length, markers)
        for length in (10, *range(MAX_LEN - 140, MAX_LEN, 5))
    ]
    assert math.isfinite(measure.dev_nats("", rows))
    with pytest.raises(ValueError, match="no dev item fits"):
        measure.dev_nats("", rows[-1:])
