"""Recipes: each entry shapes the vector as the paper says, by loops or by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import LatentStats, TextMeans, save_features
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.recipe import (
    Ingredients,
    Recipe,
    contrast,
    decoder_map,
    described,
    filtered_difference,
    main_recipe,
    only,
    read_ingredients,
    steering_vector,
    steering_vectors,
)
from fgaa_utils.method.tries import Tries, fgaa_recipes, recipes
from fgaa_utils.method.vectors import save_vectors
from fgaa_utils.names import GRADIENT, SHARED, VectorName

D_SAE, D_MODEL = 6, 4
FGAA = Recipe(
    method="fgaa",
    include_bos=True,
    theta=0.5,
    density_filter=True,
    bos_filter=True,
    target_norm="l1",
    bias_weight=1.0,
    fit="adam",
    n1=1,
    n2=0,
)
W_DEC = torch.eye(D_SAE)[:, :D_MODEL] + 0.1


@pytest.fixture
def ingredients():
    generator = torch.Generator().manual_seed(0)
    # latent 0 is dense, latent 1 fires on BOS, latents 2 and 3 tell the sides apart, the rest are negative
    positive = torch.tensor([[9.0, 8.0, 3.0, 1.0, 0.0, 0.0], [9.0, 8.0, 1.0, 2.0, 0.0, 0.0]])
    negative = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    maps = {
        key: EffectMap(torch.randn(D_MODEL, D_SAE, generator=generator), torch.randn(D_SAE, generator=generator), {})
        for key in [("adam", None), ("ridge", None), ("adam", 4)]
    }
    resid = {
        bos: {"love": (torch.rand(5, D_MODEL, generator=generator), torch.rand(3, D_MODEL, generator=generator))}
        for bos in (True, False)
    }
    return Ingredients(
        latents={True: {"love": (positive, negative)}, False: {"love": (positive + 1, negative.clone())}},
        resid=resid,
        density=torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1, 0.1]),
        bos_latents=torch.tensor([False, True, False, False, False, False]),
        W_dec=W_DEC,
        effect_map=lambda fit, count: maps[fit, count],
        seed=0,
        gradients=made_gradients(),
    )


def made_gradients():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(D_MODEL, 9, generator=generator)
    spread = torch.randn(D_MODEL, 9, generator=generator)
    return GradientMap(
        torch.randn(D_MODEL, D_SAE, generator=generator),
        torch.randn(D_MODEL, D_MODEL, generator=generator),
        root @ root.T,
        spread @ spread.T,
        8,
        {},
    )


def by_hand(effect_map, weights: dict[int, float], bias_weight=1.0):
    """Eq. 5 for a target given by hand."""
    v = torch.zeros(D_SAE)
    for latent, weight in weights.items():
        v[latent] = weight
    M, b = effect_map.M, effect_map.b
    direction = M @ v / (M @ v).norm()
    if bias_weight:
        direction = direction - bias_weight * (M @ b) / (M @ b).norm()
    return direction / direction.norm()


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, {2: 1}),
        ({"n1": 2}, {2: 2, 3: 1.5}),
        ({"n1": 2, "n2": 1}, {2: 2, 3: 1.5, 5: -2}),
        ({"n1": 2, "n2": None}, {2: 2, 3: 1.5}),
        ({"density_filter": False}, {0: 1}),
        ({"theta": 0.95}, {0: 1}),
        ({"bos_filter": False}, {1: 1}),
        ({"include_bos": False, "n1": 2}, {2: 3, 3: 2.5}),
        ({"examples": 2, "n1": 2}, {2: 2, 3: 1.5}),
        ({"bias_weight": 0.5}, {2: 1}),
        ({"target_norm": "l2", "n1": 2}, {2: 2, 3: 1.5}),
        ({"target_norm": "none", "n1": 2}, {2: 2, 3: 1.5}),
        ({"fit": "ridge"}, {2: 1}),
        ({"effect_vectors": 4}, {2: 1}),
        ({"fit": "decoder", "bias_weight": 0.0}, {2: 1}),
        ({"method": "sae_ts", "rank": 2}, {3: 1}),
    ],
)
def test_an_entry_changes_what_it_names(ingredients, changes, weights):
    recipe = FGAA.changed(changes)
    decoder = decoder_map(W_DEC)
    used = decoder if recipe.fit == "decoder" else ingredients.effect_map(recipe.fit, recipe.effect_vectors)
    expected = by_hand(used, weights, recipe.bias_weight)
    torch.testing.assert_close(steering_vector(recipe, "love", ingredients), expected)


def test_filters_zero_what_they_name(ingredients):
    assert filtered_difference(FGAA, "love", ingredients).tolist() == [0, 0, 2, 1.5, -1, -2]
    unfiltered = replace(FGAA, density_filter=False, bos_filter=False)
    assert filtered_difference(unfiltered, "love", ingredients).tolist() == [9, 8, 2, 1.5, -1, -2]


def test_without_a_map_sae_ts_is_the_decoder_row(ingredients):
    row = W_DEC[2] / W_DEC[2].norm()
    torch.testing.assert_close(steering_vector(replace(FGAA, method="sae", rank=1), "love", ingredients), row)
    no_map = replace(FGAA, method="sae_ts", rank=1, fit="decoder", bias_weight=0.0)
    torch.testing.assert_close(steering_vector(no_map, "love", replace(ingredients, effect_map=None)), row)


@pytest.mark.parametrize("include_bos", [True, False])
def test_caa_by_loops(ingredients, include_bos):
    positive, negative = (side.double().numpy() for side in ingredients.resid[include_bos]["love"])
    difference = np.array([sum(r[i] for r in positive) / 5 - sum(r[i] for r in negative) / 3 for i in range(D_MODEL)])
    vector = steering_vector(replace(FGAA, method="caa", include_bos=include_bos), "love", ingredients)
    np.testing.assert_allclose(vector.numpy(), difference / np.sqrt((difference**2).sum()), atol=1e-6)


def test_fewer_examples_are_among_more_and_another_draw_takes_others(ingredients):
    latents = torch.arange(20.0)[:, None].expand(20, D_SAE)
    many = replace(ingredients, latents={True: {"love": (latents, torch.zeros(1, D_SAE))}})
    unfiltered = replace(FGAA, density_filter=False, bos_filter=False)

    def mean(count, draw=0):
        return float(filtered_difference(replace(unfiltered, examples=count, draw=draw), "love", many)[0])

    order = np.random.default_rng([0, 20, 0]).permutation(20)
    assert [mean(n) for n in (1, 2, 3)] == pytest.approx([float(order[:n].mean()) for n in (1, 2, 3)])
    assert mean(None) == mean(20) == 9.5
    assert mean(1, draw=1) == np.random.default_rng([0, 20, 1]).permutation(20)[0]
    caa = replace(FGAA, method="caa", examples=2)
    positive, negative = ingredients.resid[True]["love"]
    orders = [np.random.default_rng([0, n, 0]).permutation(n)[:2] for n in (5, 3)]
    expected = positive[orders[0]].mean(dim=0) - negative[orders[1]].mean(dim=0)
    torch.testing.assert_close(steering_vector(caa, "love", ingredients), expected / expected.norm())


def test_controls_come_from_one_generator_in_turn(ingredients):
    """Direction 1, latent 1, direction 2, latent 2; latents that no vector moves take no part."""
    effect_map = ingredients.effect_map("adam", None)
    effect_map.M[:, 1] = 0
    generator = torch.Generator().manual_seed(0)
    alive = [0, 2, 3, 4, 5]
    for draw in (1, 2, 3):
        direction = torch.randn(D_MODEL, generator=generator)
        latent = alive[int(torch.randint(5, (1,), generator=generator))]
        made = {
            m: steering_vector(replace(FGAA, method=m, draw=draw), SHARED, ingredients)
            for m in ("random", "random_latent")
        }
        torch.testing.assert_close(made["random"], direction / direction.norm())
        torch.testing.assert_close(made["random_latent"], by_hand(effect_map, {latent: 1}))
    again = steering_vector(replace(FGAA, method="random", draw=3), SHARED, replace(ingredients, seed=1))
    assert not torch.equal(again, made["random"])
    bias = steering_vector(replace(FGAA, method="bias"), SHARED, ingredients)
    expected = -(effect_map.M @ effect_map.b)
    torch.testing.assert_close(bias, expected / expected.norm())


def test_the_main_run_has_every_method_of_every_behaviour_and_the_controls(ingredients):
    both = {"love": ingredients.latents[True]["love"], "anger": ingredients.latents[True]["love"]}
    resid = {"love": ingredients.resid[True]["love"], "anger": ingredients.resid[True]["love"]}
    for_two = replace(ingredients, latents={True: both, False: both}, resid={True: resid, False: resid})
    made = recipes(replace(FGAA, n1=None), ["love", "anger"], Tries([1, 2], [1, 2], [1, 2], 4, 2))
    assert [str(name) for name in made][:19] == [
        "love.caa.bos=0,white=0",
        "love.caa.bos=0,white=1",
        "love.caa.bos=1,white=0",
        "love.caa.bos=1,white=1",
        "love.ng_caa.bos=0,white=0",
        "love.ng_caa.bos=0,white=1",
        "love.ng_caa.bos=1,white=0",
        "love.ng_caa.bos=1,white=1",
        "love.sae.rank=1",
        "love.sae_ts.rank=1",
        "love.sae.rank=2",
        "love.sae_ts.rank=2",
        "love.fgaa.n1=1,n2=0",
        "love.fgaa.n1=2,n2=0",
        "love.ng_fgaa.n1=1,n2=0",
        "love.ng_fgaa.n1=2,n2=0",
        "love.ng.white=1,means=1",
        "love.ng.n1=2,n2=0,white=1,means=1",
        "anger.caa.bos=0,white=0",
    ]
    assert [str(name) for name in made][36:] == [
        "shared.bias",
        "shared.random.draw=1",
        "shared.random_latent.draw=1",
        "shared.random_ng.draw=1",
        "shared.random.draw=2",
        "shared.random_latent.draw=2",
        "shared.random_ng.draw=2",
    ]
    for name, recipe in made.items():
        assert recipe.method == name.method
        assert float(steering_vector(recipe, name.behaviour, for_two).norm()) == pytest.approx(1, abs=1e-5)
    one, ts = (VectorName("love", "fgaa", n1=1, n2=0), VectorName("love", "sae_ts", rank=1))
    torch.testing.assert_close(steering_vector(made[one], "love", for_two), steering_vector(made[ts], "love", for_two))


NATURAL = replace(FGAA, fit=GRADIENT, fisher=True, bias_weight=0.0)


def solved(gradient, ridge=0.1):
    """By numpy's inverse, and of unit norm."""
    F = made_gradients().F.double().numpy()
    v = np.linalg.inv(F + ridge * np.diag(F).mean() * np.eye(D_MODEL)) @ np.asarray(gradient, dtype=float)
    return v / np.sqrt((v**2).sum())


def test_natural_gradient_fgaa_is_the_inverse_fisher_times_the_gradient_of_the_target(ingredients):
    G = made_gradients().G.numpy()
    wanted = G @ [0, 0, 2, 1.5, 0, 0]
    made = steering_vector(replace(NATURAL, method="ng_fgaa", n1=2), "love", ingredients)
    assert made.numpy() == pytest.approx(solved(wanted), abs=1e-5)
    as_a_fit = steering_vector(replace(NATURAL, n1=2), "love", ingredients)  # a row of the ablations
    assert as_a_fit.numpy() == pytest.approx(made.numpy(), abs=1e-5)
    plain = steering_vector(replace(NATURAL, n1=2, fisher=False), "love", ingredients)
    assert plain.numpy() == pytest.approx(wanted / np.sqrt((wanted**2).sum()), abs=1e-5)
    stronger = steering_vector(replace(NATURAL, n1=2, natural_ridge=3.0), "love", ingredients)
    assert stronger.numpy() == pytest.approx(solved(wanted, 3.0), abs=1e-5)


def test_the_published_map_can_be_whitened(ingredients):
    M = ingredients.effect_map("adam", None).M.numpy()
    made = steering_vector(replace(FGAA, fisher=True, bias_weight=0.0), "love", ingredients)
    assert made.numpy() == pytest.approx(solved(M[:, 2]), abs=1e-5)


def test_natural_gradient_caa_raises_the_contrast_of_streams(ingredients):
    recipe = replace(NATURAL, method="ng_caa", n1=None, include_bos=False, white=False)
    positive, negative = (side.numpy() for side in ingredients.resid[False]["love"])
    difference = positive.mean(0) - negative.mean(0)
    made = steering_vector(recipe, "love", ingredients)
    assert made.numpy() == pytest.approx(solved(made_gradients().G_resid.numpy() @ difference), abs=1e-5)
    C = made_gradients().covariance.double().numpy()
    white = np.linalg.inv(C + 0.1 * np.diag(C).mean() * np.eye(D_MODEL)) @ difference
    assert contrast(replace(recipe, white=True), "love", ingredients).numpy() == pytest.approx(white, rel=1e-3)
    caa = steering_vector(replace(FGAA, method="caa", include_bos=False, white=True), "love", ingredients)
    assert caa.numpy() == pytest.approx(white / np.sqrt((white**2).sum()), abs=1e-4)


def test_the_sum_of_two_rewards_weighs_them_by_their_gain_at_equal_kl(ingredients):
    F = made_gradients().F.double().numpy()
    parts = [
        steering_vector(replace(NATURAL, method="ng", n1=n1, white=white), "love", ingredients).double().numpy()
        for n1, white in ((2, None), (None, True), (2, True))
    ]
    latents, residual = (v / np.sqrt(v @ F @ v) for v in parts[:2])
    both = latents + residual
    assert parts[2] == pytest.approx(both / np.sqrt((both**2).sum()), abs=1e-5)
    assert latents @ F @ parts[2] == pytest.approx(residual @ F @ parts[2], rel=1e-4)  # it leans to neither
    with pytest.raises(ValueError, match="has neither n1 nor white; it needs a reward"):
        steering_vector(replace(NATURAL, method="ng", n1=None), "love", ingredients)


def test_the_difference_of_means_joins_a_sum_at_equal_kl(ingredients):
    F = made_gradients().F.double().numpy()
    streams = replace(NATURAL, method="ng", include_bos=False)
    caa = replace(FGAA, method="caa", include_bos=False, white=False, n1=None)
    parts = [
        steering_vector(recipe, "love", ingredients).double().numpy()
        for recipe in (replace(streams, n1=2), replace(streams, n1=None, white=True), caa)
    ]
    at_equal_kl = [v / np.sqrt(v @ F @ v) for v in parts]
    for kept, recipe in (
        ((0, 1, 2), replace(streams, n1=2, white=True, means=True)),
        ((0, 2), replace(streams, n1=2, means=True)),
        ((1, 2), replace(streams, n1=None, white=True, means=True)),
    ):
        together = sum(at_equal_kl[i] for i in kept)
        made = steering_vector(recipe, "love", ingredients).numpy()
        assert made == pytest.approx(together / np.sqrt((together**2).sum()), abs=1e-5)


def test_natural_gradient_tries_every_sum_of_its_parts():
    made = recipes(replace(FGAA, n1=None), ["love"], Tries([1, 2, 4, 8], [2, 8, 32, 128], [1, 2, 3, 4], 4, 1))
    found = {name.variant: recipe for name, recipe in made.items() if name.method == "ng"}
    assert list(found) == [
        "n1=128,n2=0,white=1",
        "n1=128,n2=0,means=1",
        "white=1,means=1",
        "n1=128,n2=0,white=1,means=1",
    ]
    assert all(not recipe.include_bos and recipe.fit == GRADIENT for recipe in found.values())
    assert [VectorName.parse(f"love.ng.{variant}").means for variant in found] == [None, True, True, True]


def test_without_gradients_there_is_no_natural_gradient(ingredients):
    without = replace(ingredients, gradients=None)
    for recipe in (
        replace(NATURAL, method="ng_fgaa"),
        replace(FGAA, fisher=True),
        replace(FGAA, method="caa", white=True),
    ):
        with pytest.raises(ValueError, match="needs gradients; give the ingredients some"):
            steering_vector(recipe, "love", without)


def test_a_name_promises_no_more_latents_than_the_filters_leave(ingredients):
    name = VectorName("love", "fgaa", n1=3, n2=0)
    with pytest.raises(
        ValueError, match="n1 is 3 for love; it must be from 1 to 2, the positive latents left after the"
    ):
        steering_vectors({name: replace(FGAA, n1=3)}, ingredients)
    as_many_as_there_are = steering_vector(replace(FGAA, n1=3), "love", ingredients)  # a row of the ablations
    torch.testing.assert_close(as_many_as_there_are, steering_vector(replace(FGAA, n1=2), "love", ingredients))


def test_every_pair_of_n1_and_n2_has_a_recipe():
    pairs = fgaa_recipes(FGAA, ["love"], n1=[1, 2], n2=[0, 4])
    assert [name.variant for name in pairs] == ["n1=1,n2=0", "n1=1,n2=4", "n1=2,n2=0", "n1=2,n2=4"]
    assert [(recipe.n1, recipe.n2) for recipe in pairs.values()] == [(1, 0), (1, 4), (2, 0), (2, 4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n1": None}, "n1 is None for love"),
        ({"method": "sae", "rank": 3}, "rank is 3 for love; it must be from 1 to 2"),
        ({"method": "sae_ts", "rank": 0}, "rank is 0 for love"),
        ({"method": "random"}, "draw of random is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_refused(ingredients, changes, message):
    with pytest.raises(ValueError, match=message):
        steering_vector(replace(FGAA, **changes), "love", ingredients)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thta": 0.1}, "unknown entry of a recipe: 'thta'; did you mean 'theta'"),
        ({"fit": "rigde"}, "unknown fit 'rigde'; did you mean 'ridge'"),
        ({"fit": "decoder"}, r"fit: decoder, which has no bias; add bias_weight: 0\.0"),
        ({"fit": "gradient"}, r"fit: gradient, which has no bias; add bias_weight: 0\.0"),
        ({"target_norm": "l3"}, "unknown target_norm 'l3'"),
        ({"fit": "decoder", "bias_weight": 0.0, "effect_vectors": 4}, "effect_vectors with fit 'decoder'"),
        ({"method": "fgga"}, "unknown method 'fgga'; did you mean 'fgaa'"),
    ],
)
def test_changes_that_do_not_exist_or_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FGAA.changed(changes)


def test_a_published_map_may_stay_but_has_no_fewer_vectors():
    published = replace(FGAA, fit="repository:file.pt")
    assert published.changed({"fit": "repository:file.pt", "n1": 2}).n1 == 2
    with pytest.raises(ValueError, match=r"effect_vectors with fit 'repository:file\.pt'"):
        published.changed({"effect_vectors": 4})


def test_the_only_effect_map_is_no_other(ingredients):
    effect_map = ingredients.effect_map("adam", None)
    assert only(effect_map, "adam")("adam", None) is effect_map
    with pytest.raises(ValueError, match="wants the effect map ridge of all vectors, there is adam"):
        only(effect_map, "adam")("ridge", None)
    with pytest.raises(ValueError, match="of 4 vectors"):
        only(effect_map, "adam")("adam", 4)
    with pytest.raises(ValueError, match="fgaa needs an effect map"):
        steering_vector(FGAA, "love", replace(ingredients, effect_map=None))


def test_ingredients_are_what_the_features_stage_left(ingredients, tmp_path):
    zeros = torch.zeros(D_SAE)
    stats = LatentStats(ingredients.density, torch.tensor([0.0, 2, 0, 0, 0, 0]), zeros + 1, zeros, zeros, zeros)
    means = {
        "love": {
            side: {
                bos: TextMeans(ingredients.latents[bos]["love"][i], ingredients.resid[bos]["love"][i])
                for bos in (True, False)
            }
            for i, side in enumerate(("pos", "neg"))
        }
    }
    path = tmp_path / "features.safetensors"
    identity = {"model": "m:1", "sae": "s", "layer": 9}
    save_features(path, stats, means, identity=identity, resid_std=1.5)
    read = read_ingredients(path, W_DEC, ingredients.effect_map, identity=identity, seed=0)
    assert torch.equal(read.bos_latents, ingredients.bos_latents) and torch.equal(read.density, ingredients.density)
    for recipe in (FGAA, replace(FGAA, method="caa", include_bos=False)):
        assert torch.equal(steering_vector(recipe, "love", read), steering_vector(recipe, "love", ingredients))
    for other in ({"model": "m:2"}, {"sae": "t"}, {"layer": 8}):
        with pytest.raises(ValueError, match=r"features\.safetensors was made with .*; run `dvc repro features`"):
            read_ingredients(path, W_DEC, None, identity=identity | other, seed=0)


def test_the_recipe_of_a_file_of_vectors_is_read_back(tmp_path):
    identity, default = {"model": "m", "sae": "s", "layer": 2}, replace(FGAA, n1=None, theta=0.3)
    about = described(default, identity)
    save_vectors(tmp_path / "vectors.safetensors", {VectorName("love", "caa"): torch.ones(4)}, **about)
    assert about["fit"] == "adam" and main_recipe(tmp_path / "vectors.safetensors", identity=identity) == default
    with pytest.raises(ValueError, match="run `dvc repro vectors`"):
        main_recipe(tmp_path / "vectors.safetensors", identity=identity | {"layer": 3})
