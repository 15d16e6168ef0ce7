"""A linear classifier of texts: hashed word n-grams, logistic regression, calibrated confidence."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

# Scripts that put no blanks between words, from Thai to Han: each of their letters is a word here.
_NO_BLANKS = "\u0e00-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Punctuation counts as words: it tells questions, code, tables and dialogues from running text.
_WORD = rf"[{_NO_BLANKS}]|[^\W{_NO_BLANKS}]+|[^\w\s]"
_REGULARIZATIONS = (1e-6, 1e-5, 1e-4)  # from clean to noisy labels
_BINS = 15


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A fitted classifier of texts into K values by F features.

    values: the K values, sorted
    weights_FxK: float32, divided by the temperature
    bias_K: float32, the same
    """

    values: tuple[str, ...]
    weights_FxK: np.ndarray
    bias_K: np.ndarray

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64[N, K]: calibrated probability of each value; a row depends on its text alone."""
        x_NxF = hashed_words(texts, len(self.weights_FxK))
        return softmax(x_NxF @ self.weights_FxK + self.bias_K)


def hashed_words(texts: Sequence[str], n_features: int):
    """Sparse float32[N, F] of unit rows: counts of hashed words and pairs of words."""
    vectorizer = HashingVectorizer(
        token_pattern=_WORD,
        ngram_range=(1, 2),
        n_features=n_features,
        alternate_sign=False,
        norm="l2",
        dtype=np.float32,
    )
    return vectorizer.transform(texts)


def fit(
    texts: Sequence[str],
    labels: Sequence[str],
    n_features: int,
    folds: int,
    epochs: int,
    threshold: float,
) -> tuple[TextModel, dict[str, Any]]:
    """Trains a model, and says how well its like did on rows that they were not trained on.

    Args:
      texts, labels: N rows; the same rows in the same order give the same model to the bit.
      folds: of the cross-validation, which is stratified by label; each label needs as many rows.
      epochs: passes over the rows.
      threshold: confidence under which a text is counted as an abstention.
    Returns:
      The model, trained on all rows, and facts from cross-validation: `accuracy` and
      `calibration_error` of the best value on all rows, `coverage` and `accuracy_if_covered` of
      those at the threshold or above, the `temperature`, and the `regularization`, which is the
      one that does best on the first fold.
    """
    values, label_N = np.unique(np.asarray(labels), return_inverse=True)
    x_NxF = hashed_words(texts, n_features)
    fold_N = stratified_folds(label_N, folds)

    def held_out_logits(fold: int, regularization: float) -> np.ndarray:
        held_N = fold_N == fold
        weights_FxK, bias_K = _train(x_NxF[~held_N], label_N[~held_N], epochs, regularization)
        return x_NxF[held_N] @ weights_FxK + bias_K

    tried = {strength: held_out_logits(0, strength) for strength in _REGULARIZATIONS}
    loss = {s: best_temperature(logits, label_N[fold_N == 0])[1] for s, logits in tried.items()}
    regularization = min(loss, key=loss.__getitem__)
    logits_NxK = np.empty((len(label_N), len(values)))
    logits_NxK[fold_N == 0] = tried[regularization]
    for fold in range(1, folds):
        logits_NxK[fold_N == fold] = held_out_logits(fold, regularization)
    temperature, _ = best_temperature(logits_NxK, label_N)
    probability_NxK = softmax(logits_NxK / temperature)
    confidence_N = probability_NxK.max(axis=1)
    right_N = probability_NxK.argmax(axis=1) == label_N
    sure_N = confidence_N >= threshold
    facts = {
        "rows": len(label_N),
        "accuracy": round(float(right_N.mean()), 4),
        "calibration_error": round(calibration_error(confidence_N, right_N), 4),
        "coverage": round(float(sure_N.mean()), 4),
        "accuracy_if_covered": round(float(right_N[sure_N].mean()), 4) if sure_N.any() else None,
        "temperature": round(temperature, 4),
        "regularization": regularization,
    }
    weights_FxK, bias_K = _train(x_NxF, label_N, epochs, regularization)
    model = TextModel(
        tuple(values.tolist()),
        np.ascontiguousarray(weights_FxK / temperature, dtype=np.float32),
        (bias_K / temperature).astype(np.float32),
    )
    return model, facts


def stratified_folds(label_N: np.ndarray, folds: int) -> np.ndarray:
    """int[N]: the fold of each row; the rows of a label go round all folds in their order."""
    seen: Counter[int] = Counter()
    fold_N = np.empty(len(label_N), dtype=int)
    for i, label in enumerate(label_N.tolist()):
        fold_N[i] = seen[label] % folds
        seen[label] += 1
    return fold_N


def best_temperature(logits_NxK: np.ndarray, label_N: np.ndarray) -> tuple[float, float]:
    """(what the logits must be divided by for the best log-likelihood of the labels, its negative
    mean); see Guo et al., ICML 2017.

    A share of 1 / (N + 2) of each label is spread over all values, as in Platt's scaling (1999):
    else N rows without a fault would make the confidence of any text 1.
    """
    n, k = logits_NxK.shape
    target_NxK = np.full((n, k), 1 / (n + 2) / k)
    target_NxK[np.arange(n), label_N] += 1 - 1 / (n + 2)

    def loss(log_temperature: float) -> float:
        scaled_NxK = logits_NxK / np.exp(log_temperature)
        top_N = scaled_NxK.max(axis=1)
        total_N = top_N + np.log(np.exp(scaled_NxK - top_N[:, None]).sum(axis=1))
        return float((total_N - (target_NxK * scaled_NxK).sum(axis=1)).mean())

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    return float(np.exp(best.x)), float(best.fun)


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """Mean over rows of |accuracy - confidence| of their bin, with 15 bins of equal width (the same
    paper, eq. 3)."""
    bin_N = np.minimum((confidence_N * _BINS).astype(int), _BINS - 1)
    gap_B = np.bincount(bin_N, weights=right_N - confidence_N, minlength=_BINS)
    return float(np.abs(gap_B).sum() / len(confidence_N))


def softmax(logits_NxK: np.ndarray) -> np.ndarray:
    logits_NxK = np.asarray(logits_NxK, dtype=np.float64)
    power_NxK = np.exp(logits_NxK - logits_NxK.max(axis=1, keepdims=True))
    return power_NxK / power_NxK.sum(axis=1, keepdims=True)


def _train(
    x_NxF, label_N: np.ndarray, epochs: int, regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weights_FxK, bias_K): one logistic regression for each value against all others."""
    # Stochastic descent on one thread: no sum depends on the number of cores.
    regression = SGDClassifier(
        loss="log_loss", alpha=regularization, max_iter=epochs, tol=None, random_state=0
    )
    regression.fit(x_NxF, label_N)
    weights_KxF, bias_K = regression.coef_, regression.intercept_
    if len(weights_KxF) == 1:  # of two values only the second has a regression
        weights_KxF, bias_K = np.vstack([-weights_KxF, weights_KxF]) / 2, np.r_[-bias_K, bias_K] / 2
    return weights_KxF.T, bias_K
