"""Scores corrected by labels: the judge on every text, annotators on some, one estimate that holds both.

A judge that is kinder to one method than to another shifts their difference by as much. Where a sample of a cell's texts
is labelled, the mean over all texts is

    mean label of the sample + beta * (mean score of all texts - mean score of the sample),

the regression estimator of survey sampling; with beta chosen as here it is prediction-powered inference with power tuning
(Angelopoulos et al., arXiv 2301.09633, 2311.01453). It is right whatever the judge's errors are; a good judge makes it sharp.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import chosen_samples
from fgaa_utils.evaluation.verdict import lead
from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import LABELS, METHODS, PAPER_METHODS, PROMPTING, method_order
from fgaa_utils.stats import against_others, average_estimate

MATCHED = 0.9  # share of a cell's labelled texts that must be this run's, for them to be a sample of its texts
CRITERIA = {"behaviour": "B", "coherence": "coherence"}  # a criterion's column in samples


def labelled_cells(results: Results, labelled: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """{(method, behaviour): the labelled texts of its chosen cell}, scores and labels of both criteria; empty unless the
    paper's methods and prompting are all there.

    labelled: columns behaviour, method, text, `<criterion>_label`. The scores are those of the run's samples, so that a text
    has the score that its mean over all texts has. A method counts if nearly all its labelled texts are this run's, for
    every behaviour: on another processor the few texts that come out alike are no sample.
    """
    found = {}
    for method in (m for m in results.methods if m in (*METHODS, PROMPTING)):
        cells = {key: _labelled(results, labelled, method, key) for key in results.keys}
        asked = labelled[labelled.method == method].drop_duplicates(["behaviour", "text"]).behaviour.value_counts()
        if all(len(cell) > 1 and len(cell) >= MATCHED * asked[key] for key, cell in cells.items()):
            found |= {(method, key): cell for key, cell in cells.items()}
    methods = {method for method, _ in found}
    return found if methods >= {*PAPER_METHODS, PROMPTING} else {}


def _labelled(results: Results, labelled: pd.DataFrame, method: str, key: str) -> pd.DataFrame:
    texts = chosen_samples(results.test, results.choice(method, key)).drop_duplicates("text")
    own = labelled[(labelled.method == method) & (labelled.behaviour == key)].drop_duplicates("text")
    labels = own[["text", *(f"{criterion}_label" for criterion in CRITERIA)]]
    return texts.rename(columns={column: f"{c}_score" for c, column in CRITERIA.items()}).merge(labels, on="text")


def slope(cells: list[pd.DataFrame], criterion: str) -> float:
    """beta of a criterion: of label on score within cells, all methods together, from 0 to 1."""
    parts = [cell[[f"{criterion}_label", f"{criterion}_score"]].dropna() for cell in cells]
    centred = pd.concat([part - part.mean() for part in parts]).to_numpy()
    spread = float((centred[:, 1] ** 2).sum())
    return float(np.clip((centred[:, 0] * centred[:, 1]).sum() / spread, 0, 1)) if spread else 0.0


def corrected_mean(scores: NDArray, sample: pd.DataFrame, criterion: str, beta: float) -> float:
    """The estimate for one cell: scores (texts,) of all its texts, and the labelled ones."""
    part = sample[[f"{criterion}_label", f"{criterion}_score"]].dropna()
    shift = beta * (np.nanmean(scores) - part[f"{criterion}_score"].mean())
    return float(part[f"{criterion}_label"].mean() + shift)  # not held to 0..1, which would push low cells up


def corrected_scores(results: Results, cells: dict[tuple[str, str], pd.DataFrame]) -> dict[str, NDArray]:
    """{method: corrected BCS (behaviours,)} of the methods of labelled_cells."""
    betas = {criterion: slope(list(cells.values()), criterion) for criterion in CRITERIA} if cells else {}
    found: dict[str, list[float]] = {}
    for (method, key), sample in cells.items():
        texts = chosen_samples(results.test, results.choice(method, key))
        means = [corrected_mean(texts[c].to_numpy(), sample, name, betas[name]) for name, c in CRITERIA.items()]
        found.setdefault(method, []).append(means[0] * means[1])
    return {method: np.array(values) for method, values in found.items()}


def corrected_metrics(
    results: Results, labelled: pd.DataFrame, *, draws: int, seed: int, sets: dict[str, list[str]] | None = None
) -> dict:
    """{"bcs": {method: {value, lo, hi, n}}, "paired": {method: {other: difference}}, "labels": texts, "sets"} of FGAA and NG
    against each other method, paired over behaviours as the judge's own; empty if nothing of the run is labelled.

    "sets": bcs and paired of NG on each of several `sets` of the behaviours alone, {set: {bcs, paired}}.
    """
    cells = labelled_cells(results, labelled)
    if not cells:
        return {}
    scores = corrected_scores(results, cells)
    paired = {m: against_others(scores, m) for m in ("fgaa", "ng") if m in scores}
    found: dict = {
        "bcs": _averages(scores, draws, seed),
        "paired": paired,
        "labels": sum(map(len, cells.values())),
        "sets": {},
    }
    several = {
        name: keys for name, keys in (sets or {}).items() if 1 < len(keys) < len(results.keys) and "ng" in scores
    }
    for name, keys in several.items():
        own = {m: v[np.isin(results.keys, keys)] for m, v in scores.items()}
        found["sets"][name] = {"bcs": _averages(own, draws, seed), "paired": against_others(own, "ng")}
    return found


def _averages(scores: dict[str, NDArray], draws: int, seed: int) -> dict[str, dict[str, float]]:
    return {m: average_estimate(v, len(v), draws=draws, seed=seed) for m, v in scores.items()}


def beside_the_judge(found: dict, judged: dict[str, dict]) -> pd.DataFrame:
    """Average BCS corrected and by the judge alone, best first; found of corrected_metrics, judged of bcs_table."""
    rows = {
        LABELS[m]: {"corrected": with_interval(e, ".3f"), "by the judge": with_interval(judged[m]["average"], ".3f")}
        for m, e in sorted(found["bcs"].items(), key=lambda pair: -pair[1]["value"])
    }
    return pd.DataFrame(rows).T.rename_axis("average BCS")


def sets_sentence(sets: dict[str, dict]) -> str:
    """How many behaviours each set has, and how many comparisons its p are corrected for."""
    counts = [f"the {found['bcs']['ng']['n']} of `{name}`" for name, found in sets.items()]
    others = len(next(iter(sets.values()))["paired"])
    return (
        f"Each set of behaviours alone: {listed(counts)}. p is corrected (Holm) for the {others} comparisons within a set, not "
        "for there being several sets."
    )


def sets_table(sets: dict[str, dict]) -> pd.DataFrame:
    """Corrected average BCS and NG's difference, on each set of behaviours alone; sets of corrected_metrics."""
    order = method_order(list(next(iter(sets.values()))["bcs"]))
    rows: dict[str, dict[str, str]] = {LABELS[m]: {} for m in order}
    for name, found in sets.items():
        for m in order:
            rows[LABELS[m]][f"BCS, `{name}`"] = with_interval(found["bcs"][m], ".2f")
            rows[LABELS[m]][f"NG minus it, `{name}`"] = lead(found["paired"].get(m))
    return pd.DataFrame(rows).T.rename_axis("method")
