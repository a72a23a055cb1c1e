"""Features and models of coherence; no language model."""

import numpy as np
import pytest

from fgaa_utils.judges.coherence import fit_coherence, predict_coherence
from fgaa_utils.judges.readings import Readings
from fgaa_utils.judges.surface import coherence_features, longest_run, surface


def test_longest_run():
    assert [longest_run(units) for units in ([], ["a"], list("abba"), list("abbbaa"))] == [0, 1, 2, 3]


def test_surface_by_hand():
    distinct, pairs, run, ratio, marks, words, digits, foreign = surface("No, no,\n no!! Yes.")
    assert digits == foreign == 0
    assert surface("a1 2б élu œuf")[6:].tolist() == [2 / 13, 1 / 13]
    assert distinct == 2 / 4  # no, yes
    assert pairs == 2 / 3  # (no, no) twice, (no, yes)
    assert np.exp(run) == pytest.approx(2)  # !!
    assert marks == 5 / len("No, no, no!! Yes.")
    assert np.exp(words) == pytest.approx(4)
    assert ratio > surface("No, no,\n no!! Yes." * 9)[3]


def test_surface_of_texts_without_words_is_finite():
    for text in ("", " ", "?!", "a"):
        assert np.isfinite(surface(text)).all()


def test_features_hold_the_likelihoods_and_their_product_with_french():
    nll = [np.array([1.0, 3.0]), np.array([2.0, 2.0]), np.empty(0)]
    found = coherence_features(["a b", "c d", ""], nll, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found[:, :5], [[2, 2.8, 0, 0, 0], [2, 2, 1, 1, 0.5], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(found[:, 5:], [surface(t) for t in ("a b", "c d", "")])


def made_readings(x: np.ndarray) -> Readings:
    """Readings whose surface is x and whose centred residual stream has two entries."""
    turn = np.linspace(0, 6, len(x))
    return Readings(x, np.stack([np.cos(turn), np.sin(turn)], axis=1), np.zeros((len(x), 1)))


def test_the_fractional_fit_recovers_shares():
    x = np.random.default_rng(0).normal(size=(4000, 1))
    share = 1 / (1 + np.exp(-2 * x[:, 0]))
    predicted = predict_coherence((fit_coherence(x, share),), made_readings(x), np.zeros(2))
    np.testing.assert_allclose(predicted, share, atol=0.02)


def test_the_residual_stream_is_read_where_it_was_given():
    read = made_readings(np.random.default_rng(0).normal(size=(4000, 1)))
    share = 1 / (1 + np.exp(-read.surface[:, 0] - 2 * read.resid[:, 1]))
    blind, seeing = (fit_coherence(read.surface, share, resid=resid, C=100.0) for resid in (None, read.resid))
    np.testing.assert_allclose(seeing.predict(read, np.zeros(2)), share, atol=0.02)
    assert np.abs(blind.predict(read, np.zeros(2)) - share).max() > 0.2


def test_the_lower_of_two_models_counts():
    x = np.linspace(-3, 3, 50)[:, None]
    rising, falling = (fit_coherence(x, (np.sign(side * x[:, 0]) + 1) / 2) for side in (1, -1))
    together = predict_coherence((rising, falling), made_readings(x), np.zeros(2))
    assert together.max() <= 0.5 + 1e-6 and together[0] < 0.1 > together[-1]
