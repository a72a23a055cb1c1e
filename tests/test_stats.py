import json

import numpy as np
import pytest
from scipy.stats import norm, spearmanr, t, ttest_rel
from scipy.stats.mstats import mquantiles
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from fgaa_utils.stats import (
    area_under_curve,
    average_draws,
    bcs,
    bcs_draws,
    bootstrap_metric,
    crossed_draws,
    detectable_difference,
    estimate,
    holm,
    interval,
    paired_comparisons,
    paired_difference,
    paired_samples,
    rank_correlation,
    resample,
)


def simulated(rng, *, prompts, samples):
    """(behaviour, coherence, groups) of samples whose true BCS is 0.5 x 0.6: prompts differ as much as samples do."""
    groups = np.repeat(np.arange(prompts), samples)
    effect_b, effect_c = rng.normal(0, 0.15, size=(2, prompts))
    behaviour = 0.5 + effect_b[groups] + rng.normal(0, 0.15, len(groups))
    coherence = 0.6 + effect_c[groups] + rng.normal(0, 0.15, len(groups))
    return behaviour, coherence, groups


def test_the_interval_covers_the_truth():
    # Plain percentiles hold it more seldom; prompts that differ little and samples that differ much, likewise.
    rng = np.random.default_rng(0)
    for prompts, samples in ((4, 5), (10, 3)):
        covered, plain = [], []
        for seed in range(800):
            behaviour, coherence, groups = simulated(rng, prompts=prompts, samples=samples)
            draws = bcs_draws(behaviour, coherence, groups, draws=400, seed=seed)
            entry = estimate(bcs(behaviour, coherence), draws, len(groups), units=prompts)
            covered.append(entry["lo"] <= 0.3 <= entry["hi"])
            lo, hi = interval(draws)
            plain.append(lo <= 0.3 <= hi)
        assert 0.93 < np.mean(covered) < 0.965
        assert np.mean(plain) < np.mean(covered) - 0.02


def test_the_interval_of_an_average_covers_the_truth():
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(800):  # nine behaviours of many, whose scores are noisy
        scores = np.clip(rng.normal(0.4, 0.12, 9) + rng.normal(0, 0.05, 9), 0, 1)
        entry = estimate(scores.mean(), average_draws(scores, draws=400, seed=seed), 9, units=9)
        covered.append(entry["lo"] <= 0.4 <= entry["hi"])
    assert 0.93 < np.mean(covered) < 0.965


def test_draws_spread_as_repeating_the_experiment_does():
    rng = np.random.default_rng(0)
    values, spreads = [], []
    for seed in range(200):
        data = simulated(rng, prompts=40, samples=12)
        values.append(bcs(*data[:2]))
        spreads.append(bcs_draws(*data, draws=300, seed=seed).std())
    assert 0.85 < np.mean(spreads) / np.std(values) < 1.15


def test_expanded_percentiles_are_students_interval_for_a_normal_mean():
    """Of many draws of a mean of n normal values, whose bootstrap spread is the root of (n-1)/n too small."""
    for count in (4, 9, 30):
        spread = ((count - 1) / count) ** 0.5
        draws = norm.ppf((np.arange(200_000) + 0.5) / 200_000) * spread
        np.testing.assert_allclose(interval(draws, units=count), t.interval(0.95, count - 1), rtol=0.01)


def test_one_unit_gives_plain_percentiles():
    draws = np.random.default_rng(0).normal(size=333)
    assert interval(draws, units=1) == interval(draws)


def test_resample_draws_whole_prompts():
    groups = np.array(["b", "a", "c", "a", "b", "c", "c", "b", "a"])
    index = resample(groups, 500, np.random.default_rng(0))
    assert index.shape == (500, 9)
    blocks = groups[index].reshape(500, 3, 3)
    for draw in blocks:
        for block in draw:
            assert len(set(block.tolist())) == 1
    chosen = {tuple(draw[:, 0].tolist()) for draw in blocks}
    assert len(chosen) == 27  # every prompt in every place: prompts are drawn with replacement
    within = {tuple(sorted(block.tolist())) for draw in index.reshape(500, 3, 3) for block in draw}
    assert within == {(0, 4, 7), (1, 3, 8), (2, 5, 6)}  # with all samples of each
    one = resample(np.zeros(3), 500, np.random.default_rng(0))
    assert len({tuple(sorted(draw)) for draw in one.tolist()}) == 10  # multisets of 3 of 3 samples
    counts = np.bincount(index.ravel(), minlength=9)
    assert np.all(abs(counts / 500 - 1) < 0.2)  # every sample equally often


def test_resample_refuses_unequal_prompts():
    with pytest.raises(ValueError, match=r"\{'a': 2, 'b': 1\}"):
        resample(np.array(["a", "b", "a"]), 10, np.random.default_rng(0))


def test_bcs_is_the_product_of_means():
    behaviour, coherence = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert bcs(behaviour, coherence) == 0.25  # the mean of products is 0


def test_missing_scores_are_skipped():
    behaviour, coherence = np.array([0.2, np.nan, 0.4]), np.array([0.5, 0.7, np.nan])
    assert bcs(behaviour, coherence) == pytest.approx(0.3 * 0.6)
    draws = bcs_draws(behaviour, coherence, np.zeros(3), draws=100, seed=0)
    assert np.isfinite(draws).mean() > 0.9


def test_bcs_draws_take_behaviour_and_coherence_of_the_same_samples():
    behaviour = np.array([0.1, 0.4, 0.9, 0.3])
    groups = np.array([0, 0, 1, 1])
    mirrored = bcs_draws(behaviour, 1 - behaviour, groups, draws=200, seed=1)
    means = np.sqrt(bcs_draws(behaviour, behaviour, groups, draws=200, seed=1))
    np.testing.assert_allclose(mirrored, means * (1 - means))


def test_draws_depend_on_the_seed_alone():
    data = simulated(np.random.default_rng(0), prompts=4, samples=3)
    first, again, other = (bcs_draws(*data, draws=50, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_the_percentiles(level):
    draws = np.random.default_rng(0).normal(size=333)
    expected = mquantiles(draws, [(1 - level) / 2, (1 + level) / 2], alphap=1, betap=1)
    np.testing.assert_allclose(interval(draws, level), expected)


def test_estimate_for_a_metrics_file():
    entry = estimate(1 / 3, np.linspace(0, 1, 10001), 48)
    assert json.loads(json.dumps(entry)) == {"value": 0.3333, "lo": 0.025, "hi": 0.975, "n": 48}


def test_average_draws_draw_behaviours():
    averages = average_draws(np.array([0.0, 1.0]), draws=4000, seed=0)
    assert averages.shape == (4000,)
    for value, share in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.25)):  # two of two, with replacement
        assert abs((averages == value).mean() - share) < 0.04


def test_no_false_winner():
    # Two identical methods, nine behaviours: one interval in twenty excludes zero. (Bootstrap percentiles: one in nine.)
    rng = np.random.default_rng(0)
    winners = 0
    for _ in range(500):
        truth = rng.uniform(0.1, 0.6, 9)
        ours, other = truth + rng.normal(0, 0.05, (2, 9))
        _, lo, hi = paired_difference(ours, other)
        winners += not lo <= 0 <= hi
    assert 0.03 < winners / 500 < 0.07


def test_paired_difference_finds_a_small_steady_gain():
    truth = np.linspace(0, 1, 9)
    noise = 0.01 * np.array([1, -1, 0, 1, -1, 0, 1, -1, 0])
    mean, lo, hi = paired_difference(truth + 0.05 + noise, truth)
    assert mean == pytest.approx(0.05)
    assert 0.04 < lo < mean < hi < 0.06
    reverse = paired_difference(truth, truth + 0.05 + noise)
    np.testing.assert_allclose(reverse, (-mean, -hi, -lo))
    np.testing.assert_allclose((lo, hi), ttest_rel(truth + 0.05 + noise, truth).confidence_interval(), rtol=1e-6)


def test_the_interval_of_a_paired_difference_is_students_by_hand():
    rng = np.random.default_rng(3)
    for count in (2, 3, 9, 40):
        for spread in (1.0, 1e-3, 0.0):
            other = rng.uniform(0, 1, count)
            ours = other + rng.normal(0.05, spread, count) * (spread > 0)
            half = t.ppf(0.975, count - 1) * (ours - other).std(ddof=1) / count**0.5
            mean = (ours - other).mean()
            np.testing.assert_allclose(
                paired_difference(ours, other), (mean, mean - half, mean + half), rtol=0, atol=1e-12
            )


def test_one_behaviour_decides_nothing():
    assert paired_difference(np.array([0.9]), np.array([0.1])) == (pytest.approx(0.8), -1.0, 1.0)


def test_comparisons_carry_holms_correction_and_wins():
    rng = np.random.default_rng(1)
    ours = rng.uniform(0.3, 0.7, 9)
    others = {"same": ours.copy(), "far": ours - 0.3 + rng.normal(0, 0.02, 9), "near": ours - rng.normal(0.03, 0.05, 9)}
    table = paired_comparisons(ours, others)
    raw = {name: ttest_rel(ours, other).pvalue for name, other in others.items() if name != "same"}
    assert table["far"]["p"] == pytest.approx(3 * raw["far"], abs=1e-4)
    assert table["near"]["p"] == pytest.approx(min(1, 2 * raw["near"]), abs=1e-4)
    assert table["same"] == {"value": 0, "lo": 0, "hi": 0, "p": 1, "wins": 0, "n": 9}
    assert table["far"]["wins"] == 9 and json.loads(json.dumps(table)) == table
    assert paired_comparisons(ours[:1], {"far": others["far"][:1]})["far"]["p"] == 1


def test_holm_is_that_of_statsmodels():
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(0, 0.1, size=7).round(2)  # ties too
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_keeps_the_family_wise_error_among_identical_methods():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        truth = rng.uniform(0.1, 0.6, 9)
        noisy = {str(i): truth + rng.normal(0, 0.05, 9) for i in range(8)}
        table = paired_comparisons(noisy.pop("0"), noisy)
        false += min(entry["p"] for entry in table.values()) < 0.05
    assert false / 300 < 0.08


def test_a_detectable_difference_is_detected_four_times_in_five():
    rng = np.random.default_rng(0)
    ours, other = rng.normal(0, 0.1, (2, 9))
    difference = detectable_difference(ours, other)
    sd = (ours - other).std(ddof=1)
    found = [ttest_rel(difference + rng.normal(0, sd, 9), np.zeros(9)).pvalue < 0.05 for _ in range(1000)]
    assert 0.76 < np.mean(found) < 0.84
    assert detectable_difference(ours[:1], other[:1]) == 1


def test_bootstrap_metric_keeps_both_labels_and_pairs():
    labels = np.array([0] * 20 + [1])
    scores = np.arange(21) / 20

    def checked(drawn, drawn_scores):
        assert sorted(drawn.tolist()) == [0] * 20 + [1]
        assert {(lab, s) for lab, s in zip(drawn.tolist(), drawn_scores.tolist())} <= set(
            zip(labels.tolist(), scores.tolist())
        )
        return drawn_scores.mean()

    draws = bootstrap_metric(checked, labels, scores, draws=50, seed=0)
    assert draws.shape == (50,) and len(set(draws.tolist())) > 10


def test_bootstrap_metric_spreads_like_the_metric():
    """Standard deviation of AUC over fresh data sets against that of the bootstrap of one."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    fresh = [roc_auc_score(labels, labels + rng.normal(0, 1, 120)) for _ in range(200)]
    draws = bootstrap_metric(roc_auc_score, labels, labels + rng.normal(0, 1, 120), draws=200, seed=0)
    assert 0.7 < draws.std() / np.std(fresh) < 1.4


def one_comparison(rng, shift):
    """paired_samples of two methods on nine behaviours, ten prompts of three samples; prompts differ in level."""
    groups, samples = np.repeat(np.arange(10), 3), []
    for extra in (shift, 0.0):
        level = rng.normal(0, 0.15, size=(9, 10))[:, groups]
        samples.append(np.clip(0.5 + extra + level + rng.normal(0, 0.2, size=(9, 30)), 0, 1))
    ones = np.ones(30)
    draws = [np.stack([bcs_draws(b, ones, groups, draws=300, seed=0) for b in side]) for side in samples]
    means = [side.mean(axis=1) for side in samples]
    return paired_samples(means[0] - means[1], draws[0] - draws[1], units=10)


def test_identical_methods_seldom_differ_on_any_behaviour():
    rng = np.random.default_rng(5)
    families = [one_comparison(rng, 0.0) for _ in range(120)]
    assert np.mean([min(e["p"] for e in family) < 0.05 for family in families]) < 0.11
    covered = [e["lo"] <= 0 <= e["hi"] for family in families for e in family]
    assert 0.93 < np.mean(covered) < 0.97  # of two methods that are alike: 3 to 7 % false positives


def test_a_large_difference_is_found_on_most_behaviours():
    families = [one_comparison(np.random.default_rng(seed), 0.35) for seed in range(5)]
    assert np.mean([e["p"] < 0.05 for family in families for e in family]) > 0.6
    assert all(e["p"] <= 1 for family in families for e in family)


def test_equal_scores_differ_nowhere():
    assert paired_samples(np.zeros(2), np.zeros((2, 50)), units=4) == [{"value": 0, "lo": 0, "hi": 0, "p": 1}] * 2


def test_one_prompt_or_one_unit_decides_nothing():
    draws = np.random.default_rng(0).normal(0.5, 0.01, size=(2, 50))
    assert [e["p"] for e in paired_samples(np.full(2, 0.5), draws, units=1)] == [1, 1]
    assert paired_difference(np.array([3.0]), np.array([0.0]), limit=np.inf) == (3.0, -np.inf, np.inf)


def test_crossed_draws_cover_the_mean_of_units_and_items():
    """Units and items with effects of their own: the interval covers the true mean about as often as it says."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        values = rng.normal(size=(12, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(12, 40))
        lo, hi = interval(crossed_draws(values, draws=300, seed=seed), units=12)
        hits += lo <= 0 <= hi
    assert 0.91 <= hits / 300 <= 0.995


def test_crossed_draws_of_constant_values_do_not_vary_and_take_the_median():
    values = np.array([[1.0, 1.0, 100.0], [3.0, 3.0, 300.0]])
    assert set(crossed_draws(np.full((3, 4), 2.0), draws=20, seed=0)) == {2.0}
    draws = crossed_draws(values, draws=400, seed=0, over_items=np.median)
    assert draws.min() == 1.0 and np.median(draws) < 10 < draws.max()


def test_what_can_be_detected_grows_with_the_number_of_comparisons():
    rng = np.random.default_rng(0)
    ours, other = rng.normal(size=9) / 10, rng.normal(size=9) / 10
    alone, of_eight = (detectable_difference(ours, other, comparisons=n) for n in (1, 8))
    assert alone < of_eight < 2 * alone
    assert detectable_difference(10 * ours[:2], 10 * other[:2], comparisons=8) == 1.0, "all that scores can differ by"


@pytest.mark.parametrize("seed", range(5))
def test_rank_statistics_are_those_of_the_libraries_ties_among_them(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 7, 90) / 6, np.round(rng.normal(size=90), 1)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert area_under_curve(a > 0.5, b) == pytest.approx(roc_auc_score(a > 0.5, b), abs=1e-12)
    assert rank_correlation(a, np.ones(90)) == 0 and np.isnan(area_under_curve(np.ones(90), b))
