"""From a config to layouts: arms, orders, and what a wrong name is told."""

import pytest

from marker_lm.data.assembly import Layout
from marker_lm.data.setup import SetupError, find_arm, make_dropout, make_setup, train_batches
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from tests.tiny import make_cache, make_rows, show, tiny_config, tiny_taxonomy

LAST = ("lang", "task", "size", "words")
ALPHABETICAL = ("lang", "size", "task", "words")


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path).unlock()


@pytest.fixture
def taxonomy(tmp_path):
    return tiny_taxonomy(tmp_path)


def setup(config, taxonomy):
    return make_setup(config, taxonomy, ByteTokenizer())


@pytest.mark.parametrize(
    ("arm", "prompt_side", "completion_side", "shuffled"),
    [
        ("markers", LAST, LAST, False),
        ("baseline", (), (), False),
        ("shuffled", LAST, LAST, True),
        ("completion_only", (), LAST, False),
    ],
)
def test_arms(config, taxonomy, arm, prompt_side, completion_side, shuffled):
    config.arm = arm
    layout = setup(config, taxonomy).layout
    assert layout.prompt_side == prompt_side
    assert layout.completion_side == completion_side
    assert layout.shuffled == shuffled


@pytest.mark.parametrize(
    ("order", "want"), [("alphabetical", ALPHABETICAL), ("lengths_last", LAST)]
)
def test_orders_of_both_sides(config, taxonomy, order, want):
    config.markers.order = order
    assert setup(config, taxonomy).layout.completion_side == want
    config.markers.prompt_side = ("words", "lang", "size")
    assert setup(config, taxonomy).layout.prompt_side == tuple(c for c in want if c != "task")


@pytest.mark.parametrize("template", ["text", "compact"])
def test_borders_are_those_of_codec_and_tokenizer(config, taxonomy, template):
    config.template = template
    config.data.separator = "\n--\n"
    made = setup(config, taxonomy)
    assert made.layout.open == made.codec.open and made.layout.close == made.codec.close
    assert show(made.layout.separator, taxonomy) == "\n--\n"
    assert made.layout.bos == () and made.layout.eos == ByteTokenizer.eos_id
    assert made.vocab % 128 == 0
    assert made.vocab - 128 < ByteTokenizer.size + made.codec.n_reserved <= made.vocab


def test_bos_is_written_where_the_tokenizer_has_one(config, taxonomy):
    tokenizer = ByteTokenizer()
    tokenizer.bos_id = 2
    assert make_setup(config, taxonomy, tokenizer).layout.bos == (2,)


def test_plan_layouts_are_those_of_all_arms_once(config, taxonomy):
    assert setup(config, taxonomy).plan_layouts == (setup(config, taxonomy).layout,)
    config.plan_arms = ("markers", "baseline", "shuffled")
    layouts = {}
    for arm in config.plan_arms:
        config.arm = arm
        layouts[arm] = setup(config, taxonomy).layout
        assert isinstance(layouts[arm], Layout)
    assert setup(config, taxonomy).plan_layouts[0] == layouts["shuffled"]
    assert set(setup(config, taxonomy).plan_layouts) == set(layouts.values())
    assert len(setup(config, taxonomy).plan_layouts) == 3


def test_dropout_comes_from_the_config(config):
    config.markers.update(example_dropout=0.25, marker_dropout=0.75)
    with config.markers.ignore_type():
        config.markers.dropout_per_category = {"lang": 0.1}
        config.markers.dropout_schedule = ((0.0, 0.0), (1.0, 1.0))
    dropout = make_dropout(config)
    assert (dropout.example, dropout.marker) == (0.25, 0.75)
    assert dropout.per_category == {"lang": 0.1}
    assert dropout.schedule == ((0.0, 0.0), (1.0, 1.0))


def test_an_unknown_arm_is_named_with_the_nearest(config, taxonomy):
    with pytest.raises(SetupError, match="arm='baselin' is not one of .*did you mean 'baseline'"):
        find_arm("baselin")
    config.plan_arms = ("markers", "shufled")
    with pytest.raises(SetupError, match="did you mean 'shuffled'"):
        setup(config, taxonomy)


def test_an_unknown_order(config, taxonomy):
    config.markers.order = "random"
    with pytest.raises(ValueError, match="'random' is not one of alphabetical, lengths_last"):
        setup(config, taxonomy)


@pytest.mark.parametrize("side", ["prompt_side", "completion_side"])
def test_an_unknown_category_is_named_with_its_side(config, taxonomy, side):
    config.markers[side] = ("lang", "taks")
    with pytest.raises(SetupError, match=f"markers.{side}: .*taks.*task"):
        setup(config, taxonomy)


def test_the_completion_side_must_hold_the_prompt_side(config, taxonomy):
    config.markers.update(prompt_side=("lang", "task"), completion_side=("lang",))
    with pytest.raises(SetupError, match=r"\['task'\], which markers.completion_side lacks"):
        setup(config, taxonomy)


@pytest.mark.parametrize("train", [{"length": 8}, {"epochs": 0}])
def test_nothing_to_train_on_is_an_error(tmp_path, config, taxonomy, train):
    made = setup(config, taxonomy)
    codec = MarkerCodec(taxonomy, config.template, ByteTokenizer())
    cache = make_cache(tmp_path / "cache", make_rows(5), codec)
    config.train.update(**train)
    [(key, value)] = train.items()
    with pytest.raises(SetupError, match=f"5 rows.*train.{key}={value}"):
        train_batches(config, made, cache, slice(None))
