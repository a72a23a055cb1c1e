"""Verdicts on the claims of the paper, computed from this run: holds, does not hold or undecided.

An interval decides: a claim that the data cannot tell from its opposite is undecided, whatever the point estimate.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import chosen_samples
from fgaa_utils.judges.labels import method_scores
from fgaa_utils.names import LABELS, PAPER_METHODS, UNSTEERED
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


def claims_metrics(claims: list[Claim]) -> dict[str, dict[str, str]]:
    """The verdicts and where they are decided, for a metrics file."""
    return {
        "claims": {c.claim: c.verdict for c in claims},
        "claims_shown_in": {c.claim: c.shown_in for c in claims},
    }


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """One row a claim, as a page shows it."""
    return pd.DataFrame(claims).rename(columns={"shown_in": "shown in"})


def decided_claims(
    results: Results,
    labelled: pd.DataFrame | None,
    best: pd.DataFrame,
    *,
    n2: int,
    margin: float,
    samples: dict,
    vectors: dict,
) -> list[Claim]:
    """All claims of the page; without labelled texts of this run none is by labels. best: of latent_counts.best_by_latents.
    samples, vectors: metrics of these stages."""
    decided = score_claims(results, margin=margin)
    if labelled is not None:
        decided += label_claims(labelled, margin=margin)
    decided += negative_latents_claims(best, results.keys, n2)
    return decided + vector_claims(samples["cosine_with_fgaa"], results.keys, vectors["l1_l2_distance"])


def _rivals(ours: str) -> list[str]:
    return [m for m in PAPER_METHODS if m != ours]


def score_claims(results: Results, *, margin: float) -> list[Claim]:
    """The claims that the scores decide, on test prompts but for the scales that only validation has; `margin`: loss of
    coherence that counts as keeping it."""
    rivals = _rivals("fgaa")
    coherence = {m: _coherence_at_choice(results, m) for m in PAPER_METHODS}
    largest, plain = (
        results.curve[(results.curve.method == method) & (results.curve.scale == scale)].set_index("target")
        for method, scale in (("fgaa", results.scales[-1]), (UNSTEERED, 0.0))  # of the same texts, test or validation
    )
    return [
        above_all(
            "FGAA has the highest average BCS",
            results.scores("fgaa"),
            {LABELS[m]: results.scores(m) for m in rivals},
            "FGAA against each other method",
        ),
        best_on_most(
            "FGAA is the best method on most behaviours, alone or level",
            {m: results.draws[m] for m in PAPER_METHODS},
            "fgaa",
            "Scores on test prompts",
        ),
        above_all(
            "FGAA keeps text coherent: as coherent as the others at their chosen scales, within the margin",
            coherence["fgaa"],
            {LABELS[m]: coherence[m] for m in rivals},
            "Behaviour against coherence",
            margin=margin,
        ),
        above_all(
            "Steering hard costs coherence: FGAA's largest scale against unsteered text",
            plain.loc[results.keys].C.to_numpy(),
            {"the largest scale": largest.loc[results.keys].C.to_numpy()},
            "Behaviour against coherence",
        ),
    ]


def _coherence_at_choice(results: Results, method: str) -> NDArray:
    """Mean coherence (behaviours,) of a method's chosen cells."""
    cells = [chosen_samples(results.test, results.choice(method, key)) for key in results.keys]
    return np.array([np.nanmean(cell.coherence) for cell in cells])


def label_claims(labelled: pd.DataFrame, *, margin: float) -> list[Claim]:
    """The same by annotators' labels of texts with columns method, behaviour, behaviour_label and coherence_label."""
    rivals = _rivals("fgaa")
    scores, _ = method_scores(labelled, "label", draws=2, seed=0)  # the claims take intervals over behaviours alone
    coherence = labelled.pivot_table(index="behaviour", columns="method", values="coherence_label")
    return [
        above_all(
            "By the labels: FGAA has the highest average BCS",
            scores["fgaa"],
            {LABELS[m]: scores[m] for m in rivals},
            "The judge's page, Against labels of steered text",
        ),
        above_all(
            "By the labels: FGAA's text is as coherent as the others', within the margin",
            coherence["fgaa"].to_numpy(),
            {LABELS[m]: coherence[m].to_numpy() for m in rivals},
            "The judge's page, Against labels of steered text",
            margin=margin,
        ),
    ]


def negative_latents_claims(best: pd.DataFrame, keys: list[str], default_n2: int) -> list[Claim]:
    """The claim that negative latents hurt, from latent_counts.best_by_latents; none of a run that tried one n2."""
    most = int(best.n2.max())
    if best.n2.nunique() == 1:
        return []
    by_n2 = {n2: part.groupby("target").BCS.mean().loc[keys].to_numpy() for n2, part in best.groupby("n2")}
    claim = above_all(
        "More negative latents (n2) hurt: none against the most tried, best validation BCS averaged over n1",
        by_n2[default_n2],
        {f"n2 = {most}": by_n2[most]},
        "n1 and n2",
    )
    return [claim]


def vector_claims(cosine: dict[str, dict[str, float]], keys: list[str], l1_l2_distance: float) -> list[Claim]:
    """The claims about the vectors themselves; cosine[method][behaviour] of FGAA's with the method's, as chosen."""
    of = {m: np.array([cosine[m][key] for key in keys]) for m in _rivals("fgaa")}
    return [
        Claim(
            "The norm of the target (L1 or L2) matters",
            f"distance between the unit vectors {l1_l2_distance:.0e}",
            "does not hold" if l1_l2_distance < 1e-3 else "holds",
            "Claims of the paper (distances of 03_vectors)",
        ),
        above_all(
            "FGAA's vectors lie closer to SAE-TS than to CAA and decoder rows (cosine, at the chosen variants)",
            of["sae_ts"],
            {LABELS[m]: of[m] for m in of if m != "sae_ts"},
            "Claims of the paper (vectors of 03_vectors)",
        ),
    ]
