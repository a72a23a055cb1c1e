"""What the evaluation page says: the tables, counts and sentences that compare the methods.

BCS = mean behaviour times mean coherence (paper, section 4). Nothing here generates or judges a text.
"""

import numpy as np
import pandas as pd

from fgaa_utils import stats
from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import (
    best_over_scales,
    cell_scores,
    choices_by_method,
    chosen_samples,
    scale_curves,
)
from fgaa_utils.figures import escape_markdown, listed, with_interval
from fgaa_utils.judges.labels import rank_correlations
from fgaa_utils.names import LABELS, METHODS, PAPER_METHODS, PROMPTING, UNSTEERED, method_order, variant_values
from fgaa_utils.stats import paired_difference, paired_samples


def averages_table(results: Results) -> pd.DataFrame:
    """Average test BCS of every method with its interval, best first within steering methods and controls."""
    rows = {LABELS[m]: {"average BCS": with_interval(results.bcs[m]["average"], ".3f")} for m in results.methods}
    return pd.DataFrame(rows).T.rename_axis("method")


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


def ends_of_the_grid(results: Results) -> dict[str, tuple[int, int]]:
    """{method: behaviours that chose the smallest scale, the largest}: many mean that the grid ends too early."""
    chosen = {m: results.choices[results.choices.method == m].scale for m in results.steering}
    low, high = results.scales[0], results.scales[-1]
    return {m: (int((s == low).sum()), int((s == high).sum())) for m, s in chosen.items()}


def ends_sentence(results: Results) -> str:
    """What ends_of_the_grid finds."""
    ends = ends_of_the_grid(results).items()
    said = "; ".join(f"{LABELS[m]} {low} and {high}" for m, (low, high) in ends)
    return (
        f"Behaviours that chose the smallest and the largest scale of the grid: {said}. "
        "Many at an end mean that the grid stops too early for that method."
    )


def curve_source(results: Results) -> str:
    """Which texts show score against scale, where it is not those that are reported; nothing else."""
    if results.whole:
        return ""
    return (
        "Test texts were made at the chosen scales alone, so that these curves are of validation texts, which also chose "
        "the variant and the scale: their heights flatter every method."
    )


def norms_table(results: Results) -> pd.DataFrame:
    """The absolute norm of every scale, by method: the median over behaviours' chosen variants."""
    steered = results.along[results.along.method.isin(results.steering)]
    norms = steered.groupby(["method", "scale"]).coeff.median().unstack()
    shown = norms.loc[results.steering].map("{:.0f}".format).rename(index=LABELS)
    return shown.set_axis([f"{s:g}" for s in norms], axis=1).rename_axis(index="norm at the scale", columns=None)


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


def peaks(results: Results) -> dict[str, int]:
    """{"inside", "highest"}: behaviours where FGAA's curve peaks inside the grid of scales, and where its peak is the
    highest of the paper's methods', alone or level."""
    best = best_over_scales(results.curve[results.curve.method.isin(PAPER_METHODS)])
    at = {
        key: part.sort_values("value").scale.iloc[-1]
        for key, part in results.curve[results.curve.method == "fgaa"].groupby("target")
    }
    low, high = results.scales[0], results.scales[-1]
    return {
        "inside": sum(low < at[key] < high for key in results.keys),
        "highest": sum(
            best["fgaa"][k]["value"] >= max(best[m][k]["value"] for m in PAPER_METHODS) for k in results.keys
        ),
    }


def peaks_sentence(results: Results, paper: dict) -> str:
    """What `peaks` counts, beside the paper's table 1."""
    counts = {
        name: sum(t[k]["fgaa"] >= max(t[k].values()) for k in t if k != "average")
        for name, t in paper["table_1"].items()
    }
    theirs = ", ".join(f"{name} {n} of {len(paper['table_1'][name]) - 1}" for name, n in counts.items())
    found = peaks(results)
    return (
        f"FGAA's curve has its peak inside the grid on {found['inside']} of {len(results.keys)} behaviours, and the highest "
        f"peak of the paper's four methods, alone or level, on {found['highest']} (paper: {theirs})."
    )


def changes_over_scales(results: Results) -> pd.DataFrame:
    """How behaviour and coherence change from the smallest to the largest scale, averaged over behaviours, and on how
    many behaviours the behaviour score is highest before the largest scale."""
    low, high = results.scales[0], results.scales[-1]
    rows = {}
    for m in results.steering:
        own = results.curve[results.curve.method == m]
        b, c = (own.pivot(index="target", columns="scale", values=name) for name in ("B", "C"))
        inner = int((b.idxmax(axis=1) < high).sum())
        rows[LABELS[m]] = {
            "behaviour": f"{(b[high] - b[low]).mean():+.2f}",
            "coherence": f"{(c[high] - c[low]).mean():+.2f}",
            "behaviour highest at an inner scale": f"{inner} of {len(results.keys)}",
        }
    return pd.DataFrame(rows).T.rename_axis("method")


def best_by_latents(samples: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """FGAA's best BCS over scales for every number of latents: target, n1, n2, BCS."""
    scores = cell_scores(samples, keys).query("method == 'fgaa'")
    best = scores.groupby(["target", "variant"], as_index=False, sort=False).BCS.max()
    values = [variant_values(variant) for variant in best.variant]
    counts = pd.DataFrame(values, index=best.index, columns=["n1", "n2"])
    return pd.concat([best[["target"]], counts, best.BCS], axis=1).sort_values(
        ["target", "n2", "n1"], ignore_index=True
    )


def means_by_n1(best: pd.DataFrame) -> dict[int, tuple[float, float, float]]:
    """{n1: (mean, lo, hi)} of best_by_latents over behaviours, with Student's interval."""
    return {int(n): paired_difference(p.BCS.to_numpy(), np.zeros(len(p))) for n, p in best.groupby("n1")}


def n1_sentence(means: dict[int, tuple[float, float, float]]) -> str:
    """Which n1 of means_by_n1 is best and worst."""
    low, high = (pick(means, key=lambda n: means[n][0]) for pick in (min, max))
    return (
        f"Averaged over behaviours n1 = {high} is best and {low} worst, {means[high][0]:.2f} against {means[low][0]:.2f}. "
        f"The paper tries 1 to 8, here {listed(map(str, means))}."
    )


def chosen_n1(results: Results, paper: dict) -> pd.DataFrame:
    """n1 as chosen here and as the paper's figures show it, by behaviour."""
    ours = {key: variant_values(results.choice("fgaa", key).variant)["n1"] for key in results.keys}
    rows = {results.model.split(":")[0]: ours} | paper["best_n1"]
    table = pd.DataFrame({name: [str(n.get(k, "")) for k in results.keys] for name, n in rows.items()})
    return table.set_axis(results.names.values()).T.rename_axis("n1")


def counts_sentence(results: Results) -> str:
    """How many samples a cell has on all test prompts, and on one."""
    prompts, per_prompt = results.test.prompt.nunique(), results.test["sample"].nunique()
    return f"A cell has {prompts * per_prompt} samples on all test prompts and {per_prompt} on the paper's."


def protocol_table(results: Results, paper_prompt: str, *, draws: int, seed: int) -> tuple[dict, pd.DataFrame]:
    """(protocol, table): the paper's own protocol, and what it adds to a validation-chosen score.

    protocol[method][behaviour] is the maximum over scales on the samples of the one prompt. The table has a row for
    each method: mean BCS where it was chosen, on test at that choice, the maximum over scales on test, what that
    maximum adds with Student's interval, and the protocol's mean. Of a run whose test texts have the chosen scale alone
    only the first two are known, and no protocol.
    """
    if not results.whole:
        return {}, _where_chosen_and_tested(results)
    one = results.test[results.test.prompt == paper_prompt]
    protocol = best_over_scales(scale_curves(one, results.choices, draws=draws, seed=seed))
    maximum = best_over_scales(results.curve)
    rows = {}
    for m in results.methods:
        highest, paper = (np.array([t[m][k]["value"] for k in results.keys]) for t in (maximum, protocol))
        added = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_difference(highest, results.scores(m)))
        rows[m] = {
            "test, maximum over scales": highest.mean(),
            "added by the maximum": added,
            "the paper's prompt, maximum": paper.mean(),
        }
    return protocol, _where_chosen_and_tested(results).join(pd.DataFrame(rows).T)


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


def change_by_n2(best: pd.DataFrame, default_n2: int) -> pd.Series:
    """BCS of the most negative latents tried less that of the default number, by behaviour, averaged over n1."""
    mean = best.groupby(["n2", "target"]).BCS.mean()
    return mean[best.n2.max()] - mean[default_n2]


def n2_sentence(best: pd.DataFrame, default_n2: int, names: dict[str, str]) -> str:
    """What change_by_n2 finds, by behaviour."""
    if best.n2.nunique() == 1:
        return f"No other number of negative latents than {default_n2} was tried."
    change = change_by_n2(best, default_n2)
    return (
        f"{int(best.n2.max())} negative latents in place of {default_n2} change the score, averaged over n1, by "
        f"{listed(f'{names[k]} {change[k]:+.2f}' for k in names)}: lower on {int((change < 0).sum())} of {len(names)} behaviours."
    )


def plot_rows(results: Results) -> list[dict]:
    """Average BCS of every steering method at every scale, for `dvc plots`."""
    shown = results.curve[results.curve.method.isin(METHODS)]
    means = shown.groupby(["method", "scale"]).value.mean()
    return [{"method": m, "scale": s, "BCS": round(float(v), 4)} for (m, s), v in means.items()]


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
