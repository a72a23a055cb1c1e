"""A made-up plan of ablations, with samples to match, for tests of what is computed from them."""

import numpy as np
import pandas as pd

from fgaa_utils.evaluation.ablation_plan import DEFAULT, Plan, row_changes
from fgaa_utils.evaluation.ablation_tables import Scores, differences

KEYS = [f"b{i}" for i in range(9)]
RECIPE = {
    "include_bos": True,
    "theta": 0.01,
    "density_filter": True,
    "bos_filter": True,
    "target_norm": "l1",
    "bias_weight": 1.0,
    "fit": "adam",
    "n1": None,
    "n2": 0,
    "draw": 0,
    "examples": None,
    "effect_vectors": None,
}
ROWS = row_changes(
    [
        {"density_filter": False},
        {"theta": 0.003},
        {"theta": 0.03},
        {"bias_weight": 0.0, "fit": "decoder"},
        {"target_norm": "l2"},
        {"examples": 2},
        {"examples": 5},
        {"examples": 2, "draw": 1},
    ],
    heat_n1=[1, 8],
    heat_n2=[0, 4],
)


def made_plan(rows: dict[str, dict] = ROWS) -> Plan:
    """Every row has texts of its own but target_norm l2, which has the default's."""
    own = {row: DEFAULT if "target_norm" in row else row for row in (DEFAULT, *rows)}
    names = {row: {b: (b, "ablation", label) for b in KEYS} for row, label in own.items()}
    scales = {name: 0.1 for cells in names.values() for name in cells.values()}
    counts = {"vectors": {"all": 9 * len(names), "new": 9}, "samples": {"validation": 90, "test": 90}}
    whole = {"examples": 10, "effect_vectors": 300}
    return Plan(KEYS, RECIPE, dict.fromkeys(KEYS, 2), whole, rows, names, scales, counts, "tiny:0")


def made_samples(plan: Plan, means: dict[str, float] | None = None) -> pd.DataFrame:
    """Twelve samples of every cell; means[row]: the mean behaviour of a row's texts, 0.5 where none is given."""
    rng, parts = np.random.default_rng(0), []
    for name, scale in plan.scales.items():
        behaviour, method, variant = name
        mean = (means or {}).get(variant, 0.5)
        scored = {f"B_{behaviour}": mean + rng.uniform(-0.1, 0.1, 12), "coherence": rng.uniform(0.7, 0.9, 12)}
        cell = {"behaviour": behaviour, "method": method, "variant": variant, "scale": scale}
        parts.append(pd.DataFrame(cell | {"prompt": list("abcd") * 3} | scored))
    return pd.concat(parts, ignore_index=True)


def made_scores(plan: Plan, shifts: dict[str, tuple[float, float]]) -> Scores:
    """Scores whose differences from the default have the mean and the standard deviation over behaviours that `shifts`
    gives for a row; others differ by -0.01 and 0.1."""
    base = np.linspace(0.2, 0.6, len(KEYS))
    pattern = np.tile([1.0, -1.0, 0.0], 3) / (0.75**0.5)
    scores = {DEFAULT: base}
    for row in plan.rows:
        mean, spread = (0.0, 0.0) if plan.same(row) else shifts.get(row, (-0.01, 0.1))
        scores[row] = base + mean + spread * pattern
    table = {row: {"value": round(float(v.mean()), 4), "lo": 0.1, "hi": 0.6, "n": 108} for row, v in scores.items()}
    for row, difference in differences(scores, plan).items():
        table[row]["difference"] = difference
    return Scores(scores, table)
