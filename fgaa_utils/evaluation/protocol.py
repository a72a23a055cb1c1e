"""The paper's own protocol beside this run's, and its table 1 beside this run's scores."""

import numpy as np
import pandas as pd

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import best_over_scales, scale_curves
from fgaa_utils.names import LABELS, PAPER_METHODS
from fgaa_utils.stats import paired_difference


def counts_sentence(results: Results) -> str:
    """How many samples a cell has on all test prompts, and on one; nothing of a run that tested the chosen scale alone."""
    if not results.whole:
        return ""
    prompts, reported, drawn = (
        results.test.prompt.nunique(),
        *(frame["sample"].nunique() for frame in (results.test, results.along)),
    )
    return (
        f"A chosen cell has {prompts * reported} samples on all test prompts; maxima over scales are of {prompts * drawn} "
        f"samples of every cell, {drawn} on the paper's prompt."
    )


def protocol_table(results: Results, paper_prompt: str, *, draws: int, seed: int) -> tuple[dict, pd.DataFrame]:
    """(protocol, table): the paper's own protocol, and what it adds to a validation-chosen score.

    protocol[method][behaviour] is the maximum over scales on the samples of the one prompt. The table has a row for
    each method: mean BCS where it was chosen, on test at that choice, the maximum over scales on test, what that
    maximum adds to the choice on the same samples with Student's interval, and the protocol's mean. Of a run whose test texts have the chosen scale alone
    only the first two are known, and no protocol.
    """
    if not results.whole:
        return {}, _where_chosen_and_tested(results)
    one = results.along[results.along.prompt == paper_prompt]
    protocol = best_over_scales(scale_curves(one, results.choices, draws=draws, seed=seed))
    maximum = best_over_scales(results.curve)
    rows = {}
    for m in results.methods:
        highest, paper = (np.array([t[m][k]["value"] for k in results.keys]) for t in (maximum, protocol))
        chosen = np.array([_at_choice(results, m, key) for key in results.keys])
        added = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_difference(highest, chosen))
        rows[m] = {
            "test, maximum over scales": highest.mean(),
            "added by the maximum": added,
            "the paper's prompt, maximum": paper.mean(),
        }
    return protocol, _where_chosen_and_tested(results).join(pd.DataFrame(rows).T)


def _at_choice(results: Results, method: str, key: str) -> float:
    """BCS of a behaviour at the chosen scale, on the samples of the curves."""
    own = results.curve[(results.curve.method == method) & (results.curve.target == key)]
    return own.value[np.isclose(own.scale, results.choice(method, key).scale)].iloc[0]


def _where_chosen_and_tested(results: Results) -> pd.DataFrame:
    rows = {
        m: {
            "validation, where chosen": results.choices[results.choices.method == m].BCS.mean(),
            "test, chosen on validation": results.bcs[m]["average"]["value"],
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
