"""Which annotators fill which category, and in which order they are asked."""

import pytest

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.apply import annotate, annotated_row, split_at_learners
from marker_lm.annotate.registry import AnnotateError, Step, choose, make_steps
from marker_lm.data.example import Example, MarkerInfo, RowError
from marker_lm.data.row_format import RowFormat
from marker_lm.markers.taxonomy import MarkerError, load_taxonomy
from tests.tiny import tiny_taxonomy

PAPER = load_taxonomy("paper")


class Saying:
    """An annotator that finds what it was told to, and remembers whom it was asked about."""

    def __init__(self, name, found):
        self.name, self.found = name, found
        self.categories = tuple(found)
        self.asked = []

    def annotate(self, examples):
        self.asked += [example.id for example in examples]
        return [{c: one for c, one in self.found.items() if one is not None} for _ in examples]


def step(name, **found):
    return Step(name, Saying(name, found), tuple(found))


def example(name="a", completion="c", **markers):
    info = {category: MarkerInfo("row") for category in markers}
    return Example(name, "p", completion, markers, {}, info)


def test_origins_choose():
    names = choose(PAPER)
    assert names["quality"] == names["quality_bucket"] == ("quality",)
    assert names["length_tokens"] == names["length_paragraphs"] == ("lengths",)
    assert names["lang"] == ("lang",) and names["code_type"] == ("code_type",)
    assert names["format"] == ("format",) and names["domain"] == ("classifier",)
    assert names["source"] == names["style"] == names["length_bucket"] == ()
    assert list(names) == list(PAPER.categories)


def test_the_config_chooses():
    names = choose(PAPER, {"domain": ["llm", "classifier"], "lang": ("metadata",), "style": "llm"})
    assert names["domain"] == ("llm", "classifier")
    assert names["lang"] == () and names["style"] == ("llm",)
    assert names["task"] == ("classifier",)
    with pytest.raises(MarkerError, match="'domian'.*did you mean 'domain'"):
        choose(PAPER, {"domian": ()})
    with pytest.raises(AnnotateError, match="annotators.domain names 'llmm'.*did you mean 'llm'"):
        choose(PAPER, {"domain": ("llmm",)})


def test_steps_run_choice_by_choice():
    names = dict.fromkeys(PAPER.categories, ()) | {
        "length_tokens": ("lengths",),
        "quality_bucket": ("quality",),
        "quality": ("quality",),
        "length_sentences": ("lengths",),
    }
    steps = make_steps(names, {}, PAPER)
    assert [(s.name, s.categories, s.learns) for s in steps] == [
        ("lengths", ("length_tokens", "length_sentences"), False),
        ("quality", ("quality", "quality_bucket"), True),
    ]
    with pytest.raises(AnnotateError, match="'lengths' cannot fill 'domain'; it fills length_tok"):
        make_steps({"domain": ("lengths",)}, {}, PAPER)


def test_an_annotator_is_asked_only_where_a_category_is_lacking(tmp_path):
    taxonomy = tiny_taxonomy(tmp_path)
    first = step("lang", lang=Found("de", 0.87654), task=None)
    second = step("llm", lang=Found("en", 1.0), task=Found("Answer", 0.5))
    rows = [example("a"), example("b", lang="ja"), example("c", lang="ja", task="Repeat")]
    assert annotate(rows, [first, second], taxonomy) == [None] * 3
    assert first.annotator.asked == ["a", "b"] and second.annotator.asked == ["a", "b"]
    assert [row.markers for row in rows] == [
        {"lang": "de", "task": ("Answer",)},
        {"lang": "ja", "task": ("Answer",)},
        {"lang": "ja", "task": "Repeat"},
    ]
    assert rows[0].marker_info == {
        "lang": MarkerInfo("lang", 0.8765),
        "task": MarkerInfo("llm", 0.5),
    }
    assert rows[1].marker_info["lang"] == MarkerInfo("row", 1.0)


def test_only_the_categories_that_are_chosen_are_filled(tmp_path):
    one = step("llm", lang=Found("de"), task=Found("Answer"))
    one.categories = ("task",)
    row = example()
    annotate([row], [one], tiny_taxonomy(tmp_path))
    assert row.markers == {"task": ("Answer",)}


def test_buckets_follow_from_their_numbers(tmp_path):
    taxonomy = tiny_taxonomy(tmp_path)
    rows = [example("a"), example("b", size="short")]
    errors = annotate(rows, [step("lengths", words=Found(5, 0.9))], taxonomy)
    assert rows[0].markers == {"words": 5, "size": "long"}
    assert rows[0].marker_info["size"] == MarkerInfo("lengths", 0.9)
    assert errors[0] is None and isinstance(errors[1], RowError)
    assert "size is 'short', but words=5 makes it 'long'" in str(errors[1])


def test_a_value_that_the_taxonomy_lacks_is_the_annotators_fault(tmp_path):
    with pytest.raises(AnnotateError, match="the annotator 'llm' is at fault: lang='fr' is not"):
        annotate([example()], [step("llm", lang=Found("fr"))], tiny_taxonomy(tmp_path))


def test_learners_see_what_they_rank_within():
    lang = step("lang", lang=Found("German"))
    lengths = step("lengths", length_tokens=Found(3))
    (quality,) = make_steps({"quality_bucket": ("quality",)}, {}, PAPER)
    before, learners = split_at_learners([lang, lengths, quality], PAPER)
    assert [(s.name, s.categories) for s in before] == [("lang", ("lang",))]
    assert learners == [quality]


def test_a_field_that_would_be_lost():
    row = {"prompt": "p", "completion": "c", "markers": [1]}
    with pytest.raises(RowError, match="a field 'markers' that the row format does not read"):
        annotated_row(row, example(), RowFormat(markers={"lang": "language"}))
    assert annotated_row(row, example(lang="de"), RowFormat())["markers"] == {"lang": "de"}


def test_the_atlas_has_an_annotator_for_what_is_counted():
    names = choose(load_taxonomy("atlas"))
    assert names["length_tokens"] == ("lengths",)


def test_the_sections_of_the_config_hold_the_defaults_of_the_annotators():
    import dataclasses
    import importlib

    from configs import annotate as config
    from marker_lm.annotate.classifier import ClassifierConfig
    from marker_lm.annotate.endpoint_config import EndpointConfig
    from marker_lm.annotate.llm import LlmConfig

    sections = config.get_config().to_dict()
    endpoint = EndpointConfig("http://x", "m")
    assert sections["llm"]["endpoint"] == dataclasses.asdict(endpoint) | {"url": "", "model": ""}
    assert sections["llm"] == dataclasses.asdict(LlmConfig(endpoint)) | {
        "endpoint": sections["llm"]["endpoint"]
    }
    assert sections["classifier"] == dataclasses.asdict(ClassifierConfig())
    for name in ("lang", "lengths", "code_type", "format", "quality"):
        settings = importlib.import_module(f"marker_lm.annotate.{name}").Settings
        assert sections[name] == dataclasses.asdict(settings()), name


def test_the_classifier_learns_what_it_is_chosen_for():
    names = dict.fromkeys(PAPER.categories, ()) | {"domain": ("classifier",)}
    (step,) = make_steps(names, {"classifier": {"categories": (), "folds": 3}}, PAPER)
    assert step.learns and step.annotator.categories == ("domain",)
