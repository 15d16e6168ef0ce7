"""Posteriors with the prior divided out."""

import json

import pytest

from marker_lm.decoding.priors import divide_out, mean_posterior, read_prior
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import make_taxonomy


def test_bayes_backwards():
    """Prior times likelihood gives the posterior; without the prior the likelihood is left."""
    prior, likelihood = {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.1, "b": 0.3, "c": 0.6}
    joint = {v: prior[v] * likelihood[v] for v in prior}
    posterior = {v: p / sum(joint.values()) for v, p in joint.items()}
    assert divide_out(posterior, prior) == pytest.approx(likelihood)
    counts = {v: 1000 * share for v, share in prior.items()}
    assert divide_out(posterior, counts) == pytest.approx(likelihood)


def test_a_value_without_a_share_gets_nothing():
    assert divide_out({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 1, "b": 0, "d": 3}) == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
    }
    with pytest.raises(MarkerError, match="no share for any likely one of a, b"):
        divide_out({"a": 0.5, "b": 0.5}, {"c": 1})


def test_mean_posterior():
    found = mean_posterior([{"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}])
    assert found == {"a": 0.75, "b": 0.25}


def test_read_prior(tmp_path):
    path = tmp_path / "prior.json"
    path.write_text('{"English": 3, "German": 1}')
    assert read_prior(path, "lang", make_taxonomy()) == {"English": 3.0, "German": 1.0}
    strata = {"category": "style", "train_shares": {"lang": {"English": 0.25}}}
    path.write_text(json.dumps(strata))
    assert read_prior(path, "lang", make_taxonomy()) == {"English": 0.25}


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "holds no prior of 'lang'"),
        ("[]", "holds no prior of 'lang'"),
        ('{"English": "many"}', "holds no prior of 'lang'"),
        ('{"English": -1}', "gives English the share -1.0; a share is 0 or more"),
        ('{"English": NaN}', "a share is 0 or more"),
        ('{"Germn": 1}', "did you mean 'German'"),
        ('{"train_shares": {"style": {}}}', "holds no prior of 'lang'"),
    ],
)
def test_files_that_are_no_prior(tmp_path, text, sentence):
    path = tmp_path / "prior.json"
    path.write_text(text)
    with pytest.raises(MarkerError, match=sentence):
        read_prior(path, "lang", make_taxonomy())
