"""The text classifier: features, calibration, and the same model to the bit."""

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.text_model import (
    best_temperature,
    calibration_error,
    fit,
    hashed_words,
    softmax,
    stratified_folds,
)
from marker_lm.evaluation.statistics import expected_calibration_error

SMALL = {"n_features": 2**12, "folds": 4, "epochs": 5, "threshold": 0.5}


def texts_and_labels(n=400, stray=0.3, noise=0.0, seed=0):
    """Texts of ten words of the label's own, but for a share of strays; a share of the labels is
    drawn anew."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(3, size=n)
    words_NxW = rng.integers(20, size=(n, 10)) + 20 * label_N[:, None]
    stray_NxW = rng.random((n, 10)) < stray
    words_NxW = np.where(stray_NxW, rng.integers(60, size=(n, 10)), words_NxW)
    label_N = np.where(rng.random(n) < noise, rng.integers(3, size=n), label_N)
    texts = [" ".join(f"w{word}" for word in row) for row in words_NxW]
    return texts, [f"value{label}" for label in label_N]


def test_its_facts_and_its_confidence_hold_on_new_rows():
    model, facts = fit(*texts_and_labels(2000, stray=0.8), **SMALL)
    texts, labels = texts_and_labels(2000, stray=0.8, seed=1)
    probability_NxK = model.probabilities(texts)
    assert model.values == ("value0", "value1", "value2") and facts["rows"] == 2000
    assert np.allclose(probability_NxK.sum(axis=1), 1)
    right_N = np.array(model.values)[probability_NxK.argmax(axis=1)] == labels
    confidence_N = probability_NxK.max(axis=1)
    assert abs(right_N.mean() - facts["accuracy"]) < 0.05
    assert abs((confidence_N >= 0.5).mean() - facts["coverage"]) < 0.06
    assert facts["accuracy_if_covered"] > facts["accuracy"] > 0.5
    assert expected_calibration_error(confidence_N, right_N) < 0.05
    assert facts["calibration_error"] < 0.05
    raw_N = softmax(np.log(probability_NxK) * facts["temperature"]).max(axis=1)
    assert expected_calibration_error(raw_N, right_N) > 0.1


def test_noisy_labels_are_not_learned_by_heart():
    model, facts = fit(*texts_and_labels(2000, noise=0.3), **SMALL)
    texts, labels = texts_and_labels(2000, seed=1)
    right_N = np.array(model.values)[model.probabilities(texts).argmax(axis=1)] == labels
    assert right_N.mean() > 0.9 and facts["regularization"] == 1e-4
    assert fit(*texts_and_labels(400, stray=0.0), **SMALL)[1]["accuracy"] == 1.0


def test_two_values_are_enough():
    texts, labels = texts_and_labels()
    two = [(text, label) for text, label in zip(texts, labels, strict=True) if label != "value2"]
    model, facts = fit(*zip(*two, strict=True), **SMALL)
    assert model.weights_FxK.shape == (2**12, 2) and facts["accuracy"] > 0.95
    assert np.allclose(model.probabilities([two[0][0]]).sum(), 1)


def test_the_same_rows_give_the_same_bits_on_any_number_of_threads():
    one, facts = fit(*texts_and_labels(), **SMALL)
    with threadpoolctl.threadpool_limits(1):
        other, more = fit(*texts_and_labels(), **SMALL)
    assert facts == more
    assert one.weights_FxK.tobytes() == other.weights_FxK.tobytes()
    assert one.bias_K.tobytes() == other.bias_K.tobytes()


def test_a_text_is_judged_by_itself():
    model, _ = fit(*texts_and_labels(), **SMALL)
    texts = [*texts_and_labels(50, seed=2)[0], "", "new words only", "w1 " * 5000]
    together = model.probabilities(texts)
    for i, text in enumerate(texts):
        assert together[i].tobytes() == model.probabilities([text])[0].tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [("天地人", "天 地 人"), ("ไทย", "ไ ท ย"), ("Abc天地", "abc 天 地"), ("if(x)", "IF ( x )")],
)
def test_scripts_without_blanks_and_punctuation_make_words(one, other):
    assert (hashed_words([one], 2**16) != hashed_words([other], 2**16)).nnz == 0
    assert (hashed_words([one], 2**16) != hashed_words([other[:-1]], 2**16)).nnz > 0


def test_rows_of_features_have_unit_length():
    x_NxF = hashed_words(["a b c", "a a a a", "", "é ü ñ 한국어"], 2**10)
    assert x_NxF.dtype == np.float32 and x_NxF.shape == (4, 2**10)
    norm_N = np.sqrt(np.asarray(x_NxF.multiply(x_NxF).sum(axis=1)).ravel())
    assert np.allclose(norm_N, [1, 1, 0, 1])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 5))
def test_folds_share_out_each_label(labels, folds):
    label_N = np.array(labels)
    fold_N = stratified_folds(label_N, folds)
    assert fold_N.min() >= 0 and fold_N.max() < folds
    for label in set(labels):
        counts = np.bincount(fold_N[label_N == label], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_the_temperature_undoes_a_wrong_scale():
    rng = np.random.default_rng(0)
    logits_NxK = rng.normal(size=(4000, 4)) * 2
    power_NxK = softmax(logits_NxK).cumsum(axis=1)
    label_N = (rng.random(4000)[:, None] > power_NxK).sum(axis=1).clip(max=3)
    assert best_temperature(logits_NxK * 5, label_N)[0] == pytest.approx(5, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50),
)
def test_the_calibration_error_is_that_of_the_evaluation(pairs):
    confidence_N = np.array([confidence for confidence, _ in pairs])
    right_N = np.array([right for _, right in pairs])
    assert calibration_error(confidence_N, right_N) == pytest.approx(
        expected_calibration_error(confidence_N, right_N.astype(float))
    )
