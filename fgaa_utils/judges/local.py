"""Judges: how much a text shows a behaviour, and how coherent it is, both 0..1 (paper, section 4).

The paper asks gpt-4o-mini. LocalJudge needs no network: classifiers on frozen models, with their error measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.coherence import coherence_features, damaged_windows, fit_coherence, predict_coherence, windows
from fgaa_utils.judges.readers import Embedder, LanguageId, Reference
from fgaa_utils.project import RAW, unknown
from fgaa_utils.shards import digest, save_frame

FOLDS = 5
MIN_TEXTS = 20  # judge texts on each side of a behaviour
PART = 2048  # texts that are read between two savings of the scores
PENALTY = 10.0  # inverse L2 penalty; held-out AUC and Brier score hardly change between 5 and 20
LABEL_PENALTY = 0.1  # of coherence as labelled, likewise; 0.03 to 0.3 agree equally well with the second lot of labels


class Judge(Protocol):
    """What the evaluation asks of a judge."""

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """Probability (texts,) that each text shows the behaviour. Raises: ValueError for an unknown one."""

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1."""


@dataclass(frozen=True)
class HeldOutBehaviour:
    """labels, scores (n,): a behaviour's judge texts, scored by models that saw no text of their index.
    elsewhere (m,): scores of the other behaviours' negative texts, likewise; all should be low."""

    labels: NDArray
    scores: NDArray
    elsewhere: NDArray


@dataclass(frozen=True)
class HeldOutCoherence:
    """severity, scores, kind (n,): windows of documents that the models of the score did not see; severity 0 and
    kind "natural" are untouched text, at least as many as damaged ones."""

    severity: NDArray
    scores: NDArray
    kind: NDArray


@dataclass(frozen=True)
class Validation:
    """Everything about a judge that is measured on held-out text."""

    behaviours: dict[str, HeldOutBehaviour]
    coherence: HeldOutCoherence


def auc(labels: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve of scores (n,) against labels (n,) of 0 and 1."""
    return float(roc_auc_score(labels, scores))


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


def fit_platt(decisions: NDArray, labels: NDArray, weights: NDArray) -> tuple[float, float]:
    """(slope, shift) of Platt's method on decision values (n,): sigmoid(slope * value + shift).

    The slope is never negative: a classifier that is wrong more often than not says next to nothing, not the reverse.
    """
    model = fit_logistic(decisions[:, None], labels, weights, np.inf)
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def fit_calibrated(
    features: NDArray, labels: NDArray, own: NDArray, groups: NDArray, rng: np.random.Generator
) -> tuple[NDArray, float, NDArray]:
    """(weights, bias, held_out): sigmoid(features @ weights + bias) is a probability at the prior of class_weights;
    held_out (n,) are such probabilities from models that saw neither the text nor its group.

    The decision values of five folds are turned into probabilities by Platt's method, because those of a model's
    own training texts lie too far apart. Each fold's held-out scores come from a calibration without it.
    """
    weights = class_weights(labels, own)
    folds = grouped_folds(groups, rng)
    decisions = np.zeros(len(labels))
    for fold in range(FOLDS):
        train = folds != fold
        model = fit_logistic(features[train], labels[train], weights[train], PENALTY)
        decisions[~train] = model.decision_function(features[~train])
    held_out = np.zeros(len(labels))
    for fold in range(FOLDS):
        train = folds != fold
        slope, shift = fit_platt(decisions[train], labels[train], weights[train])
        held_out[~train] = expit(slope * decisions[~train] + shift)
    model = fit_logistic(features, labels, weights, PENALTY)
    slope, shift = fit_platt(decisions, labels, weights)
    return slope * model.coef_[0], float(slope * model.intercept_[0] + shift), held_out


def judge_texts(behaviours: list[Behaviour]) -> pd.DataFrame:
    """The judge texts: columns key, label, index (of the minimal pair), text.

    Raises: ValueError for a behaviour with too few on a side.
    """
    rows = []
    for behaviour in behaviours:
        for side, label in (("positive", 1), ("negative", 0)):
            texts = getattr(behaviour, f"judge_{side}")
            if len(texts) < MIN_TEXTS:
                found = f"{len(texts)} {side} judge texts"
                raise ValueError(f"{behaviour.key}.yaml has {found}; the judge needs {MIN_TEXTS} or more")
            rows += [(behaviour.key, label, index, text) for index, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["key", "label", "index", "text"])


class LocalJudge:
    """A judge made of frozen models and classifiers fitted on top: offline, the same scores every time.

    A behaviour is scored by a logistic model of a sentence embedding beside a middle layer of the reference
    model, or by language identification if it names a language. Coherence: see fgaa_utils.judges.coherence.
    A score depends on its text alone. Scores are kept: a text is read once, for all behaviours and coherence.
    """

    validation: Validation

    def __init__(self, embedder: Embedder, reference: Reference, language_id: LanguageId):
        self.embedder, self.reference, self.language_id = embedder, reference, language_id
        self._models: dict[str, tuple[NDArray, float] | str] = {}  # (weights, bias), or a language
        self._scores: dict[str, NDArray] = {}  # text: one score for each of _models, and coherence
        self._file: Path | None = None  # where the scores are kept

    @classmethod
    def fit(
        cls,
        behaviours: list[Behaviour],
        documents: pd.DataFrame,
        labelled: pd.DataFrame,
        *,
        reference: Path,
        seed: int,
        coherence_texts: int,
        embedder: Path = RAW / "minilm",
        language_id: Path = RAW / "lid" / "lid.176.ftz",
    ) -> "LocalJudge":
        """A judge of these behaviours, its `validation` measured on text held out in five folds.

        documents: columns source and text; `coherence_texts` windows of them, and as many damaged copies, fit
        one model of coherence. labelled: columns text and coherence_label (0..1), which fit the other.

        Raises: ValueError for too few judge texts or documents; FileNotFoundError for a model that is not there.
        """
        judge_texts(behaviours)  # counts are checked before anything heavy starts
        judge = cls(Embedder(embedder), Reference(reference), LanguageId(language_id))
        coherence = judge._fit_coherence(documents, labelled, coherence_texts, seed)
        held_out = judge._fit_behaviours(behaviours, seed)
        judge.validation = Validation(held_out, coherence)
        return judge

    def keep(self, folder: Path) -> "LocalJudge":
        """This judge, its scores kept in `folder` too and those taken up that an equal judge left there, so that a
        run that was killed, or is run again, reads no text twice. Judges are equal if they score held-out text
        equally."""
        held_out = [self.validation.coherence.scores, *(b.scores for b in self.validation.behaviours.values())]
        name = digest([list(self._models), digest(torch.from_numpy(np.concatenate(held_out)))])
        self._file = folder / f"scores_{name}.parquet"
        if self._file.exists():
            frame = pd.read_parquet(self._file)
            self._scores |= zip(frame.pop("text"), frame.to_numpy())
        return self

    def _save(self) -> None:
        if self._file:
            columns = [*self._models, "coherence"]
            frame = pd.DataFrame(np.array(list(self._scores.values())), columns=columns)
            save_frame(self._file, frame.assign(text=list(self._scores)))

    def _fit_coherence(
        self, documents: pd.DataFrame, labelled: pd.DataFrame, count: int, seed: int
    ) -> HeldOutCoherence:
        rng = np.random.default_rng([seed, 1])
        natural = windows(documents, count, rng).assign(kind="natural", severity=0.0)
        damaged = damaged_windows(natural, self.reference.pieces(rng), rng)
        texts = pd.concat([natural, damaged], ignore_index=True)
        features, resid = self._read(texts.text.tolist())
        severity = texts.severity.to_numpy()
        by_label, _ = self._read(labelled.text.tolist())
        as_labelled = fit_coherence(by_label, labelled.coherence_label.to_numpy(), C=LABEL_PENALTY)
        folds = grouped_folds(texts.document.to_numpy(), rng)
        scores = np.zeros(len(texts))
        for fold in range(FOLDS):
            train = folds != fold
            models = fit_coherence(features[train], 1 - severity[train]), as_labelled
            scores[~train] = predict_coherence(models, features[~train])
        self._coherence = fit_coherence(features, 1 - severity), as_labelled
        self._centre = resid[: len(natural)].mean(axis=0)  # of text that no behaviour is trained or tested on
        return HeldOutCoherence(severity, scores, texts.kind.to_numpy())

    def _fit_behaviours(self, behaviours: list[Behaviour], seed: int) -> dict[str, HeldOutBehaviour]:
        judged = judge_texts(behaviours)
        _, resid = self._read(judged.text.tolist())
        features = self._behaviour_features(judged.text.tolist(), resid)
        held_out = {}
        for behaviour in behaviours:
            is_own = judged.key == behaviour.key
            # Other behaviours' positive texts are no negatives: a wedding text may well be loving or Christian.
            used = is_own | (judged.label == 0)
            own, labels = is_own[used].to_numpy(), (is_own & judged.label)[used].to_numpy(dtype=int)
            if behaviour.language:
                self._models[behaviour.key] = behaviour.language
                scores = self.language_id.probability(judged.text[used].tolist(), behaviour.language)
            else:
                groups, rng = judged["index"][used].to_numpy(), np.random.default_rng([seed, 2])
                *model, scores = fit_calibrated(features[used], labels, own, groups, rng)
                self._models[behaviour.key] = tuple(model)
            held_out[behaviour.key] = HeldOutBehaviour(labels[own], scores[own], scores[~own])
        return held_out

    def _read(self, texts: list[str]) -> tuple[NDArray, NDArray]:
        """(coherence features (texts, 13), resid (texts, d_model))."""
        nll, resid = self.reference.read(texts)
        return coherence_features(texts, nll, self.language_id.probability(texts, "fr")), resid

    def _behaviour_features(self, texts: list[str], resid: NDArray) -> NDArray:
        """(texts, 384 + d_model): the embedding and the centred residual stream, each of length 1."""
        centred = resid - self._centre
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        return np.hstack([self.embedder.read(texts), centred])

    def _apply(self, model: tuple[NDArray, float] | str, texts: list[str], features: NDArray) -> NDArray:
        if isinstance(model, str):
            return self.language_id.probability(texts, model)
        weights, bias = model
        return expit(features @ weights + bias)

    def _score(self, texts: list[str]) -> NDArray:
        """(texts, behaviours + 1): the scores of each text, computed if they are not known."""
        unknown_texts = [text for text in dict.fromkeys(texts) if text not in self._scores]
        parts = [unknown_texts[i : i + PART] for i in range(0, len(unknown_texts), PART)]
        bar = tqdm(total=len(unknown_texts), desc="judging", unit="text", disable=len(parts) < 2)
        for part in parts:
            coherence, resid = self._read(part)
            features = self._behaviour_features(part, resid)
            columns = [self._apply(model, part, features) for model in self._models.values()]
            sound = predict_coherence(self._coherence, coherence)
            columns.append(np.where([any(c.isalnum() for c in text) for text in part], sound, 0.0))
            self._scores |= zip(part, np.stack(columns, axis=1))
            self._save()
            bar.update(len(part))
        bar.close()
        return np.array([self._scores[text] for text in texts]).reshape(len(texts), len(self._models) + 1)

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """Probability (texts,) that each text shows the behaviour, at a prior of 1/2.

        Raises: ValueError for a behaviour that the judge was not fitted for.
        """
        if behaviour not in self._models:
            raise unknown("behaviour", behaviour, list(self._models))
        return self._score(texts)[:, list(self._models).index(behaviour)]

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1: the lower of what damage and labels say (see fgaa_utils.judges.coherence); 0
        for a text without a letter or digit."""
        return self._score(texts)[:, -1]
