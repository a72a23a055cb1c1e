import numpy as np
import pytest

from fgaa_utils.evaluation.claims import above_all, best_on_most, verdict

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
