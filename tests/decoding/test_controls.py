"""Controls get canonical values, or one sentence."""

import dataclasses

import pytest

from marker_lm.decoding.controls import Controls, check_controls, check_seen
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import ORDER, make_taxonomy

TAXONOMY = make_taxonomy()


def test_values_become_canonical_and_all_else_stays():
    given = Controls({"words": "12", "lang": "Engl"}, frozenset({"style"}), frozenset({"score"}))
    checked = check_controls(given, TAXONOMY, ORDER)
    assert checked.pinned == {"lang": "Engl", "words": 12}
    assert type(checked.pinned["words"]) is int
    assert (checked.banned, checked.asked) == (given.banned, given.asked)
    nothing = Controls({"lang": None, "topics": []})
    assert check_controls(nothing, TAXONOMY, ORDER).pinned == {}


@pytest.mark.parametrize(
    "topics, canonical",
    [("law", ("law",)), (["law"], ("law",)), (["music", "law", "law"], ("law", "music"))],
)
def test_several_values_become_a_tuple(topics, canonical):
    checked = check_controls(Controls({"topics": topics}), TAXONOMY, ORDER)
    assert checked.pinned == {"topics": canonical}


@pytest.mark.parametrize("words, bucket", [(9, "few"), (10, "many"), (-5, "few")])
def test_a_number_may_be_pinned_with_its_own_bucket(words, bucket):
    both = {"words": words, "words_bucket": bucket}
    assert check_controls(Controls(both), TAXONOMY, ORDER).pinned == both


@pytest.mark.parametrize(
    "controls, sentence",
    [
        (Controls({"lnag": "English"}), "unknown category 'lnag'.*did you mean 'lang'"),
        (Controls({"lang": "Englisch"}), "lang='Englisch' is not a value.*'English'"),
        (Controls({"words": "many"}), "words='many' is not an integer"),
        (Controls({"score": "nan"}), "score='nan' is not a finite number"),
        (Controls(banned=frozenset({"langs"})), "no lever 'langs'; did you mean 'lang'"),
        (Controls({"lang": "Engl"}, frozenset({"lang"})), "'lang' is banned and wanted"),
        (Controls({"topics": ["law", "lawn"]}), "topics='lawn' is not a value.*did you mean 'law'"),
        (Controls({"lang": ["Engl", "German"]}), "lang=.* but a list.*one value only"),
        (
            Controls({"words_bucket": "few", "words": "10"}),
            "words_bucket=few and words=10 contradict each other; pin words_bucket=many with that",
        ),
    ],
)
def test_what_can_not_be(controls, sentence):
    with pytest.raises(MarkerError, match=sentence) as caught:
        check_controls(controls, TAXONOMY, ORDER)
    assert "\n" not in str(caught.value)


def test_a_category_that_this_model_does_not_write():
    with pytest.raises(MarkerError, match="the model has no lever 'score'; it has lang, words."):
        check_controls(Controls({"score": 1.5}), TAXONOMY, ("lang", "words"))


SEEN = {"lang": {"German": 900, "English": 30}, "topics": {"law": 5, "music": 2}, "words": [3, 40]}


@pytest.mark.parametrize(
    "pinned, sentence",
    [
        ({"lang": "Engl"}, "no training row had lang=Engl; the nearest .* are English, German; "),
        ({"topics": ["law", "arts"]}, "no training row had topics=arts; the nearest .* law, music"),
        ({"words": 41}, "no training row had words=41; those that were seen go from 3 to 40; pin"),
        ({"words": -1}, "no training row had words=-1"),
        ({"style": "a"}, "no training row had style=a; they had no value of this category"),
        ({"score": 0.5}, "no training row had score=0.5; they had no value of this category"),
    ],
)
def test_unseen_values_are_refused_or_warned_of(pinned, sentence):
    taxonomy = make_taxonomy()
    controls = check_controls(Controls(pinned), taxonomy, ORDER)
    with pytest.raises(MarkerError, match=sentence):
        check_seen(controls, taxonomy, SEEN)
    with pytest.warns(UserWarning, match=f"{sentence.split(';')[0]}.*may not obey it"):
        check_seen(dataclasses.replace(controls, allow_unseen=True), taxonomy, SEEN)
    check_seen(controls, taxonomy, None)  # nothing is known of the training data


def test_seen_values_pass():
    taxonomy = make_taxonomy()
    for pinned in ({"lang": "German"}, {"topics": ["music", "law"]}, {"words": 3}, {"words": 40}):
        check_seen(check_controls(Controls(pinned), taxonomy, ORDER), taxonomy, SEEN)
