"""Coherence of a text, from how a reference language model reads it and from what its surface repeats.

The paper asks a large model for "coherence with correct grammar" (section 4); here two logistic models are fitted, one
on windows of natural documents against copies with graded damage, one on steered texts as annotators labelled them,
which sees the reference model's residual stream too. The lower of the two counts: damage is told apart well by the first,
which finds most steered text sound all the same.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.preprocessing import StandardScaler

from fgaa_utils.judges.calibration import fit_soft
from fgaa_utils.judges.readings import Readings

RESID_SCALE = 0.25  # of the centred residual stream, whose entries are small: what one unit of it is to the penalty


@dataclass(frozen=True)
class CoherenceModel:
    """A logistic model of features (texts, n), from which `mean` is taken and which are divided by `scale` first; `mean`,
    `scale` and `coef` (n,), `intercept` (). n is 13, or with the residual stream 13 + d_model."""

    mean: NDArray
    scale: NDArray
    coef: NDArray
    intercept: NDArray

    def predict(self, readings: Readings, centre: NDArray) -> NDArray:
        """Share (texts,) of each text that is sound, 0..1."""
        surface_alone = len(self.mean) == readings.surface.shape[1]
        features = readings.surface if surface_alone else np.hstack([readings.surface, readings.centred(centre)])
        # Summed row by row: a matrix product may round a row differently beside other rows.
        return expit((((features - self.mean) / self.scale) * self.coef).sum(axis=1) + self.intercept)


def fit_coherence(surface: NDArray, sound: NDArray, *, resid: NDArray | None = None, C: float = 1.0) -> CoherenceModel:
    """A logistic model of the share of a text that is sound, 0..1 (texts,), from its surface (texts, 13), which is
    standardised, and, if it is given, the centred residual stream (texts, d_model).

    C is the inverse strength of the penalty.
    """
    scaler = StandardScaler().fit(surface)
    mean, scale, features = scaler.mean_, scaler.scale_, scaler.transform(surface)
    if resid is not None:
        features = np.hstack([features, resid / RESID_SCALE])
        width = resid.shape[1]
        mean, scale = np.r_[mean, np.zeros(width)], np.r_[scale, np.full(width, RESID_SCALE)]
    model = fit_soft(features, sound, np.ones(len(sound)), C=C)
    return CoherenceModel(mean, scale, model.coef_[0], model.intercept_[0])


def predict_coherence(models: tuple[CoherenceModel, ...], readings: Readings, centre: NDArray) -> NDArray:
    """(texts,) in 0..1: the lowest prediction of the models."""
    return np.min([model.predict(readings, centre) for model in models], axis=0)
