import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from fgaa_utils.method import gradient_figures as figures
from fgaa_utils.method import gradient_tables as tables
from fgaa_utils.method.gradient_checks import DECODER, IN_F_NORM, NATURAL_GRADIENT, PLAIN_GRADIENT, RANDOM, Measured

EIGENVALUES = np.array([8.0, 1.0, 0.6, 0.3, 0.1])
LEVELS = [0.1, 0.5, 2.0]


def made_halves(sizes=(1000, 2000)):
    """Medians rise by 0.1 from size to size; each thing compared has 0.1 less than the one before."""
    rows = []
    for i, rollouts in enumerate(sizes):
        for j, compared in enumerate((PLAIN_GRADIENT, NATURAL_GRADIENT, IN_F_NORM)):
            median = 0.5 + 0.1 * i - 0.1 * j
            quartiles = {"mean": median, "median": median, "lo": median - 0.2, "hi": median + 0.25}
            rows.append({"rollouts": rollouts, "latents": 50 + i, "compared": compared} | quartiles)
    return pd.DataFrame(rows)


def made_measured(ratios=(1.0, 0.9, 0.5)):
    """Three vectors of each kind: the first costs half as much as the second, the third twice as much."""
    rows = [
        {"kind": kind, "vector": v, "nats": nats, "measured": nats * ratio * luck, "error": 0.1 * nats * luck}
        for v, (kind, luck) in enumerate((kind, luck) for kind in (RANDOM, DECODER) for luck in (0.5, 1.0, 2.0))
        for nats, ratio in zip(LEVELS, ratios)
    ]
    kl = pd.DataFrame(rows)
    told = {"correlation": 0.6 / (1 + kl.nats), "ceiling": 0.9 - kl.nats / 10, "slope": 1 - kl.nats / 5}
    agreement = kl[["kind", "vector", "nats"]].assign(**told)
    latents = np.arange(8)
    changes = pd.concat(
        pd.DataFrame(
            {"kind": kind, "vector": v, "latent": latents, "predicted": latents + v, "measured": 2.0 * latents}
        )
        for v, kind in enumerate([RANDOM] * 3 + [DECODER] * 3)
    )
    return Measured(kl, agreement, changes.reset_index(drop=True))


def test_the_verdict_says_what_is_reproduced_what_f_and_what_g_are_worth():
    said = tables.verdict(made_halves(), made_measured())
    assert said.startswith(
        "A latent's gradients from two separate sets of 2,000 rollouts have a cosine of 0.60 (median of 51 latents, "
        "quartiles 0.40 and 0.85); its natural gradients 0.50, or 0.40 where directions are weighed"
    )
    assert (
        "F says what a vector costs up to 0.5 nats a token, where the measured KL is 0.90 times the promised (median "
        "over the kind of vectors furthest off); at 2 it is 0.50 times."
    ) in said
    assert "At 0.1 nats a token G predicts" in said and "correlation of 0.55 (median" in said
    assert "would reach 0.89" in said and said.endswith("a slope of 0.98.")


def test_the_quadratic_form_may_hold_everywhere_or_nowhere():
    assert "up to 2 nats a token" in tables.kl_sentence(made_measured((1.0, 1.0, 1.1)).kl)
    assert tables.kl_sentence(made_measured((1.0, 1.0, 1.1)).kl).endswith(", the largest level.")
    said = tables.kl_sentence(made_measured((1.5, 1.0, 1.0)).kl)
    assert said.startswith("F does not say what a vector costs: where it promises 0.1 nats") and "1.50 times" in said


@pytest.mark.parametrize(("halves", "whole"), [(0.5, (2 / 3) ** 0.5), (1.0, 1.0), (0.0, 0.0), (-0.2, 0.0)])
def test_all_rollouts_are_nearer_the_truth_than_halves_are_to_one_another(halves, whole):
    assert tables.of_all(halves) == pytest.approx(whole)


def test_two_noisy_halves_tell_the_cosine_of_their_mean_with_the_truth():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(100_000)
    halves = truth + rng.standard_normal((2, 100_000))
    mean = halves.mean(axis=0)
    cosine = float(np.corrcoef(halves)[0, 1])
    assert tables.of_all(cosine) == pytest.approx(np.corrcoef(mean, truth)[0, 1], abs=0.01)


def test_how_far_more_rollouts_help():
    said = tables.growth(made_halves())
    assert said.startswith(
        "From 1,000 to 2,000 rollouts of each half the median cosine of the gradients goes from 0.50 to 0.60."
    )
    assert f"{(1.2 / 1.6) ** 0.5:.2f} with the true ones" in said
    assert tables.growth(made_halves((1000,))).startswith("If the halves err independently")


def test_halves_by_rollouts_with_quartiles():
    table = tables.halves_table(made_halves())
    assert table.index.name == "rollouts of each half" and table.index.tolist() == [1000, 2000]
    assert list(table.columns) == ["latents", PLAIN_GRADIENT, NATURAL_GRADIENT, IN_F_NORM]
    assert table.loc[2000].tolist() == [51, "0.60 [0.40, 0.85]", "0.50 [0.30, 0.75]", "0.40 [0.20, 0.65]"]


def test_kl_by_level_and_kind():
    table = tables.kl_table(made_measured().kl)
    assert list(table.columns) == [RANDOM, DECODER, "measured over nominal", "standard error"]
    assert table.loc[2.0].tolist() == pytest.approx([1.0, 1.0, 0.5, 0.2])


def test_agreement_by_level():
    table = tables.agreement_table(made_measured().agreement)
    assert table.loc[2.0].tolist() == pytest.approx([0.2, 0.7, 0.6])
    assert table.index.tolist() == LEVELS and table.index.name


def test_the_spectrum_in_a_sentence():
    said = tables.spectrum_sentence(EIGENVALUES, 0.25)  # adds 0.5
    assert "Largest eigenvalue 8, median 0.6, smallest 0.1." in said
    assert "Half of the sum lies in 1 of 5 directions" in said and "outweighs 2 of them" in said


def test_what_the_metrics_hold():
    assert tables.gradients_metrics("tiny:0", 4000, 4, made_halves(), EIGENVALUES, made_measured()) == {
        "rollouts": 4000,
        "segments": 4,
        "model": "tiny:0",
        "split_half": {
            "rollouts_each": 2000,
            "latents": 51,
            "G_cosine_median": 0.6,
            "natural_cosine_median": 0.5,
            "natural_F_cosine_median": 0.4,
        },
        "fisher": {"largest": 8.0, "median": 0.6, "smallest": 0.1},
        "kl": {"0.1": 0.1, "0.5": 0.45, "2": 1.0},
        "quadratic_up_to": 0.5,
        "gradient_check": {"nats": 0.1, "correlation_median": 0.5455, "ceiling_median": 0.89, "slope_median": 0.98},
    }


def test_the_halves_are_drawn_with_their_quartiles():
    grid = figures.draw_halves(made_halves())
    assert [ax.get_title() for ax in grid.axes.flat] == [PLAIN_GRADIENT, NATURAL_GRADIENT, IN_F_NORM]
    for ax, median in zip(grid.axes.flat, (0.5, 0.4, 0.3)):
        assert ax.lines[0].get_xydata().tolist() == [[1000, pytest.approx(median)], [2000, pytest.approx(median + 0.1)]]
        heights = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(median - 0.2) and heights.max() == pytest.approx(median + 0.35)


def test_the_spectrum_is_drawn_with_what_is_added():
    ax = figures.draw_spectrum(np.append(EIGENVALUES, -1e-9), 0.25).ax
    assert ax.get_yscale() == "log" and ax.lines[0].get_ydata().tolist() == EIGENVALUES.tolist()
    assert ax.lines[1].get_ydata()[0] == pytest.approx(0.25 * 10 / 6)
    assert len(figures.draw_spectrum(EIGENVALUES, 0.0).ax.lines) == 1


def test_every_vector_has_a_line_in_its_kinds_colour():
    grid = figures.draw_kl(made_measured().kl)
    *vectors, equal = [line for line in grid.ax.lines if len(line.get_xdata()) == 3]
    assert equal.get_xdata().tolist() == equal.get_ydata().tolist() == LEVELS
    assert len(vectors) == 6 and len({to_rgba(line.get_color()) for line in vectors}) == 2
    assert [text.get_text() for text in grid.legend.texts] == [RANDOM, DECODER]
    band = grid.ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.08) and band[:, 1].max() == pytest.approx(2.5)
    assert [label.get_text() for label in grid.ax.get_xticklabels()] == ["0.1", "0.5", "2"]


def test_changes_are_drawn_for_the_first_vectors_of_each_kind():
    grid = figures.draw_changes(made_measured().changes)
    titles = [f"{kind} {number}" for kind in (RANDOM, DECODER) for number in (1, 2)]
    assert [ax.get_title() for ax in grid.axes.flat] == titles
    for ax, vector in zip(grid.axes.flat, (0, 1, 3, 4)):
        assert ax.collections[0].get_offsets().tolist() == [[n + vector, 2 * n] for n in range(8)]


def test_every_figure_has_a_caption():
    assert set(figures.CAPTIONS) == {"halves", "spectrum", "kl", "changes"}
