"""What steering costs, read and compared: losses against scale and the price of a BCS (paper, section 4, figures 4, 5).

A loss is a log perplexity ratio, in nats. Means are over behaviours; of perplexity they are geometric.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import gmean

from fgaa_utils.evaluation.claims import Claim
from fgaa_utils.evaluation.costs import Costs
from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import CONTROLS, LABELS, METHODS, PROMPTING, UNSTEERED, method_order
from fgaa_utils.project import read_yaml
from fgaa_utils.stats import crossed_draws, interval

TENTH = 0.1  # a rise of perplexity that still counts as keeping capability
PERPLEXITY, ACCURACY = "perplexity_ratio", "accuracy_change"
Losses = dict[str, dict[float, dict]]  # method -> scale of the grid -> {value, lo, hi}


def crossed_interval(
    values: NDArray, over_items: Callable[..., NDArray] = np.mean, *, draws: int, seed: int
) -> dict[str, float]:
    """{value, lo, hi} of the mean over behaviours (rows) of `over_items` (mean or median) of their texts or questions."""
    drawn = crossed_draws(values, draws=draws, seed=seed, over_items=over_items)
    lo, hi = interval(drawn, units=len(values))
    return {"value": float(over_items(values, axis=1).mean()), "lo": lo, "hi": hi}


def losses(costs: Costs, *, draws: int, seed: int) -> Losses:
    """The loss of each method at each scale of the grid: mean over behaviours of the median over texts."""
    found: Losses = {m: {} for m in costs.methods}
    for m, loss in found.items():
        for s in costs.scales:
            loss[s] = crossed_interval(np.log(costs.ratio[costs.at_scale(m, s)]), np.median, draws=draws, seed=seed)
    return found


def cheap_scale(loss: dict[float, dict], rise: float = TENTH) -> float | None:
    """The largest scale at which, and below which, the interval of the loss says that perplexity rises by `rise` at most."""
    cheap = None
    for scale in sorted(loss):
        if loss[scale]["hi"] > np.log(1 + rise):
            break
        cheap = scale
    return cheap


def ratio_text(entry: dict[str, float]) -> str:
    """`14.88 [2.53, 591]` of the value, and the ends if there are any, of a perplexity ratio: it may be very large."""
    value, *ends = (
        f"{entry[k]:,.2f}" if entry[k] < 100 else f"{entry[k]:,.0f}" for k in ("value", "lo", "hi") if k in entry
    )
    return f"{value} [{', '.join(ends)}]" if ends else value


def chosen_scale(costs: Costs, method: str) -> float:
    """The median over behaviours of the scales that validation chose."""
    return float(costs.cells.scale.iloc[costs.chosen(method)].median())


def scale_table(costs: Costs, found: Losses) -> pd.DataFrame:
    """One row a method: the largest cheap scale, the median chosen scale, the perplexity ratio at the largest scale."""
    end = costs.scales[-1]
    rows = {
        LABELS[m]: {
            "largest scale within a tenth": "none" if (cheap := cheap_scale(loss)) is None else f"{cheap:g}",
            "median chosen scale": f"{chosen_scale(costs, m):g}",
            f"perplexity ratio at {end:g}": ratio_text({k: float(np.exp(v)) for k, v in loss[end].items()}),
        }
        for m, loss in found.items()
    }
    return pd.DataFrame(rows).T.rename_axis("method")


def by_scale(costs: Costs) -> dict[str, dict]:
    """{method: {scale: perplexity_ratio_median, perplexity_ratio_mean, accuracy}} over the grid, means over behaviours; the
    first two names say what is taken over texts."""
    found: dict[str, dict] = {}
    for m in costs.methods:
        for scale, part in costs.grid[costs.grid.method == m].groupby("scale"):
            found.setdefault(m, {})[f"{scale:g}"] = {
                "perplexity_ratio_median": round(float(gmean(part.ratio_median)), 4),
                "perplexity_ratio_mean": round(float(gmean(part.ratio_mean)), 4),
                "accuracy": round(float(costs.right[part.index].mean()), 4),
            }
    return found


def losing(found: Losses, scale: float) -> list[str]:
    """Labels of the methods whose loss at the scale is above 0 by its interval."""
    return [LABELS[m] for m, loss in found.items() if loss[scale]["lo"] > 0]


def losing_sentence(costs: Costs, found: Losses) -> str:
    """Which methods certainly lose perplexity at the largest scale of the grid."""
    return f"At the largest scale of the grid the whole interval lies above 1 for {listed(losing(found, costs.scales[-1]))}."


def accuracy_by_task(costs: Costs) -> pd.DataFrame:
    """The grid's cells and the unsteered one, once a task: method, behaviour, scale, task, accuracy."""
    rows = costs.cells[~costs.cells.chosen]
    right = costs.right[rows.index]
    parts = [
        rows.assign(task=task, accuracy=right[:, costs.tasks == task].mean(axis=1))
        for task in dict.fromkeys(costs.tasks)
    ]
    return pd.concat(parts, ignore_index=True)[["method", "behaviour", "scale", "task", "accuracy"]]


def unsteered_accuracy(costs: Costs) -> pd.Series:
    """Accuracy of the unsteered model by task."""
    by_task = accuracy_by_task(costs)
    return by_task[by_task.method == UNSTEERED].set_index("task").accuracy


def accuracy_table(costs: Costs) -> pd.DataFrame:
    """Accuracy less the unsteered model's, mean over tasks and behaviours: a row a method, a column a scale of the grid."""
    by_task = accuracy_by_task(costs)
    means = by_task.groupby(["method", "scale"]).accuracy.mean() - unsteered_accuracy(costs).mean()
    rows = {LABELS[m]: {f"{s:g}": f"{means[m, s]:+.2f}" for s in costs.scales} for m in costs.methods}
    return pd.DataFrame(rows).T.rename_axis("method at scale")


def accuracy_doubt(costs: Costs) -> float:
    """Half the width of the 95 % interval of the unsteered accuracy on one task."""
    level, questions = unsteered_accuracy(costs).mean(), len(costs.tasks) / len(costs.chance)
    return float(1.96 * np.sqrt(level * (1 - level) / questions))


def accuracy_sentence(costs: Costs) -> str:
    """The unsteered accuracy, and how well it is known."""
    return (
        f"On {len(costs.tasks)} questions the unsteered model has {costs.right[0].mean():.3f}. Its accuracy on a single task "
        f"is known to {accuracy_doubt(costs):.2f} either way (95 %)."
    )


def paper_figure_5(path: Path) -> pd.DataFrame:
    """Accuracy of FGAA by absolute scale as the paper draws it, from data/paper.yaml: a row a task."""
    return pd.DataFrame(read_yaml(path)["figure_5"]).set_index("scale").T.rename_axis("task at scale")


def prices(costs: Costs, bcs: dict, *, draws: int, seed: int) -> dict[str, dict]:
    """price[method]: perplexity_ratio and accuracy_change {value, lo, hi} at the chosen scales, and the average BCS.

    The ratio has the median over behaviours too. Controls are a few vectors, not one a behaviour, so they have no interval.
    """
    found = {}
    for m in method_order([m for m in (*METHODS, PROMPTING, *CONTROLS) if len(costs.chosen(m))]):
        at = costs.chosen(m)
        nats = crossed_interval(np.log(costs.ratio[at]), np.median, draws=draws, seed=seed)
        change = crossed_interval(costs.right[at] - costs.right[0], draws=draws, seed=seed)
        if m in CONTROLS:
            nats, change = ({"value": entry["value"]} for entry in (nats, change))
        median = round(float(np.median(costs.cells.ratio_median.iloc[at])), 4)
        found[m] = {
            PERPLEXITY: {k: round(float(np.exp(v)), 4) for k, v in nats.items()} | {"median": median},
            ACCURACY: {k: round(float(v), 4) for k, v in change.items()},
            "bcs": bcs[m]["average"]["value"],
        }
    return found


def price_table(price: dict[str, dict], plain_bcs: float) -> pd.DataFrame:
    """One row a method, and unsteered text, to be shown."""
    rows = {LABELS[m] + (", at FGAA's scales" if m in CONTROLS else ""): _price_row(of) for m, of in price.items()}
    rows[LABELS[UNSTEERED]] = {
        "average BCS": f"{plain_bcs:.3f}",
        "perplexity ratio": "1",
        "its median": "1",
        "accuracy change": "0",
    }
    return pd.DataFrame(rows).T.rename_axis("method")


def _price_row(of: dict) -> dict[str, str]:
    whole = "lo" in of[PERPLEXITY]
    return {
        "average BCS": f"{of['bcs']:.3f}" + ("" if whole else " (at its own scale)"),
        "perplexity ratio": ratio_text(of[PERPLEXITY]),
        "its median": ratio_text({"value": of[PERPLEXITY]["median"]}),
        "accuracy change": with_interval(of[ACCURACY], "+.3f") if whole else f"{of[ACCURACY]['value']:+.3f}",
    }


def capability_metrics(costs: Costs, price: dict[str, dict], loss: Losses, claims: list[Claim]) -> dict:
    """What reports/metrics/capability.json holds."""
    return {
        "at_chosen_scale": price,
        "claims": {c.claim: c.verdict for c in claims},
        "claims_shown_in": {c.claim: c.shown_in for c in claims},
        "largest_scale_within_a_tenth": {m: cheap_scale(of) for m, of in loss.items()},
        "by_scale": by_scale(costs),
        "unsteered": {
            "nats": round(costs.nats, 4),
            "accuracy": {task: round(float(value), 4) for task, value in unsteered_accuracy(costs).items()},
        },
        "chance": {task: round(value, 4) for task, value in costs.chance.items()},
        "questions": len(costs.tasks),
        "texts": costs.ratio.shape[1],
        "model": costs.model,
    }
