"""The gradient of expected effects and the Fisher information, as they are kept and used (see `gradients`). Needs no model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgaa_utils.shards import check_identity, load_tensors, save_tensors


def damped_solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    """(A + ridge mean(diag A) I)^-1 b, float32, of a positive matrix A (n, n) and b (n,) or (n, m); solved in double, since
    the eigenvalues of such matrices span six orders."""
    damped = matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix))
    return torch.linalg.solve(damped.double(), right.double()).float()


@dataclass(frozen=True)
class GradientMap:
    """G of the latents (d_model, d_sae) and of the mean residual stream (d_model, d_model), F (d_model, d_model) of a
    rollout of `tokens` tokens, the covariance of rollouts' mean streams, and the identity of model, SAE and layer."""

    G: Tensor
    G_resid: Tensor
    F: Tensor
    covariance: Tensor
    tokens: int
    identity: dict

    def save(self, path: Path) -> None:
        """Write it as safetensors; G in float16, in units of its largest entry."""
        unit = self.G.abs().max()
        tensors = {"G": (self.G / unit).half(), "unit": unit.view(1), "G_resid": self.G_resid, "F": self.F}
        save_tensors(path, tensors | {"covariance": self.covariance}, tokens=self.tokens, **self.identity)

    @classmethod
    def load(cls, path: Path, **expected: object) -> "GradientMap":
        """The map saved at `path`. Raises: ValueError if it belongs to another model, SAE or layer than `expected` says,
        or is damaged."""
        tensors, metadata = load_tensors(path)
        check_identity(path, metadata, expected, fix="run `make again STAGE=gradients`")
        tokens = int(metadata.pop("tokens"))
        G = tensors["G"].float() * tensors["unit"]
        return cls(G, tensors["G_resid"], tensors["F"], tensors["covariance"], tokens, metadata)

    def natural(self, gradient: Tensor, ridge: float) -> Tensor:
        """(F + ridge mean(diag F) I)^-1 g of a gradient (d_model,) or gradients (d_model, n): steepest ascent at equal
        KL. ridge of infinity is the plain gradient."""
        if np.isinf(ridge):
            return gradient
        return damped_solve(self.F, gradient, ridge)

    def cost(self, vector: Tensor) -> Tensor:
        """v^T F v of a vector (d_model,), twice the KL of a rollout by the quadratic form; a scalar, in double."""
        v = vector.double()
        return v @ self.F.double() @ v

    def coefficient(self, vector: Tensor, nats: float) -> float:
        """The coefficient at which a unit vector (d_model,) costs `nats` a token by the quadratic form of F, to six digits:
        what lies beyond depends on the order of sums."""
        return float(f"{float((2 * self.tokens * nats / self.cost(vector)).sqrt()):.6g}")
