"""The layout of the cells whose cost is measured, what they add, and the files that keep what they cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_costs import BEHAVIOURS, NAMES, QUESTIONS, SCALES, VECTORS, made_cells, made_choices, made_costs

from fgaa_utils.evaluation.costs import (
    agreement,
    answer_sentences,
    cell_deltas,
    cost_cells,
    costs_metrics,
    count_table,
    read_costs,
    save_costs,
)
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.names import PAPER_METHODS, PROMPTING, VectorName


def test_cells_stand_in_the_order_of_measuring():
    cells = made_cells()
    assert cells.columns.tolist() == ["behaviour", "method", "variant", "scale", "coeff", "chosen"]
    assert cells.iloc[0].tolist() == ["shared", "unsteered", "", 0.0, 0.0, False]
    first = cells.iloc[1:9]
    assert first.method.tolist() == ["fgaa"] * 4 + ["random", "bias", "random_latent", "random_ng"]
    assert first.scale.tolist() == [*SCALES, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert first.chosen.tolist() == [False] * 3 + [True] * 5
    assert cells.method.iloc[25:].tolist() == ["sae_ts"] * 12 + ["sae"] * 12 + ["caa"] * 12 + [PROMPTING] * 3
    assert cells[cells.method == PROMPTING].variant.tolist() == ["draw=2"] * 3


def test_the_grid_is_in_the_unit_and_a_chosen_coefficient_is_the_reported_one():
    cells = made_cells(unit=100.0)
    assert cells[cells.method == "caa"].coeff.tolist()[:4] == pytest.approx([10.0, 20.0, 40.0, 10.0])
    assert cells[cells.chosen & (cells.method == "caa")].coeff.tolist() == [10.0, 20.0, 20.0]  # of 10.04 and 20.04


def test_controls_take_turns_in_the_order_of_their_numbers():
    cells = made_cells()
    assert cells[cells.method == "random"].variant.tolist() == ["draw=1", "draw=2", "draw=10"]
    assert cells[cells.method == "bias"].variant.tolist() == ["", "", ""]
    assert cells[cells.method == "random"].coeff.tolist() == [10.0, 20.0, 20.0]


def vectors():
    choices = made_choices()
    own = [
        VectorName.parse(f"{b}.{m}.{choices[m][b]['variant']}".rstrip(".")) for b in BEHAVIOURS for m in PAPER_METHODS
    ]
    return {name: torch.full((4,), float(i + 1)) for i, name in enumerate([*own, *NAMES])}


def test_a_cell_adds_its_coefficient_times_its_vector():
    cells, found = made_cells(), vectors()
    deltas = cell_deltas(cells, found)
    assert deltas.shape == (len(cells) - 3, 4) and deltas.dtype == torch.float32
    assert not deltas[0].any()
    assert torch.equal(deltas[1], 10.0 * found[VectorName("anger", "fgaa", n1=4, n2=0)])
    assert torch.equal(deltas[5], 10.0 * found[VectorName("shared", "random", draw=1)])


def test_a_missing_vector_is_refused():
    found = vectors()
    del found[VectorName("love", "caa")]
    with pytest.raises(ValueError, match=r"no vector love\.caa"):
        cell_deltas(made_cells(), found)
    with pytest.raises(ValueError, match=r"no vector love\.caa"):
        cost_cells(made_choices(), list(BEHAVIOURS), found, SCALES, Strength("absolute", 1.0))


def test_costs_come_back_as_ratios_and_accuracies(tmp_path):
    costs = made_costs(tmp_path)
    assert costs.nats == pytest.approx(3.0)
    row = int(costs.at_scale("fgaa", 0.4)[2])
    assert costs.cells.behaviour[row] == "love"
    np.testing.assert_allclose(costs.ratio[row], np.exp(1.6), rtol=1e-5)
    assert costs.cells.accuracy[row] == 0.5 and costs.cells.accuracy[0] == 1
    assert costs.chance == {"sciq": 0.5, "mmlu": 0.25}
    assert costs.scales == SCALES and costs.methods == ["fgaa", "sae_ts", "sae", "caa"]
    assert len(costs.grid) == 4 * 3 * 3
    assert costs.cells.scale[costs.chosen("sae")].tolist() == [0.1, 0.2, 0.2]


def test_files_of_two_runs_are_refused(tmp_path):
    made_costs(tmp_path)
    cells = made_cells()
    save_costs(tmp_path, cells, torch.zeros(3, 2), torch.zeros(3, 8), QUESTIONS, scales=SCALES, model="tiny")
    with pytest.raises(ValueError, match="3; run `dvc repro costs`"):
        read_costs(tmp_path / "cells.parquet", tmp_path / "measured.safetensors")


def test_the_answer_says_what_the_unsteered_model_does(tmp_path):
    costs = made_costs(tmp_path)
    first, second = answer_sentences(costs)
    assert first == (
        "Unsteered, tiny needs 3.000 nats a token on 5 texts, and answers 100 % of 8 questions rightly; guessing "
        "would answer 38 %."
    )
    assert second.startswith(f"Over the other {len(costs.cells) - 1} cells, ")
    assert -1 <= agreement(costs) < -0.3
    assert agreement(replace(costs, cells=costs.cells.assign(accuracy=0.5))) == 0


def test_metrics_count_what_was_measured(tmp_path):
    found = costs_metrics(made_costs(tmp_path))
    assert found == {
        "cells": len(made_cells()),
        "unsteered_nats": 3.0,
        "questions": 8,
        "texts": 5,
        "model": "tiny:0:float32",
    }


def test_cells_of_scales_that_do_not_grow_are_refused():
    with pytest.raises(ValueError, match="must be positive and grow"):
        cost_cells(made_choices(), list(BEHAVIOURS), VECTORS, [0.2, 0.1], Strength("absolute", 1.0))


def test_cells_are_counted(tmp_path):
    counts = count_table(made_costs(tmp_path))
    assert counts.loc["FGAA"].tolist() == [9, 3]
    assert counts.loc["prompting"].tolist() == [0, 3]
    assert counts.index.tolist()[0] == "FGAA" and counts.index.name == "method"
