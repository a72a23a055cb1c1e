"""The library steering-vectors, which has no file format: a safetensors file with one tensor, named by its block.

from safetensors.torch import load_file
from steering_vectors import SteeringVector
SteeringVector({int(k): v for k, v in load_file("FILE").items()}, "decoder_block").apply(model, multiplier=1.0)
"""

from pathlib import Path

from fgaa_utils.export.steering import Steering
from fgaa_utils.shards import save_tensors

SUFFIX = ".steering-vectors.safetensors"


def write(steering: Steering, folder: Path) -> Path:
    """Write `<folder>/<name>.steering-vectors.safetensors`; the strength is in the vector."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{steering.stem}{SUFFIX}"
    save_tensors(path, {str(steering.layer): steering.delta}, layer_type="decoder_block", **steering.record)
    return path
