"""The fits of the effect map side by side: made of one set of effect data, judged on held-out decoder rows.

The published fit (Adam, SAE-TS arXiv 2411.02193) beside a ridge and a reduced-rank regression, and predictions that cost
nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from fgaa_utils.method.effects import EffectData

CURVE = (3, 4, 6, 8, 12, 16, 24, 32)  # chunks at which the learning curve is measured, besides 2 and all


@dataclass(frozen=True)
class Settings:
    """How maps are fitted: strengths of the penalty to choose among (of the mean eigenvalue of x's covariance), Adam's
    epochs, rate and batch, the seed of its start and order; `identity` is what every map carries."""

    ridge_strengths: list[float]
    adam_epochs: int
    adam_lr: float
    adam_batch: int
    seed: int
    identity: dict[str, str]


@dataclass(frozen=True)
class HeldOut:
    """What maps are judged by: unit vectors x (n, d_model), the effects of their rollouts (n, rollouts, d_sae), and the
    mean effect (d_sae,) of the vectors that maps are fitted to."""

    x: Tensor
    rollouts: Tensor
    mean_effect: Tensor

    @cached_property
    def y(self) -> Tensor:
        """Measured effects (n, d_sae)."""
        return self.rollouts.mean(dim=1)

    def ceiling(self) -> dict[str, float]:
        """What a perfect map would score, given the noise of y."""
        return noise_ceiling(self.rollouts, self.mean_effect)

    def judge(self, effect_map: EffectMap) -> dict[str, float]:
        """score and retrieval of a map."""
        scores = score(effect_map.predict(self.x), self.y, self.mean_effect)
        return scores | retrieval(effect_map.M, self.x, self.y - self.mean_effect)


@dataclass(frozen=True)
class Fits:
    """The map of every fit, the ridge's strength of each latent (d_sae,), and the reduced rank's {strength, rank}."""

    maps: dict[str, EffectMap]
    strengths: NDArray
    choice: dict[str, float]


def mean_effect(folds: list[Moments]) -> Tensor:
    """Mean effect (d_sae,) of all pairs of the folds, float32."""
    return (sum(folds[1:], folds[0]).y / sum(f.n for f in folds)).float()


def fit_published(data: EffectData, chunks: int, settings: Settings) -> EffectMap:
    """Adam's map of the first chunks."""
    return fit_adam(
        lambda: data.chunks(chunks),
        settings.identity,
        epochs=settings.adam_epochs,
        lr=settings.adam_lr,
        batch=settings.adam_batch,
        total=chunks * data.chunk_size,
        seed=settings.seed,
        device=data.lm.device,
    )


def fit_maps(data: EffectData, folds: list[Moments], settings: Settings) -> Fits:
    """Every fit to all folds, which are the first chunks of the effect data."""
    ridge, strengths = fit_ridge(folds, settings.ridge_strengths, settings.identity)
    reduced_rank, (strength, rank) = fit_reduced_rank(folds, settings.ridge_strengths, settings.identity)
    maps = {"ridge": ridge, "reduced_rank": reduced_rank, "adam": fit_published(data, len(folds), settings)}
    return Fits(maps, strengths, {"strength": strength, "rank": rank})


def score_predictions(maps: dict[str, EffectMap], W_dec: Tensor, heldout: HeldOut) -> dict[str, dict[str, float]]:
    """Scores of every map, and of what costs nothing: no effect, the mean effect, and W_dec transposed (a vector makes
    the latents fire that point its way), whose one scale is the best possible, fitted to the held-out effects."""
    x, y, mean = heldout.x, heldout.y, heldout.mean_effect
    aligned = x @ W_dec.T
    slope = float((aligned * (y - mean)).sum() / aligned.pow(2).sum())
    decoder = score(mean + slope * aligned, y, mean) | retrieval(W_dec.T, x, y - mean)
    return {name: heldout.judge(effect_map) for name, effect_map in maps.items()} | {
        "no_effect": score(torch.zeros_like(y), y, mean),
        "mean_effect": score(mean.expand_as(y), y, mean),
        "decoder_transposed": decoder,
    }


def curve_chunks(chunks: int) -> list[int]:
    """Numbers of chunks at which the learning curve is measured: from two, which cross-validation needs, to all."""
    return sorted({2, *[count for count in CURVE if count < chunks], chunks})


def learning_curve(
    data: EffectData, folds: list[Moments], settings: Settings, heldout: HeldOut, *, adam: EffectMap
) -> pd.DataFrame:
    """Scores of the fits to the first vectors, columns vectors, fit and those of HeldOut.judge.

    Adam, which takes longest, is fitted at two chunks and at half of them; `adam` is the one of all.
    """
    rows = []
    for count in curve_chunks(len(folds)):
        fitted = {
            "reduced rank": fit_reduced_rank(folds[:count], settings.ridge_strengths, settings.identity)[0],
            "ridge": fit_ridge(folds[:count], settings.ridge_strengths, settings.identity)[0],
        }
        if count == len(folds):
            fitted["Adam"] = adam
        elif count in (2, len(folds) // 2):
            fitted["Adam"] = fit_published(data, count, settings)
        rows += [{"vectors": count * data.chunk_size, "fit": fit} | heldout.judge(m) for fit, m in fitted.items()]
    return pd.DataFrame(rows)


def best_fit(scores: dict[str, dict[str, float]], maps: dict[str, EffectMap], key: str = "r2") -> str:
    """The fit that scores highest."""
    return max(maps, key=lambda name: scores[name][key])


def spread_of_effects(y: Tensor) -> pd.Series:
    """Fifth of the latents by the spread of their true effects y (n, d_sae), from `smallest` to `largest`."""
    spread = pd.Series(y.std(dim=0).numpy())
    return pd.qcut(spread.rank(method="first"), 5, labels=["smallest", "2", "3", "4", "largest"])


def own_latents(predicted: Tensor, y: Tensor, latents: NDArray) -> pd.DataFrame:
    """Predicted and measured effect (n, d_sae) of each decoder row on its own latent, of numbers `latents` (n,)."""
    rows = np.arange(len(latents))
    return pd.DataFrame({"predicted": predicted[rows, latents].numpy(), "measured": y[rows, latents].numpy()})
