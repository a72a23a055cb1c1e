"""Made-up costs of cells: what a method does to a token's loss and to the answers is given, the layout is the real one."""

import numpy as np
import pandas as pd
import torch

from fgaa_utils.data.questions import Question
from fgaa_utils.evaluation.costs import Costs, cost_cells, read_costs, save_costs
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.names import CONTROLS, PAPER_METHODS, PROMPTING, SHARED, UNSTEERED, VectorName

BEHAVIOURS = {"anger": "Anger", "french": "French", "love": "Love"}
SCALES = [0.1, 0.2, 0.4]
QUESTIONS = [
    Question(task, "", str(i), "x", options, 0)
    for task, options in (("sciq", ("a", "b")), ("mmlu", ("a", "b", "c", "d")))
    for i in range(4)
]
NAMES = [VectorName(SHARED, "bias")] + [
    VectorName(SHARED, c, draw=i) for c in CONTROLS if c != "bias" for i in (10, 2, 1)
]
VARIANTS = {"fgaa": "n1=4,n2=0", "sae": "rank=1", "sae_ts": "rank=2", "caa": ""}
CHOSEN = [VectorName.parse(f"{b}.{m}.{v}".rstrip(".")) for b in BEHAVIOURS for m, v in VARIANTS.items()]
VECTORS = dict.fromkeys([*CHOSEN, *NAMES], torch.ones(1))
NATS = {"fgaa": 4.0, "sae_ts": 5.0, "sae": 0.6, "caa": 0.3, PROMPTING: 0.2}  # of loss at scale 1; of prompting at all


def made_choices(unit: float = 100.0) -> dict:
    scale = dict(zip(BEHAVIOURS, (0.1, 0.2, 0.2)))
    choices = {
        m: {b: {"scale": scale[b], "coeff": scale[b] * unit + 0.04, "variant": VARIANTS[m]} for b in BEHAVIOURS}
        for m in PAPER_METHODS
    }
    return choices | {PROMPTING: {b: {"scale": 0.0, "coeff": 0.0, "variant": "draw=2"} for b in BEHAVIOURS}}


def made_cells(unit: float = 100.0) -> pd.DataFrame:
    return cost_cells(made_choices(unit), list(BEHAVIOURS), VECTORS, SCALES, Strength("resid_std", unit))


def made_costs(folder, *, nats: dict[str, float] = NATS, spread: float = 0.0, texts: int = 5) -> Costs:
    """Costs whose loss is nats[method] times scale, the same for every behaviour and text but for `spread`.

    Unsteered loss is 3 nats. The first questions are answered rightly: all 8 unsteered, one less for each 0.1 of scale.
    """
    cells = made_cells()
    rng = np.random.default_rng(0)
    rise = [nats.get(c.method, 1.0) * (c.scale if c.method != PROMPTING else 1.0) for c in cells.itertuples()]
    rise = np.where(cells.method == UNSTEERED, 0.0, rise)
    ce = 3 + rise[:, None] + spread * rng.standard_normal((len(cells), texts)) * (rise[:, None] > 0)
    right = np.array([[i < 8 - round(10 * c.scale) for i in range(8)] for c in cells.itertuples()])
    tensors = torch.tensor(ce, dtype=torch.float32), torch.tensor(right, dtype=torch.float32)
    save_costs(folder, cells, *tensors, QUESTIONS, scales=SCALES, model="tiny:0:float32")
    return read_costs(folder / "cells.parquet", folder / "measured.safetensors")


def made_bcs(heights: dict[str, float]) -> dict:
    """As of bcs_table: every behaviour has the method's height, 0.1 either way."""
    entry = {m: {"value": v, "lo": v - 0.1, "hi": v + 0.1, "n": 9} for m, v in heights.items()}
    return {m: dict.fromkeys([*BEHAVIOURS, "average"], e) for m, e in entry.items()}
