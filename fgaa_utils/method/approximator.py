"""The effect approximator y = x M + b (paper, section 3; SAE-TS, arXiv 2411.02193): fitted, scored, kept.

x is a unit steering vector (d_model,), y its effect on mean latent activations (d_sae,).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.model.hub import hub_or_local
from fgaa_utils.names import FITS
from fgaa_utils.project import unknown
from fgaa_utils.shards import check_identity, load_tensors, save_tensors


@dataclass(frozen=True)
class EffectMap:
    """M (d_model, d_sae) and b (d_sae,), and the identity of the model, SAE and layer that they belong to."""

    M: Tensor
    b: Tensor
    identity: dict

    def predict(self, x: Tensor) -> Tensor:
        """Effects (n, d_sae) of unit vectors (n, d_model)."""
        return x @ self.M + self.b

    def save(self, path: Path) -> None:
        """Write M and b as float16 safetensors."""
        save_tensors(path, {"M": self.M.half(), "b": self.b.half()}, **self.identity)

    @classmethod
    def load(cls, path: Path, **expected: object) -> "EffectMap":
        """The map saved at `path`, in float32. `expected` are identity entries it must carry.

        Raises: ValueError if it belongs to another model, SAE or layer, or is damaged.
        """
        tensors, metadata = load_tensors(path)
        check_identity(path, metadata, expected, fix="make it again")
        return cls(tensors["M"].float(), tensors["b"].float(), metadata)


def load_effect_map(fit: str, folder: Path, *, d_model: int, d_sae: int, identity: dict) -> EffectMap:
    """The effect map that `fit` names: one of FITS, made by the effects stage in `folder` and carrying `identity`;
    or a state dict with W (d_model, d_sae) and b (d_sae,) as SAE-TS publishes it, by path or `repository:file`.

    Raises: OSError if it cannot be had; ValueError if it belongs to another model, SAE or layer, holds anything but
    tensors, or has other shapes.
    """
    if fit in FITS:
        return EffectMap.load(folder / f"{fit}.safetensors", **identity)
    if ":" not in fit and not Path(fit).is_file():
        raise unknown("fit", fit, [*FITS, "repository:file", "the path of a state dict"])
    path = hub_or_local(fit, repo_type="dataset", key="vectors.fit")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{fit} is no state dict of tensors ({str(error).splitlines()[0]})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{fit} is no state dict of tensors")
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {"W": (d_model, d_sae), "b": (d_sae,)}
    if found != wanted:
        raise ValueError(f"the effect map {fit} has {found}, model and SAE want {wanted}; change vectors.fit")
    return EffectMap(weights["W"].float(), weights["b"].float(), {"source": fit})


@dataclass
class Moments:
    """Sums over pairs (x, y) from which every ridge fit and its error on these pairs follow exactly."""

    n: int
    x: Tensor  # (d_model,)
    y: Tensor  # (d_sae,)
    xx: Tensor  # (d_model, d_model)
    xy: Tensor  # (d_model, d_sae)
    yy: Tensor  # (d_sae,)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Moments":
        """Of pairs x (n, d_model), y (n, d_sae)."""
        return cls(
            len(x),
            x.sum(0).double(),
            y.sum(0).double(),
            (x.T @ x).double(),
            (x.T @ y).double(),
            y.pow(2).sum(0).double(),
        )

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f) + getattr(other, f) for f in ("n", "x", "y", "xx", "xy", "yy")))

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f) - getattr(other, f) for f in ("n", "x", "y", "xx", "xy", "yy")))

    def errors(self, M: Tensor, b: Tensor) -> Tensor:
        """Summed squared error of x M + b over the pairs, per latent (d_sae,)."""
        quadratic = (M * (self.xx @ M)).sum(0) + 2 * b * (self.x @ M) + self.n * b**2
        return self.yy - 2 * (M * self.xy).sum(0) - 2 * b * self.y + quadratic

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean x (d_model,) and mean y (d_sae,)."""
        return self.x / self.n, self.y / self.n

    def about(self, mean_x: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
        """Second moments (xx, xy) per pair, about the given means."""
        x, y = self.means()
        xx = self.xx / self.n - torch.outer(x, mean_x) - torch.outer(mean_x, x) + torch.outer(mean_x, mean_x)
        xy = self.xy / self.n - torch.outer(x, mean_y) - torch.outer(mean_x, y) + torch.outer(mean_x, mean_y)
        return xx, xy


def ridge_path(moments: Moments, strengths: Iterable[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """(M, b) of the ridge fit at each strength, double; the bias is not penalised.

    A strength is in units of the mean eigenvalue of the centred x covariance.
    """
    mean_x, mean_y = moments.means()
    cov, cross = moments.about(mean_x, mean_y)
    values, basis = torch.linalg.eigh(cov)
    rotated = basis.T @ cross
    for strength in strengths:
        M = basis @ (rotated / (values + strength * values.mean())[:, None])
        yield M, mean_y - mean_x @ M


def fit_ridge(folds: list[Moments], strengths: list[float], identity: dict) -> tuple[EffectMap, np.ndarray]:
    """(map, strength of each latent): each latent takes the strength that predicts it best on folds left out.

    Raises: ValueError for fewer than two folds.
    """
    if len(folds) < 2:
        raise ValueError(f"{len(folds)} fold of effect data; cross-validation needs at least 2")
    total = sum(folds[1:], folds[0])
    errors = sum(
        torch.stack([fold.errors(M, b) for M, b in ridge_path(total - fold, strengths)]) for fold in folds
    )  # (strengths, d_sae)
    best = errors.argmin(dim=0)
    M, b = torch.zeros_like(total.xy), torch.zeros_like(total.y)
    for i, (M_i, b_i) in enumerate(ridge_path(total, strengths)):
        M[:, best == i], b[best == i] = M_i[:, best == i], b_i[best == i]
    return EffectMap(M.float(), b.float(), identity), np.array(strengths)[best.numpy()]


def _components(M: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """(P (d_model, r), V (r, d_sae)) with M = P V: V orthonormal, in falling order of the variance of x P."""
    values, basis = torch.linalg.eigh(cov)
    fitted = (basis * values.clamp(min=0).sqrt()).T @ M  # its rows span the fitted effects
    left = torch.linalg.eigh(fitted @ fitted.T).eigenvectors.flip(1)
    V = left.T @ fitted
    V = V / V.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return M @ V.T, V


def fit_reduced_rank(
    folds: list[Moments], strengths: list[float], identity: dict
) -> tuple[EffectMap, tuple[float, int]]:
    """(map, (strength, rank)): a ridge fit of all latents kept in its `rank` strongest directions of effect.

    Steering moves many latents together, so the directions borrow strength from all of them: reduced-rank
    regression (Izenman 1975; with a ridge penalty Mukherjee and Zhu 2011), each latent in units of its own
    standard deviation. Strength and rank predict the folds left out best. Raises: ValueError for fewer than two folds.
    """
    if len(folds) < 2:
        raise ValueError(f"{len(folds)} fold of effect data; cross-validation needs at least 2")
    total = sum(folds[1:], folds[0])
    sd = (total.yy / total.n - (total.y / total.n) ** 2).clamp(min=0).sqrt()
    weight = torch.where(sd > 0, 1 / sd, 0)
    errors = torch.zeros(len(strengths), len(total.x), dtype=torch.double)  # less the error of the mean effect
    for fold in folds:
        rest = total - fold
        mean_x, mean_y = rest.means()
        cov = rest.about(mean_x, mean_y)[0]
        xx, xy = fold.about(mean_x, mean_y)
        for i, (M, _) in enumerate(ridge_path(rest, strengths)):
            P, V = _components(M * weight, cov)
            # the directions are orthogonal, so each adds its own share to the squared error
            shares = (P * (xx @ P)).sum(0) - 2 * (P * ((xy * weight) @ V.T)).sum(0)
            errors[i] += fold.n * shares.cumsum(0)
    best, rank = divmod(int(errors.argmin()), errors.shape[1])
    mean_x, mean_y = total.means()
    M, _ = next(ridge_path(total, [strengths[best]]))
    P, V = _components(M * weight, total.about(mean_x, mean_y)[0])
    M = (P[:, : rank + 1] @ V[: rank + 1]) * sd
    return EffectMap(M.float(), (mean_y - mean_x @ M).float(), identity), (strengths[best], rank + 1)


def fit_adam(
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    identity: dict,
    *,
    epochs: int,
    lr: float,
    batch: int,
    total: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> EffectMap:
    """The published fit: Adam on the mean squared error, cosine rate over `epochs`, batches of `batch` pairs.

    `batches()` gives (x, y) chunks anew for every epoch; `total` is their number of pairs. Targets are divided
    by one number, their root mean square in the first chunk, so that the published rate means the same in
    every SAE's units. The fit is done on `device`.
    """
    torch.manual_seed(seed)
    x, y = next(iter(batches()))
    unit = float(y.pow(2).mean().sqrt())
    linear = torch.nn.Linear(x.shape[1], y.shape[1]).to(device)  # made before it moves: the same start anywhere
    optimizer = torch.optim.Adam(linear.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * (total // batch))
    for _ in tqdm(range(epochs), desc=f"adam on {total} vectors", unit="epoch", mininterval=15):
        for x, y in batches():
            x, y, order = x.to(device), y.to(device), torch.randperm(len(x)).to(device)
            for start in range(0, len(x) - batch + 1, batch):
                rows = order[start : start + batch]
                loss = torch.nn.functional.mse_loss(linear(x[rows]), y[rows] / unit)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
    return EffectMap(linear.weight.detach().cpu().T * unit, linear.bias.detach().cpu() * unit, identity)


def score(predicted: Tensor, y: Tensor, mean_effect: Tensor) -> dict[str, float]:
    """How well predicted effects (n, d_sae) match measured ones (n, d_sae).

    r2: share of the squared deviation from `mean_effect` (d_sae,) that the prediction explains, so that the
    mean effect itself scores 0. cosine: mean over vectors of the cosine of predicted and measured effect, both
    with the mean effect taken off. cosine_raw: the same without taking it off.
    """
    deviation, error = (y - mean_effect).pow(2).sum(), (y - predicted).pow(2).sum()
    centred = torch.nn.functional.cosine_similarity(predicted - mean_effect, y - mean_effect, dim=1)
    raw = torch.nn.functional.cosine_similarity(predicted, y, dim=1)
    return {"r2": 1 - float(error / deviation), "cosine": float(centred.mean()), "cosine_raw": float(raw.mean())}


def retrieval(M: Tensor, x: Tensor, effects: Tensor) -> dict[str, float]:
    """How well a map (d_model, d_sae) used backwards, as Eq. 5 uses it, finds unit vectors x (n, d_model) from their
    effects (n, d_sae), less the mean effect.

    retrieval_cosine: mean cosine of M y with the vector that had the effect y. retrieval_top1: share of effects whose
    M y is closer to their own vector than to any other of x.
    """
    found = torch.nn.functional.normalize(effects @ M.T, dim=1)
    cosines = found @ x.T  # (n, n)
    own = cosines.diagonal()
    return {
        "retrieval_cosine": float(own.mean()),
        "retrieval_top1": float((cosines.argmax(dim=1) == torch.arange(len(x))).float().mean()),
    }


def noise_ceiling(rollouts: Tensor, mean_effect: Tensor) -> dict[str, float]:
    """What a perfect map would score on means of `rollouts` (n, rollouts, d_sae): the rest is sampling noise."""
    count = rollouts.shape[1]
    y = rollouts.mean(dim=1)
    noise = float(rollouts.var(dim=1).sum() / count)
    deviation = float((y - mean_effect).pow(2).sum())
    halves = rollouts[:, : count // 2].mean(dim=1), rollouts[:, count // 2 :].mean(dim=1)
    cosine = torch.nn.functional.cosine_similarity(halves[0] - mean_effect, halves[1] - mean_effect, dim=1)
    reliability = (2 * cosine / (1 + cosine)).clamp(min=0)  # Spearman-Brown: halves to whole
    return {"r2": 1 - noise / deviation, "cosine": float(reliability.sqrt().mean())}


def latent_correlations(predicted: Tensor, y: Tensor) -> np.ndarray:
    """Correlation over vectors of predicted and measured effect, per latent (d_sae,); NaN where one is constant."""
    p, t = predicted - predicted.mean(0), y - y.mean(0)
    return ((p * t).sum(0) / (p.norm(dim=0) * t.norm(dim=0))).numpy()
