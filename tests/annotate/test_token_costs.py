"""The tokens of markers: against whole sequences, and against dropout as training draws it."""

import numpy as np
import pytest

from marker_lm.annotate.tally import Row, Ruler, count
from marker_lm.annotate.token_costs import token_costs
from marker_lm.data.assembly import assemble
from marker_lm.data.parse import parse_row
from marker_lm.data.plan import kept_markers
from marker_lm.data.setup import make_setup
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import Dropout, hash_ids
from tests.tiny import make_rows, make_spans, tiny_config, tiny_taxonomy

ROWS = make_rows(60)


@pytest.fixture(params=["text", "compact"])
def made(request, tmp_path):
    """Taxonomy, codec, layouts of two arms, and the counted rows."""
    taxonomy = tiny_taxonomy(tmp_path)
    tokenizer = ByteTokenizer()
    codecs = {name: MarkerCodec(taxonomy, name, tokenizer) for name in ("text", "compact")}
    config = tiny_config(tmp_path).unlock()
    config.template = request.param
    config.markers.prompt_side = ("lang", "words")
    layouts = {}
    for arm in ("markers", "baseline"):
        config.arm = arm
        layouts[arm] = make_setup(config, taxonomy, tokenizer).layout
    examples = [parse_row(row, taxonomy) for row in ROWS]
    tally = count([Row.of(e) for e in examples], Ruler(taxonomy, tokenizer, codecs))
    return request.param, codecs, layouts, tally


def lengths(made, kept_NxC) -> int:
    """Tokens of all rows as training writes them, minus those of an arm without markers."""
    template, codecs, layouts, _ = made
    total = 0
    for row, kept in zip(ROWS, kept_NxC, strict=True):
        spans = make_spans(row, codecs[template])
        side = layouts["markers"].prompt_side
        shown = {c for c, k in zip(side, kept, strict=True) if k}
        total += len(assemble(layouts["markers"], spans, shown)[0])
        total -= len(assemble(layouts["baseline"], spans, ())[0])
    return total


def cost(made, dropout):
    template, codecs, layouts, tally = made
    return token_costs(tally, codecs, layouts["markers"], dropout)["templates"][template]


def test_without_dropout_and_with_nothing_left_the_count_is_exact(made):
    everything = np.ones((len(ROWS), 2), bool)
    assert cost(made, Dropout(0.0, 0.0))["markers"] == lengths(made, everything)
    assert cost(made, Dropout(1.0, 0.0))["markers"] == lengths(made, ~everything)
    assert cost(made, Dropout(0.0, 1.0))["markers"] == lengths(made, ~everything)
    assert (
        cost(made, Dropout(1.0))["prompt_side_undropped"]
        == cost(made, Dropout(0.0, 0.0))["prompt_side"]
    )


@pytest.mark.parametrize(
    "dropout",
    [
        Dropout(0.5, 0.5),
        Dropout(0.3, 0.2, per_category={"lang": 0.9}),
        Dropout(0.8, 0.4, schedule=((0.0, 0.0), (1.0, 1.0))),
    ],
)
def test_the_expectation_is_the_mean_of_many_epochs(made, dropout):
    layout = made[2]["markers"]
    hashes = hash_ids([row["id"] for row in ROWS])
    epochs = 100
    totals = []
    for epoch in range(epochs):
        progress_N = np.full(len(ROWS), (epoch + 0.5) / epochs)
        visits_N = np.full(len(ROWS), epoch)
        totals.append(lengths(made, kept_markers(layout, dropout, 0, visits_N, hashes, progress_N)))
    error = np.std(totals) / np.sqrt(epochs)
    assert cost(made, dropout)["markers"] == pytest.approx(np.mean(totals), abs=4 * error + 1)


def test_text_is_what_an_arm_without_markers_has(made):
    template, codecs, layouts, tally = made
    found = token_costs(tally, codecs, layouts["markers"], Dropout())
    spans = [make_spans(row, codecs[template]) for row in ROWS]
    assert found["text"] == sum(len(assemble(layouts["baseline"], s, ())[0]) for s in spans)
    assert 0 < found["compact_over_text"] < 0.25
