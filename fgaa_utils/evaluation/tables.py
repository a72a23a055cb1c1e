"""What the evaluation page says: the tables, counts and sentences that compare the methods.

BCS = mean behaviour times mean coherence (paper, section 4). Nothing here generates or judges a text.
"""

import pandas as pd

from fgaa_utils import stats
from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import choices_by_method, chosen_samples
from fgaa_utils.figures import escape_markdown, listed, with_interval
from fgaa_utils.judges.labels import rank_correlations
from fgaa_utils.names import LABELS, METHODS, PAPER_METHODS, PROMPTING, UNSTEERED, method_order
from fgaa_utils.stats import paired_samples


def scores_table(results: Results) -> pd.DataFrame:
    """Test BCS with its interval, behaviours and their average by methods."""
    columns = {
        LABELS[m]: {results.names.get(k, k): with_interval(e, ".3f") for k, e in results.bcs[m].items()}
        for m in results.methods
    }
    return pd.DataFrame(columns).rename_axis("BCS")


def choices_table(results: Results) -> pd.DataFrame:
    """The chosen scale, its absolute norm and the variant of every behaviour and method."""
    shown = results.choices.assign(
        cell=[
            (f"{c.scale:g}, norm {c.coeff:.0f}" if c.scale else "") + (f" ({c.variant})" if c.variant else "")
            for c in results.choices.itertuples()
        ]
    )
    table = shown.pivot(index="target", columns="method", values="cell").loc[results.keys]
    table = table[[m for m in results.methods if m != UNSTEERED]]
    return table.rename(index=results.names, columns=LABELS).rename_axis(index="behaviour", columns=None)


def against_others(results: Results, method: str = "fgaa") -> dict[str, dict[str, float]]:
    """{other: {value, lo, hi, p, wins, n, detectable}}: the method minus each other one and prompting, paired over
    behaviours; controls, which are beaten easily, would make the correction of p larger for nothing."""
    compared = {m: results.scores(m) for m in results.methods if m in (*METHODS, PROMPTING)}
    return stats.against_others(compared, method)


def against_table(paired: dict[str, dict[str, float]], method: str = "fgaa") -> pd.DataFrame:
    """The differences of against_others, as a reader wants them."""
    rows = {
        LABELS[m]: {
            f"{LABELS[method]} minus it": f"{p['value']:+.3f}",
            "95 % interval": f"{p['lo']:+.3f} to {p['hi']:+.3f}",
            "p (Holm)": f"{p['p']:.3f}",
            f"{LABELS[method]} higher on": f"{p['wins']} of {p['n']}",
            "detectable difference": f"{p['detectable']:.3f}",
        }
        for m, p in paired.items()
    }
    return pd.DataFrame(rows).T.rename_axis("method")


def power_sentence(results: Results, method: str, behaviours: int) -> str:
    """What a contest on so many behaviours would show, at the spread of the differences of this run."""
    others = [m for m in results.methods if m in (*METHODS, PROMPTING) and m != method]
    scores, asked = results.scores(method), {"comparisons": len(others), "behaviours": behaviours}
    least = {m: stats.detectable_difference(scores, results.scores(m), **asked) for m in others}
    return (
        f"At the spread of these differences {behaviours} behaviours would show, four times in five, a true difference of "
        f"{LABELS[method]} of {listed(f'{least[m]:.2f} against {LABELS[m]}' for m in others)}."
    )


def by_behaviour(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {behaviour: {value, lo, hi, p}}}: FGAA minus the method on the same prompts and samples; p is corrected
    for the number of behaviours, method by method."""
    prompts, per_prompt = results.test.prompt.nunique(), results.test["sample"].nunique()
    found = {}
    for m in (m for m in results.methods if m != "fgaa"):
        difference = results.scores("fgaa") - results.scores(m)
        drawn = results.draws["fgaa"] - results.draws[m]
        rows = paired_samples(difference, drawn, units=prompts if prompts > 1 else per_prompt)
        found[m] = dict(zip(results.keys, rows))
    return found


def by_behaviour_table(results: Results, found: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """The differences of by_behaviour, starred where p is below 0.05, and how many are on either side."""
    columns = {}
    for m, entries in found.items():
        column = {
            results.names[k]: "{value:+.2f} [{lo:+.2f}, {hi:+.2f}]".format(**e) + ("*" if e["p"] < 0.05 else "")
            for k, e in entries.items()
        }
        better, worse = (sum(e["p"] < 0.05 and sign * e["value"] > 0 for e in entries.values()) for sign in (1, -1))
        columns[LABELS[m]] = column | {"starred, FGAA better / worse": f"{better} / {worse}"}
    return pd.DataFrame(columns).rename_axis("FGAA minus the method")


def missed_sentence(paired: dict[str, dict[str, float]], paper: dict) -> str:
    """What missed_differences finds."""
    return (
        "Differences that the paper prints and that this design would miss more often than one time in five: "
        f"{listed(missed_differences(paired, paper))}."
    )


def missed_differences(paired: dict[str, dict[str, float]], paper: dict) -> list[str]:
    """The paper's own differences of averages that this design would more often than one time in five not see."""
    gaps = {
        (name, m): t["average"]["fgaa"] - t["average"][m]
        for name, t in paper["table_1"].items()
        for m in PAPER_METHODS
        if m != "fgaa"
    }
    return [f"{LABELS[m]} in {name} ({gap:.2f})" for (name, m), gap in gaps.items() if gap < paired[m]["detectable"]]


def judges_agreement(others: pd.DataFrame, ours: str) -> tuple[list[dict], pd.DataFrame]:
    """(correlations, bias) of other judges on the samples of the chosen cells.

    others: samples with B, coherence and, for each other judge, `<kind>_B` and `<kind>_C`. A correlation row holds
    Spearman's with the judge `ours` for behaviour and coherence; bias, by judge and method, how much higher the other
    scores.
    """
    kinds = [name.removesuffix("_B") for name in others if name.endswith("_B")]
    mine = pd.DataFrame({"B": others.B, "C": others.coherence})
    rows, bias = [], []
    for kind in kinds:
        theirs = pd.DataFrame({"B": others[f"{kind}_B"], "C": others[f"{kind}_C"]})
        found = rank_correlations({ours: mine, kind: theirs}, ours).iloc[0]
        rows.append({"judge": kind, f"B with {ours}": found.B, f"C with {ours}": found.C, "samples": int(found.n)})
        higher = (theirs - mine).assign(method=others.method).groupby("method").mean()
        bias += [{"judge": kind, "method": LABELS[m], **higher.loc[m]} for m in method_order([*higher.index])]
    return rows, pd.DataFrame(bias, columns=["judge", "method", "B", "C"])


def extreme_samples(results: Results, key: str) -> pd.DataFrame:
    """The best, the median and the worst test sample (by B x C) of each method's chosen cell for a behaviour."""
    rows = []
    for m in (m for m in results.methods if m in (*METHODS, PROMPTING)):
        choice = results.choice(m, key)
        texts = chosen_samples(results.test, choice)
        texts = texts.iloc[(texts.B * texts.coherence).argsort()[::-1]]
        for place, number in (("best", 0), ("median", len(texts) // 2), ("worst", -1)):
            t = texts.iloc[number]
            row = {"method, scale": f"{LABELS[m]}, {choice.scale:g}", "place": place, "B": t.B, "C": t.coherence}
            rows.append(row | {"text": escape_markdown(t.text)})
    return pd.DataFrame(rows)


def verdict(results: Results, paired: dict[str, dict[str, float]]) -> str:
    """Which method is ahead on test prompts, and what the paired intervals say of FGAA against the others."""
    averages = {m: results.bcs[m]["average"] for m in results.methods}
    best = max(results.steering, key=lambda m: averages[m]["value"])
    above = [LABELS[m] for m, p in paired.items() if p["lo"] > 0 and m in METHODS]
    below = [LABELS[m] for m, p in paired.items() if p["hi"] < 0]
    open_ = [LABELS[m] for m, p in paired.items() if p["lo"] <= 0 <= p["hi"] and m in METHODS]
    prompting = averages[PROMPTING]
    return (
        f"Of the steering methods {LABELS[best]} has the highest average score, {with_interval(averages[best])}; FGAA has "
        f"{with_interval(averages['fgaa'])}, prompting {with_interval(prompting)}, unsteered text "
        f"{averages[UNSTEERED]['value']:.2f}. Paired over behaviours FGAA is above {listed(above)} of its steering rivals, below "
        f"{listed(below)}, and not to be told from {listed(open_)}."
    )


def metrics(results: Results, steps: pd.DataFrame, best: pd.DataFrame, correlations: list[dict]) -> dict:
    """What the results, protocol_table, best_by_latents and judges_agreement say, for reports/metrics/evaluation.json."""
    counts = best.groupby(["n1", "n2"]).BCS.mean()
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in correlations]
    return {
        "bcs": results.bcs,
        "choices": choices_by_method(results.choices),
        "samples": {"validation": len(results.validation), "test": len(results.test)},
        "model": results.model,
        "maximum_over_scales": {m: round(float(v), 4) for m, v in steps.get("test, maximum over scales", {}).items()},
        "n1_n2": {f"{int(n1)},{int(n2)}": round(float(v), 4) for (n1, n2), v in counts.items()},
        "other_judges": rounded,
    }
