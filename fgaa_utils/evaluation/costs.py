"""The cells whose cost is measured, and the files that keep what they cost (paper, section 4, figures 4, 5).

A cell is one vector at one scale, or a behaviour's examples before the text and no vector. Nothing here needs the model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from fgaa_utils.data.questions import Question, chance_level
from fgaa_utils.evaluation.scales import Strength, check_scales
from fgaa_utils.names import CONTROLS, LABELS, METHODS, PROMPTING, SHARED, UNSTEERED, Cell, VectorName, method_order
from fgaa_utils.shards import load_tensors, save_frame, save_tensors

COLUMNS = ["behaviour", "method", "variant", "scale", "coeff", "chosen"]
MethodChoices = dict[str, dict[str, dict]]  # method -> behaviour -> {scale, coeff, variant}


def cost_cells(
    choices: MethodChoices,
    behaviours: list[str],
    vectors: dict[VectorName, Tensor],
    scales: list[float],
    strength: Strength,
) -> pd.DataFrame:
    """One row a cell, in the order of measuring: COLUMNS, `coeff` in absolute norm.

    Unsteered text; each method's chosen variant at every scale of the grid and at its own; controls at FGAA's own, what
    any vector costs there; prompting last. Raises: ValueError for scales that check_scales refuses, or a choice that has no
    vector.
    """
    check_scales(scales)
    by_cell = {name.cell: v for name, v in vectors.items()}
    controls = {c: sorted((n for n in vectors if n.method == c), key=lambda n: n.draw or 0) for c in CONTROLS}
    rows = [(SHARED, UNSTEERED, "", 0.0, 0.0, False)]
    for method in method_order([m for m in METHODS if m in choices]):
        for turn, behaviour in enumerate(behaviours):
            choice = choices[method][behaviour]
            own = (choice["scale"], _reported(choice), True)
            name = (behaviour, method, choice["variant"])
            rows += [(*name, s, strength.coeff(_vector(name, by_cell), s), False) for s in scales]
            rows.append((*name, *own))
            if method == "fgaa":
                turns = [drawn[turn % len(drawn)] for drawn in controls.values() if drawn]
                rows += [(*c.cell, own[0], strength.coeff(vectors[c], own[0]), True) for c in turns]
    rows += [(b, PROMPTING, choices[PROMPTING][b]["variant"], 0.0, 0.0, True) for b in behaviours]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"scale": float, "coeff": float})


def _vector(name: Cell, by_cell: dict[Cell, Tensor]) -> Tensor:
    if name not in by_cell:
        raise ValueError(f"there is no vector {'.'.join(name)}; run `dvc repro vectors samples`")
    return by_cell[name]


def _reported(choice: dict) -> float:
    """The coefficient as the metrics report it, so that whoever steers by the report pays what is said here."""
    return round(choice["coeff"], 1)


def cell_deltas(cells: pd.DataFrame, vectors: dict[VectorName, Tensor]) -> Tensor:
    """What each cell adds to the residual stream, (cells without prompting, d_model); zero for unsteered.

    Raises: ValueError for a cell whose vector is not there.
    """
    by_cell = {name.cell: v for name, v in vectors.items()}
    by_cell[SHARED, UNSTEERED, ""] = torch.zeros_like(next(iter(vectors.values())))
    deltas = []
    for cell in cells[cells.method != PROMPTING].itertuples():
        deltas.append(cell.coeff * _vector((cell.behaviour, cell.method, cell.variant), by_cell))
    return torch.stack(deltas)


@dataclass(frozen=True)
class Costs:
    """What every cell costs.

    cells: COLUMNS, `ratio_mean` and `ratio_median` over texts, `accuracy` over questions. ratio (cells, texts): perplexity
    as a multiple of unsteered text's. right (cells, questions): 0 or 1, shared between options that tie. Row 0 of each is
    unsteered. nats: unsteered cross-entropy. tasks: of each question. chance: of each task.
    """

    cells: pd.DataFrame
    ratio: NDArray
    right: NDArray
    nats: float
    tasks: NDArray
    chance: dict[str, float]
    scales: list[float]
    model: str

    @property
    def grid(self) -> pd.DataFrame:
        """The cells of the grid of scales."""
        return self.cells[~self.cells.chosen & (self.cells.method != UNSTEERED)]

    def chosen(self, method: str) -> NDArray:
        """Rows of a method's cells at its chosen scales, in the order of the behaviours."""
        return np.flatnonzero((self.cells.method == method) & self.cells.chosen)

    def at_scale(self, method: str, scale: float) -> NDArray:
        """Rows of a method's cells at a scale of the grid, in the order of the behaviours."""
        return np.flatnonzero((self.cells.method == method) & ~self.cells.chosen & (self.cells.scale == scale))

    @property
    def methods(self) -> list[str]:
        """Those that steer, in the order of tables."""
        return method_order([m for m in METHODS if m in set(self.cells.method)])


def save_costs(
    folder: Path, cells: pd.DataFrame, ce: Tensor, right: Tensor, questions: list[Question], **about: object
) -> None:
    """Write folder/cells.parquet and folder/measured.safetensors.

    `ce` (cells, texts), nats a token; `right` (cells, questions); `about` holds `scales` and `model`.
    """
    tasks = [question.task for question in questions]
    about |= {
        "tasks": tasks,
        "options": [len(question.options) for question in questions],
        "chance": {task: chance_level([q for q in questions if q.task == task]) for task in dict.fromkeys(tasks)},
    }
    save_frame(folder / "cells.parquet", cells)
    save_tensors(folder / "measured.safetensors", {"ce": ce, "right": right}, **about)


def read_costs(cells: Path, measured: Path) -> Costs:
    """What save_costs wrote. Raises: ValueError if the two files are not of one run."""
    tensors, about = load_tensors(measured)
    frame = pd.read_parquet(cells)
    if not len(frame) == len(tensors["ce"]) == len(tensors["right"]):
        raise ValueError(f"{cells} has {len(frame)} cells, {measured.name} {len(tensors['ce'])}; run `dvc repro costs`")
    ratio = (tensors["ce"] - tensors["ce"][:1]).exp().numpy()
    right = tensors["right"].numpy()
    frame["ratio_mean"], frame["ratio_median"] = ratio.mean(axis=1), np.median(ratio, axis=1)
    frame["accuracy"] = right.mean(axis=1)
    return Costs(
        cells=frame,
        ratio=ratio,
        right=right,
        nats=float(tensors["ce"][0].mean()),
        tasks=np.array(json.loads(about["tasks"])),
        chance=json.loads(about["chance"]),
        scales=json.loads(about["scales"]),
        model=about["model"],
    )


def agreement(costs: Costs) -> float:
    """Spearman correlation of the cells' perplexity ratio and accuracy, unsteered text aside; 0 if all answer alike."""
    measured = costs.cells[costs.cells.method != UNSTEERED]
    if measured.accuracy.nunique() == 1:
        return 0.0
    return float(spearmanr(measured.ratio_median, measured.accuracy).statistic)


def answer_sentences(costs: Costs) -> list[str]:
    """What the unsteered model does, and whether both measures tell the same of a cell."""
    guessing = np.mean(list(costs.chance.values()))
    return [
        f"Unsteered, {costs.model.split(':')[0]} needs {costs.nats:.3f} nats a token on {costs.ratio.shape[1]} texts, "
        f"and answers {100 * costs.right[0].mean():.0f} % of {len(costs.tasks)} questions rightly; guessing would answer {100 * guessing:.0f} %.",
        f"Over the other {len(costs.cells) - 1} cells, the perplexity ratio and the accuracy correlate at "
        f"{agreement(costs):+.2f} (Spearman).",
    ]


def count_table(costs: Costs) -> pd.DataFrame:
    """How many cells each method has: at the scales of the grid, and at the chosen ones."""
    counts = pd.crosstab(costs.cells.method, costs.cells.chosen).reindex(columns=[False, True], fill_value=0)
    counts = counts.loc[method_order(list(counts.index))].rename(index=LABELS)
    return counts.set_axis(["at the scales of the grid", "at the chosen scales"], axis=1).rename_axis("method")


def costs_metrics(costs: Costs) -> dict:
    """What reports/metrics/costs.json holds."""
    return {
        "cells": len(costs.cells),
        "unsteered_nats": round(costs.nats, 4),
        "questions": len(costs.tasks),
        "texts": costs.ratio.shape[1],
        "model": costs.model,
    }
