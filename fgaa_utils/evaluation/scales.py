"""Scales of steering: how hard, in units of the residual stream's spread or in the paper's absolute norms."""

import numpy as np

from fgaa_utils.project import unknown


def check_scales(scales: list[float]) -> None:
    """Raises: ValueError unless the scales are positive and grow."""
    if not scales or not np.isfinite(scales).all() or sorted(set(scales)) != list(scales) or scales[0] <= 0:
        raise ValueError(f"scales are {scales}; they must be positive and grow, without repeats")


def scale_in_norm(unit: str, resid_std: float) -> float:
    """The absolute norm of scale 1 under `resid_std` or `absolute`."""
    units = {"resid_std": resid_std, "absolute": 1.0}
    if unit not in units:
        raise unknown("scale_unit", unit, list(units))
    return units[unit]
