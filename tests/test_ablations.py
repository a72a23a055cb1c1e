"""Texts of the ablations: rows give the vectors they name, equal vectors share texts, scales come from validation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made_effects import COURSE

from fgaa_utils.evaluation import ablations as module
from fgaa_utils.evaluation import cells as ev
from fgaa_utils.evaluation.ablations import (
    EffectMapCache,
    best_scales,
    changeable,
    fit_on,
    main_run_vectors,
    names_of_rows,
    new_by_row,
    row_vectors,
    run_cells,
    untested_cells,
)
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.recipe import Ingredients, Recipe, steering_vector
from fgaa_utils.method.vectors import save_vectors, twins
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.names import VectorName
from fgaa_utils.shards import save_tensors

DEFAULT = Recipe(
    method="fgaa",
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
def ingredients() -> Ingredients:
    """Latents 2 and 3 tell the sides apart; latent 0 is dense."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.tensor([[9.0, 0.0, 3.0, 1.0, 0.0, 0.0], [9.0, 0.0, 1.0, 2.0, 0.0, 0.0]])
    negative = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    effect_map = EffectMap(
        torch.randn(D_MODEL, D_SAE, generator=generator), torch.randn(D_SAE, generator=generator), {}
    )
    sides = {key: (positive, negative) for key in ("love", "anger")}
    return Ingredients(
        latents={True: sides, False: sides},
        resid={},
        density=torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1, 0.1]),
        bos_latents=torch.zeros(D_SAE, dtype=torch.bool),
        W_dec=torch.eye(D_SAE)[:, :D_MODEL] + 0.1,
        effect_map=lambda fit, count: effect_map,
        seed=0,
    )


def test_rows_take_the_defaults_n1_unless_they_set_it(ingredients):
    made = row_vectors(DEFAULT, {"n1 1": {"n1": 1}, "l2": {"target_norm": "l2"}}, {"love": 2, "anger": 1}, ingredients)
    assert list(made)[:3] == [
        ("love", "ablation", "default"),
        ("anger", "ablation", "default"),
        ("love", "ablation", "n1 1"),
    ]
    for name, n1 in ((("love", "default"), 2), (("anger", "default"), 1), (("love", "n1 1"), 1), (("love", "l2"), 2)):
        wanted = steering_vector(DEFAULT.changed({"n1": n1}), "love", ingredients)
        torch.testing.assert_close(made[name[0], "ablation", name[1]], wanted)


def test_a_misspelt_row_gets_the_nearest(ingredients):
    with pytest.raises(ValueError, match="'thta'; did you mean 'theta'"):
        row_vectors(DEFAULT, {"thta 1": {"thta": 1}}, {"love": 1}, ingredients)


def test_the_recipe_in_the_plan_is_what_rows_can_change():
    assert set(vars(DEFAULT)) - set(changeable(DEFAULT)) == {"method", "rank", "white", "means"}
    assert changeable(DEFAULT)["theta"] == 0.5 and changeable(DEFAULT)["n1"] is None


def test_what_the_default_uses_all_of():
    behaviours = [SimpleNamespace(positive=("a",) * 9, negative=("b",) * n) for n in (8, 10)]
    assert module.whole_data(behaviours, COURSE) == {"examples": 8, "effect_vectors": 48}
    assert module.whole_data(behaviours, None) == {"examples": 8, "effect_vectors": None}


def test_how_many_vectors_need_texts():
    made = {(b, "ablation", row): torch.zeros(2) for b in ("love", "anger") for row in ("default", "n2 4")}
    assert module.new_sentences(made, list(made)[1:], {"n2 4": {"n2": 4}}, {"love": 1, "anger": 2}) == [
        "1 rows and the default give 4 vectors for 2 behaviours.",
        "3 of them differ from those of the main run and from one another: these need texts of their own.",
    ]


def test_equal_vectors_share_texts_and_the_main_runs_are_known():
    v, w = torch.eye(2)
    known = {("love", "fgaa", "n1=2,n2=0"): v}
    made = {("love", "ablation", "default"): v + 1e-6, ("anger", "ablation", "default"): v}
    made |= {(b, "ablation", row): w for row in ("one", "two") for b in ("love", "anger")}
    names = names_of_rows(twins(known | made))
    assert names == {
        "default": {"love": ("love", "fgaa", "n1=2,n2=0"), "anger": ("anger", "ablation", "default")},
        "one": {"love": ("love", "ablation", "one"), "anger": ("anger", "ablation", "one")},
        "two": {"love": ("love", "ablation", "one"), "anger": ("anger", "ablation", "one")},
    }
    assert new_by_row(names)["new vectors"].to_dict() == {"default": 1, "one": 2, "two": 0}


def test_only_fgaas_vectors_of_the_main_run_are_read(tmp_path):
    identity = {"model": "tiny", "sae": "0", "layer": 2}
    fgaa, other = VectorName("love", "fgaa", n1=1, n2=0), VectorName("love", "fgaa", n1=1, n2=4)
    save_vectors(
        tmp_path / "v.safetensors", {VectorName("love", "caa"): torch.ones(4), fgaa: torch.ones(4)}, **identity
    )
    save_vectors(tmp_path / "n.safetensors", {other: torch.zeros(4)}, **identity)
    found = main_run_vectors([tmp_path / "v.safetensors", tmp_path / "n.safetensors"], identity)
    assert list(found) == [("love", "fgaa", "n1=1,n2=0"), ("love", "fgaa", "n1=1,n2=4")]


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
    bench = ev.Bench(tiny, 2, SamplingParams(3, 5, 1.0, 4), tmp_path, Judge(), ["love"], 0)

    def run(*numbers):
        named = {("love", "ablation", f"row {place}"): vectors[i] for place, i in enumerate(numbers)}
        grid = ev.cell_grid(named, [5.0, 10.0], Strength("absolute", 1.0))
        cells = grid[grid.method != "unsteered"]
        frame = run_cells(bench, cells, named, ev.Split("x", ["we", "the cat"], 2, 1))
        return frame, [frame[frame.variant == f"row {place}"].text.tolist() for place in range(len(numbers))]

    first, texts = run(0, 1, 2)
    assert made == [2, 1] and len(first) == 3 * 2 * 4
    assert first.seed.tolist()[:4] == ev.row_seeds(0, 1, count=4).tolist()
    _, moved = run(3, 1, 2, 0)
    assert made == [2, 1, 1], "one is new, the others were moved"
    assert moved[1:] == [texts[1], texts[2], texts[0]] and moved[0] not in texts
    assert run_cells(bench, first.iloc[:0], {}, ev.Split("x", ["we"], 2, 1)).empty


def test_scales_are_each_vectors_best_and_the_smaller_of_equal_ones():
    columns = ["target", "method", "variant", "scale", "coeff", "BCS"]
    rows = [("love", "ablation", "theta 0.1", s, 10 * s, b) for s, b in ((0.3, 0.6), (0.1, 0.2), (0.2, 0.6))]
    rows += [("love", "fgaa", "n1=2,n2=0", s, 10 * s, b) for s, b in ((0.1, 0.3), (0.2, 0.1))]
    found = best_scales(pd.DataFrame(rows, columns=columns))
    assert found == {("love", "ablation", "theta 0.1"): (0.2, 2.0), ("love", "fgaa", "n1=2,n2=0"): (0.1, 1.0)}


def test_only_cells_that_the_main_run_has_not_tested_are_run():
    names = [("love", "fgaa", "n1=2,n2=0"), ("love", "fgaa", "n1=4,n2=0"), ("love", "ablation", "theta 0.1")]
    scales = dict(zip(names, [(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)]))
    tested = pd.DataFrame([(*names[0], 0.1), (*names[1], 0.1)], columns=["behaviour", "method", "variant", "scale"])
    found = untested_cells([*names, names[2]], scales, tested)
    assert found.to_numpy().tolist() == [[*names[1], 0.2, 2.0], [*names[2], 0.3, 3.0]]
    more = pd.concat([tested, tested.iloc[1:]])  # now the first cell only draws scores against scale
    found = untested_cells(names[:2], scales | {names[1]: (0.1, 1.0)}, more)
    assert found.to_numpy().tolist() == [[*names[0], 0.1, 1.0]]


def test_maps_of_fewer_vectors(tiny, tiny_sae, tmp_path, monkeypatch):
    save_tensors(tmp_path / "scales.safetensors", {"scales": torch.full((64,), 2.0)})
    common = {"identity": {}, "seed": 0}
    found = {fit: fit_on(tiny, tiny_sae, 2, tmp_path, 32, fit, COURSE, **common) for fit in ("adam", "ridge")}
    assert all(m.M.shape == (32, 64) and m.M.isfinite().all() for m in found.values())
    with monkeypatch.context() as patched:
        patched.setattr(module, "_fit", None)  # a map that was fitted is read back
        again = fit_on(tiny, tiny_sae, 2, tmp_path, 32, "ridge", COURSE, **common)
    assert torch.equal(again.M, found["ridge"].M)
    more = fit_on(tiny, tiny_sae, 2, tmp_path, 48, "ridge", COURSE, **common)
    assert not torch.equal(more.M, found["ridge"].M)
    for count in (16, 40, 64):
        with pytest.raises(ValueError, match=rf"effect_vectors is {count}; .* one of \[32, 48\]"):
            fit_on(tiny, tiny_sae, 2, tmp_path, count, "ridge", COURSE, **common)


def test_a_map_is_had_once(tiny, tiny_sae, tmp_path, monkeypatch):
    identity, one = {"model": tiny.identity}, EffectMap(torch.zeros(32, 64), torch.zeros(64), {"model": tiny.identity})
    one.save(tmp_path / "adam.safetensors")
    fitted = []
    monkeypatch.setattr(module, "fit_on", lambda *args, **kwargs: fitted.append(args[4:6]) or one)
    maps = EffectMapCache(tiny, tiny_sae, 2, tmp_path, COURSE, identity, seed=0)
    assert maps("adam", None) is maps("adam") and maps("adam").M.shape == (32, 64)
    assert maps("ridge", 32) is maps("ridge", 32) and fitted == [(32, "ridge")]
    with pytest.raises(ValueError, match="effect_vectors is 32, but the effect map was not made here"):
        EffectMapCache(tiny, tiny_sae, 2, tmp_path, None, identity, seed=0)("ridge", 32)
