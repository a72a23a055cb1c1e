"""Verdicts on the claims of the paper, computed from this run: holds, does not hold or undecided.

An interval decides: a claim that the data cannot tell from its opposite is undecided, whatever the point estimate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgaa_utils.stats import interval, paired_difference


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured of it, the verdict, and the section of the notebook that shows it."""

    claim: str
    measured: str
    verdict: str
    shown_in: str


def verdict(lo: float, hi: float, threshold: float = 0.0) -> str:
    """Of a claim that something exceeds the threshold, from its 95 % interval."""
    if lo > threshold:
        return "holds"
    return "does not hold" if hi < threshold else "undecided"


def above_all(
    claim: str, ours: NDArray, others: dict[str, NDArray], shown_in: str, *, margin: float = 0.0, limit: float = 1.0
) -> Claim:
    """The claim that ours exceeds each other, less `margin`, on average over behaviours (behaviours,), paired.

    It holds if it holds against every other, and does not hold if it fails against one. `limit`: see
    stats.paired_difference.
    """
    found = {name: paired_difference(ours, other, limit=limit) for name, other in others.items()}
    verdicts = {verdict(lo, hi, -margin) for _, lo, hi in found.values()}
    overall = next(v for v in ("does not hold", "undecided", "holds") if v in verdicts)
    measured = "; ".join(f"{name} {mean:+.3f} [{lo:+.3f}, {hi:+.3f}]" for name, (mean, lo, hi) in found.items())
    return Claim(claim, f"difference from {measured}", overall, shown_in)


def best_on_most(claim: str, draws: dict[str, NDArray], ours: str, shown_in: str) -> Claim:
    """The claim that no other method scores higher than `ours` on more than half of the behaviours.

    `draws` holds each method's bootstrap scores (behaviours, draws); the interval is that of the count. Two methods
    may have the same vector, hence the same score; then both are best, and the count of sole firsts stands beside.
    """
    rivals = np.stack([values for name, values in draws.items() if name != ours])
    first = (draws[ours] >= rivals.max(axis=0)).sum(axis=0)
    alone = (draws[ours] > rivals.max(axis=0)).sum(axis=0)
    lo, hi = interval(first)
    count = len(draws[ours])
    measured = (
        f"first on {np.median(first):g} of {count} [{lo:g}, {hi:g}], alone on {np.median(alone):g} (bootstrap medians)"
    )
    return Claim(claim, measured, verdict(lo, hi, count / 2), shown_in)
