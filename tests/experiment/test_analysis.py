"""Records of made-up arms whose effects are known, and what is said of them."""

import numpy as np
import pytest

from marker_lm.evaluation.benchmark import Item
from marker_lm.experiment import analysis
from marker_lm.experiment.measure import METRIC

SEEDS, HEAD, TAIL = 3, 300, 200
# arm -> its mean on the head and on the tail; per item and seed something is added.
MEANS = {"baseline": (2.0, 3.0), "markers": (1.9, 2.6), "shuffled": (1.9, 2.9)}
MODES = {"baseline": "plain", "markers": "inferred", "shuffled": "inferred"}


def make_items():
    items = []
    for n in range(HEAD + TAIL):
        rare = n >= HEAD
        # Half of the tail's items are more than its share of the training rows.
        markers = {"domain": "rare" if rare else "often", "lang": ("de", "en")[n % 2]}
        items.append(Item(f"i{n}", "p", "k", markers, natural=n < HEAD + TAIL // 2))
    return items


def make_records(items, means=MEANS):
    rng = np.random.default_rng(0)
    of_item = rng.normal(0, 0.3, len(items))
    records = []
    for arm, (head, tail) in means.items():
        for seed in range(SEEDS):
            noise = rng.normal(0, 0.1, len(items))
            for n, item in enumerate(items):
                mean = tail if item.markers["domain"] == "rare" else head
                value = mean + of_item[n] + noise[n]
                records.append(
                    {"arm": arm, "seed": seed, "item": item.id, "metric": METRIC, "value": value}
                )
    return records


@pytest.fixture(scope="module")
def data():
    items = make_items()
    values = analysis.read_values(make_records(items))
    return analysis.Data(values, items, "domain", frozenset({"rare"}))


def test_differences_of_known_effects(data):
    rows = analysis.differences(data, "baseline", MODES)
    found = {(r["a"], r["b"], r["stratum"]): r for r in rows}
    want = {
        ("markers/inferred", "baseline/plain", "head"): -0.1,
        ("markers/inferred", "baseline/plain", "tail"): -0.4,
        ("markers/inferred", "baseline/plain", "tail minus head"): -0.3,
        ("markers/inferred", "baseline/plain", "all"): (-0.1 * 300 - 0.4 * 100) / 400,
        ("shuffled/inferred", "baseline/plain", "tail minus head"): 0.0,
        ("markers/inferred", "shuffled/inferred", "tail"): -0.3,
    }
    for key, effect in want.items():
        row = found[key]
        assert row["diff"] == pytest.approx(effect, abs=0.02)
        assert row["low"] <= effect <= row["high"] and row["seeds"] == SEEDS
        assert (row["p"] < 1e-3) == (effect != 0)
        assert 0 < row["detectable"] < 0.1
    assert found["markers/inferred", "baseline/plain", "tail"]["n"] == TAIL


def test_quality_has_the_natural_part_for_all(data):
    rows = {(r["arm"], r["stratum"]): r for r in analysis.quality(data, MODES)}
    assert rows["baseline", "all"]["n"] == HEAD + TAIL // 2
    assert rows["markers", "tail"]["mean"] == pytest.approx(2.6, abs=0.1)
    assert rows["markers", "tail"]["mode"] == "inferred"


def test_strata_one_by_one_are_corrected(data):
    rows = analysis.one_by_one(data, "markers", "baseline", ("domain", "lang"), least=30)
    found = {(r["category"], r["value"]): r for r in rows}
    assert found.keys() == {("domain", "often"), ("domain", "rare"), ("lang", "de"), ("lang", "en")}
    assert found["domain", "rare"]["diff"] == pytest.approx(-0.4, abs=0.02)
    assert all(row["p"] <= row["p_bh"] <= row["p_holm"] for row in rows)
    assert analysis.one_by_one(data, "markers", "baseline", ("lang",), least=251) == []


def test_arms_are_compared_on_the_items_and_seeds_that_both_have():
    items = make_items()
    records = [
        r
        for r in make_records(items)
        if not (r["arm"] == "markers" and (r["seed"] == 2 or r["item"] == "i0"))
    ]
    values = analysis.read_values(records)
    data = analysis.Data(values, items, "domain", frozenset({"rare"}))
    rows = analysis.differences(data, "baseline", MODES)
    head = next(r for r in rows if r["a"] == "markers/inferred" and r["stratum"] == "head")
    assert (head["n"], head["seeds"]) == (HEAD - 1, 2)


def test_shares_of_control_and_inference():
    items = make_items()[:4]
    records = [
        {"arm": "markers", "seed": seed, "item": i.id, "metric": metric, "value": value}
        for seed in (0, 1)
        for metric, values in {"lang, pinned": (1, 1, 0, 1), "inferred lang": (1, 1, 1, 1)}.items()
        for i, value in zip(items, values, strict=True)
    ]
    data = analysis.Data(analysis.read_values(records), items, "domain", frozenset())
    [row] = [r for r in analysis.control(data, {"lang": 0.9}) if r["stratum"] == "head"]
    assert (row["obeyed"], row["n"]) == (0.75, 4) and "90.0 % of rows can be judged" in row["check"]
    [row] = [r for r in analysis.inference(data) if r["stratum"] == "head"]
    assert (row["accuracy"], row["category"]) == (1.0, "lang")
