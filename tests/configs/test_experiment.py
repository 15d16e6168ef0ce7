"""Every arm of configs/experiment.py writes what it is there for, on the same rows in one order."""

from pathlib import Path

import numpy as np
import pytest

from configs.experiment import ARMS
from marker_lm.cli.common import ConfigError, load_config
from marker_lm.data.assembly import Kind
from marker_lm.data.cache import Cache
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.experiment.design import make_design
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import load_taxonomy
from tests.cache_files import write_cache
from tests.tiny import make_spans, show

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "experiment.py"
TAXONOMY = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
LANGS = ("de", "en", "en", "fr", "en")
OTHER_ROWS = {"upsampled", "markers_upsampled"}  # they draw rare values more often
BARE = {"baseline", "prompt_loss", "upsampled"}


def make_row(n):
    lang, domain = LANGS[n % 5], ("Trivia", "Everyday", "Medicine")[n % 3]
    return {
        "id": f"row {n}",
        "prompt": f"Ask {n}?",
        "completion": f"Say {n}." + " Yes." * (n % 4),
        "markers": {"lang": lang, "domain": domain, "length_tokens": 2 + n % 4},
    }


ROWS = [make_row(n) for n in range(60)]


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    """All arms as one experiment, with their data prepared."""
    folder = tmp_path_factory.mktemp("arms")
    options = {
        "taxonomy": ROOT / "configs" / "mix.yaml",
        "data.tokenizer": "bytes",
        "data.separator": "\n",
        "train.length": 700,
        "train.batch": 2,
        "train.epochs": 3,
        "train.steps": 5,
    }
    overrides = [f"--config.{key}={value}" for key, value in options.items()]
    made = make_design(load_config, f"{FILE}:small", overrides, list(ARMS), [], folder)
    for template in made.templates:
        codec = MarkerCodec(TAXONOMY, template, ByteTokenizer())
        manifest = {
            "categories": list(TAXONOMY.categories),
            "template": template,
            "tasks": [{"name": "mix", "rows": len(ROWS), "rate": 1.0}],
        }
        spans = (make_spans(row, codec) for row in ROWS)
        write_cache(spans, made.data(template) / "train", manifest)
    return made


def batches(design, arm):
    config = load_config(f"{FILE}:{arm},small", design.options(arm))
    setup = make_setup(config, TAXONOMY, ByteTokenizer())
    cache = Cache(design.data(config.template) / "train")
    return train_batches(config, setup, cache, slice(None))


def sequences(found, steps=3):
    """(row, text of its prompt, shown list, list and answer, its batch's columns) of each row."""
    for step in range(steps):
        batch, (pieces, row_P) = found[step], found.pieces(step)
        segment = 0
        for p, row in enumerate(pieces.rows_P):
            segment = segment + 1 if p and row_P[p] == row_P[p - 1] else 1
            at = (row_P[p], batch["segment_ids"][row_P[p]] == segment)
            one = {name: column[at] for name, column in batch.items()}
            ids = np.append(one["tokens"], one["targets"][-1])
            kinds = np.append(Kind.PROMPT, one["kinds"])
            parts = [show(ids[kinds == kind], TAXONOMY) for kind in list(Kind)[1:]]
            yield int(row), parts, one


@pytest.mark.parametrize("arm", ARMS)
def test_rows_order_and_steps_are_the_same(design, arm):
    same_as = "upsampled" if arm in OTHER_ROWS else "baseline"
    ours, theirs = batches(design, arm), batches(design, same_as)
    assert len(ours) >= 5 and (len(ours) == len(theirs) or arm in OTHER_ROWS)
    for step in range(5):
        (a, row_a), (b, row_b) = ours.pieces(step), theirs.pieces(step)
        np.testing.assert_array_equal(a.rows_P, b.rows_P)
        np.testing.assert_array_equal(a.visits_P, b.visits_P)
        np.testing.assert_array_equal(row_a, row_b)  # in the same sequence, too
    for (row_a, a, _), (row_b, b, _) in zip(sequences(ours), sequences(theirs), strict=True):
        assert row_a == row_b and (a[0], a[3]) == (b[0], b[3])  # prompt and answer to the letter
        assert a[0] == ROWS[row_a]["prompt"] + "\n"
        assert a[3] == ROWS[row_a]["completion"] + "[eos]"


LISTS = {
    "compact": "<|MARKER_LIST|><|domain|><|domain=Trivia|><|lang|><|lang=de|>"
    "<|length_bucket|><|length_bucket=word|><|length_tokens|>2<|/MARKER_LIST|>",
    "text": "<MARKER_LIST>\n<domain>Trivia</domain>\n<lang>de</lang>\n"
    "<length_bucket>word</length_bucket>\n<length_tokens>2</length_tokens>\n</MARKER_LIST>\n",
    "sentence": "About this answer:\nthe domain is Trivia;\nthe lang is de;\n"
    "the length bucket is word;\nthe length tokens is 2;\nand that is all.\n",
    "filler": "<|MARKER_LIST|>........<|/MARKER_LIST|>",
}


# Row 51: domain Trivia, lang en, 5 words; dropout has taken the domain from its prompt side.
SHOWN = "<|MARKER_LIST|>{}<|lang|><|lang=en|><|length_bucket|><|length_bucket=phrase|>"
SHOWN += "<|length_tokens|>5<|/MARKER_LIST|>"
SAID = "Say 51. Yes. Yes. Yes.[eos]"
GOLDEN = {
    "markers": f"Ask 51?\n{SHOWN.format('')}{SHOWN.format('<|domain|><|domain=Trivia|>')}{SAID}",
    "prompt_only": f"Ask 51?\n{SHOWN.format('')}{SAID}",
    "filler": "Ask 51?\n<|MARKER_LIST|>......<|/MARKER_LIST|>"
    f"<|MARKER_LIST|>........<|/MARKER_LIST|>{SAID}",
    "text": f"""Ask 51?
<MARKER_LIST>
<lang>en</lang>
<length_bucket>phrase</length_bucket>
<length_tokens>5</length_tokens>
</MARKER_LIST>
<MARKER_LIST>
<domain>Trivia</domain>
<lang>en</lang>
<length_bucket>phrase</length_bucket>
<length_tokens>5</length_tokens>
</MARKER_LIST>
{SAID}""",
    "sentence": f"""Ask 51?
About this answer:
the lang is en;
the length bucket is phrase;
the length tokens is 5;
and that is all.
About this answer:
the domain is Trivia;
the lang is en;
the length bucket is phrase;
the length tokens is 5;
and that is all.
{SAID}""",
}


@pytest.mark.parametrize("arm", ARMS)
def test_the_list_of_row_0_as_text(design, arm):
    """Row 0: domain Trivia, lang de, 2 words."""
    found = [parts for row, parts, _ in sequences(batches(design, arm), 5) if row == 0]
    assert found
    for prompt, shown, listed, answer in found:
        assert (prompt, answer) == ("Ask 0?\n", "Say 0.[eos]")
        if arm in BARE:
            assert shown == listed == ""
        elif arm == "prompt_only":
            assert listed == ""
        elif arm == "shuffled":
            assert listed.startswith("<|MARKER_LIST|><|domain|>")
        else:
            assert listed == LISTS.get(arm, LISTS["compact"])
        if arm == "completion_only":
            assert shown == ""


def test_a_sequence_of_each_kind_of_arm(design):
    for arm, want in GOLDEN.items():
        found = ["".join(parts) for row, parts, _ in sequences(batches(design, arm)) if row == 51]
        assert found[0] == want


def test_dropout_rates(design):
    def shown(arm):
        rows = [bool(parts[1]) for _, parts, _ in sequences(batches(design, arm), 5)]
        return np.array(rows)

    none, half, most = (shown(f"dropout_{rate}_50") for rate in (0, 50, 70))
    assert none.mean() > half.mean() > most.mean() > 0
    # A list that stays at a higher rate stays at a lower one: what packing relies on.
    assert (none >= half).all() and (half >= most).all()


def test_shuffled_lists_are_those_of_other_rows(design):
    found = {row: parts[2] for row, parts, _ in sequences(batches(design, "shuffled"), 5)}
    true = {row: parts[2] for row, parts, _ in sequences(batches(design, "markers"), 5)}
    assert sum(found[row] != true[row] for row in found) > len(found) / 2
    assert set(found.values()) <= set(true.values()) | {found[row] for row in found}
    again = {row: parts[2] for row, parts, _ in sequences(batches(design, "shuffled"), 5)}
    assert found == again


def test_loss_weights(design):
    for arm in ARMS:
        for _, _, one in sequences(batches(design, arm), 1):
            weight = {Kind(k): set(one["weights"][one["kinds"] == k]) for k in set(one["kinds"])}
            assert weight[Kind.COMPLETION] == {1.0}
            assert weight[Kind.PROMPT] == {1.0 if arm == "prompt_loss" else 0.0}
            want = 0.0 if arm == "no_list_loss" else 1.0
            assert weight.get(Kind.COMPLETION_MARKERS, {want}) == {want}
            assert weight.get(Kind.PROMPT_MARKERS, {0.0}) == {0.0}


def test_upsampling_draws_rare_values_more_often(design):
    def share(arm):
        rows = [row for row, _, _ in sequences(batches(design, arm), 5)]
        return np.mean([ROWS[row]["markers"]["lang"] != "en" for row in rows])

    # Each value has its least share already in rows as even as these.
    assert share("upsampled") == pytest.approx(share("baseline"), abs=0.15)
    assert load_config(f"{FILE}:upsampled", []).data.least_share.domain == 0.005


def test_words_of_the_argument():
    config = load_config(f"{FILE}:small,shuffled,/rows", [])
    assert config.arm == "shuffled" and config.experiment.seeds == (0, 1)
    assert config.data.tasks.mix.train == "/rows/train*.jsonl.gz"
    assert load_config(str(FILE), []).data.tasks.mix.train == "data/mix/train*.jsonl.gz"
    with pytest.raises(ConfigError, match="two arms, two sizes or two folders"):
        load_config(f"{FILE}:shufled,/rows", [])


def test_prompts_are_told_the_language_or_not():
    named = load_config(f"{FILE}:shuffled,scratch,data", []).data.rows.named
    assert named.lang == "Answer in {}." and set(named) == {"lang", "code_type"}
    unnamed = load_config(f"{FILE}:scratch,unnamed,shuffled,data", [])
    assert not unnamed.data.rows.named and unnamed.arm == "shuffled"
    assert unnamed.data.tasks.mix.train == "data/train*.jsonl.gz"


def test_lists_may_end_with_the_number_of_paragraphs():
    config = load_config(f"{FILE}:scratch,paragraphs,data", [])
    setup = make_setup(config, TAXONOMY, ByteTokenizer())
    assert setup.layout.completion_side[-2:] == ("length_tokens", "paragraphs")
    assert config.data.rows.markers.paragraphs == "paragraphs"
    plain = make_setup(load_config(f"{FILE}:scratch,data", []), TAXONOMY, ByteTokenizer())
    assert "paragraphs" not in plain.layout.completion_side
