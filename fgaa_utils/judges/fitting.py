"""How the local judge is fitted: texts are read, models fitted, and their errors measured on held-out text.

Held-out scores are rows of one frame, columns criterion (a behaviour or "coherence"), own, label, severity, kind and score:

- of a behaviour: its own judge texts with label 1 or 0, and, `own` false, the other behaviours' negative texts, all 0;
- of coherence: windows of documents with label 1 where they are untouched, `severity` (0 for none) and `kind` of damage.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.calibration import FOLDS, class_weights, fit_calibrated, grouped_folds
from fgaa_utils.judges.coherence import CoherenceModel, fit_coherence, predict_coherence
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.damage import damaged_windows, windows
from fgaa_utils.judges.readings import ReadingStore

MIN_TEXTS = 20  # judge texts on each side of a behaviour
LABEL_PENALTY = 0.1  # inverse L2 penalty of coherence as labelled; 0.03 to 0.3 agree about equally well with the lots fourth and unseen
LABEL_WEIGHT = 3.0  # of a labelled steered text for its behaviour, a judge text's being 1; 0.5 to 10 likewise
MIN_LABELS = 20  # labelled texts of a behaviour for these to decide how high its scores are
Linear = tuple[NDArray, float]  # weights and bias of a logistic model


@dataclass(frozen=True)
class Coherence:
    """Two models of coherence, the centre (d_model,) of the reference's residual stream over natural text, and the
    held-out scores."""

    models: tuple[CoherenceModel, CoherenceModel]
    centre: NDArray
    heldout: pd.DataFrame


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


def fit_both_coherences(
    store: ReadingStore, documents: pd.DataFrame, labelled: pd.DataFrame, count: int, *, seed: int
) -> Coherence:
    """One model fitted to `count` windows of the documents and as many damaged copies, one to labelled texts.

    Held-out scores are the lower of both, the first of them fitted to windows of other documents.
    """
    rng = np.random.default_rng([seed, 1])
    natural = windows(documents, count, rng).assign(kind="natural", severity=0.0)
    damaged = damaged_windows(natural, store.readers.reference.pieces(rng), rng)
    texts = pd.concat([natural, damaged], ignore_index=True)
    read = store.read(texts.text.tolist(), "natural and damaged texts")
    centre = read.resid[: len(natural)].mean(axis=0)  # of text that no behaviour is trained or tested on
    steered = labelled.drop_duplicates("text")
    of_steered = store.read(steered.text.tolist(), "labelled texts")
    sound, resid = steered.coherence_label.to_numpy(), of_steered.centred(centre)
    as_labelled = fit_coherence(of_steered.surface, sound, resid=resid, C=LABEL_PENALTY)
    severity, surface = texts.severity.to_numpy(), read.surface
    folds = grouped_folds(texts.document.to_numpy(), rng)
    scores = np.zeros(len(texts))
    for fold in range(FOLDS):
        train, test = folds != fold, np.flatnonzero(folds == fold)
        models = fit_coherence(surface[train], 1 - severity[train]), as_labelled
        scores[test] = predict_coherence(models, read.rows(test), centre)
    heldout = texts[["severity", "kind"]].assign(criterion=COHERENCE, own=True, score=scores)
    heldout["label"] = (severity == 0).astype(int)
    return Coherence((fit_coherence(surface, 1 - severity), as_labelled), centre, heldout)


def enough(shares: NDArray) -> bool:
    """Whether labels (n,), 0..1, can say how high scores are: MIN_LABELS at least, not all of one kind."""
    return len(shares) >= MIN_LABELS and 0.01 < shares.mean() < 0.99


def fit_behaviours(
    store: ReadingStore, behaviours: list[Behaviour], labelled: pd.DataFrame, centre: NDArray, *, seed: int
) -> tuple[dict[str, Linear | str], pd.DataFrame]:
    """({behaviour: its logistic model, or the language that it is}, held-out scores).

    A behaviour's model is fitted to its judge texts, to other behaviours' negative ones, and to the steered texts that were
    labelled for it, which, if there are enough, also decide how high its scores are.
    """
    judged = judge_texts(behaviours)
    features = store.read(judged.text.tolist(), "judge texts").behaviour_features(centre)
    models: dict[str, Linear | str] = {}
    heldout = []
    for behaviour in tqdm(behaviours, "fitting", unit="behaviour", mininterval=5):
        is_own = judged.key == behaviour.key
        # Other behaviours' positive texts are no negatives: a wedding text may well be loving or Christian.
        used = is_own | (judged.label == 0)
        own, labels = is_own[used].to_numpy(), (is_own & judged.label)[used].to_numpy(dtype=int)
        if behaviour.language:
            models[behaviour.key] = behaviour.language
            scores = store.readers.language_id.probability(judged.text[used].tolist(), behaviour.language)
        else:
            steered = labelled[labelled.behaviour == behaviour.key].drop_duplicates("text")
            more = store.read(steered.text.tolist()).behaviour_features(centre) if len(steered) else features[:0]
            clean = np.arange(len(labels) + len(more)) < len(labels)
            weights, bias, scores = fit_calibrated(
                np.vstack([features[used], more]),
                np.concatenate([labels, steered.behaviour_label.to_numpy()]),
                np.concatenate([class_weights(labels, own), np.full(len(more), LABEL_WEIGHT)]),
                np.concatenate([judged["index"][used].to_numpy(), -1 - np.arange(len(more))]),  # each of its own group
                np.random.default_rng([seed, 2]),
                calibrating=~clean if enough(steered.behaviour_label.to_numpy()) else clean,
            )
            models[behaviour.key], scores = (weights, bias), scores[clean]
        heldout.append(pd.DataFrame({"criterion": behaviour.key, "own": own, "label": labels, "score": scores}))
    return models, pd.concat(heldout, ignore_index=True)
