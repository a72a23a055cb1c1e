"""Made-up samples of every kind of cell, with random scores, for the tests of what reads them."""

import numpy as np
import torch

from fgaa_utils.evaluation.cells import cell_grid, expand_samples
from fgaa_utils.evaluation.scales import Strength

KEYS = ["anger", "love"]
SCALES = [0.1, 0.2, 0.4]
PROMPTS = ["I think", "We"]
OWN = [
    (key, method, variant)
    for key in KEYS
    for method, variant in (("caa", ""), ("fgaa", "n1=2,n2=0"), ("fgaa", "n1=16,n2=0"))
]
SHARED = [("shared", "random", "draw=1"), ("shared", "random", "draw=2")]


def scored(seed, *, samples=3, step=0.0, own=OWN, shared=SHARED, plain=()):
    """Samples of all cells with random scores, in shuffled order; `step` rounds them, so that cells tie."""
    rng = np.random.default_rng(seed)
    cells = cell_grid(dict.fromkeys([*own, *shared], torch.ones(1)), SCALES, Strength("resid_std", 100.0), plain=plain)
    frame = expand_samples(cells, PROMPTS, samples, seeds=(0, 1))
    for column in ("coherence", *(f"B_{key}" for key in KEYS)):
        values = rng.random(len(frame))
        frame[column] = np.round(values / step) * step if step else values
    return frame.sample(frac=1, random_state=seed).reset_index(drop=True)


def samples_of(frame, target, method, variant, scale):
    """[(B, coherence, prompt)] of one cell for one target, by a plain loop."""
    return [
        (row[f"B_{target}"], row["coherence"], row["prompt"])
        for row in frame.to_dict("records")
        if row["behaviour"] in (target, "shared")
        and (row["method"], row["variant"], row["scale"]) == (method, variant, scale)
    ]


def score_of(cell):
    return float(np.mean([b for b, _, _ in cell]) * np.mean([c for _, c, _ in cell]))
