"""How well a sparse autoencoder describes a residual stream: variance, sparsity, cross-entropy, densities of latents.

BOS is left out of every figure and never replaced: its norm is many times that of any other token.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import edited_logits, next_token_ce
from fgaa_utils.sae.load import decode, encode


def evaluate_sae(sae: SAE, lm: LanguageModel, rows: NDArray, layer: int, *, batch: int = 4) -> dict[str, float]:
    """Quality on held-out token rows (rows, context).

    explained_variance is of the centred residual stream; ce_recovered is the share of the rise in
    cross-entropy under zero-ablation that the reconstruction avoids, ce_recovered_mean the same for
    mean-ablation; dead_fraction counts latents that never fire on these rows.
    """
    mean = sum(r[1:].float().mean(dim=0) for r in capture_resid(lm, rows.tolist(), layer)) / len(rows)
    quality = _reconstruction(sae, lm, rows, layer, mean)
    ce = _cross_entropies(sae, lm, rows, layer, mean, batch)
    return {
        "explained_variance": quality["explained_variance"],
        "l0": quality["l0"],
        "dead_fraction": quality["dead_fraction"],
        "ce_recovered": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["base"]),
        "ce_recovered_mean": (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["base"]),
        **{f"ce_{name}": value for name, value in ce.items()},
        "heldout_tokens": quality["heldout_tokens"],
    }


def _reconstruction(sae: SAE, lm: LanguageModel, rows: NDArray, layer: int, mean: Tensor) -> dict[str, float]:
    """What the latents alone tell: variance explained about `mean` (d_model,), sparsity, latents that never fire."""
    error = variance = active = tokens = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for resid in capture_resid(lm, rows.tolist(), layer):
        h = resid[1:].float()
        acts = encode(sae, h)
        error += float((h - decode(sae, acts)).pow(2).sum())
        variance += float((h - mean).pow(2).sum())
        active += float((acts > 0).sum())
        fired |= (acts > 0).any(dim=0)
        tokens += len(h)
    return {
        "explained_variance": 1 - error / variance,
        "l0": active / tokens,
        "dead_fraction": 1 - float(fired.float().mean()),
        "heldout_tokens": tokens,
    }


def _cross_entropies(
    sae: SAE, lm: LanguageModel, rows: NDArray, layer: int, mean: Tensor, batch: int
) -> dict[str, float]:
    """Next-token cross-entropy, nats, of the stream itself (`base`) and with the reconstruction, zero or `mean`
    (d_model,) in its place."""

    def beyond_bos(replacement: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda h: torch.cat([h[:, :1], replacement(h[:, 1:]).to(h.dtype)], dim=1)

    edits = {
        "base": lambda h: h,
        "sae": beyond_bos(lambda h: decode(sae, encode(sae, h))),
        "zero": beyond_bos(torch.zeros_like),
        "mean": beyond_bos(lambda h: mean.to(h.device).expand_as(h)),
    }
    ce = dict.fromkeys(edits, 0.0)
    for start in range(0, len(rows), batch):
        ids = torch.from_numpy(rows[start : start + batch]).long()
        for name, edit in edits.items():
            ce[name] += float(next_token_ce(edited_logits(lm, ids, layer, edit), ids)[:, 1:].mean(dim=1).sum())
    return {name: total / len(rows) for name, total in ce.items()}


def latent_densities(sae: SAE, lm: LanguageModel, rows: NDArray, layer: int) -> NDArray:
    """Share of the tokens of rows (rows, context) on which each latent fires, (d_sae,), float64."""
    fires, seen = np.zeros(sae.cfg.d_sae), 0
    for resid in capture_resid(lm, rows.tolist(), layer):
        acts = encode(sae, resid[1:])
        fires += (acts > 0).sum(dim=0).numpy()
        seen += len(acts)
    return fires / seen


def stream_norms(resid: Tensor, bos: Tensor) -> pd.DataFrame:
    """Norms of the residual streams (tokens, d_model) of other tokens and of one BOS (d_model,), rounded."""
    mean = resid.mean(dim=0)
    norms = {
        "BOS": bos.norm(),
        "other tokens, on average": resid.norm(dim=1).mean(),
        "mean of the other tokens": mean.norm(),
        "what varies about it, on average": (resid - mean).norm(dim=1).mean(),
    }
    rounded = {name: round(float(value)) for name, value in norms.items()}
    return pd.Series(rounded).to_frame("norm").rename_axis("residual stream")


def density_sentence(quality: dict[str, float], densities: NDArray) -> str:
    """The mean density, and the share of latents (d_sae,) that the paper's filter would call dense."""
    return (
        f"The mean density is {quality['l0'] / len(densities):.4f}; {(densities > 0.01).mean():.1%} of the latents are "
        "denser than 0.01."
    )


def quality_table(quality: dict[str, float]) -> pd.DataFrame:
    """The measures that evaluate_sae gives, a row each."""
    names = {name: name.replace("ce_", "cross-entropy ").replace("_", " ") for name in quality}
    return pd.Series(quality).drop("heldout_tokens").rename(names).to_frame("held out").rename_axis("measure")


def sae_metrics(quality: dict[str, float], densities: NDArray, *, tokens: int, model: str) -> dict:
    """The metrics of the sae stage: quality as evaluate_sae gives it, densities (d_sae,), tokens trained on."""
    return {
        "d_sae": len(densities),
        "tokens": tokens,
        "mean_density": quality["l0"] / len(densities),
        "share_denser_than_0.01": float((densities > 0.01).mean()),
        "model": model,
    } | {key: round(value, 5) for key, value in quality.items()}


def verdict(quality: dict[str, float]) -> str:
    """How well the latents describe the stream, in a sentence, of what evaluate_sae gives."""
    return (
        f"With {quality['l0']:.1f} active latents a token the SAE explains {quality['explained_variance']:.1%} of the "
        f"centred variance and recovers {quality['ce_recovered']:.1%} of the cross-entropy against zero-ablation, "
        f"{quality['ce_recovered_mean']:.1%} against mean-ablation; {quality['dead_fraction']:.1%} of the latents are silent "
        f"on {quality['heldout_tokens']:,.0f} held-out tokens."
    )
