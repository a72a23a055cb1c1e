"""Ablations: recipes give the vectors they name, equal vectors share texts, scales come from validation."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from fgaa_utils.evaluation import ablations as module
from fgaa_utils.evaluation import cells as ev
from fgaa_utils.evaluation.ablations import (
    Recipe,
    TextPlan,
    VectorBuilder,
    best_scales,
    decoder_map,
    differences,
    fit_on,
    row_label,
    run_cells,
    score_row,
)
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.params import load_params
from fgaa_utils.project import METRICS
from fgaa_utils.shards import save_tensors
from fgaa_utils.stats import bcs

DEFAULT = Recipe(
    include_bos=True,
    theta=0.5,
    density_filter=True,
    bos_filter=True,
    target_norm="l1",
    n2=0,
    bias_weight=1.0,
    fit="adam",
)
D_SAE, D_MODEL = 6, 4


@pytest.fixture
def builder():
    generator = torch.Generator().manual_seed(0)
    # latent 0 is dense, latent 1 fires on BOS, latents 2 and 3 tell the sides apart, the rest are negative
    positive = torch.tensor([[9.0, 8.0, 3.0, 1.0, 0.0, 0.0], [9.0, 8.0, 1.0, 2.0, 0.0, 0.0]])
    negative = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    maps = {
        key: EffectMap(
            torch.randn(D_MODEL, D_SAE, generator=generator),
            torch.randn(D_SAE, generator=generator),
            {"name": str(key)},
        )
        for key in [("adam", None), ("ridge", None), ("adam", 4)]
    }
    maps["decoder", None] = decoder_map(torch.eye(D_SAE)[:, :D_MODEL] + 0.1)
    return VectorBuilder(
        latents={True: {"love": (positive, negative)}, False: {"love": (positive + 1, negative)}},
        density=torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1, 0.1]),
        bos_latents=torch.tensor([False, True, False, False, False, False]),
        effect_map=lambda fit, count: maps[fit, count],
        n1={"love": 1},
    )


def expected(builder, weights: dict[int, float], fit=("adam", None), bias_weight=1.0):
    """Eq. 5 for a target given by hand."""
    v = torch.zeros(D_SAE)
    for latent, weight in weights.items():
        v[latent] = weight
    effect_map = builder.effect_map(*fit)
    M, b = effect_map.M, effect_map.b
    direction = M @ v / (M @ v).norm()
    if bias_weight:
        direction = direction - bias_weight * (M @ b) / (M @ b).norm()
    return direction / direction.norm()


@pytest.mark.parametrize(
    ("changes", "weights", "options"),
    [
        ({}, {2: 1}, {}),
        ({"n1": 2}, {2: 2, 3: 1.5}, {}),
        ({"n1": 2, "n2": 1}, {2: 2, 3: 1.5, 5: -2}, {}),
        ({"density_filter": False}, {0: 1}, {}),
        ({"theta": 0.95}, {0: 1}, {}),
        ({"bos_filter": False}, {1: 1}, {}),
        ({"include_bos": False, "n1": 4}, {2: 3, 3: 2.5, 4: 0, 5: 0}, {}),
        ({"examples": 2, "n1": 2}, {2: 2, 3: 1.5}, {}),
        ({"bias_weight": 0.5}, {2: 1}, {"bias_weight": 0.5}),
        ({"target_norm": "l2", "n1": 2}, {2: 2, 3: 1.5}, {}),
        ({"target_norm": "none", "n1": 2}, {2: 2, 3: 1.5}, {}),
        ({"fit": "ridge"}, {2: 1}, {"fit": ("ridge", None)}),
        ({"effect_vectors": 4}, {2: 1}, {"fit": ("adam", 4)}),
        ({"fit": "decoder", "bias_weight": 0.0}, {2: 1}, {"fit": ("decoder", None), "bias_weight": 0}),
    ],
)
def test_a_row_changes_what_it_names(builder, changes, weights, options):
    vector = builder.vector("love", DEFAULT.changed(changes))
    torch.testing.assert_close(vector, expected(builder, weights, **options))


def test_no_approximator_steers_along_the_decoder_row(builder):
    vector = builder.vector("love", DEFAULT.changed({"fit": "decoder", "bias_weight": 0.0}))
    row = (torch.eye(D_SAE)[:, :D_MODEL] + 0.1)[2]
    torch.testing.assert_close(vector, row / row.norm())


def test_misspelt_rows_get_the_nearest():
    with pytest.raises(ValueError, match="'thta'; did you mean 'theta'"):
        DEFAULT.changed({"thta": 1})
    with pytest.raises(ValueError, match="unknown fit 'rigde'; did you mean 'ridge'"):
        DEFAULT.changed({"fit": "rigde"})


def test_labels_say_what_is_changed():
    assert row_label({"density_filter": False, "bias_weight": 0.0}) == "density_filter off, bias_weight 0.0"


def test_the_committed_table_has_the_rows_of_the_parameters():
    """Else it is out of date: `make ablations` runs it again."""
    grid = load_params()["ablations"]
    heat = [{"n1": n1, "n2": n2} for n2 in grid["heat_n2"] for n1 in grid["heat_n1"]]
    found = json.loads((METRICS / "ablations.json").read_text())["rows"]
    assert set(found) == {"default", *map(row_label, [*heat, *grid["rows"]])}


def test_rows_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"fit: decoder, which has no bias; add bias_weight: 0\.0"):
        DEFAULT.changed({"fit": "decoder"})
    with pytest.raises(ValueError, match="unknown target_norm 'l3'"):
        DEFAULT.changed({"target_norm": "l3"})
    with pytest.raises(ValueError, match="effect_vectors with fit 'decoder'"):
        DEFAULT.changed({"fit": "decoder", "bias_weight": 0.0, "effect_vectors": 4})


def test_fewer_examples_are_drawn_from_more():
    texts = torch.arange(10.0)[:, None]
    drawn = VectorBuilder({}, torch.empty(0), torch.empty(0), lambda fit, count: None, {}, seed=3)._drawn
    few, more = drawn(texts, 2, 0), drawn(texts, 5, 0)
    assert set(few.flatten().tolist()) < set(more.flatten().tolist()) and len(more) == 5
    assert torch.equal(drawn(texts, None, 0), texts) and more.flatten().tolist() != list(range(5))
    assert not torch.equal(drawn(texts, 2, 1), few), "another draw is another order"


def test_equal_vectors_share_texts_and_the_evaluations_are_known():
    generator = torch.Generator().manual_seed(0)
    made, known = {}, {}
    for i in range(50):
        a, b = torch.nn.functional.normalize(torch.randn(2, 640, generator=generator), dim=1)
        known[f"b{i}", "fgaa", 4] = a
        made |= {("default", f"b{i}"): a, ("l2", f"b{i}"): a + 2e-7 * torch.randn(640, generator=generator)}
        made |= {("one", f"b{i}"): b, ("two", f"b{i}"): b.clone(), ("x", f"c{i}"): b}
    plan = TextPlan(made, known)
    assert plan.same("l2", "default") and plan.same("one", "two") and not plan.same("one", "default")
    assert all(plan.names["default", f"b{i}"] == (f"b{i}", "fgaa", 4) for i in range(50))
    assert len(plan.new) == 100, "another behaviour has texts of its own"


def test_differences_are_row_minus_default_and_equal_rows_are_no_comparison():
    generator, names = np.random.default_rng(0), [f"b{i}" for i in range(9)]
    v, w, u = torch.eye(3)
    made = {(row, b): x for row, x in (("default", v), ("same", v), ("worse", w), ("noise", u)) for b in names}
    base = generator.random(9)
    scores = {"default": base, "same": base, "worse": base - 0.3 + generator.normal(0, 0.02, 9)}
    scores["noise"] = base + generator.normal(0, 0.2, 9)
    found = differences(scores, TextPlan(made, {}))
    assert found["worse"]["value"] == pytest.approx(-0.3, abs=0.03) and found["worse"]["hi"] < 0
    assert found["worse"]["lo"] < found["worse"]["value"] < found["worse"]["hi"] and found["worse"]["better_on"] == 0
    assert found["same"] == {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0, "better_on": 0, "same": True}
    from scipy.stats import ttest_rel

    raw = sorted(ttest_rel(base, scores[row]).pvalue for row in ("worse", "noise"))
    assert found["worse"]["p"] == pytest.approx(2 * raw[0], abs=1e-4), "two comparisons, not three"


class Judge:
    def behaviour(self, texts, behaviour):
        return np.linspace(0, 1, len(texts))

    def coherence(self, texts):
        return np.full(len(texts), 0.5)


def test_only_the_texts_of_new_vectors_are_made_wherever_they_stand(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 2)
    vectors = torch.nn.functional.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    made, real = [], ev.generate_samples

    def counted(lm, samples, group, *args, **kwargs):
        made.append(len(group))
        return real(lm, samples, group, *args, **kwargs)

    monkeypatch.setattr(ev, "generate_samples", counted)
    sampling = SamplingParams(new_tokens=3, top_k=5, temperature=1.0, batch=4)
    common = {"layer": 2, "folder": tmp_path, "judge": Judge(), "behaviours": ["love"], "seeds": (0, 1)}

    def cells(group):
        return ev.cell_grid(list(group), [5.0, 10.0], unit=1.0).query("method != 'unsteered'")

    def run(*numbers):
        named = {("love", "ablation", place): vectors[i] for place, i in enumerate(numbers)}
        return run_cells(tiny, named, cells, ["we", "the cat"], 2, sampling=sampling, progress="x", **common)

    first = run(0, 1, 2)
    assert made == [2, 1] and len(first) == 3 * 2 * 4
    changed = run(3, 1, 2, 0)
    assert made == [2, 1, 1], "one is new, the others were moved"

    def texts(frame, variant):
        return frame[frame.variant == variant].text.tolist()

    assert [texts(changed, v) for v in (3, 1, 2)] == [texts(first, v) for v in (0, 1, 2)]
    assert texts(changed, 0) not in [texts(first, v) for v in (0, 1, 2)]
    assert run_cells(tiny, {}, cells, ["we"], 2, sampling=sampling, progress="x", **common).empty


def test_scales_are_each_vectors_best():
    columns = ["target", "method", "variant", "scale", "coeff", "BCS"]
    rows = [("love", "fgaa", 1, s, 10 * s, b) for s, b in ((0.1, 0.2), (0.2, 0.6), (0.3, 0.6))]
    rows += [("love", "fgaa", 2, s, 10 * s, b) for s, b in ((0.1, 0.3), (0.2, 0.1))]
    found = best_scales(pd.DataFrame(rows, columns=columns))
    assert found == {("love", "fgaa", 1): (0.2, 2.0), ("love", "fgaa", 2): (0.1, 1.0)}


def test_a_rows_score_is_mean_behaviour_times_mean_coherence():
    rng = np.random.default_rng(0)
    cells = [
        pd.DataFrame({"B": rng.random(12), "coherence": rng.random(12), "prompt": list("abc") * 4}) for _ in range(2)
    ]
    values, draws = score_row(cells, draws=50, seed=0)
    assert values.tolist() == pytest.approx([bcs(c.B, c.coherence) for c in cells])
    assert draws.shape == (2, 50) and draws.std(axis=1).min() > 0


EFFECTS = {
    "new_tokens": 3,
    "top_k": 5,
    "temperature": 1.0,
    "batch": 8,
    "openers": ["", "we"],
    "chunk_size": 16,
    "chunks": 3,
    "heldout_vectors": 4,
    "heldout_rollouts": 2,
    "unsteered_rollouts": 8,
    "ridge_strengths": [1.0, 10.0],
    "adam_epochs": 1,
    "adam_lr": 0.01,
    "adam_batch": 4,
}


def test_maps_of_fewer_vectors(tiny, tiny_sae, tmp_path, monkeypatch):
    save_tensors(tmp_path / "scales.safetensors", {"scales": torch.full((64,), 2.0)})
    common = {"identity": {}, "seed": 0}
    found = {fit: fit_on(tiny, tiny_sae, 2, tmp_path, 32, fit, EFFECTS, **common) for fit in ("adam", "ridge")}
    assert all(m.M.shape == (32, 64) and m.M.isfinite().all() for m in found.values())
    with monkeypatch.context() as patched:
        patched.setattr(module, "_fit", None)  # a map that was fitted is read back
        again = fit_on(tiny, tiny_sae, 2, tmp_path, 32, "ridge", EFFECTS, **common)
    assert torch.equal(again.M, found["ridge"].M)
    more = fit_on(tiny, tiny_sae, 2, tmp_path, 48, "ridge", EFFECTS, **common)
    assert not torch.equal(more.M, found["ridge"].M)
    for count in (16, 40, 64):
        with pytest.raises(ValueError, match=rf"effect_vectors is {count}; .* one of \[32, 48\]"):
            fit_on(tiny, tiny_sae, 2, tmp_path, count, "ridge", EFFECTS, **common)
