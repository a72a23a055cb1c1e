"""Scores of the ablations' rows, their differences from the default, and the tables that show them.

BCS = mean behaviour times mean coherence (paper, section 4), on test prompts. Nothing here loads a model.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.evaluation.ablation_plan import DEFAULT, Plan
from fgaa_utils.evaluation.scores import fully_sampled
from fgaa_utils.figures import with_interval
from fgaa_utils.stats import average_estimate, bcs, detectable_difference, paired_comparisons


@dataclass(frozen=True)
class Scores:
    """by_behaviour[row]: BCS (behaviours,). table[row]: {value, lo, hi, n} of their average, and but for the default
    `difference`, as in differences."""

    by_behaviour: dict[str, NDArray]
    table: dict[str, dict]

    @property
    def default(self) -> dict:
        return self.table[DEFAULT]

    @property
    def ranked(self) -> list[str]:
        """All rows but the default, from the worst to the best."""
        rows = [row for row in self.table if row != DEFAULT]
        return sorted(rows, key=lambda row: self.difference(row)["value"])

    @property
    def compared(self) -> list[str]:
        """The rows whose vectors differ from the default's, in the order of `ranked`."""
        return [row for row in self.ranked if not self.difference(row)["same"]]

    def difference(self, row: str) -> dict:
        return self.table[row]["difference"]


def read_test(main_run: Path, ablation_samples: Path) -> pd.DataFrame:
    """The scored test samples of the main run's cells that have all of them, and of the ablations, in one table."""
    made = pd.read_parquet(ablation_samples)
    return pd.concat([fully_sampled(pd.read_parquet(main_run)), made[made.split == "test"]])


def score_rows(plan: Plan, samples: pd.DataFrame, *, draws: int, seed: int) -> Scores:
    """The scores of the default and of every row on the test samples.

    Raises: ValueError for a row whose texts are not among the samples.
    """
    cells = dict(list(samples.groupby(["behaviour", "method", "variant", "scale"])))
    by_behaviour: dict[str, np.ndarray] = {}
    table: dict[str, dict] = {}
    for row in (DEFAULT, *plan.rows):
        parts = _row_cells(plan, row, cells)
        by_behaviour[row] = score_row(parts)
        table[row] = average_estimate(by_behaviour[row], sum(map(len, parts)), draws=draws, seed=seed)
    for row, difference in differences(by_behaviour, plan).items():
        table[row]["difference"] = difference
    return Scores(by_behaviour, table)


def _row_cells(plan: Plan, row: str, cells: dict[tuple, pd.DataFrame]) -> list[pd.DataFrame]:
    """The samples of a row's cell for each behaviour, with that behaviour's score as column `B`."""
    parts = []
    for behaviour, scale in zip(plan.behaviours, plan.row_scales(row)):
        cell = (*plan.names[row][behaviour], scale)
        if cell not in cells:
            raise ValueError(
                f"the row {row!r} has no test samples of {cell}; run `make again STAGE=ablation_samples` after samples"
            )
        parts.append(cells[cell].assign(B=cells[cell][f"B_{behaviour}"]))
    return parts


def score_row(cells: list[pd.DataFrame]) -> NDArray:
    """BCS (behaviours,) of one cell for each behaviour, with columns B and coherence."""
    return np.array([bcs(c.B.to_numpy(), c.coherence.to_numpy()) for c in cells])


def differences(scores: dict[str, NDArray], plan: Plan) -> dict[str, dict[str, float]]:
    """{row: {value, lo, hi, p, better_on, same}}: a row's BCS (behaviours,) minus the default's, with a 95 % interval
    over behaviours and a p value corrected for the rows whose vectors differ (Holm)."""
    same = {row: plan.same(row) for row in scores if row != DEFAULT}
    against = paired_comparisons(scores[DEFAULT], {row: scores[row] for row, equal in same.items() if not equal})
    table = {}
    for row, equal in same.items():
        if equal:
            table[row] = {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0, "better_on": 0, "same": True}
            continue
        p = against[row]
        better = int((scores[row] > scores[DEFAULT]).sum())
        entry = {"value": -p["value"], "lo": -p["hi"], "hi": -p["lo"], "p": p["p"], "better_on": better, "same": False}
        table[row] = entry
    return table


def detectable(scores: Scores, *, comparisons: int = 1) -> float:
    """The median over rows of the smallest true difference that is found with probability 0.8, at 5 % divided by the
    number of comparisons; NaN if no row differs from the default."""
    default = scores.by_behaviour[DEFAULT]
    found = [
        detectable_difference(scores.by_behaviour[row], default, comparisons=comparisons) for row in scores.compared
    ]
    return float(np.median(found)) if found else float("nan")


def ranked_table(plan: Plan, scores: Scores) -> pd.DataFrame:
    """Every row but the default, worst first: BCS, difference, p, behaviours on which it is better, median scale."""
    count = len(plan.behaviours)
    rows = {}
    for row in scores.ranked:
        f = scores.difference(row)
        rows[row] = {
            "BCS": with_interval(scores.table[row], ".3f"),
            "minus the default's": with_interval(f, "+.3f"),
            "p (Holm)": "same vectors" if f["same"] else f"{f['p']:.3f}",
            "better on": f"{f['better_on']} of {count}",
            "median scale": f"{np.median(plan.row_scales(row)):g}",
        }
    columns = ["BCS", "minus the default's", "p (Holm)", "better on", "median scale"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("changed")


def marks(scores: Scores) -> pd.DataFrame:
    """For the ranking figure: row, value, lo, hi and whether the interval leaves out zero, worst first."""
    by_rank = [(row, scores.difference(row)) for row in scores.ranked]
    entries = [(row, f["value"], f["lo"], f["hi"], not crosses_zero(f)) for row, f in by_rank]
    return pd.DataFrame(entries, columns=["row", "value", "lo", "hi", "clear"])


def dots(plan: Plan, scores: Scores) -> pd.DataFrame:
    """For the ranking figure: row, behaviour, and the row's score on it minus the default's."""
    wide = pd.DataFrame(
        {row: scores.by_behaviour[row] - scores.by_behaviour[DEFAULT] for row in scores.ranked}, index=plan.behaviours
    )
    return wide.rename_axis("behaviour").reset_index().melt("behaviour", var_name="row", value_name="difference")


def heat_map(plan: Plan, scores: Scores) -> pd.DataFrame:
    """n1, n2, BCS of the rows that set both and nothing else (Figure A.4 of the paper)."""
    pairs = {row: changes for row, changes in plan.rows.items() if set(changes) == {"n1", "n2"}}
    entries = [(changes["n1"], changes["n2"], scores.table[row]["value"]) for row, changes in pairs.items()]
    return pd.DataFrame(entries, columns=["n1", "n2", "BCS"])


def tried_values(plan: Plan, scores: Scores) -> pd.DataFrame:
    """parameter, at, BCS, difference, lo, hi of the numbers that were tried at several values, with the default's own
    value (column `default`) where it has one for all behaviours; values grow within a parameter."""
    entries = []
    for row, changes in plan.rows.items():
        parameter, value = _only_number(changes, plan.default["n2"])
        if parameter:
            f = scores.difference(row)
            entries.append((parameter, value, scores.table[row]["value"], f["value"], f["lo"], f["hi"], False))
    counts = pd.Series([entry[0] for entry in entries], dtype=object).value_counts(sort=False)
    several = [parameter for parameter, count in counts.items() if count > 1]
    for parameter in several:
        own = plan.whole[parameter] if parameter in plan.whole else plan.default[parameter]
        if own is not None:
            entries.append((parameter, own, scores.default["value"], 0.0, 0.0, 0.0, True))
    frame = pd.DataFrame(entries, columns=["parameter", "at", "BCS", "difference", "lo", "hi", "default"])
    place = {parameter: i for i, parameter in enumerate(several)}
    kept = frame[frame.parameter.isin(several)]
    return kept.assign(place=kept.parameter.map(place)).sort_values(["place", "at"]).drop(columns="place")


def _only_number(changes: dict, default_n2: int) -> tuple[str, float] | tuple[None, None]:
    """(parameter, value) of a row that changes one number and nothing else; n2 at its default is no change."""
    changed = [(k, v) for k, v in changes.items() if (k, v) != ("n2", default_n2)]
    numbers = [(k, v) for k, v in changed if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers[0] if len(changed) == len(numbers) == 1 else (None, None)


def tried_table(tried: pd.DataFrame) -> pd.DataFrame:
    """One row a parameter: the BCS at each value, the default's in bold."""
    shown = [f"**{r['at']:g}: {r.BCS:.3f}**" if r.default else f"{r['at']:g}: {r.BCS:.3f}" for _, r in tried.iterrows()]
    joined = tried.assign(shown=shown).groupby("parameter", sort=False).shown.agg(", ".join)
    return joined.to_frame("BCS at each value (bold: the default)")


def crosses_zero(interval: dict) -> bool:
    """Whether the interval of {lo, hi} holds zero."""
    return interval["lo"] <= 0 <= interval["hi"]
