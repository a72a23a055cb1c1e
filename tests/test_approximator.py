from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fgaa_utils.method.approximator import (
    EffectMap,
    Moments,
    fit_adam,
    fit_reduced_rank,
    fit_ridge,
    latent_correlations,
    load_effect_map,
    noise_ceiling,
    retrieval,
    ridge_path,
    score,
)

D, N = 5, 7


def make_pairs(count, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.Generator().manual_seed(99)
    M, b = torch.randn(D, N, generator=truth), torch.randn(N, generator=truth)
    x = torch.nn.functional.normalize(torch.randn(count, D, generator=generator), dim=1)
    return x, x @ M + b + noise * torch.randn(count, N, generator=generator), M, b


def test_ridge_equals_scikit_learn():
    x, y, *_ = make_pairs(60, 0.5)
    ((M, b),) = ridge_path(Moments.of(x, y), [0.3])
    centred = x - x.mean(dim=0)
    strength = 0.3 * float((centred.T @ centred / 60).diagonal().mean()) * 60
    oracle = Ridge(alpha=strength).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(M.T.numpy(), oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(b.numpy(), oracle.intercept_, atol=1e-5)


def test_moments_give_the_error_without_the_pairs():
    x, y, M, b = make_pairs(40, 1.0)
    np.testing.assert_allclose(
        Moments.of(x, y).errors(M.double(), b.double()), (y - x @ M - b).pow(2).sum(0), rtol=1e-4
    )


def test_moments_add_and_subtract():
    x, y, M, b = make_pairs(40, 1.0)
    whole, parts = Moments.of(x, y), [Moments.of(x[:15], y[:15]), Moments.of(x[15:], y[15:])]
    torch.testing.assert_close((parts[0] + parts[1]).xy, whole.xy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((whole - parts[0]).yy, parts[1].yy, atol=1e-3, rtol=1e-4)


def test_cross_validation_shrinks_noise_and_keeps_signal():
    x, y, *_ = make_pairs(600, 0.01)
    y[:, 0] = torch.randn(600, generator=torch.Generator().manual_seed(4))  # a latent that x says nothing of
    folds = [Moments.of(x[i::4], y[i::4]) for i in range(4)]
    fitted, strengths = fit_ridge(folds, [0.001, 1.0, 1000.0], {})
    assert strengths[0] == 1000.0 and (strengths[1:] == 0.001).all()
    assert fitted.M[:, 0].abs().max() < 0.1


def test_one_fold_is_refused():
    x, y, *_ = make_pairs(10, 0.1)
    with pytest.raises(ValueError, match="at least 2"):
        fit_ridge([Moments.of(x, y)], [1.0], {})
    with pytest.raises(ValueError, match="at least 2"):
        fit_reduced_rank([Moments.of(x, y)], [1.0], {})


def low_rank_pairs(count, noise, seed=0):
    """Pairs of 12 inputs and 30 latents of unequal size, joined by a map of rank 2."""
    truth, draws = torch.Generator().manual_seed(98), torch.Generator().manual_seed(seed)
    size = torch.rand(30, generator=truth) * 5 + 0.1
    M = torch.randn(12, 2, generator=truth) @ torch.randn(2, 30, generator=truth) * size
    x = torch.randn(count, 12, generator=draws)
    return x, x @ M + 1 + noise * size * torch.randn(count, 30, generator=draws), M


def test_reduced_rank_finds_the_rank_and_beats_ridge_on_a_low_rank_map():
    x, y, truth = low_rank_pairs(300, 6.0)
    folds = [Moments.of(x[i::5], y[i::5]) for i in range(5)]
    strengths = [0.01, 0.1, 1.0]
    reduced, (strength, rank) = fit_reduced_rank(folds, strengths, {})
    ridge, _ = fit_ridge(folds, strengths, {})
    assert rank == 2 and strength in strengths
    assert torch.linalg.matrix_rank(reduced.M, rtol=1e-4) == 2
    assert (reduced.M - truth).norm() < 0.8 * (ridge.M - truth).norm()


def test_reduced_rank_chooses_what_refitting_by_hand_chooses():
    """Strength and rank by loops over the pairs themselves, with numpy's singular value decomposition."""
    x, y, _ = low_rank_pairs(60, 4.0, seed=3)
    parts, strengths = [slice(i, None, 3) for i in range(3)], [0.01, 0.3, 10.0]
    fitted, chosen = fit_reduced_rank([Moments.of(x[p], y[p]) for p in parts], strengths, {})
    x, y = x.double().numpy(), y.double().numpy()
    sd = y.std(axis=0)

    def fit(rows, strength, rank):
        mean_x, mean_y = x[rows].mean(axis=0), y[rows].mean(axis=0)
        cov = (x[rows] - mean_x).T @ (x[rows] - mean_x) / len(rows)
        penalty = strength * np.trace(cov) / 12 * np.eye(12)
        M = np.linalg.solve(cov + penalty, (x[rows] - mean_x).T @ (y[rows] - mean_y) / len(rows))
        V = np.linalg.svd((x[rows] - mean_x) @ M / sd)[2][:rank]
        M = (M / sd) @ V.T @ V * sd
        return M, mean_y - mean_x @ M

    errors = {}
    for strength in strengths:
        for rank in range(1, 13):
            errors[strength, rank] = 0
            for part in parts:
                rows = np.setdiff1d(np.arange(60), np.arange(60)[part])
                M, b = fit(rows, strength, rank)
                errors[strength, rank] += (((y[part] - x[part] @ M - b) / sd) ** 2).sum()
    assert chosen == min(errors, key=errors.get)
    M, b = fit(np.arange(60), *chosen)
    np.testing.assert_allclose(fitted.M, M, atol=1e-4)
    np.testing.assert_allclose(fitted.b, b, atol=1e-4)


def test_a_latent_that_never_fires_stays_finite():
    x, y, _ = low_rank_pairs(40, 1.0)
    y[:, 3] = 0
    fitted, _ = fit_reduced_rank([Moments.of(x[i::2], y[i::2]) for i in range(2)], [0.1], {})
    assert fitted.M.isfinite().all() and (fitted.M[:, 3] == 0).all() and fitted.b[3] == 0


def test_all_fits_recover_a_linear_map():
    x, y, M, b = make_pairs(800, 0.05)
    folds = [Moments.of(x[i::4], y[i::4]) for i in range(4)]
    ridge, _ = fit_ridge(folds, [1e-4, 1.0], {})
    reduced, _ = fit_reduced_rank(folds, [1e-4, 1.0], {})
    adam = fit_adam(
        lambda: iter([(x[:400], y[:400]), (x[400:], y[400:])]), {}, epochs=60, lr=0.02, batch=40, total=800, seed=0
    )
    for fitted in (ridge, reduced, adam):
        torch.testing.assert_close(fitted.M, M, atol=0.1, rtol=0)
        torch.testing.assert_close(fitted.b, b, atol=0.1, rtol=0)


def test_score_of_truth_mean_and_opposite():
    x, y, *_ = make_pairs(50, 0.0)
    mean = y.mean(dim=0)
    assert score(y, y, mean)["r2"] == pytest.approx(1) and score(y, y, mean)["cosine"] == pytest.approx(1)
    assert score(mean.expand_as(y), y, mean)["r2"] == pytest.approx(0)
    assert score(2 * mean - y, y, mean)["cosine"] == pytest.approx(-1)


def test_noise_ceiling_is_what_the_truth_scores():
    """With known truth, the ceiling computed from the rollouts alone is the score of the truth itself."""
    x, y, *_ = make_pairs(400, 0.0)
    rollouts = y[:, None] + 3 * torch.randn(400, 32, N, generator=torch.Generator().manual_seed(1))
    mean = y.mean(dim=0)
    ceiling, truth = noise_ceiling(rollouts, mean), score(y, rollouts.mean(dim=1), mean)
    assert ceiling["r2"] == pytest.approx(truth["r2"], abs=0.02)
    assert ceiling["cosine"] == pytest.approx(truth["cosine"], abs=0.03)


def test_latent_correlations_by_numpy():
    p, t = torch.rand(30, 4), torch.rand(30, 4)
    expected = [np.corrcoef(p[:, i], t[:, i])[0, 1] for i in range(4)]
    assert latent_correlations(p, t).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_map_of_another_sae_or_layer_is_refused(tmp_path):
    path = tmp_path / "ridge.safetensors"
    EffectMap(torch.rand(D, N), torch.rand(N), {"model": "m", "sae": "s1", "layer": "9"}).save(path)
    loaded = EffectMap.load(path, model="m", sae="s1", layer=9)
    assert loaded.M.dtype == torch.float32 and loaded.predict(torch.rand(2, D)).shape == (2, N)
    with pytest.raises(ValueError, match=r"sae='s1', this run has 's2'"):
        EffectMap.load(path, model="m", sae="s2", layer=9)
    with pytest.raises(ValueError, match=r"layer='9', this run has '8'"):
        EffectMap.load(path, model="m", sae="s1", layer=8)


def test_a_published_map_is_a_state_dict_of_tensors_and_nothing_else(tmp_path):
    W, b = torch.randn(4, 6), torch.randn(6)
    torch.save({"W": W, "b": b}, tmp_path / "map.pt")
    shape = {"d_model": 4, "d_sae": 6, "identity": {}}
    found = load_effect_map(str(tmp_path / "map.pt"), tmp_path, **shape)
    assert torch.equal(found.M, W) and torch.equal(found.b, b)
    with pytest.raises(ValueError, match=r"has \{'W': \(4, 6\), 'b': \(6,\)\}, model and SAE want \{'W': \(4, 8\)"):
        load_effect_map(str(tmp_path / "map.pt"), tmp_path, **(shape | {"d_sae": 8}))
    torch.save({"W": W, "b": Path("a pickled object")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is no state dict of tensors"):
        load_effect_map(str(tmp_path / "bad.pt"), tmp_path, **shape)
    with pytest.raises(ValueError, match="unknown fit 'rige'; did you mean 'ridge'"):
        load_effect_map("rige", tmp_path, **shape)


def test_retrieval_by_loops_and_of_a_perfect_map():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(9, D, generator=generator), dim=1)
    M = torch.linalg.qr(torch.randn(N, D, generator=generator))[0].T  # orthonormal rows: M M^T is the identity
    perfect = retrieval(M, x, x @ M)
    assert perfect["retrieval_cosine"] == pytest.approx(1) and perfect["retrieval_top1"] == 1
    y = torch.randn(9, N, generator=generator)
    found = [M @ row / (M @ row).norm() for row in y]
    own = [float(f @ v) for f, v in zip(found, x)]
    top = [max(range(9), key=lambda j: float(f @ x[j])) == i for i, f in enumerate(found)]
    scored = retrieval(M, x, y)
    assert scored["retrieval_cosine"] == pytest.approx(np.mean(own), abs=1e-6)
    assert scored["retrieval_top1"] == pytest.approx(np.mean(top))
