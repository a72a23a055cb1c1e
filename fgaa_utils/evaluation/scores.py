"""Scores of samples: BCS of cells, the choice made on validation, scores with intervals, against scale, side effects.

BCS = mean behaviour times mean coherence (paper, section 4). Nothing here generates or judges a text.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgaa_utils.names import SHARED, UNSTEERED, Cell, method_order, variant_values
from fgaa_utils.stats import average_estimate, bcs, bcs_draws, estimate


def missing_scores(samples: pd.DataFrame, behaviours: list[str]) -> int:
    """How many scores of score_samples a judge left out."""
    own = [for_target(samples, name)[f"B_{name}"] for name in behaviours]
    return int(sum(column.isna().sum() for column in (samples.coherence, *own)))


def for_target(samples: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """The samples of a behaviour's own vectors and of the shared ones."""
    return samples[samples.behaviour.isin([behaviour, SHARED])]


def for_behaviour(samples: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """The samples of a behaviour's own vectors and of the shared ones, with its score as column `B`."""
    own = for_target(samples, behaviour)
    return own.assign(B=own[f"B_{behaviour}"], target=behaviour)


def cell_scores(samples: pd.DataFrame, behaviours: list[str]) -> pd.DataFrame:
    """Mean B, mean coherence C and BCS = B x C of every cell and target behaviour (paper, section 4)."""
    long = pd.concat([for_behaviour(samples, b) for b in behaviours])
    keys = ["target", "method", "variant", "scale", "coeff"]
    means = long.groupby(keys, sort=False).agg(B=("B", "mean"), C=("coherence", "mean"), n=("B", "size"))
    return means.assign(BCS=means.B * means.C).reset_index()


def smoothed(scores: pd.DataFrame, weight: float) -> pd.Series:
    """BCS of every cell averaged with that of the same vector at the next smaller and the next larger scale, each of them
    with `weight` beside 1: a lucky cell among unlucky neighbours is not the best one."""
    ordered = scores.sort_values("scale", kind="stable")
    groups = ordered.groupby(["target", "method", "variant"], sort=False).BCS
    neighbours = pd.concat([groups.shift(1), groups.shift(-1)], axis=1)
    total = ordered.BCS + weight * neighbours.sum(axis=1)
    return (total / (1 + weight * neighbours.notna().sum(axis=1))).loc[scores.index]


def _ranked(scores: pd.DataFrame, smoothing: float) -> pd.DataFrame:
    """The cells from the highest BCS to the lowest, smoothed over scales (see smoothed); ties go to the smaller scale, then
    variant."""
    number = scores.variant.map(lambda variant: tuple(variant_values(variant).values()))
    ranked = scores.assign(number=number, smooth=smoothed(scores, smoothing)).sort_values(
        ["smooth", "scale", "number"], ascending=[False, True, True], kind="stable"
    )
    return ranked.drop(columns=["number", "smooth"])


def leading_cells(scores: pd.DataFrame, count: int, *, smoothing: float = 0.0) -> pd.DataFrame:
    """The first `count` cells of each target and method, ranked as in choose_cells."""
    return _ranked(scores, smoothing).groupby(["target", "method"], sort=False).head(count)


def most_sampled(scores: pd.DataFrame, of: list[str]) -> pd.Series:
    """Whether a cell has as many samples as any of its group `of`: the finalists' mark, where cells were raced."""
    return scores.n == scores.groupby(of, sort=False).n.transform("max")


def choose_cells(scores: pd.DataFrame, *, smoothing: float = 0.0) -> pd.DataFrame:
    """The cell of the highest BCS for each target and method, smoothed over scales (see smoothed), among those with the
    most samples; ties go to the smaller scale, then variant."""
    of = ["target", "method"]
    ranked = _ranked(scores, smoothing)
    return ranked[most_sampled(ranked, of)].drop_duplicates(of).sort_values(of).reset_index(drop=True)


def chosen_samples(samples: pd.DataFrame, choice: pd.Series) -> pd.DataFrame:
    """The samples of the cell that a row of choose_cells names, with column `B` for its target.

    Raises: ValueError if there are none.
    """
    own = for_behaviour(samples, choice.target)
    cell = own[(own.method == choice.method) & (own.variant == choice.variant) & np.isclose(own.scale, choice.scale)]
    if cell.empty:
        raise ValueError(f"no samples of {choice.method} {choice.variant} at scale {choice.scale} for {choice.target}")
    return cell


@dataclass(frozen=True)
class Choices:
    """What validation chose, data/samples/choices.json; whatever is made from it carries model, SAE and layer.

    behaviours: {key: name}. unit: of scales, see names.SCALE_UNITS. choices[method][behaviour]: {scale, coeff, variant}.
    prefixes[behaviour]: token ids of the chosen order of examples, for prompting. smoothing: of choose_cells. design: what
    the ablations do alike: `splits`, the entries of cells.make_splits, `sampling`, those of SamplingParams, and `scales`.
    """

    behaviours: dict[str, str]
    resid_std: float
    unit: str
    model: str
    sae: str
    layer: int
    choices: dict[str, dict[str, dict]]
    prefixes: dict[str, list[int]]
    smoothing: float = 0.0
    design: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return list(self.behaviours)

    @property
    def methods(self) -> list[str]:
        """In the order of tables."""
        return method_order(list(self.choices))

    @property
    def table(self) -> pd.DataFrame:
        """One row a target and method: target, method, variant, scale, coeff; methods in alphabetical order of names."""
        rows = [
            {"target": b, "method": m} | c
            for b in sorted(self.behaviours)
            for m, of in sorted(self.choices.items())
            for c in [of[b]]
        ]
        return pd.DataFrame(rows)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_choices(path: Path) -> Choices:
    """Raises: ValueError for a file of another shape."""
    try:
        return Choices(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no choices ({error}); run `dvc repro samples`") from error


def choices_by_method(choices: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """{method: {behaviour: {scale, coeff, variant}}} of choose_cells, methods in the order of tables."""
    return {
        m: {
            c.target: {"scale": c.scale, "coeff": round(c.coeff, 1), "variant": c.variant}
            for c in choices[choices.method == m].itertuples()
        }
        for m in method_order(choices.method.unique().tolist())
    }


def chosen_cells(names: Iterable[Cell], choices: pd.DataFrame) -> list[Cell]:
    """The names that validation chose for some behaviour."""
    chosen = set(zip(choices.target, choices.method, choices.variant))
    chosen |= {(SHARED, method, variant) for _, method, variant in chosen}
    return [name for name in names if name in chosen]


def only_chosen(cells: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells.cell_grid whose variant and scale validation chose for some behaviour."""
    own = set(zip(choices.target, choices.method, choices.variant, choices.scale))
    own |= {(SHARED, *rest) for _, *rest in own}
    return cells[[cell in own for cell in zip(cells.behaviour, cells.method, cells.variant, cells.scale)]]


def fully_sampled(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of the cells that have as many as any: test cells that only draw scores against scale may have fewer."""
    count = samples.groupby(["behaviour", "method", "variant", "scale"]).scale.transform("size")
    return samples[count == count.max()]


def bcs_table(samples: pd.DataFrame, choices: pd.DataFrame, *, draws: int, seed: int) -> tuple[dict, dict]:
    """(table, draws): table[method][behaviour or "average"] is {value, lo, hi, n}; draws[method] (behaviours, draws).

    Values are the BCS of the chosen cells on the samples given; intervals are of bootstraps over prompts, over behaviours
    for the average. The average of one behaviour is that behaviour's score.
    """
    table: dict[str, dict] = {}
    distributions: dict[str, np.ndarray] = {}
    for method, rows in choices.groupby("method", sort=False):
        boots = []
        table[method] = {}
        for _, choice in rows.iterrows():
            cell = chosen_samples(samples, choice)
            b, c, groups = cell.B.to_numpy(), cell.coherence.to_numpy(), cell.prompt.to_numpy()
            boots.append(bcs_draws(b, c, groups, draws=draws, seed=seed))
            table[method][choice.target] = estimate(bcs(b, c), boots[-1], len(cell), units=cell.prompt.nunique())
        distributions[method] = np.stack(boots)
        entries = list(table[method].values())
        values, total = np.array([entry["value"] for entry in entries]), sum(entry["n"] for entry in entries)
        average = average_estimate(values, total, draws=draws, seed=seed)
        table[method]["average"] = average if len(entries) > 1 else entries[0]
    return table, distributions


def scale_curves(samples: pd.DataFrame, choices: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """BCS of each target's and method's chosen variant at every scale: target, method, scale, B, C, value, lo, hi, n."""
    rows = []
    for _, choice in choices.iterrows():
        own = for_behaviour(samples, choice.target)
        own = own[(own.method == choice.method) & (own.variant == choice.variant)]
        for scale, cell in own.groupby("scale"):
            b, c = cell.B.to_numpy(), cell.coherence.to_numpy()
            boots = bcs_draws(b, c, cell.prompt.to_numpy(), draws=draws, seed=seed)
            row = {
                "target": choice.target,
                "method": choice.method,
                "scale": scale,
                "B": np.nanmean(b),
                "C": np.nanmean(c),
            }
            rows.append(row | estimate(bcs(b, c), boots, len(cell), units=cell.prompt.nunique()))
    return pd.DataFrame(rows)


def best_over_scales(curves: pd.DataFrame) -> dict:
    """table[method][behaviour] as in bcs_table: the maximum over scales of scale_curves, as the paper takes it
    (section 4; there on one prompt)."""
    best = curves.sort_values("value", ascending=False, kind="stable").drop_duplicates(["target", "method"])
    table: dict[str, dict] = {}
    for row in best.sort_values(["method", "target"]).itertuples():
        table.setdefault(row.method, {})[row.target] = {"value": row.value, "lo": row.lo, "hi": row.hi, "n": row.n}
    return table


def off_target(side: pd.DataFrame, method: str, behaviours: list[str]) -> pd.DataFrame:
    """How much more of each behaviour (columns) the chosen cell of each target (rows) shows than unsteered text.

    side: samples of cells.side_effects.
    """
    columns = [f"B_{name}" for name in behaviours]
    plain = side[(side.method == UNSTEERED) & (side.target == behaviours[0])]
    base = np.array([np.nanmean(plain[column]) for column in columns])
    cells = [side[(side.method == method) & (side.target == target)] for target in behaviours]
    means = np.array([[np.nanmean(cell[column]) for column in columns] for cell in cells])
    return pd.DataFrame(means - base, index=behaviours, columns=behaviours)


def counts_sentence(samples: dict[str, pd.DataFrame], judge: str) -> str:
    """How many samples and distinct texts each part has, and who scored them."""
    parts = [f"{len(s):,} {name} samples ({s.text.nunique():,} distinct texts)" for name, s in samples.items()]
    return f"{', '.join(parts)}, scored by the judge `{judge}`."


def samples_metrics(samples: dict[str, pd.DataFrame], behaviours: list[str]) -> dict[str, Any]:
    """Counts of the parts of a run (validation, test and others): samples, distinct texts, scores that a judge left out."""
    return {
        "samples": {name: len(samples[name]) for name in ("validation", "test")},
        "distinct_texts": {name: frame.text.nunique() for name, frame in samples.items()},
        "missing_scores": sum(missing_scores(frame, behaviours) for frame in samples.values()),
    }


def side_effect(matrix: pd.DataFrame) -> dict[str, float]:
    """{"on_target", "elsewhere"}: means of the diagonal of off_target and of the rest, four digits."""
    values = matrix.to_numpy()
    off = values[~np.eye(len(values), dtype=bool)]
    found = {"on_target": np.diag(values).mean(), "elsewhere": off.mean() if off.size else 0.0}
    return {name: round(float(value), 4) for name, value in found.items()}


def first_samples(files: Iterable[Path], behaviours: list[str]) -> pd.DataFrame:
    """The first sample of each prompt of every cell of the behaviours in files of scored samples."""
    samples = pd.concat([pd.read_parquet(file) for file in files])
    return samples[samples.behaviour.isin(behaviours) & (samples["sample"] == 0)]
