"""Whether to believe a judge: its errors on held-out text, and against the labels of steered text.

Frames: `heldout` as fgaa_utils.judges.fitting describes it; `labelled`, the rows of read_labels() with the columns
behaviour_score and coherence_score of the run's judge, and `<kind>_behaviour`, `<kind>_coherence` of others, NaN
where a judge was not asked.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fgaa_utils.judges.choose import announce, judge_rows
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.labels import (
    CLEAR,
    agreement,
    by_behaviour,
    judge_bias,
    last_by_behaviour,
    last_lot,
    method_scores,
    rank_correlations,
)
from fgaa_utils.judges.local import Judge
from fgaa_utils.stats import (
    area_under_curve,
    bootstrap_metric,
    estimate,
    paired_comparisons,
    paired_difference,
    rank_correlation,
)

BEHAVIOUR = "behaviour"  # as a criterion: all behaviours together
ENOUGH = 20  # labelled texts that clearly show a behaviour, for its agreement to say something


@dataclass(frozen=True)
class Measured:
    """All that is measured of a judge; the fields are keys of the metrics file."""

    judge: dict[str, dict]  # the local judge on held-out text: {criterion: {"auc", "brier"}}
    judge_on_steered: dict[str, dict]  # {criterion: {"spearman", "auc", "annotators"}}
    labelled_bcs: dict[str, dict]  # {"labels" or "judge": {method: BCS}}
    labelled_paired: dict[str, dict]  # {method: FGAA minus it, by the labels}
    judge_bias: dict[str, dict]  # {"behaviour" or "coherence": {method: score minus label}}


def questions(labels: pd.DataFrame, behaviours: list[str]) -> dict[str, list[str]]:
    """{criterion: texts} that score_labelled asks a judge about."""
    parts = by_behaviour(labels, behaviours)
    return {key: part.text.tolist() for key, part in parts.items()} | {
        COHERENCE: last_lot(labels, behaviours).text.tolist()
    }


def score_labelled(labels: pd.DataFrame, judge: Judge, behaviours: list[str]) -> pd.DataFrame:
    """The labelled texts with the judge's scores: those that test it for their behaviour, if it is one of these, and the
    last lot for coherence. A judge that has to be asked is announced."""
    announce(judge, questions(labels, behaviours))
    last = last_lot(labels, behaviours).text.tolist()
    scored = labels.assign(behaviour_score=np.nan)
    scored["coherence_score"] = labels.text.map(dict(zip(last, judge.coherence(last))))
    for key, part in by_behaviour(labels, behaviours).items():
        scored.loc[part.index, "behaviour_score"] = judge.behaviour(part.text.tolist(), key)
    return scored


def distinct_last(labels: pd.DataFrame, behaviours: list[str]) -> pd.DataFrame:
    """last_by_behaviour, each text once a behaviour (methods may share one), with a column `target`."""
    distinct = last_by_behaviour(labels, behaviours).drop_duplicates(["behaviour", "text"])
    return distinct.assign(target=distinct.behaviour)


def questions_of_last(labels: pd.DataFrame, behaviours: list[str]) -> dict[str, list[str]]:
    """{criterion: texts} that score_by_other asks a judge about."""
    rows = distinct_last(labels, behaviours)
    parts = rows.groupby("target").text.agg(list).to_dict()
    return parts | {COHERENCE: rows.text.tolist()}


def score_by_other(labels: pd.DataFrame, judge: Judge, kind: str, behaviours: list[str]) -> pd.DataFrame:
    """Columns `<kind>_behaviour` and `<kind>_coherence`, by row of `labels`: another judge's scores of the last lot. A
    judge that has to be asked is announced."""
    announce(judge, questions_of_last(labels, behaviours))
    scores = judge_rows(distinct_last(labels, behaviours), judge)
    return scores.set_axis([f"{kind}_behaviour", f"{kind}_coherence"], axis=1).reindex(labels.index)


def other_on_labels(labelled: pd.DataFrame, kind: str, behaviours: list[str]) -> dict[str, float | str]:
    """Rank correlation of another judge with the labels: {"judge", "B with labels", "C with labels", "labelled"}."""
    rows = distinct_last(labelled, behaviours)
    by_label = rows[["behaviour_label", "coherence_label"]].set_axis(["B", "C"], axis=1)
    by_other = rows[[f"{kind}_behaviour", f"{kind}_coherence"]].set_axis(["B", "C"], axis=1)
    found = rank_correlations({"labels": by_label, kind: by_other}, "labels").iloc[0]
    values = {"B with labels": round(float(found.B), 4), "C with labels": round(float(found.C), 4)}
    return {"judge": kind} | values | {"labelled": int(found.n)}


def brier_score(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean squared error of scores (n,) for labels (n,) of 0 and 1."""
    return float(np.mean((scores - labels) ** 2))


def quality(heldout: pd.DataFrame, *, draws: int, seed: int) -> dict[str, dict]:
    """{criterion: {"auc": {value, lo, hi, n}, and of a behaviour "brier"}} on held-out text, bootstrapped over texts."""
    found = {}
    for criterion, rows in heldout[heldout.own].groupby("criterion", sort=False):
        labels, scores = rows.label.to_numpy(), rows.score.to_numpy()
        metrics: dict = {"auc": area_under_curve} | ({} if criterion == COHERENCE else {"brier": brier_score})
        found[criterion] = {}
        for name, metric in metrics.items():
            spread = bootstrap_metric(metric, labels, scores, draws=draws, seed=seed)
            found[criterion][name] = estimate(metric(labels, scores), spread, len(labels))
    return found


def steered_parts(labelled: pd.DataFrame, behaviours: list[str]) -> dict[str, pd.DataFrame]:
    """{criterion: the labelled texts by which it is tested, each once}: all behaviours together, each, and coherence."""
    parts = by_behaviour(labelled, behaviours)
    together = {BEHAVIOUR: pd.concat(parts.values())} if parts else {}
    found = together | parts | {COHERENCE: last_lot(labelled, behaviours).drop_duplicates("text")}
    return {name: part.drop_duplicates(["behaviour", "text"]) for name, part in found.items()}


def columns_of(name: str, part: pd.DataFrame, *kinds: str) -> list[np.ndarray]:
    """The arrays of a criterion's labels, scores or an annotator's readings: `label`, `score`, `a`, `b`."""
    criterion = COHERENCE if name == COHERENCE else BEHAVIOUR
    spelt = {"label": f"{criterion}_label", "score": f"{criterion}_score", "a": f"a_{criterion}", "b": f"b_{criterion}"}
    return [part[spelt[kind]].to_numpy() for kind in kinds]


def agreement_on_steered(labelled: pd.DataFrame, behaviours: list[str], *, draws: int, seed: int) -> dict[str, dict]:
    """{criterion: {"spearman", "auc", "annotators"}}: the judge against the labels, and one annotator against the other."""
    found: dict[str, dict] = {}
    for name, part in steered_parts(labelled, behaviours).items():
        found[name] = agreement(*columns_of(name, part, "label", "score"), draws=draws, seed=seed)
        found[name]["annotators"] = round(rank_correlation(*columns_of(name, part, "a", "b")), 4)
    return found


def measure(heldout: pd.DataFrame, labelled: pd.DataFrame, behaviours: list[str], *, draws: int, seed: int) -> Measured:
    """Everything that is measured, with bootstrap intervals of `draws`.

    By method only if there are labelled texts of FGAA for these behaviours; empty otherwise.
    """
    last, drawn = last_by_behaviour(labelled, behaviours), {"draws": draws, "seed": seed}
    by_label: dict[str, np.ndarray] = {}
    bcs: dict[str, dict] = {}
    bias: dict[str, dict] = {}
    if "fgaa" in set(last.method):
        by_label, bcs["labels"] = method_scores(last, "label", **drawn)
        _, bcs["judge"] = method_scores(last, "score", **drawn)
        bias = {criterion: judge_bias(last, criterion, **drawn) for criterion in (BEHAVIOUR, COHERENCE)}
    others = {method: scores for method, scores in by_label.items() if method != "fgaa"}
    paired = paired_comparisons(by_label["fgaa"], others) if by_label else {}
    steered = agreement_on_steered(labelled, behaviours, **drawn)
    return Measured(quality(heldout, **drawn), steered, bcs, paired, bias)


def clear_texts(labelled: pd.DataFrame, behaviours: list[str]) -> dict[str, int]:
    """{criterion: labelled texts that clearly show it}, 0 for a behaviour without labelled texts."""
    parts = steered_parts(labelled, behaviours)
    found = {name: int((columns_of(name, part, "label")[0] > CLEAR).sum()) for name, part in parts.items()}
    return dict.fromkeys(behaviours, 0) | found


def not_validated(labelled: pd.DataFrame, behaviours: list[str]) -> dict[str, int]:
    """{behaviour: labelled texts that clearly show it}, of those with fewer than ENOUGH."""
    clear = clear_texts(labelled, behaviours)
    return {key: clear[key] for key in behaviours if clear[key] < ENOUGH}


def paired_bias(labelled: pd.DataFrame, behaviours: list[str], criterion: str) -> dict[str, tuple[float, float, float]]:
    """{method: (mean, lo, hi)}: FGAA's score minus label, less that of each other method, paired over behaviours."""
    last = last_by_behaviour(labelled, behaviours)
    errors = last.assign(error=last[f"{criterion}_score"] - last[f"{criterion}_label"])
    by_method = errors.pivot_table(index="behaviour", columns="method", values="error").dropna()
    others = [method for method in by_method if method != "fgaa"]
    return {m: paired_difference(by_method.fgaa.to_numpy(), by_method[m].to_numpy()) for m in others}
