"""Scales of steering: how hard, in nats a token, in spreads of the residual stream or in the paper's absolute norms."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.names import SCALE_UNITS
from fgaa_utils.project import unknown


def check_scales(scales: list[float]) -> None:
    """Raises: ValueError unless the scales are positive and grow."""
    if not scales or not np.isfinite(scales).all() or sorted(set(scales)) != list(scales) or scales[0] <= 0:
        raise ValueError(f"scales are {scales}; they must be positive and grow, without repeats")


@dataclass(frozen=True)
class Strength:
    """How long a vector is at a scale.

    `nats`: so long that it costs the scale in nats a token, KL(steered || unsteered), by the quadratic form of the Fisher
    information, which says too little of vectors by natural gradient (see method.gradient_checks). `resid_std`: the mean norm of the
    residual stream less its mean, times the scale. `absolute`: the scale, the paper's own.

    Raises: ValueError for another unit, or nats without gradients.
    """

    unit: str
    resid_std: float
    gradients: GradientMap | None = None

    def __post_init__(self):
        if self.unit not in SCALE_UNITS:
            raise unknown("scale_unit", self.unit, list(SCALE_UNITS))
        if self.unit == "nats" and self.gradients is None:
            raise ValueError("scale_unit is nats, which needs the Fisher information; run the gradients stage")

    @classmethod
    def read(cls, unit: str, resid_std: float, gradients: Path, identity: dict) -> "Strength":
        """With the Fisher information of the file `gradients` if the unit needs it. Raises: ValueError if that is of
        another model, SAE or layer than `identity` says; FileNotFoundError if it is not there."""
        needed = unit == "nats"
        return cls(unit, resid_std, GradientMap.load(gradients, **identity) if needed else None)

    def coeff(self, vector: Tensor, scale: float) -> float:
        """The coefficient, in absolute norm, of a unit vector (d_model,)."""
        if self.unit == "nats":
            return self.gradients.coefficient(vector, scale)  # type: ignore[union-attr]
        return scale * (self.resid_std if self.unit == "resid_std" else 1.0)
