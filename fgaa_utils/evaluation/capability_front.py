"""BCS against what it costs at the chosen scales: a point a behaviour and method, their means, and the Pareto fronts."""

import pandas as pd

from fgaa_utils.evaluation.capability_tables import ACCURACY, PERPLEXITY, ratio_text
from fgaa_utils.evaluation.costs import Costs
from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import LABELS, METHODS, PROMPTING, method_order

PAYING = method_order([*METHODS, PROMPTING])  # those that have a BCS to pay for


def behaviour_points(costs: Costs, bcs: dict) -> pd.DataFrame:
    """One row a method and behaviour at the chosen scale: method, behaviour, perplexity_ratio, accuracy_change, BCS."""
    at = costs.cells[costs.cells.chosen & costs.cells.method.isin(PAYING)]
    points = at[["method", "behaviour"]].assign(**{PERPLEXITY: at.ratio_median})
    points[ACCURACY] = at.accuracy - costs.right[0].mean()
    points["BCS"] = [bcs[c.method][c.behaviour]["value"] for c in at.itertuples()]
    return points.reset_index(drop=True)


def behaviour_table(points: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """BCS / perplexity ratio / accuracy change: a row a behaviour, a column a method."""
    entries = [
        f"{p.BCS:.2f} / {ratio_text({'value': p.perplexity_ratio})} / {p.accuracy_change:+.2f}"
        for p in points.itertuples()
    ]
    shown = points.assign(entry=entries, behaviour=points.behaviour.map(names), label=points.method.map(LABELS))
    labels = [LABELS[m] for m in PAYING if m in set(points.method)]
    return shown.pivot(index="behaviour", columns="label", values="entry")[labels]


def mean_points(price: dict[str, dict], points: pd.DataFrame, bcs: dict) -> pd.DataFrame:
    """One row a method of PAYING: perplexity_ratio, accuracy_change and BCS, each as its value, `_lo`, `_hi` and `_median`
    over behaviours."""
    medians = points.groupby("method")[[PERPLEXITY, ACCURACY, "BCS"]].median()
    rows = []
    for m in [m for m in price if m in PAYING]:
        row = {"method": m}
        for name, entry in (
            (PERPLEXITY, price[m][PERPLEXITY]),
            (ACCURACY, price[m][ACCURACY]),
            ("BCS", bcs[m]["average"]),
        ):
            row |= {name: entry["value"], f"{name}_lo": entry["lo"], f"{name}_hi": entry["hi"]}
            row[f"{name}_median"] = medians[name][m]
        rows.append(row)
    return pd.DataFrame(rows)


def pareto_front(means: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The methods that no other beats both in BCS and in the cost, the cheapest first.

    A lower perplexity_ratio and a higher accuracy_change are better.
    """
    ordered = means.sort_values([cost, "BCS"], ascending=[cost == PERPLEXITY, False])
    return ordered[ordered.BCS > ordered.BCS.shift(fill_value=-1).cummax()]


def steering(means: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that add a vector."""
    return means[means.method != PROMPTING]


def ratio_limit(means: pd.DataFrame) -> float:
    """Where the figure's axis of perplexity ends: twice the largest mean, so that one behaviour does not stretch it."""
    return 2 * float(means[PERPLEXITY].max())


def beyond_the_axis(points: pd.DataFrame, means: pd.DataFrame) -> str:
    """A sentence on what of the figure lies beyond the axis of perplexity."""
    limit = ratio_limit(means)
    few, ends = int((points[PERPLEXITY] > limit).sum()), int((means[f"{PERPLEXITY}_hi"] > limit).sum())
    return (
        f"The axis of perplexity ends at {ratio_text({'value': limit})}; behaviours beyond it: {few} of {len(points)}, "
        f"intervals that go on beyond it: {ends} of {len(means)}."
    )


def front_sentence(means: pd.DataFrame) -> str:
    """Who is on the fronts of BCS and perplexity, and of BCS and accuracy."""
    return " ".join(
        _front_sentence(means, cost, word) for cost, word in ((PERPLEXITY, "perplexity"), (ACCURACY, "accuracy"))
    )


def _front_sentence(means: pd.DataFrame, cost: str, word: str) -> str:
    first = [LABELS[m] for m in pareto_front(steering(means), cost).method]
    counted_in = [LABELS[m] for m in pareto_front(means, cost).method]
    return (
        f"On the Pareto front of BCS and {word} {'lies' if len(first) == 1 else 'lie'} {listed(first)}, of the methods that "
        f"steer; with prompting counted in, {listed(counted_in)}."
    )


def price_sentence(price: dict[str, dict]) -> str:
    """What FGAA pays at its chosen scales."""
    of = price["fgaa"]
    return (
        f"At its chosen scales FGAA multiplies perplexity by {ratio_text(of[PERPLEXITY])} (median over "
        f"behaviours {ratio_text({'value': of[PERPLEXITY]['median']})}) and changes accuracy by {with_interval(of[ACCURACY], '+.3f')}. "
        f"Its average BCS there is {of['bcs']:.2f}."
    )


def front_rows(means: pd.DataFrame) -> list[dict]:
    """Rows of reports/plots/front.csv."""
    return means[["method", PERPLEXITY, ACCURACY, "BCS"]].to_dict("records")
