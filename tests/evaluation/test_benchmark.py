"""Items, strata and moved levers."""

import json

import pytest

from marker_lm.data.atlas import rows as atlas_rows
from marker_lm.evaluation.atlas import atlas_benchmark, is_unseen
from marker_lm.evaluation.benchmark import choose_items, moved
from tests.evaluation.made_up import LANGS, benchmark, item


def by_id(items):
    return sorted(items, key=lambda one: one.id)


def test_choose_items_takes_the_same_ones_in_any_order():
    items = [item(f"i{n}", LANGS[n % 3], split=("heldout", "unseen")[n % 2]) for n in range(60)]
    stratum = benchmark(items).stratum
    chosen = choose_items(items, stratum, 4, tail_share=0.5)
    assert by_id(choose_items(items[::-1], stratum, 4, tail_share=0.5)) == by_id(chosen)
    cells = [(i.split, stratum(i)) for i in chosen]
    assert {cell: cells.count(cell) for cell in cells} == dict.fromkeys(
        [(s, t) for s in ("heldout", "unseen") for t in ("head", "tail")], 4
    )
    fewer = {i.id for i in choose_items(items, stratum, 3, tail_share=0.5)}
    assert len(fewer) == 12 and fewer < {i.id for i in chosen}
    assert len(choose_items(items, stratum, 99, tail_share=0.5)) == 60
    assert choose_items([], stratum, 5, tail_share=0.5) == []


def test_the_natural_part_has_the_tail_in_its_share_of_the_training_rows():
    items = [item(f"i{n}", "fi" if n < 30 else "en") for n in range(70)]
    stratum = benchmark(items).stratum
    chosen = choose_items(items, stratum, 99, tail_share=0.2)
    natural = [stratum(i) for i in chosen if i.natural]
    assert (natural.count("head"), natural.count("tail")) == (40, 10)
    assert len(chosen) == 70
    none = choose_items(items, stratum, 99, tail_share=0.0)
    assert [stratum(i) for i in none if i.natural] == ["head"] * 40


def test_stratum_is_that_of_the_own_value():
    made = benchmark([])
    assert [made.stratum(item("x", lang)) for lang in LANGS] == ["head", "head", "tail"]


def test_moved_never_takes_the_own_value_and_reaches_all_others():
    opened = {"lang": LANGS, "format": ["Plain", "JSON"], "words": [3]}
    seen = set()
    for n in range(200):
        asked = moved(item(f"i{n}", "de", open=opened), seed=0)
        assert set(asked) == {"lang", "format"}, "words has no other value"
        assert asked["format"] == "JSON"
        seen.add(asked["lang"])
    assert seen == {"en", "fi"}
    one = item("i1", "de", open=opened)
    assert moved(one, 0) == moved(one, 0)
    assert len({tuple(moved(one, seed).items()) for seed in range(20)}) > 1
    assert moved(item("i", "de"), 0) == {}


def test_moved_keeps_clear_of_what_is_to_be_avoided():
    def avoid(levers):
        return (levers["lang"], levers["format"]) in {("fi", "JSON"), ("en", "Plain")}

    for n in range(100):
        both = item(f"i{n}", "de", open={"lang": LANGS, "format": ["Plain", "JSON"]})
        assert moved(both, 0, avoid) == {"format": "JSON", "lang": "en"}
        assert moved(item(f"i{n}", "de", open={"lang": LANGS}), 0, avoid) == {"lang": "fi"}
        assert moved(item(f"i{n}", "fi", open={"format": ["Plain", "JSON"]}), 0, avoid) == {}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    atlas_rows.write(folder, 1200)
    return folder


def test_atlas_levers_never_move_to_a_pair_that_training_lacks(atlas):
    made = atlas_benchmark(atlas, most=1000)
    held = [i for i in made.items if i.split == "heldout"]
    assert len(held) == 60 and any(i.split == "unseen" for i in made.items)
    assert not any(is_unseen(i.markers) for i in held)
    assert all(is_unseen(i.markers) for i in made.items if i.split == "unseen")
    changed = set()
    for seed in range(20):
        for one in held:
            asked = moved(one, seed, made.avoid)
            assert not is_unseen({**one.markers, **asked})
            assert set(asked) <= set(one.open)
            changed |= set(asked)
    assert changed == {"lang", "format", "length_bucket"}


def test_atlas_keys_follow_the_levers_and_pass_the_checks(atlas):
    made = atlas_benchmark(atlas, most=1000)
    for one in made.items[:30]:
        levers = {c: one.markers[c] for c in made.checks}
        assert made.key(one, levers) == one.key
        assert made.checks["format"](one.key, levers) == one.markers["format"]
        assert made.checks["length_bucket"](one.key, levers) == one.markers["length_bucket"]
    assert made.strata["train_share"]["English"] > 0.05
    assert sum(made.strata["train_share"].values()) == pytest.approx(1)


def test_an_atlas_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*heldout.jsonl; `marker-lm demo`"):
        atlas_benchmark(tmp_path, 5)


def test_line_separators_in_a_text_do_not_cut_a_row(atlas, tmp_path):
    for split in ("train", "heldout", "unseen"):
        row = json.loads((atlas / f"{split}.jsonl").read_text().split("\n")[0])
        row["prompt"] = "one\u2028line\u0085"
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert {i.prompt for i in atlas_benchmark(tmp_path, 5).items} == {"one\u2028line\u0085"}
