"""The classifier that learns from labelled rows: order, parts, saving, and what it leaves out."""

import gzip
import json
import pickle
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marker_lm.annotate.annotator import Annotator, Learner
from marker_lm.annotate.classifier import make
from marker_lm.annotate.fitted_classifier import ClassifierError, load
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.example import Example
from marker_lm.evaluation.statistics import expected_calibration_error
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from tests.data.small import shared_data

ROOT = Path(__file__).resolve().parents[2]
PAPER = load_taxonomy("paper")
WORDS = {
    "Medical": "fever pain doctor pill wound heart",
    "Legal": "court judge law crime appeal contract",
    "Math": "sum root prime angle proof equation",
}
SMALL = {"categories": ("domain",), "features": 2**12, "epochs": 5}


def rows(n=300, seed=0):
    rng = random.Random(seed)
    made = []
    for i in range(n):
        domain = rng.choice(list(WORDS))
        prompt = " ".join(rng.choice(WORDS[domain].split()) for _ in range(5))
        style = rng.choice(["Formal", "Informal"])
        completion = "Dear Sir, yours" if style == "Formal" else "hey, cu"
        made.append(
            Example(f"r{seed}/{i}", prompt, completion, {"domain": domain, "style": style}, {})
        )
    return made


def learner(examples=(), **more):
    made = make({**SMALL, **more}, PAPER)
    for example in examples:
        made.add(example)
    return made


def hidden(examples):
    return [Example(e.id, e.prompt, e.completion, {}, {}) for e in examples]


def bits(annotator):
    models = {
        n: (m.values, m.weights_FxK.tobytes(), m.bias_K.tobytes())
        for n, m in annotator.models.items()
    }
    return models, annotator.facts()


def test_it_learns_what_each_category_describes(capsys):
    made = learner(rows(), categories=("domain", "style"))
    assert isinstance(made, Learner) and not isinstance(made, Annotator)
    annotator = made.finish()
    assert isinstance(annotator, Annotator) and annotator.categories == ("domain", "style")
    test = rows(100, seed=1)
    found = annotator.annotate(hidden(test))
    assert [{name: one.value for name, one in f.items()} for f in found] == [
        e.markers for e in test
    ]
    assert all(0.5 <= one.confidence <= 1 for f in found for one in f.values())
    assert annotator.annotate(test) == [{}] * 100  # rows that have their markers
    assert annotator.annotate([]) == []
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("classifier: domain learned from 300 of 300 labelled rows, 3 values")
    assert annotator.facts()["style"]["accuracy"] == 1.0


def test_order_and_parts_of_the_rows_do_not_matter():
    examples = rows()
    one = bits(learner(examples, rows=100).finish())
    mixed = random.Random(5).sample(examples, len(examples))
    assert bits(learner(mixed, rows=100).finish()) == one
    parts = [learner(mixed[i::3], rows=100) for i in range(3)]
    blank = pickle.dumps(make({**SMALL, "rows": 100}, PAPER))
    total = pickle.loads(blank)
    for part in parts:
        total.merge(pickle.loads(pickle.dumps(part)))
    assert bits(total.finish()) == one
    assert one[1]["domain"]["rows"] == 100 and one[1]["domain"]["labelled_rows"] == 300
    assert bits(learner(rows(seed=2), rows=100).finish()) != one


def test_the_sample_is_bounded_in_rows_and_characters():
    def peak(n):
        tracemalloc.start()
        made = learner(
            (Example(str(i), "x" * 20_000 + str(i), "c", {"domain": "Math"}, {}) for i in range(n)),
            rows=50,
            max_chars=1000,
        )
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, made

    (small, _), (large, made) = peak(200), peak(2000)
    assert large < 1.2 * small + 50_000
    assert made.labelled["domain"] == 2000


def test_a_long_text_is_read_at_both_ends():
    annotator = learner(rows(), max_chars=40, threshold=0.0).finish()

    def found(start, middle, end):
        text = f"{start:<20}{middle * 100}{end:>20}"
        return annotator.annotate([Example("a", text, "c", {}, {})])[0]["domain"]

    law = found("court judge law", "fever pain ", "crime appeal")
    assert law == found("court judge law", "proof sum ", "crime appeal")
    assert law.value == "Legal" and found("fever", "court", "pain pill").value == "Medical"


def test_under_the_threshold_it_abstains():
    strange = [Example("a", "nothing of all this was ever seen", "c", {}, {})]
    annotator = learner(rows(), threshold=0.9).finish()
    assert annotator.annotate(strange) == [{}]
    assert set(learner(rows(), threshold=0.0).finish().annotate(strange)[0]) == {"domain"}


def test_rare_values_and_empty_categories_are_not_learned_but_said(capsys):
    few = [Example(f"f{i}", "space star", "c", {"domain": "Sciences"}, {}) for i in range(9)]
    annotator = learner([*rows(), *few], categories=("domain", "task", "format")).finish()
    assert annotator.models["domain"].values == tuple(sorted(WORDS))
    facts = annotator.facts()
    assert facts["domain"]["rare_values"] == {"Sciences": 9} and facts["domain"]["rows"] == 300
    assert facts["task"] == {
        "values": 0,
        "rare_values": {},
        "labelled_rows": 0,
        "rows_with_several": 0,
    }
    assert annotator.categories == ("domain", "task", "format")
    said = capsys.readouterr().err
    assert "1 rare values (9 rows) left out" in said
    assert "task is not learned, 0 values have rows enough, of 0 labelled rows" in said
    alone = [Example(f"m{i}", "x", "c", {"domain": "Math"}, {}) for i in range(50)]
    assert learner(alone).finish().annotate(hidden(alone)) == [{}] * 50


def test_rows_with_several_values_are_counted_and_left_out(capsys):
    domain = replace(PAPER.category("domain"), several=True)
    made = make(SMALL, Taxonomy("several", {"domain": domain}))
    for i, one in enumerate(rows()):
        more = ["Code"] if i % 3 == 0 else []
        made.add(replace(one, markers={"domain": domain.check([one.markers["domain"], *more])}))
    annotator = made.finish()
    facts = annotator.facts()["domain"]
    assert (facts["rows"], facts["labelled_rows"], facts["rows_with_several"]) == (200, 200, 100)
    assert "; 100 rows with several values left out" in capsys.readouterr().err
    test = rows(50, seed=1)
    found = [one["domain"].value for one in annotator.annotate(hidden(test))]
    assert found == [one.markers["domain"] for one in test]


def test_saved_and_loaded(tmp_path):
    annotator = learner(rows(), categories=("domain", "style"), save=str(tmp_path / "x")).finish()
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["classifier.npz"]
    test = hidden(rows(50, seed=1))
    again = make({"load": str(tmp_path / "x"), "categories": ("domain", "style")}, PAPER)
    assert isinstance(again, Annotator)
    assert again.annotate(test) == annotator.annotate(test)
    assert bits(again) == bits(annotator)
    assert bits(pickle.loads(pickle.dumps(annotator))) == bits(annotator)
    assert load(tmp_path / "x", PAPER).categories == ("domain", "style")
    only = make({"load": str(tmp_path / "x"), "categories": ("domain", "task")}, PAPER)
    assert set(only.annotate(test)[0]) == {"domain"} and only.categories == ("domain", "task")


def test_damaged_missing_and_strange_folders(tmp_path):
    with pytest.raises(ClassifierError, match="there is no saved classifier .*none"):
        load(tmp_path / "none", PAPER)
    learner(rows(), save=str(tmp_path)).finish()
    with pytest.raises(ClassifierError, match="has learned of 'domain' the value 'Legal'.*'mix'"):
        load(tmp_path, load_taxonomy(str(ROOT / "configs" / "mix.yaml")))
    file = tmp_path / "classifier.npz"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip file", bytes(flipped)):
        file.write_bytes(damaged)
        with pytest.raises(ClassifierError, match="classifier.npz is damaged"):
            load(tmp_path, PAPER)


@pytest.mark.parametrize(
    ("section", "error", "says"),
    [
        ({"treshold": 0.5}, SettingsError, "there is no key 'treshold'; did you mean 'threshold'"),
        ({"threshold": 1.5}, ClassifierError, "threshold is 1.5"),
        ({"rows": 0}, ClassifierError, "rows is 0; it must be 1 or more"),
        ({"min_rows": 3}, ClassifierError, "min_rows is 3; it must be 5 or more, as many as folds"),
        ({"categories": ("domian",)}, MarkerError, "did you mean 'domain'"),
        ({"categories": ("length_tokens",)}, MarkerError, "'length_tokens' of type 'integer'"),
    ],
)
def test_bad_sections(section, error, says):
    with pytest.raises(error, match=says):
        make(section, PAPER)
    assert "domain" in make({}, PAPER).categories and "quality" not in make({}, PAPER).categories


@pytest.mark.slow
def test_the_bar_on_real_rows():
    """Top domain of data/mix: learned from 20,000 rows, right on 85 % of held-out ones."""
    mix = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
    folder = shared_data() / "mix"

    def read(pattern, every=1):
        for file in sorted(folder.glob(pattern)):
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for i, line in enumerate(lines):
                    if i % every == 0:
                        row = json.loads(line)
                        parts = [row["instruction"], row["input"]]
                        prompt = "\n\n".join(part for part in parts if part.strip())
                        domain = row["domain"][0].split(" -> ")[0]
                        if domain in mix.category("domain").values:
                            yield Example(row["id"], prompt, "c", {"domain": domain}, {})

    made = make({"categories": ("domain",), "rows": 20_000, "threshold": 0.0}, mix)
    for example in read("train*.jsonl.gz", every=10):
        made.add(example)
    annotator = made.finish()
    test = list(read("heldout*.jsonl.gz"))
    found = [one["domain"] for one in annotator.annotate(hidden(test))]
    right_N = np.array([f.value == e.markers["domain"] for f, e in zip(found, test, strict=True)])
    assert annotator.facts()["domain"]["rows"] <= 20_000
    assert len(test) > 7000 and right_N.mean() >= 0.85
    assert expected_calibration_error([f.confidence for f in found], right_N) < 0.05
