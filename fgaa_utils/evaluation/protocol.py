"""The paper's own protocol beside this run's, and its table 1 beside this run's scores."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import best_over_scales, scale_curves
from fgaa_utils.names import LABELS, PAPER_METHODS
from fgaa_utils.stats import paired_difference

LEAST = 2  # samples of a cell on the paper's prompt, for a maximum over scales that is not of single texts


def counts_sentence(results: Results) -> str:
    """How many samples the cells of protocol_table have; nothing of a run that tested the chosen scale alone."""
    if not results.whole:
        return ""
    prompts = results.test.prompt.nunique()
    reported, drawn = (frame["sample"].nunique() for frame in (results.test, results.along))
    said = f"A cell has {prompts * drawn} samples on all test prompts and {drawn} on the paper's"
    if drawn < reported:
        said += f"; reported scores are of {prompts * reported} samples of the chosen cell, which no other scale has"
    if drawn < LEAST:
        said += ". On one prompt the maximum would be that of single texts, and is left out"
    return f"{said}."


def protocol_table(results: Results, paper_prompt: str, *, draws: int, seed: int) -> tuple[dict, pd.DataFrame]:
    """(protocol, table): the paper's own protocol, and what it adds to a validation-chosen score.

    protocol[method][behaviour] is the maximum over scales on the samples of the one prompt. The table has a row for
    each method: mean BCS where it was chosen, on test at that choice, the maximum over scales on test, what that
    maximum adds with Student's interval, and the protocol's mean; on test all are of the samples that every scale has. Of a
    run whose test texts have the chosen scale alone only the first two are known, and no protocol; where a cell has fewer
    than LEAST samples on the prompt there is no protocol either.
    """
    if not results.whole:
        return {}, _steps(results, {m: results.scores(m) for m in results.methods})
    chosen = {m: np.array([_at_choice(results, m, key) for key in results.keys]) for m in results.methods}
    table, maximum = _steps(results, chosen), best_over_scales(results.curve)
    for m in results.methods:
        highest = np.array([maximum[m][key]["value"] for key in results.keys])
        table.loc[m, "test, maximum over scales"] = highest.mean()
        added = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_difference(highest, chosen[m]))
        table.loc[m, "added by the maximum"] = added
    if results.along["sample"].nunique() < LEAST:
        return {}, table
    one = results.along[results.along.prompt == paper_prompt]
    protocol = best_over_scales(scale_curves(one, results.choices, draws=draws, seed=seed))
    means = {m: np.mean([protocol[m][key]["value"] for key in results.keys]) for m in results.methods}
    return protocol, table.assign(**{"the paper's prompt, maximum": pd.Series(means)})


def _at_choice(results: Results, method: str, key: str) -> float:
    """BCS of a behaviour at the chosen scale, on the samples of the curves."""
    own = results.curve[(results.curve.method == method) & (results.curve.target == key)]
    return own.value[np.isclose(own.scale, results.choice(method, key).scale)].iloc[0]


def _steps(results: Results, chosen: dict[str, NDArray]) -> pd.DataFrame:
    """The first two columns of protocol_table; chosen[method] (behaviours,): BCS on test at the choice."""
    rows = {
        m: {
            "validation, where chosen": results.choices[results.choices.method == m].BCS.mean(),
            "test, chosen on validation": chosen[m].mean(),
        }
        for m in results.methods
    }
    return pd.DataFrame(rows).T.rename_axis("method")


def beside_the_paper(results: Results, paper: dict) -> pd.DataFrame:
    """Table 1 of the paper beside this run's: one row a model and method, one column a behaviour."""
    printed = {
        f"{name}, {LABELS[m]}": {
            results.names.get(k, k): f"{t[k][m]:.2f}" for k in [*results.keys, "average"] if k in t
        }
        for name, t in paper["table_1"].items()
        for m in results.steering
        if m in PAPER_METHODS
    }
    ours = {
        f"{results.model.split(':')[0]}, {LABELS[m]}": {
            results.names.get(k, k): f"{e['value']:.2f}" for k, e in results.bcs[m].items()
        }
        for m in results.methods
    }
    return pd.DataFrame(printed | ours).fillna("").T.rename_axis("model, method")
