"""How the local judge is fitted: texts are read, models fitted, and their errors measured on held-out text.

Readings are kept part by part, so that a fit that was killed goes on. Held-out scores are rows of one frame, columns
criterion (a behaviour or "coherence"), own, label, severity, kind and score:

- of a behaviour: its own judge texts with label 1 or 0, and, `own` false, the other behaviours' negative texts, all 0;
- of coherence: windows of documents with label 1 where they are untouched, `severity` (0 for none) and `kind` of damage.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.calibration import FOLDS, fit_calibrated, grouped_folds
from fgaa_utils.judges.coherence import CoherenceModel, fit_coherence, predict_coherence
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.damage import damaged_windows, windows
from fgaa_utils.judges.readers import Readers
from fgaa_utils.shards import ShardStore, digest

MIN_TEXTS = 20  # judge texts on each side of a behaviour
PART = 256  # texts that are read between two savings
LABEL_PENALTY = 0.1  # inverse L2 penalty of coherence as labelled; 0.03 to 0.3 agree equally well with the second lot
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


def read_and_keep(readers: Readers, texts: list[str], folder: Path, what: str) -> tuple[NDArray, NDArray]:
    """(coherence features (texts, 13), resid (texts, d_model)), each part kept under `folder` as soon as it is read.

    A text's readings do not depend on the others of its part.
    """
    store = ShardStore(folder, {"readers": readers.identity, "texts": digest(texts)}, -(-len(texts) // PART))
    missing = store.missing()
    known = len(texts) - sum(len(texts[i * PART : (i + 1) * PART]) for i in missing)
    with tqdm(total=len(texts), initial=known, desc=f"reading {what}", unit="text", mininterval=5) as bar:
        for i in missing:
            features, resid = readers.read(texts[i * PART : (i + 1) * PART], progress=bar.update)
            store.write(i, {"features": torch.from_numpy(features), "resid": torch.from_numpy(resid)})
    parts = list(store)
    return tuple(np.concatenate([part[name].numpy() for part in parts]) for name in ("features", "resid"))


def fit_both_coherences(
    readers: Readers, documents: pd.DataFrame, labelled: pd.DataFrame, count: int, *, seed: int, folder: Path
) -> Coherence:
    """One model fitted to `count` windows of the documents and as many damaged copies, one to labelled texts.

    Held-out scores are the lower of both, the first of them fitted to windows of other documents.
    """
    rng = np.random.default_rng([seed, 1])
    natural = windows(documents, count, rng).assign(kind="natural", severity=0.0)
    damaged = damaged_windows(natural, readers.reference.pieces(rng), rng)
    texts = pd.concat([natural, damaged], ignore_index=True)
    features, resid = read_and_keep(readers, texts.text.tolist(), folder, "natural and damaged texts")
    by_label, _ = read_and_keep(readers, labelled.text.tolist(), folder, "labelled texts")
    severity = texts.severity.to_numpy()
    as_labelled = fit_coherence(by_label, labelled.coherence_label.to_numpy(), C=LABEL_PENALTY)
    folds = grouped_folds(texts.document.to_numpy(), rng)
    scores = np.zeros(len(texts))
    for fold in range(FOLDS):
        train = folds != fold
        models = fit_coherence(features[train], 1 - severity[train]), as_labelled
        scores[~train] = predict_coherence(models, features[~train])
    centre = resid[: len(natural)].mean(axis=0)  # of text that no behaviour is trained or tested on
    heldout = texts[["severity", "kind"]].assign(criterion=COHERENCE, own=True, score=scores)
    heldout["label"] = (severity == 0).astype(int)
    return Coherence((fit_coherence(features, 1 - severity), as_labelled), centre, heldout)


def fit_behaviours(
    readers: Readers, behaviours: list[Behaviour], centre: NDArray, *, seed: int, folder: Path
) -> tuple[dict[str, Linear | str], pd.DataFrame]:
    """({behaviour: its logistic model, or the language that it is}, held-out scores)."""
    judged = judge_texts(behaviours)
    texts = judged.text.tolist()
    _, resid = read_and_keep(readers, texts, folder, "judge texts")
    with tqdm(total=len(texts), desc="embedding judge texts", unit="text", mininterval=5) as bar:
        features = readers.behaviour_features(texts, resid, centre, progress=bar.update)
    models: dict[str, Linear | str] = {}
    heldout = []
    for behaviour in tqdm(behaviours, "fitting", unit="behaviour"):
        is_own = judged.key == behaviour.key
        # Other behaviours' positive texts are no negatives: a wedding text may well be loving or Christian.
        used = is_own | (judged.label == 0)
        own, labels = is_own[used].to_numpy(), (is_own & judged.label)[used].to_numpy(dtype=int)
        if behaviour.language:
            models[behaviour.key] = behaviour.language
            scores = readers.language_id.probability(judged.text[used].tolist(), behaviour.language)
        else:
            groups, rng = judged["index"][used].to_numpy(), np.random.default_rng([seed, 2])
            weights, bias, scores = fit_calibrated(features[used], labels, own, groups, rng)
            models[behaviour.key] = weights, bias
        heldout.append(pd.DataFrame({"criterion": behaviour.key, "own": own, "label": labels, "score": scores}))
    return models, pd.concat(heldout, ignore_index=True)
