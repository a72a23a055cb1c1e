from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fgaa_utils.method import effect_fits
from fgaa_utils.method.approximator import (
    EffectMap,
    Moments,
    fit_adam,
    fit_reduced_rank,
    fit_ridge,
    noise_ceiling,
    retrieval,
    score,
)
from fgaa_utils.method.effect_fits import (
    Fits,
    HeldOut,
    Settings,
    best_fit,
    curve_chunks,
    fit_maps,
    learning_curve,
    mean_effect,
    own_latents,
    score_predictions,
    spread_of_effects,
)

D, N, CHUNK = 4, 9, 40
SETTINGS = Settings([0.01, 1.0], adam_epochs=2, adam_lr=0.01, adam_batch=8, seed=5, identity={"model": "m"})
ADAM = {"epochs": 2, "lr": 0.01, "batch": 8, "seed": 5}


def pairs(number):
    generator = torch.Generator().manual_seed(number)
    M = torch.randn(D, N, generator=torch.Generator().manual_seed(99))
    x = torch.nn.functional.normalize(torch.randn(CHUNK, D, generator=generator), dim=1)
    return x, x @ M + 0.3 * torch.randn(CHUNK, N, generator=generator)


DATA = SimpleNamespace(
    chunks=lambda count: (pairs(i) for i in range(count)),
    chunk_size=CHUNK,
    lm=SimpleNamespace(device=torch.device("cpu")),
)
FOLDS = [Moments.of(*pairs(i)) for i in range(4)]


@pytest.fixture(scope="module")
def heldout():
    x, y = pairs(77)
    rollouts = y[:, None] + torch.randn(CHUNK, 6, N, generator=torch.Generator().manual_seed(1))
    return HeldOut(x, rollouts, mean_effect(FOLDS))


@pytest.fixture(scope="module")
def fits():
    return fit_maps(DATA, FOLDS, SETTINGS)


def same(one, other):
    return torch.equal(one.M, other.M) and torch.equal(one.b, other.b) and one.identity == other.identity


def test_the_mean_effect_is_that_of_all_pairs():
    expected = torch.cat([pairs(i)[1] for i in range(4)]).mean(dim=0)
    torch.testing.assert_close(mean_effect(FOLDS), expected)
    assert mean_effect(FOLDS).dtype == torch.float32


def test_every_fit_is_the_approximators_own(fits):
    ridge, strengths = fit_ridge(FOLDS, [0.01, 1.0], {"model": "m"})
    reduced, (strength, rank) = fit_reduced_rank(FOLDS, [0.01, 1.0], {"model": "m"})
    adam = fit_adam(lambda: DATA.chunks(4), {"model": "m"}, total=4 * CHUNK, **ADAM)
    assert list(fits.maps) == ["ridge", "reduced_rank", "adam"]
    assert all(same(a, b) for a, b in zip(fits.maps.values(), (ridge, reduced, adam)))
    assert fits.choice == {"strength": strength, "rank": rank} and np.array_equal(fits.strengths, strengths)


def test_predictions_that_cost_nothing_are_judged_beside_the_maps(fits, heldout):
    W_dec = torch.nn.functional.normalize(torch.randn(N, D, generator=torch.Generator().manual_seed(2)), dim=1)
    scores = score_predictions(fits.maps, W_dec, heldout)
    assert list(scores) == ["ridge", "reduced_rank", "adam", "no_effect", "mean_effect", "decoder_transposed"]
    y, mean = heldout.rollouts.mean(dim=1), heldout.mean_effect
    for name, effect_map in fits.maps.items():
        expected = score(effect_map.predict(heldout.x), y, mean) | retrieval(effect_map.M, heldout.x, y - mean)
        assert scores[name] == expected
    assert scores["mean_effect"]["r2"] == pytest.approx(0, abs=1e-6) and "retrieval_top1" not in scores["mean_effect"]
    aligned = (heldout.x @ W_dec.T).flatten().double().numpy()
    slope = np.linalg.lstsq(aligned[:, None], (y - mean).flatten().double().numpy(), rcond=None)[0][0]
    best = score(mean + float(slope) * heldout.x @ W_dec.T, y, mean)["r2"]
    assert scores["decoder_transposed"]["r2"] == pytest.approx(best, abs=1e-5)
    assert scores["decoder_transposed"]["retrieval_top1"] == retrieval(W_dec.T, heldout.x, y - mean)["retrieval_top1"]


def test_the_ceiling_is_of_the_rollouts(heldout):
    assert heldout.ceiling() == noise_ceiling(heldout.rollouts, heldout.mean_effect)


def test_the_curve_has_two_chunks_all_and_some_between():
    assert curve_chunks(2) == [2] and curve_chunks(3) == [2, 3]
    assert curve_chunks(8) == [2, 3, 4, 6, 8] and curve_chunks(10) == [2, 3, 4, 6, 8, 10]


def test_the_curve_refits_the_first_chunks_and_adam_at_two_half_and_all(fits, heldout, monkeypatch):
    monkeypatch.setattr(effect_fits, "CURVE", (3,))
    curve = learning_curve(DATA, FOLDS, SETTINGS, heldout, adam=fits.maps["adam"])
    found = {(row.fit, row.vectors): row.r2 for row in curve.itertuples()}
    wanted = {(fit, n * CHUNK) for fit in ("reduced rank", "ridge") for n in (2, 3, 4)}
    assert set(found) == wanted | {("Adam", 2 * CHUNK), ("Adam", 4 * CHUNK)}
    assert found["ridge", 3 * CHUNK] == heldout.judge(fit_ridge(FOLDS[:3], [0.01, 1.0], {})[0])["r2"]
    assert found["Adam", 4 * CHUNK] == heldout.judge(fits.maps["adam"])["r2"]
    half = fit_adam(lambda: DATA.chunks(2), {}, total=2 * CHUNK, **ADAM)
    assert found["Adam", 2 * CHUNK] == heldout.judge(half)["r2"]
    assert {"r2", "cosine", "cosine_raw", "retrieval_cosine", "retrieval_top1"} <= set(curve)


def test_the_best_fit_is_among_the_maps_alone():
    scores = {"ridge": {"r2": 0.2}, "adam": {"r2": 0.1}, "decoder_transposed": {"r2": 0.9}}
    maps = dict.fromkeys(("ridge", "adam"), EffectMap(torch.zeros(D, N), torch.zeros(N), {}))
    assert best_fit(scores, maps) == "ridge"


def test_latents_fall_into_fifths_by_their_spread():
    y = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * torch.arange(10, 0, -1)
    fifths = spread_of_effects(y).tolist()
    assert fifths == ["largest", "largest", "4", "4", "3", "3", "2", "2", "smallest", "smallest"]


def test_the_own_latent_of_each_row():
    predicted, y = torch.arange(12.0).view(3, 4), -torch.arange(12.0).view(3, 4)
    own = own_latents(predicted, y, np.array([1, 3, 0]))
    assert own.predicted.tolist() == [1, 7, 8] and own.measured.tolist() == [-1, -7, -8]


def test_fits_are_named_as_the_recipes_name_them(fits):
    from fgaa_utils.names import FITS

    assert isinstance(fits, Fits) and set(fits.maps) == set(FITS)
