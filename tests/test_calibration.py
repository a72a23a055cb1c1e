"""Folds, weights and calibration of the local judge's classifiers, by naive versions and made-up features."""

import numpy as np
import pytest

from fgaa_utils.judges.calibration import (
    FOLDS,
    class_weights,
    fit_calibrated,
    fit_logistic,
    fit_soft,
    grouped_folds,
)
from fgaa_utils.stats import area_under_curve


def test_a_pair_never_straddles_and_folds_are_even():
    groups = np.tile(np.arange(60), 18)
    for seed in range(10):
        folds = grouped_folds(groups, np.random.default_rng(seed))
        for group in range(60):
            assert len(set(folds[groups == group])) == 1
        assert np.bincount(folds).tolist() == [len(groups) // FOLDS] * FOLDS
    assert not np.array_equal(folds, grouped_folds(groups, np.random.default_rng(0)))


def test_too_few_groups_for_the_folds():
    with pytest.raises(ValueError, match="4 groups of texts cannot make 5 folds"):
        grouped_folds(np.array([0, 1, 2, 3, 3]), np.random.default_rng(0))


def test_weights_are_even_between_classes_and_between_near_and_far_negatives():
    labels = np.array([1] * 10 + [0] * 20 + [0] * 400)
    own = np.array([True] * 30 + [False] * 400)
    weights = class_weights(labels, own)
    assert weights[labels == 1].tolist() == [1.0] * 10
    assert weights[10:30].sum() == pytest.approx(5)
    assert weights[30:].sum() == pytest.approx(5)
    assert class_weights(labels[:30], own[:30])[10:].sum() == pytest.approx(10)  # no other behaviours


def test_held_out_scores_know_nothing_of_their_text():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 400))  # more dimensions than texts: training texts are told apart perfectly
    labels = np.tile([1, 0], 120)
    groups = np.arange(240) // 2
    features[1::2] = features[::2] + 0.01 * rng.normal(size=(120, 400))  # a pair across folds would be misled
    weights, bias, held_out = fit_calibrated(features, labels, np.ones(240), groups, np.random.default_rng(0))
    assert area_under_curve(labels, features @ weights + bias) > 0.95
    assert 0.35 < area_under_curve(labels, held_out) < 0.65
    assert np.mean((held_out - labels) ** 2) < 0.27  # not confident in noise


def test_calibrated_scores_are_probabilities():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=4000)
    features = rng.normal(size=(4000, 3)) + np.outer(labels, [1.5, 0, 0])
    truth = 1 / (1 + np.exp(-(1.5 * features[:, 0] - 1.125)))  # Bayes at the prior 1/2
    weights, bias, held_out = fit_calibrated(features, labels, np.ones(4000), np.arange(4000), rng)
    np.testing.assert_allclose(held_out, truth, atol=0.08)
    np.testing.assert_allclose(1 / (1 + np.exp(-(features @ weights + bias))), truth, atol=0.08)


def test_scores_are_as_high_as_the_texts_that_calibrate_say():
    rng = np.random.default_rng(0)
    clean = np.arange(2000) < 1000
    labels = np.where(clean, rng.integers(2, size=2000), rng.random(2000) < 0.2).astype(
        float
    )  # steered text shows less
    features = np.outer(labels, [1.0, 0, 0]) + rng.normal(size=(2000, 3))
    made = [
        fit_calibrated(features, labels, np.ones(2000), np.arange(2000), np.random.default_rng(1), calibrating=of)[2]
        for of in (clean, ~clean)
    ]
    assert made[0][clean].mean() == pytest.approx(labels[clean].mean(), abs=0.03)
    assert made[1][~clean].mean() == pytest.approx(labels[~clean].mean(), abs=0.03) and made[1][clean].mean() < 0.4


def test_a_share_counts_as_so_much_of_either_side():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    shares = rng.choice([0, 1 / 3, 2 / 3, 1], size=500)
    soft = fit_soft(x, shares, np.ones(500), C=1.0)
    thrice = np.repeat(x, 3, axis=0), np.concatenate([np.arange(3) < round(3 * share) for share in shares]).astype(int)
    hard = fit_logistic(*thrice, np.full(1500, 1 / 3), 1.0)
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-3)


def test_auc_by_counting_pairs():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert area_under_curve(labels, scores) == pytest.approx(np.mean(pairs))
