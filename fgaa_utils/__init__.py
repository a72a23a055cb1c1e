"""Reproduction of Feature Guided Activation Additions (arXiv 2501.09929), and helpers to steer a model in a cell.

from fgaa_utils import load_model, steered_text
"""

from importlib import import_module
from typing import Any

# Loaded when first asked for, so that a light import of the package stays light.
_HELPERS = {"load_model": "fgaa_utils.model.lm", "steered_text": "fgaa_utils.model.generate"}
__all__ = ["load_model", "steered_text"]


def __getattr__(name: str) -> Any:
    if name not in _HELPERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HELPERS[name]), name)
