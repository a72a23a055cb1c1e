"""Figures of latents and vectors: what is drawn, read back from the axes."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from fgaa_utils.figures import COLOURS
from fgaa_utils.method import figures
from fgaa_utils.method.feature_tables import FATES, Differences

NAMES = {"love": "Love", "anger": "Anger"}


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def test_densities_have_a_line_at_theta_and_say_their_unit():
    grid = figures.densities(np.array([0.0, 0.001, 0.002, 0.3]), 0.01)
    assert sum(bar.get_height() for bar in grid.ax.patches) == 3
    assert grid.ax.get_xscale() == "log" and "share of background tokens" in grid.ax.get_xlabel()
    assert [line.get_xdata()[0] for line in grid.ax.lines] == [0.01]


def test_sorted_differences_fall_and_have_a_panel_for_each_behaviour():
    v = {"love": torch.tensor([1.0, -5.0, 2.0]), "anger": torch.tensor([0.5, 0.0, 0.25])}
    after = {key: x * torch.tensor([1.0, 0.0, 1.0]) for key, x in v.items()}
    grid = figures.sorted_differences(Differences(v, v, after), NAMES)
    assert [ax.get_title() for ax in grid.axes.flat] == ["Love", "Anger"]
    assert [line.get_ydata().tolist() for line in grid.axes.flat[0].lines[:2]] == [[5, 2, 1], [2, 1, 0]]


def test_the_tallest_entries_are_coloured_by_their_fate():
    fates = np.array([FATES[0], FATES[3], FATES[1]])
    grid = figures.fates_of_tallest(torch.tensor([1.0, -5.0, 2.0]), fates, "Love")
    assert [text.get_text() for text in grid.ax.get_xticklabels()] == ["1", "2", "0"]
    assert sorted(bar.get_height() for bar in grid.ax.patches if bar.get_height()) == [-5, 1, 2]
    assert [text.get_text() for text in grid.legend.get_texts()] == list(FATES)


def test_aucs_stand_in_falling_order_with_a_line_at_chance():
    table = pd.DataFrame({"highest latent": [0.6, 0.7], "five highest": [0.5, 0.9], "texts": [4, 4]}, index=["A", "B"])
    grid = figures.aucs(table)
    assert [text.get_text() for text in grid.ax.get_yticklabels()] == ["B", "A"]
    assert grid.ax.lines[-1].get_xdata()[0] == 0.5


def test_cosines_have_the_colours_of_the_methods_and_marks_at_averages():
    values = {"CAA": [0.1, 0.3, 0.2, 0.25], "SAE": [0.0, 0.2, 0.1, 0.2], "SAE-TS": [0.9, 0.8, 0.85, 0.9]}
    index = pd.Index(["Love", "Anger", "average", "average in the paper, m"], name="behaviour")
    grid = figures.cosines(pd.DataFrame(values, index=index))
    assert [text.get_text() for text in grid.ax.get_yticklabels()] == ["SAE-TS", "SAE", "CAA"]
    dots, marks = grid.ax.collections[:3], grid.ax.collections[3:]
    assert [to_hex(d.get_facecolor()[0]) for d in dots] == [COLOURS[m] for m in ("sae_ts", "sae", "caa")]
    assert [mark.get_label() for mark in marks] == index[2:].tolist()
    assert marks[0].get_offsets()[:, 0].tolist() == [0.85, 0.1, 0.2]


def test_predicted_effects_have_a_panel_for_each_method_and_one_colour_bar():
    matrix = pd.DataFrame([[0.5, 0.1], [0.0, 0.2]], index=["Love", "Anger"], columns=["Love", "Anger"])
    grid = figures.predicted_effects({"fgaa": matrix, "caa": -matrix})
    assert [ax.get_title() for ax in grid.axes.flat] == ["FGAA", "CAA"]
    drawn = [np.asarray(ax.collections[0].get_array()).ravel().tolist() for ax in grid.axes.flat]
    assert drawn == [[0.5, 0.1, 0.0, 0.2], [-0.5, -0.1, 0.0, -0.2]]
    assert len(grid.figure.axes) == 3


def test_the_caption_of_fates_names_the_behaviour():
    assert figures.fates_caption("Love").startswith("The twenty largest entries of v_diff of Love by size")
