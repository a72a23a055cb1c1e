"""What of a text's surface and likelihood is taken for its coherence, by hand."""

import numpy as np
import pytest

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
