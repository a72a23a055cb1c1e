from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made_effects import COURSE

from fgaa_utils.method.approximator import EffectMap, latent_correlations
from fgaa_utils.method.effect_figures import (
    draw_latents,
    draw_learning_curve,
    draw_scales,
    latents_caption,
    scales_caption,
)
from fgaa_utils.method.effect_tables import (
    choice_sentence,
    curve_gains,
    curve_metrics,
    curve_note,
    curve_rows,
    effects_metrics,
    growth,
    latent_sentence,
    latent_table,
    made_sentence,
    rise_table,
    rounded,
    scale_sentence,
    score_table,
    verdict,
)

NOTHING = EffectMap(torch.zeros(2, 3), torch.zeros(3), {})
MAPS = dict.fromkeys(("ridge", "reduced_rank", "adam"), NOTHING)
SCORES = {
    "ridge": {"r2": 0.37, "cosine": 0.57, "cosine_raw": 0.8, "retrieval_cosine": 0.02, "retrieval_top1": 0.04},
    "reduced_rank": {"r2": 0.38, "cosine": 0.58, "cosine_raw": 0.8, "retrieval_cosine": 0.02, "retrieval_top1": 0.03},
    "adam": {"r2": -0.78, "cosine": 0.11, "cosine_raw": 0.5, "retrieval_cosine": 0.07, "retrieval_top1": 0.19},
    "mean_effect": {"r2": 0.0, "cosine": 0.0, "cosine_raw": 0.76},
    "decoder_transposed": {
        "r2": 0.0,
        "cosine": 0.02,
        "cosine_raw": 0.76,
        "retrieval_cosine": 0.1,
        "retrieval_top1": 0.2,
    },
}
RECORD = {
    "ridge_strength": 1.0,
    "reduced_rank": {"strength": 0.003, "rank": 70},
    "seconds": 3600,
    "processor": "a processor",
}
CEILING = {"r2": 0.884, "cosine": 0.845}


def curve(**r2):
    rows = [
        {"vectors": 1000 * (i + 2), "fit": fit, "r2": value, "cosine": 0.5, "cosine_raw": 0.9, "retrieval_top1": 0.1}
        for fit, values in r2.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_scales_at_a_cap_are_counted():
    said = scale_sentence(torch.tensor([150.0, 400.0, 500.0, 1400.0]), [300, 700])
    assert said.startswith("Quartiles: 338, 450, 725; 50.0% lie at a cap, 150 or 1400")


def test_rises_with_their_error():
    table = rise_table({"mixtures": torch.tensor([0.2, 0.4, 0.6, 0.8])})
    row = table.loc["mixtures"]
    assert row["mean rise"] == pytest.approx(0.5) and row["sd of vectors"] == pytest.approx(0.2582, abs=1e-4)
    assert row["±"] == pytest.approx(0.2582, abs=1e-4)  # twice the sd over the root of four


def test_scores_end_with_the_ceiling_and_leave_gaps():
    table = score_table(SCORES, CEILING)
    assert table.index[-1] == "ceiling" and table.index.name == "prediction"
    assert table.loc["reduced rank", "R2"] == 0.38 and table.loc["adam", "retrieval top 1"] == 0.19
    assert np.isnan(table.loc["ceiling", "raw cosine"]) and np.isnan(table.loc["mean effect", "retrieval top 1"])


def test_the_verdict_names_who_predicts_and_who_finds():
    said = verdict(SCORES, CEILING, MAPS, 128)
    assert said.startswith("Reduced rank predicts best: R2 0.380") and "(ceiling 0.884)" in said
    assert "adam retrieves most held-out rows, 19% (chance 0.8%; decoder transposed 20%)" in said


def test_the_choice_of_the_cross_validation():
    said = choice_sentence(RECORD, 640)
    assert "median over latents: 1;" in said and "strength 0.003, rank 70 of 640" in said


def test_where_and_how_long_the_maps_were_made():
    assert made_sentence(RECORD) == "Rollouts and fits were made in 60 minutes on a processor."
    assert made_sentence(RECORD | {"seconds": None}) == "Rollouts and fits were made on a processor."


def test_a_curve_of_other_samples_than_the_scores_says_so():
    same = {"ridge": {"r2": 0.2004}, "adam": {"r2": -0.5}}
    measured = curve(ridge=[0.1, 0.2], Adam=[-0.5])
    assert curve_note(measured, same) == ""
    said = curve_note(measured, same | {"ridge": {"r2": 0.21}})
    assert said.endswith("at its end R2 was 0.200 for `ridge` and -0.500 for `adam`.")


def test_gains_are_of_the_last_step_of_each_fit():
    gains = curve_gains(curve(ridge=[0.1, 0.3, 0.35], Adam=[-0.9, -0.8]))
    assert gains.loc["ridge", ["from", "to"]].tolist() == [3000, 4000]
    assert gains.loc["Adam", ["from", "to"]].tolist() == [2000, 3000]
    assert gains.gain["ridge"] == pytest.approx(0.05) and gains.gain["Adam"] == pytest.approx(0.1)


def test_gains_do_not_depend_on_the_order_of_rows():
    mixed = curve(ridge=[0.1, 0.3, 0.35]).iloc[[2, 0, 1]]
    assert curve_gains(mixed).gain["ridge"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("r2", "state"),
    [
        ({"ridge": [0.1, 0.2], "Adam": [0.1, 0.3]}, "still rises:"),
        ({"ridge": [0.1, 0.2], "Adam": [0.1, 0.1]}, "still rises for some fits:"),
        ({"ridge": [0.2, 0.1], "Adam": [0.1, 0.104]}, "no longer rises:"),
    ],
)
def test_whether_the_curve_still_rises(r2, state):
    assert state in growth(curve(**r2))


def test_how_far_the_curve_rises():
    assert "+0.100 for ridge (2,000 to 3,000 vectors)." in growth(curve(ridge=[0.1, 0.2]))
    assert "one point" in growth(curve(ridge=[0.1]))


def test_the_curve_for_metrics_and_for_plots():
    found = curve(ridge=[0.12347, 0.2], Adam=[-0.5])
    assert curve_metrics(found) == {"ridge": {"2000": 0.1235, "3000": 0.2}, "Adam": {"2000": -0.5}}
    rows = curve_rows(found)
    assert list(rows[0]) == ["vectors", "fit", "r2", "cosine", "retrieval_top1"]
    assert rows[1] == {"vectors": 3000, "fit": "ridge", "r2": 0.2, "cosine": 0.5, "retrieval_top1": 0.1}
    assert rounded({"r2": 0.123456}) == {"r2": 0.1235}


def effects():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(30, 20, generator=generator) * torch.arange(1, 21)
    return y + torch.randn(30, 20, generator=generator), y


def test_metrics_count_the_data_and_round_the_scores():
    sizes = {"heldout_rollouts": 3, "unsteered_rollouts": 30}
    data = SimpleNamespace(
        **sizes, heldout=np.arange(4), scales=torch.tensor([1.0, 5.04, 9.0]), lm=SimpleNamespace(identity="tiny:0")
    )
    made = SimpleNamespace(data=data, course=COURSE, record=RECORD, curve=curve(ridge=[0.1]))
    scores = {"ridge": {"r2": 0.123456}, "ceiling": {"r2": 0.9}}
    assert effects_metrics(made, scores) == {
        "vectors": 48,
        "rollouts": 48,
        "heldout_vectors": 4,
        "heldout_rollouts": 12,
        "unsteered_rollouts": 30,
        "model": "tiny:0",
        "median_ridge_strength": 1.0,
        "reduced_rank_choice": {"strength": 0.003, "rank": 70},
        "median_scale": 5.0,
        "learning_curve": {"ridge": {"2000": 0.1}},
        "ridge": {"r2": 0.1235},
        "ceiling": {"r2": 0.9},
    }


def test_latents_by_spread_with_their_correlation():
    predicted, y = effects()
    predicted[:, 4] = 1.0  # a latent that the map says nothing of
    table = latent_table(predicted, y)
    assert len(table) == 19 and 4 not in table.index
    assert table.correlation[7] == pytest.approx(latent_correlations(predicted, y)[7])
    assert table["spread of the true effect"][19] == "largest"


def test_the_sentence_on_latents():
    predicted, y = effects()
    table = latent_table(predicted, y)
    latents = np.arange(30) % 20
    said = latent_sentence(table, predicted, y, latents)
    own = [float(y[i, j]) for i, j in enumerate(latents)]
    assert f"median correlation is {np.median(latent_correlations(predicted, y)):.2f}" in said
    assert f"its own latent by {np.mean(own):.1f} on average" in said


def test_the_learning_curve_shows_the_ceiling_where_there_is_one():
    grid = draw_learning_curve(curve(ridge=[0.1, 0.2], Adam=[-0.5]), CEILING, 128)
    ceilings = [[line.get_ydata()[0] for line in ax.lines if line.get_color() == "0.5"] for ax in grid.axes.flat]
    assert ceilings == [[0.884], [0.845], []]
    assert [ax.get_title() for ax in grid.axes.flat] == ["R2", "centred cosine", "retrieval, top 1 of 128"]


def test_the_other_figures_hold_what_they_are_given():
    assert sum(bar.get_height() for bar in draw_scales(torch.tensor([1.0, 2.0, 5.0]), 0.5).ax.patches) == 3
    grid = draw_latents(latent_table(*effects()))
    assert [label.get_text() for label in grid.ax.get_xticklabels()] == ["smallest", "2", "3", "4", "largest"]


def test_captions_name_the_rise_and_the_map():
    assert scales_caption(0.5) == "Coefficients at which the decoder rows raise cross-entropy by 0.5 nats."
    assert "measured effect (adam), latents" in latents_caption("adam")
