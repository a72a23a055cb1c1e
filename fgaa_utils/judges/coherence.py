"""Coherence of a text, from how a reference language model reads it and from what its surface repeats.

The paper asks a large model for "coherence with correct grammar" (section 4); here two logistic models are fitted, one
on windows of natural documents against copies with graded damage, one on steered texts as annotators labelled them.
The lower of the two counts: damage is told apart well by the first, which finds most steered text sound all the same.
"""

import re
import zlib
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LATIN = 0x17F  # the last code point of Latin Extended-A


def surface(text: str) -> NDArray:
    """(8,): share of distinct words, share of distinct word pairs, log of the longest run of a repeated word or
    mark, zlib compression ratio, share of characters that are neither letter, digit nor blank, log word count, share
    of digits, share of letters beyond the Latin ones of English and French."""
    text = " ".join(text.split())
    units = re.findall(r"\w+|[^\w\s]", text.lower())  # words and single marks
    words = re.findall(r"\w+", text.lower())
    pairs = list(pairwise(words))
    data = text.encode()
    return np.array(
        [
            len(set(words)) / max(1, len(words)),
            len(set(pairs)) / len(pairs) if pairs else 1.0,
            np.log(max(1, longest_run(units))),
            len(zlib.compress(data)) / max(1, len(data)),
            sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text)),
            np.log(max(1, len(words))),
            sum(c.isdigit() for c in text) / max(1, len(text)),
            sum(c.isalpha() and ord(c) > LATIN for c in text) / max(1, len(text)),
        ]
    )


def longest_run(units: list[str]) -> int:
    """Length of the longest run of one repeated unit; 0 for no units."""
    return max((len(list(run)) for _, run in groupby(units)), default=0)


def coherence_features(texts: list[str], nll: list[NDArray], french: NDArray) -> NDArray:
    """(texts, 13) from the texts, the NLL of their tokens and their probability of French (texts,).

    Mean and 90th percentile of the NLL, both times the probability of French, that probability, the surface:
    the reference model reads French worse, and French must not count as damage.
    """
    of_nll = np.array([[row.mean(), np.quantile(row, 0.9)] if len(row) else [0.0, 0.0] for row in nll])
    share = french[:, None]
    return np.hstack([of_nll, of_nll * share, share, np.stack([surface(text) for text in texts])])


@dataclass(frozen=True)
class CoherenceModel:
    """A logistic model of features (texts, 13), which are standardised by `mean` and `scale` (13,) first; `coef` (13,),
    `intercept` ()."""

    mean: NDArray
    scale: NDArray
    coef: NDArray
    intercept: NDArray

    def predict(self, features: NDArray) -> NDArray:
        """Share (texts,) of each text that is sound, 0..1."""
        standard = (features - self.mean) / self.scale
        # Summed row by row: a matrix product may round a row differently beside other rows.
        return expit((standard * self.coef).sum(axis=1) + self.intercept)


def fit_coherence(features: NDArray, sound: NDArray, *, C: float = 1.0) -> CoherenceModel:
    """A logistic model of the share of a text that is sound, 0..1 (texts,), from features (texts, 13).

    C is the inverse strength of the penalty.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    # Each text stands once as sound and once as damaged, weighted by its share of either.
    sides = np.repeat([1, 0], len(sound))
    weights = np.concatenate([sound, 1 - sound])
    model.fit(np.vstack([features, features]), sides, logisticregression__sample_weight=weights)
    scaler, logistic = model
    return CoherenceModel(scaler.mean_, scaler.scale_, logistic.coef_[0], logistic.intercept_[0])


def predict_coherence(models: tuple[CoherenceModel, ...], features: NDArray) -> NDArray:
    """(texts,) in 0..1: the lowest prediction of the models for features (texts, 13)."""
    lowest = np.ones(len(features))
    for model in models:
        lowest = np.minimum(lowest, model.predict(features))
    return lowest
