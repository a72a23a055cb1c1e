"""Models of coherence; no language model."""

import numpy as np

from fgaa_utils.judges.coherence import fit_coherence, predict_coherence
from fgaa_utils.judges.readings import Readings


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
