"""The lm-evaluation-harness's model type `steered`: `lm_eval --model steered --model_args pretrained=MODEL,steer_path=FILE`.

The harness reads the file as a pickle (`torch.load` with weights_only=False), so it can only be a `.pt`; this module writes it
and reads none.
"""

from pathlib import Path

import torch

from fgaa_utils.export.steering import Steering


def write(steering: Steering, folder: Path) -> Path:
    """Write `<folder>/<name>.pt`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{steering.stem}.pt"
    hook = f"layers.{steering.layer}"  # the harness's own name of a block; `model.layers` it refuses
    entry = {"steering_vector": steering.vector[None], "steering_coefficient": steering.coeff, "action": "add"}
    torch.save({hook: entry | {"bias": None, "head_index": None}}, path)
    return path
