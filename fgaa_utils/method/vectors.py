"""Steering vectors of every method, all of unit norm (paper, section 3 and Eq. 5).

CAA, SAE, SAE-TS and FGAA, and controls that the paper lacks: a random direction, the bias direction of the
effect map, and SAE-TS for a random latent.
"""

from pathlib import Path

import torch
from torch import Tensor

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import target
from fgaa_utils.names import CONTROLS, METHODS
from fgaa_utils.project import unknown
from fgaa_utils.shards import load_tensors, save_tensors


def unit(v: Tensor) -> Tensor:
    """v divided by its L2 norm. Raises: ValueError if it is zero or not finite."""
    norm = v.norm()
    if not norm.isfinite() or norm == 0:
        raise ValueError(f"a steering vector has norm {float(norm)}; it cannot be scaled to unit norm")
    return v / norm


def caa(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean residual stream over X+ minus over X- (arXiv 2312.06681); both (texts, d_model), tokens averaged."""
    return unit(positive.mean(dim=0) - negative.mean(dim=0))


def sae_row(W_dec: Tensor, latent: int) -> Tensor:
    """Decoder row of one latent, (d_model,)."""
    return unit(W_dec[latent])


def fgaa(effect_map: EffectMap, v_target: Tensor, *, bias_weight: float) -> Tensor:
    """M v / |M v| - bias_weight * M b / |M b| (Eq. 5; the paper's weight is 1), (d_model,)."""
    towards = unit(effect_map.M @ v_target)
    return unit(towards + bias_weight * bias_direction(effect_map)) if bias_weight else towards


def sae_ts(effect_map: EffectMap, latent: int, *, bias_weight: float) -> Tensor:
    """FGAA for a target of one latent (arXiv 2411.02193), (d_model,)."""
    one = torch.zeros(effect_map.M.shape[1])
    one[latent] = 1.0
    return fgaa(effect_map, one, bias_weight=bias_weight)


def bias_direction(effect_map: EffectMap) -> Tensor:
    """-M b / |M b|: away from what steering in any direction does, (d_model,)."""
    return -unit(effect_map.M @ effect_map.b)


def behaviour_vectors(
    *,
    resid: tuple[Tensor, Tensor],
    v_filtered: Tensor,
    W_dec: Tensor,
    effect_map: EffectMap,
    n1: list[int],
    n2: int,
    target_norm: str,
    ranks: list[int],
    bias_weight: float,
) -> dict[tuple[str, int], Tensor]:
    """All vectors of one behaviour by (method, variant), each (d_model,) of unit norm.

    The variant is n1 for FGAA, and the rank of the latent in the filtered v_diff (1 is the highest) for SAE and
    SAE-TS, which see no more of the data than FGAA does; 0 where a method has but one vector. `resid` holds the
    token means of X+ and X- (texts, d_model).

    Raises: ValueError if the filters left fewer latents than the largest n1 or rank wants.
    """
    left = int((v_filtered > 0).sum())
    if max(*n1, *ranks) > left or min(*n1, *ranks) < 1:
        raise ValueError(
            f"n1 {n1} and ranks {ranks} must be from 1 to {left}, the positive latents left after the filters"
        )
    ranked = v_filtered.argsort(descending=True)
    vectors = {("caa", 0): caa(*resid)}
    for rank in ranks:
        latent = int(ranked[rank - 1])
        vectors["sae", rank] = sae_row(W_dec, latent)
        vectors["sae_ts", rank] = sae_ts(effect_map, latent, bias_weight=bias_weight)
    for n in n1:
        vectors["fgaa", n] = fgaa(effect_map, target(v_filtered, n, n2, norm=target_norm), bias_weight=bias_weight)
    return vectors


def control_vectors(
    W_dec: Tensor, effect_map: EffectMap, *, count: int, bias_weight: float, seed: int
) -> dict[tuple[str, int], Tensor]:
    """Vectors that know no behaviour, by (control, variant): `count` random directions, SAE-TS for `count` random
    latents that the effect map says anything of, and the bias direction; each (d_model,) of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    alive = effect_map.M.norm(dim=0).nonzero().squeeze(1)
    vectors = {("bias", 0): bias_direction(effect_map)}
    for i in range(1, count + 1):
        vectors["random", i] = unit(torch.randn(W_dec.shape[1], generator=generator))
        latent = int(alive[torch.randint(len(alive), (1,), generator=generator)])
        vectors["random_latent", i] = sae_ts(effect_map, latent, bias_weight=bias_weight)
    return vectors


def save_vectors(path: Path, vectors: dict[tuple[str, str, int], Tensor], **metadata: object) -> None:
    """Write vectors named behaviour.method.variant, with metadata, as safetensors."""
    save_tensors(path, {".".join(map(str, name)): v.float() for name, v in vectors.items()}, **metadata)


def load_vectors(path: Path, *, model: str) -> tuple[dict[tuple[str, str, int], Tensor], dict[str, str]]:
    """({(behaviour, method, variant): vector}, metadata).

    Raises: ValueError if the file is damaged, was made for another model or holds an unknown method.
    """
    tensors, metadata = load_tensors(path)
    if metadata["model"] != model:
        raise ValueError(f"{path.name} was made for {metadata['model']}, this run has {model}; run the vectors stage")
    vectors = {}
    for name, v in tensors.items():
        behaviour, method, variant = name.split(".")
        if method not in METHODS + CONTROLS:
            raise unknown("method", method, [*METHODS, *CONTROLS])
        vectors[behaviour, method, int(variant)] = v
    return vectors, metadata
