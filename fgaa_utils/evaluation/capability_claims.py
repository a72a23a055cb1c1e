"""The paper's claims on capability, decided on what was measured (paper, section 4, figures 4, 5).

What is kept of perplexity is minus the log of its ratio to unsteered, the median over texts, in nats.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fgaa_utils.evaluation.capability_tables import TENTH
from fgaa_utils.evaluation.claims import Claim, above_all
from fgaa_utils.evaluation.costs import Costs
from fgaa_utils.names import LABELS, PAPER_METHODS


def kept(costs: Costs, rows: NDArray) -> tuple[NDArray, NDArray]:
    """(minus log perplexity ratio, accuracy) of the cells at `rows`, each (rows,)."""
    return -np.log(costs.cells.ratio_median.to_numpy()[rows]), costs.right[rows].mean(axis=1)


def capability_claims(costs: Costs) -> list[Claim]:
    """FGAA keeps capability at the grid's smallest scale, loses it at the largest, and keeps as much as the other methods
    at the chosen ones."""
    smallest, largest = costs.scales[0], costs.scales[-1]
    return [_keeps(costs, smallest), *_loses(costs, largest), _keeps_as_much(costs)]


def _keeps(costs: Costs, scale: float) -> Claim:
    nats, _ = kept(costs, costs.at_scale("fgaa", scale))
    claim = above_all(
        "FGAA keeps capability at the smallest scale of the grid: minus log perplexity, within a tenth",
        nats,
        {"unsteered": np.zeros(len(nats))},
        "Perplexity",
        margin=TENTH,
        limit=np.inf,
    )
    return replace(claim, measured=f"scale {scale:g}: {claim.measured}")


def _loses(costs: Costs, scale: float) -> list[Claim]:
    nats, accuracy = kept(costs, costs.at_scale("fgaa", scale))
    return [
        above_all(
            "FGAA loses capability at the largest scale: minus log perplexity of unsteered text above FGAA's",
            np.zeros(len(nats)),
            {"FGAA": nats},
            "Perplexity",
            limit=np.inf,
        ),
        above_all(
            "FGAA loses capability at the largest scale: unsteered accuracy above FGAA's",
            np.full(len(accuracy), costs.right[0].mean()),
            {"FGAA": accuracy},
            "Multiple choice",
        ),
    ]


def _keeps_as_much(costs: Costs) -> Claim:
    nats = {m: kept(costs, costs.chosen(m))[0] for m in costs.methods if m in PAPER_METHODS}
    return above_all(
        "FGAA keeps as much capability as the others at the chosen scales: minus log perplexity, within a tenth",
        nats["fgaa"],
        {LABELS[m]: values for m, values in nats.items() if m != "fgaa"},
        "At the chosen scale",
        margin=TENTH,
        limit=np.inf,
    )
