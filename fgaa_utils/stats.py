"""Intervals and comparisons for scores: bootstrap over prompts, over behaviours for averages.

BCS = mean behaviour times mean coherence (paper, section 4).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.power import TTestPower


def resample(groups: NDArray, draws: int, rng: np.random.Generator) -> NDArray:
    """Indices (draws, n) into n samples: prompts drawn with replacement, each with its samples; of one prompt, samples.

    Samples of one prompt differ, and so do therefore prompts: drawing samples within the prompts drawn would count that
    noise twice (98 % coverage where 95 are said). `groups` (n,) gives each sample's prompt; all prompts have equally many.

    Raises: ValueError if they do not.
    """
    names, counts = np.unique(groups, return_counts=True)
    if len(set(counts.tolist())) != 1:
        raise ValueError(f"prompts have different numbers of samples: {dict(zip(names.tolist(), counts.tolist()))}")
    members = np.stack([np.flatnonzero(groups == name) for name in names])  # (prompts, per)
    prompts, per = members.shape
    if prompts == 1:
        return members[0][rng.integers(per, size=(draws, per))]
    return members[rng.integers(prompts, size=(draws, prompts))].reshape(draws, -1)


def bcs(behaviour: NDArray, coherence: NDArray) -> float:
    """Mean behaviour times mean coherence of samples (n,); NaN scores, which a judge may leave, are skipped."""
    return float(np.nanmean(behaviour) * np.nanmean(coherence))


def bcs_draws(behaviour: NDArray, coherence: NDArray, groups: NDArray, *, draws: int, seed: int) -> NDArray:
    """Bootstrap distribution (draws,) of the BCS of samples (n,) from prompts `groups` (n,)."""
    index = resample(groups, draws, np.random.default_rng(seed))
    return np.nanmean(behaviour[index], axis=1) * np.nanmean(coherence[index], axis=1)


def interval(draws: NDArray, level: float = 0.95, *, units: int | None = None) -> tuple[float, float]:
    """Percentile interval of bootstrap draws along the first axis.

    `units`, if given, is how many things the bootstrap drew from at its top (prompts, behaviours). Few units make
    percentiles too narrow; the expanded percentile interval (Hesterberg 2015, arXiv 1411.5279) takes further ones,
    as Student's t does for a mean. One unit tells nothing of others: plain percentiles.
    """
    tail = (1 - level) / 2
    if units is not None and units > 1:
        tail = stats.norm.cdf((units / (units - 1)) ** 0.5 * stats.t.ppf(tail, units - 1))
    lo, hi = np.quantile(draws, [tail, 1 - tail], axis=0)
    return float(lo), float(hi)


def student_interval(value: float, draws: NDArray, units: int) -> tuple[float, float]:
    """Student's 95 % interval of a value with the bootstrap's standard error; draws (draws,) of a bootstrap of `units`
    things, whose spread is the root of (units - 1) / units too small. One unit: percentiles of what was drawn below it.
    """
    if units < 2:
        return interval(draws)
    half = float(stats.t.ppf(0.975, units - 1) * draws.std(ddof=1) * (units / (units - 1)) ** 0.5)
    return value - half, value + half


def estimate(value: float, draws: NDArray, n: int, *, units: int | None = None) -> dict[str, float]:
    """{value, lo, hi, n} with a 95 % interval, rounded for a metrics file: percentiles, or if `units` are given Student's
    (see student_interval), for scores between 0 and 1."""
    lo, hi = interval(draws) if units is None else np.clip(student_interval(value, draws, units), 0, 1).tolist()
    return {"value": round(value, 4), "lo": round(lo, 4), "hi": round(hi, 4), "n": n}


def average_estimate(scores: NDArray, n: int, *, draws: int, seed: int) -> dict[str, float]:
    """{value, lo, hi, n} of the average over behaviours of their scores (behaviours,), between 0 and 1; one behaviour
    tells nothing of others, and its interval is all that scores can be."""
    value = float(scores.mean())
    if len(scores) < 2:
        return {"value": round(value, 4), "lo": 0.0, "hi": 1.0, "n": n}
    return estimate(value, average_draws(scores, draws=draws, seed=seed), n, units=len(scores))


def average_draws(scores: NDArray, *, draws: int, seed: int) -> NDArray:
    """Bootstrap distribution (draws,) of an average over behaviours from their scores (behaviours,).

    Behaviours are drawn with replacement: the interval speaks of behaviours like these, not of these alone. The scores'
    own noise is part of what they differ by, and is not drawn again.
    """
    return scores[np.random.default_rng(seed).integers(len(scores), size=(draws, len(scores)))].mean(axis=1)


def holm(p: NDArray) -> NDArray:
    """p values (n,) corrected for their number (Holm 1979). As statsmodels' multipletests, which collects garbage on
    every call: a second where many objects live."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return corrected


def paired_comparisons(ours: NDArray, others: dict[str, NDArray]) -> dict[str, dict[str, float]]:
    """{other: {value, lo, hi, p, wins, n}}: our scores minus each other method's over the same behaviours.

    p is of the paired t test, corrected for the number of others (Holm 1979); 1 for a single behaviour. wins counts
    the behaviours on which ours is higher.
    """
    names = list(others)
    raw = [stats.ttest_rel(ours, others[name]).pvalue if len(ours) > 1 else 1.0 for name in names]
    corrected = holm(np.nan_to_num(raw, nan=1.0))
    table = {}
    for name, p in zip(names, corrected):
        mean, lo, hi = paired_difference(ours, others[name])
        wins = int((ours > others[name]).sum())
        rounded = {"value": round(mean, 4), "lo": round(lo, 4), "hi": round(hi, 4), "p": round(float(p), 4)}
        table[name] = rounded | {"wins": wins, "n": len(ours)}
    return table


def against_others(scores: dict[str, NDArray], method: str) -> dict[str, dict[str, float]]:
    """{other: {value, lo, hi, p, wins, n, detectable}}: paired_comparisons of one method's scores (behaviours,) with each
    other's, beside the smallest true difference that so many behaviours would show (see detectable_difference)."""
    others = {name: values for name, values in scores.items() if name != method}
    found = paired_comparisons(scores[method], others)
    for name, values in others.items():
        found[name]["detectable"] = round(detectable_difference(scores[method], values, comparisons=len(others)), 4)
    return found


def paired_samples(difference: NDArray, draws: NDArray, *, units: int) -> list[dict[str, float]]:
    """One {value, lo, hi, p} a behaviour for the differences (behaviours,) of two methods' scores.

    draws (behaviours, draws): differences of their bootstrap scores, drawn on the same prompts and samples, of which
    the bootstrap drew `units` at its top (prompts, or samples of the only prompt). p is of a t test on the bootstrap's
    standard error, corrected for the number of behaviours (Holm); 1 for one unit or where the draws do not differ.
    """
    error = draws.std(axis=1, ddof=1) * (units / max(1, units - 1)) ** 0.5
    t = np.divide(difference, error, out=np.zeros_like(difference), where=error > 0)
    raw = 2 * stats.t.sf(np.abs(t), units - 1) if units > 1 else np.ones(len(difference))
    corrected = holm(raw)
    found = []
    for value, row, p in zip(difference, draws, corrected):
        lo, hi = student_interval(float(value), row, units)
        found.append({"value": round(float(value), 4), "lo": round(lo, 4), "hi": round(hi, 4), "p": round(float(p), 4)})
    return found


def detectable_difference(
    ours: NDArray, other: NDArray, *, comparisons: int = 1, power: float = 0.8, behaviours: int | None = None
) -> float:
    """Smallest true mean difference that a paired t test over as many behaviours, or over `behaviours`, finds with
    probability `power`, if differences spread as those observed do; at 5 % divided by the number of `comparisons`, as Holm's
    correction does for the first to be decided. 1 for a single behaviour."""
    if len(ours) < 2:
        return 1.0
    effect = TTestPower().solve_power(nobs=behaviours or len(ours), alpha=0.05 / comparisons, power=power)
    return min(1.0, float(effect * (ours - other).std(ddof=1)))


def paired_difference(ours: NDArray, other: NDArray, *, limit: float = 1.0) -> tuple[float, float, float]:
    """(mean, lo, hi) of the difference of two methods' scores over the same behaviours (behaviours,).

    Student's interval: a bootstrap of nine differences is too narrow. One behaviour tells nothing of others, and
    its interval is all that the scores allow, -limit to limit: 1 for scores from 0 to 1.
    """
    mean = float((ours - other).mean())
    if len(ours) < 2:
        return mean, -limit, limit
    lo, hi = stats.ttest_rel(ours, other).confidence_interval()
    return mean, float(lo), float(hi)


def crossed_draws(values: NDArray, *, draws: int, seed: int, over_items: Callable[..., NDArray] = np.mean) -> NDArray:
    """Bootstrap distribution (draws,) of the mean over units of `over_items` (mean or median) of values (units, items).

    Every unit has met the same items, say every behaviour's vector the same questions: both are drawn with
    replacement, the items once for all units.
    """
    rng = np.random.default_rng(seed)
    units, items = values.shape
    found = np.empty(draws)
    for i in range(draws):
        drawn = values[rng.integers(units, size=units)][:, rng.integers(items, size=items)]
        found[i] = over_items(drawn, axis=1).mean()
    return found


def rank_correlation(a: NDArray, b: NDArray) -> float:
    """Spearman's correlation of a and b (n,); 0 if one side is constant. Ten times as fast as scipy's, which asks for p too:
    a bootstrap needs thousands."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def area_under_curve(labels: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve of scores (n,) for labels (n,) of 0 and 1, from the ranks (Mann and Whitney); NaN if all
    labels are equal."""
    positive = int(np.sum(labels))
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    above = stats.rankdata(scores)[labels == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def bootstrap_metric(
    metric: Callable[[NDArray, NDArray], float], labels: NDArray, scores: NDArray, *, draws: int, seed: int
) -> NDArray:
    """Bootstrap distribution (draws,) of metric(labels, scores), drawn within each label so that both stay."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    values = []
    for _ in range(draws):
        index = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values.append(metric(labels[index], scores[index]))
    return np.array(values)
