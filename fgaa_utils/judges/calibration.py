"""Classifiers whose scores are probabilities, measured on text that they did not see.

Texts come in groups (minimal pairs, windows of one document) that are never split between fitting and testing.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

FOLDS = 5
PENALTY = 10.0  # inverse L2 penalty; held-out AUC and Brier score hardly change between 5 and 20


FLATTEST = 1e-3  # least slope of Platt's method


def grouped_folds(groups: NDArray, rng: np.random.Generator) -> NDArray:
    """A fold number 0..FOLDS-1 for each of (n,) texts; texts of one group share a fold, folds are of even size.

    Raises: ValueError for fewer groups than folds.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        raise ValueError(f"{len(names)} groups of texts cannot make {FOLDS} folds")
    return (rng.permutation(len(names)) % FOLDS)[inverse]


def class_weights(labels: NDArray, own: NDArray) -> NDArray:
    """Weights (n,) at the prior 1/2: positives weigh as much as negatives, and a behaviour's own negatives (near
    misses) as much in sum as other behaviours' texts, if there are any. They sum to twice the number of positives."""
    positive = labels == 1
    negatives = [side for side in (~positive & own, ~positive & ~own) if side.any()]
    weights = positive.astype(float)
    for side in negatives:
        weights[side] = positive.sum() / len(negatives) / side.sum()
    return weights


def fit_logistic(features: NDArray, labels: NDArray, weights: NDArray, C: float) -> LogisticRegression:
    """A logistic regression of (n, d) features; C is the inverse strength of the penalty, infinite for none."""
    return LogisticRegression(C=C, max_iter=2000).fit(features, labels, sample_weight=weights)


def fit_soft(features: NDArray, shares: NDArray, weights: NDArray, *, C: float) -> LogisticRegression:
    """A logistic regression of (n, d) features on shares (n,) in 0..1, each row weighted: it stands once as shown, by its
    share, and once as not shown, by the rest."""
    sides = np.repeat([1, 0], len(shares))
    return fit_logistic(
        np.vstack([features, features]), sides, np.concatenate([weights * shares, weights * (1 - shares)]), C
    )


def fit_platt(decisions: NDArray, shares: NDArray, weights: NDArray) -> tuple[float, float]:
    """(slope, shift) of Platt's method on decision values (n,): sigmoid(slope * value + shift).

    The slope is never negative: a classifier that is wrong more often than not says next to nothing, not the reverse.
    """
    model = fit_soft(decisions[:, None], shares, weights, C=np.inf)
    slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope >= FLATTEST:
        return slope, shift
    return FLATTEST, float(logit(np.clip(np.average(shares, weights=weights), 0.001, 0.999)))


def fit_calibrated(
    features: NDArray,
    shares: NDArray,
    weights: NDArray,
    groups: NDArray,
    rng: np.random.Generator,
    *,
    calibrating: NDArray | None = None,
) -> tuple[NDArray, float, NDArray]:
    """(weights, bias, held_out) of texts whose shares (n,), 0..1, say how far each shows a behaviour: sigmoid(features @
    weights + bias) is such a share; held_out (n,) are those from models that saw neither the text nor its group.

    The decision values of five folds are turned into shares by Platt's method, because those of a model's own training
    texts lie too far apart. It is fitted to the texts that `calibrating` (n,) says, all by default. Each fold's held-out
    scores come from a calibration without it.
    """
    folds = grouped_folds(groups, rng)
    decisions = np.zeros(len(shares))
    for fold in range(FOLDS):
        train = folds != fold
        model = fit_soft(features[train], shares[train], weights[train], C=PENALTY)
        decisions[~train] = model.decision_function(features[~train])
    counted = np.ones(len(shares), dtype=bool) if calibrating is None else calibrating
    held_out = np.zeros(len(shares))
    for fold in range(FOLDS):
        train = counted & (folds != fold)
        slope, shift = fit_platt(decisions[train], shares[train], weights[train])
        held_out[folds == fold] = expit(slope * decisions[folds == fold] + shift)
    model = fit_soft(features, shares, weights, C=PENALTY)
    slope, shift = fit_platt(decisions[counted], shares[counted], weights[counted])
    return slope * model.coef_[0], float(slope * model.intercept_[0] + shift), held_out
