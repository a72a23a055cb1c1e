import numpy as np
import pandas as pd
import pytest

from fgaa_utils.evaluation import claims
from fgaa_utils.evaluation.claims import (
    above_all,
    best_on_most,
    claims_metrics,
    claims_table,
    decided_claims,
    label_claims,
    negative_latents_claims,
    score_claims,
    vector_claims,
    verdict,
)
from fgaa_utils.evaluation.results import Results

BEHAVIOURS = np.linspace(0.2, 0.8, 9)
NOISE = 0.02 * np.array([1, -1, 0, 1, -1, 0, 1, -1, 0])


@pytest.mark.parametrize(
    ("lo", "hi", "expected"), [(0.1, 0.2, "holds"), (-0.2, -0.1, "does not hold"), (-0.1, 0.1, "undecided")]
)
def test_the_interval_decides(lo, hi, expected):
    assert verdict(lo, hi) == expected
    assert verdict(lo + 0.5, hi + 0.5, 0.5) == expected


def test_every_other_must_be_exceeded():
    worse, better = BEHAVIOURS - 0.1 + NOISE, BEHAVIOURS + 0.1 + NOISE
    assert above_all("c", BEHAVIOURS, {"a": worse, "b": worse}, "t").verdict == "holds"
    assert above_all("c", BEHAVIOURS, {"a": worse, "b": better}, "t").verdict == "does not hold"
    same = BEHAVIOURS + np.roll(NOISE, 1) - NOISE
    assert above_all("c", BEHAVIOURS, {"a": worse, "b": same}, "t").verdict == "undecided"


def test_a_margin_allows_for_a_small_loss():
    better = BEHAVIOURS + 0.05 + NOISE / 4
    assert above_all("c", BEHAVIOURS, {"a": better}, "t").verdict == "does not hold"
    assert above_all("c", BEHAVIOURS, {"a": better}, "t", margin=0.1).verdict == "holds"


def test_what_was_measured_is_printed():
    claim = above_all("FGAA is best", BEHAVIOURS, {"CAA": BEHAVIOURS - 0.25}, "Scores")
    assert "CAA +0.250 [+0.250, +0.250]" in claim.measured and claim.shown_in == "Scores"


@pytest.mark.parametrize(("ahead", "expected"), [(9, "holds"), (0, "does not hold"), (5, "undecided")])
def test_best_on_most_counts_draws(ahead, expected):
    rng = np.random.default_rng(0)
    ours = np.where(np.arange(9)[:, None] < ahead, 0.6, 0.4) + rng.normal(0, 0.05, (9, 400))
    others = {name: 0.5 + rng.normal(0, 0.05, (9, 400)) for name in ("a", "b")}
    claim = best_on_most("c", {"fgaa": ours} | others, "fgaa", "t")
    assert claim.verdict == expected and "of 9" in claim.measured


def test_a_tie_is_first_but_not_alone():
    same = np.full((3, 10), 0.5)
    claim = best_on_most("c", {"fgaa": same, "a": same}, "fgaa", "t")
    assert claim.measured.startswith("first on 3 of 3 [3, 3], alone on 0") and claim.verdict == "holds"


def scores_of(values):
    """A stand-in for Results: what the claims read of it."""
    keys = [f"b{i}" for i in range(9)]
    rows = [(k, m, "", s, s * 100) for k in keys for m in values for s in ((0.0,) if m == "unsteered" else (0.1, 0.5))]
    curve = pd.DataFrame(rows, columns=["target", "method", "variant", "scale", "coeff"])
    curve["C"] = [0.9 if s < 0.2 else 0.2 for s in curve.scale]
    choices = curve[curve.scale < 0.2].drop(columns="C").reset_index(drop=True)
    draws = {m: np.tile(v[:, None], 50) for m, v in values.items()}
    bcs = {m: {k: {"value": x} for k, x in zip(keys, v)} for m, v in values.items()}
    test = curve.assign(behaviour=curve.target, coherence=curve.C, **{f"B_{k}": 0.5 for k in keys})
    return Results(dict.fromkeys(keys, "B"), "nats", "m", test, test, choices, bcs, draws, True, test, curve)


def test_score_claims_hold_where_fgaa_is_ahead_and_coherence_falls_with_the_scale():
    ahead = {"fgaa": BEHAVIOURS} | {m: BEHAVIOURS - 0.1 + NOISE for m in ("caa", "sae", "sae_ts", "unsteered")}
    claims = {c.claim: c for c in score_claims(scores_of(ahead), margin=0.05)}
    assert [c.verdict for c in claims.values()] == ["holds"] * 4
    assert "CAA +0.100" in claims["FGAA has the highest average BCS"].measured
    hard = claims["Steering hard costs coherence: FGAA's largest scale against unsteered text"]
    assert "the largest scale +0.700 [+0.700, +0.700]" in hard.measured
    behind = ahead | {"caa": BEHAVIOURS + 0.1 + NOISE}
    assert score_claims(scores_of(behind), margin=0.05)[0].verdict == "does not hold"


def test_claims_by_labels_take_the_labels_scores():
    rows = [
        (f"b{i}", m, v + (0 if m == "fgaa" else 0.1 + e), 0.8 + e / 9)
        for m in ("fgaa", "caa", "sae", "sae_ts")
        for i, (v, e) in enumerate(zip(BEHAVIOURS, NOISE))
    ]
    labelled = pd.DataFrame(rows, columns=["behaviour", "method", "behaviour_label", "coherence_label"])
    best, coherent = label_claims(labelled, margin=0.05)
    assert best.verdict == "does not hold" and coherent.verdict == "holds"
    assert claims_metrics([best])["claims"] == {"By the labels: FGAA has the highest average BCS": "does not hold"}


def test_negative_latents_hurt_if_the_score_falls_with_them():
    keys = [f"b{i}" for i in range(9)]
    rows = [
        (k, n1, n2, v - 0.02 * n2 + e) for k, v, e in zip(keys, BEHAVIOURS, NOISE) for n1 in (1, 2) for n2 in (0, 4)
    ]
    best = pd.DataFrame(rows, columns=["target", "n1", "n2", "BCS"])
    [claim] = negative_latents_claims(best, keys, 0)
    assert claim.verdict == "holds" and "n2 = 4 +0.080" in claim.measured
    assert negative_latents_claims(best.assign(n2=4 - best.n2), keys, 0)[0].verdict == "does not hold"
    assert negative_latents_claims(best[best.n2 == 0], keys, 0) == []


def test_vector_claims_compare_cosines_and_the_distance_of_norms():
    keys = ["a", "b", "c"]
    cosine = {
        "sae_ts": dict.fromkeys(keys, 0.9),
        "caa": dict(zip(keys, (0.2, 0.3, 0.25))),
        "sae": dict(zip(keys, (0.1, 0.2, 0.1))),
    }
    norm, closer = vector_claims(cosine, keys, 1e-7)
    assert norm.verdict == "does not hold" and norm.measured.endswith("1e-07") and closer.verdict == "holds"
    assert vector_claims(cosine | {"caa": dict(zip(keys, (0.95, 0.96, 0.97)))}, keys, 0.1)[1].verdict == "does not hold"
    assert vector_claims(cosine, keys, 0.1)[0].verdict == "holds"


def test_the_table_of_claims_has_a_row_each():
    table = claims_table([above_all("c", BEHAVIOURS, {"a": BEHAVIOURS - 0.1}, "t")])
    assert list(table) == ["claim", "measured", "verdict", "shown in"] and len(table) == 1


def test_claims_by_labels_are_made_only_of_a_run_that_has_labels(monkeypatch):
    asked = []
    for name in ("score", "label", "negative_latents", "vector"):
        monkeypatch.setattr(claims, f"{name}_claims", lambda *args, name=name, **kwargs: asked.append(name) or [name])
    results = Results.__new__(Results)
    object.__setattr__(results, "names", {"love": "Love"})
    about = {"n2": 0, "margin": 0.1, "samples": {"cosine_with_fgaa": {}}, "vectors": {"l1_l2_distance": 0.0}}
    assert decided_claims(results, None, pd.DataFrame(), **about) == ["score", "negative_latents", "vector"]
    assert decided_claims(results, pd.DataFrame({"text": ["a"]}), pd.DataFrame(), **about)[1] == "label" in asked
