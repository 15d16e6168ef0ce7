"""Controls get canonical values, or one sentence."""

import pytest

from marker_lm.decoding.controls import Controls, check_controls
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
