"""Steered samples labelled by reading, and how well a judge agrees with the labels.

Clean test texts say little of the text that is scored in earnest; data/labels/README.md has the rubric.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.project import DATA
from fgaa_utils.stats import area_under_curve, average_estimate, bcs, estimate, rank_correlation, resample

STEERED = DATA / "labels" / "steered.csv"
TOP = 3  # highest label
WRITER = "gemma-3-270m"  # the model whose steered texts were labelled
FITTING = ("first", "second", "third", "validation")  # lots that the local judge is fitted to; the others test it
CLEAR = 0.5  # of the highest: a text shows the behaviour, or is mostly sound, above this


def read_labels(path: Path = STEERED) -> pd.DataFrame:
    """The labelled texts with columns drawn, behaviour, method, variant, scale, prompt, text and, per criterion (behaviour,
    coherence), `<criterion>_label`: the mean of both annotators, 0..1, and `a_<criterion>`, `b_<criterion>`, 0..3.

    Raises: ValueError for a label outside 0..3.
    """
    labels = pd.read_csv(path)
    for criterion in ("behaviour", "coherence"):
        both = labels[[f"a_{criterion}", f"b_{criterion}"]]
        if not both.isin(range(TOP + 1)).all(axis=None):
            raise ValueError(f"{path.name}: labels of {criterion} must be 0 to {TOP}")
        labels[f"{criterion}_label"] = both.mean(axis=1) / TOP
    return labels


def fitting_lots(labels: pd.DataFrame, most: int | None = None) -> pd.DataFrame:
    """The texts that the local judge is fitted to, at random not more than `most`: none of them tests it."""
    lots = labels[labels.drawn.isin(FITTING)]
    return lots if most is None or most >= len(lots) else lots.sample(most, random_state=0)


def tested_lots(labels: pd.DataFrame) -> pd.DataFrame:
    """The texts that had no part in making the local judge."""
    return labels[~labels.drawn.isin(FITTING)]


def last_lot(labels: pd.DataFrame, behaviours: list[str]) -> pd.DataFrame:
    """The texts of the lot labelled last that test the judge: of these behaviours, if any are."""
    tested = tested_lots(labels)
    of_these = tested[tested.behaviour.isin(behaviours)]
    known = tested if of_these.empty else of_these
    return known[known.drawn == known.drawn.iloc[-1]]


def by_behaviour(labels: pd.DataFrame, behaviours: list[str]) -> dict[str, pd.DataFrame]:
    """{behaviour: its texts that test the judge}, of those asked for that have any."""
    return {key: part for key, part in tested_lots(labels).groupby("behaviour") if key in behaviours}


def last_by_behaviour(labels: pd.DataFrame, behaviours: list[str]) -> pd.DataFrame:
    """The texts labelled last of these behaviours, behaviour after behaviour."""
    last = last_lot(labels, behaviours).index
    parts = by_behaviour(labels, behaviours).values()
    return pd.concat([part[part.index.isin(last)] for part in parts]) if parts else labels.head(0)


def label_auc(labels: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve for labels above CLEAR; NaN if all lie on one side."""
    return area_under_curve(labels > CLEAR, scores)


def agreement(labels: NDArray, scores: NDArray, *, draws: int, seed: int) -> dict[str, dict[str, float] | None]:
    """{"spearman", "auc"}: {value, lo, hi, n} of scores (n,) against labels (n,), bootstrapped over texts.

    Texts without a score (NaN), which a judge may leave, do not count. auc is None if the labels lie on one side;
    draws in which they do are left out. Raises: ValueError if no text has a score.
    """
    scored = ~np.isnan(scores)
    if not scored.any():
        raise ValueError(f"the judge scored none of the {len(scores)} labelled texts")
    labels, scores = labels[scored], scores[scored]
    index = resample(np.zeros(len(labels)), draws, np.random.default_rng(seed))
    table: dict[str, dict[str, float] | None] = {}
    for name, metric in (("spearman", rank_correlation), ("auc", label_auc)):
        value = metric(labels, scores)
        values = np.array([metric(labels[i], scores[i]) for i in index])
        known = not np.isnan(value)
        table[name] = estimate(value, values[~np.isnan(values)], len(labels)) if known else None
    return table


def judge_bias(texts: pd.DataFrame, criterion: str, *, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """{method: {value, lo, hi, n}}: judge's score minus label, averaged over a method's texts, bootstrapped over texts.

    texts: columns method, <criterion>_score and <criterion>_label; texts without a score do not count.
    """
    found = {}
    for method, part in texts.dropna(subset=f"{criterion}_score").groupby("method"):
        error = (part[f"{criterion}_score"] - part[f"{criterion}_label"]).to_numpy()
        index = resample(np.zeros(len(error)), draws, np.random.default_rng(seed))
        found[method] = estimate(float(error.mean()), error[index].mean(axis=1), len(error))
    return found


def method_scores(texts: pd.DataFrame, by: str, *, draws: int, seed: int) -> tuple[dict[str, NDArray], dict[str, dict]]:
    """(scores, table): BCS of labelled texts by `label` or by a judge's `score`.

    texts: columns method, behaviour, behaviour_<by> and coherence_<by>, every method with texts of every
    behaviour. scores[method] (behaviours,), behaviours in alphabetical order; table[method] {value, lo, hi, n} is
    their average, bootstrapped over behaviours.

    Raises: ValueError for a method without texts of some behaviour.
    """
    if gaps := [key for key, n in pd.crosstab(texts.method, texts.behaviour).stack().items() if n == 0]:
        raise ValueError(
            f"no labelled text of {gaps[0][0]} for {gaps[0][1]}; every method needs texts of every behaviour"
        )
    scores, table = {}, {}
    for method, part in texts.groupby("method"):
        cells = [cell for _, cell in part.groupby("behaviour")]
        pairs = [(cell[f"behaviour_{by}"].to_numpy(), cell[f"coherence_{by}"].to_numpy()) for cell in cells]
        scores[method] = np.array([bcs(*pair) for pair in pairs])
        table[method] = average_estimate(scores[method], len(part), draws=draws, seed=seed)
    return scores, table


def rank_correlations(scores: dict[str, pd.DataFrame], reference: str) -> pd.DataFrame:
    """Spearman's correlation of each judge's B and C with the reference judge's, over the n rows that both scored;
    NaN for fewer than two."""
    rows = {}
    for name, frame in scores.items():
        if name != reference:
            both = frame.notna().all(axis=1) & scores[reference].notna().all(axis=1)
            pairs = {c: (frame[c][both].to_numpy(), scores[reference][c][both].to_numpy()) for c in ("B", "C")}
            n = int(np.sum(both))
            rows[name] = {c: rank_correlation(*pair) if n > 1 else np.nan for c, pair in pairs.items()} | {"n": n}
    return pd.DataFrame(rows).T


def of_writer(model: str) -> bool:
    """Whether the labelled texts are those of the model with this identity."""
    return model.startswith(f"{WRITER}:")
