"""GGUF control vectors: llama.cpp and all that embeds it, repeng, EasySteer.

`direction.N` is added to the output of block N, counted from 0, at all positions; block 0 cannot be expressed. The strength is
in the vector: load it with scale 1 (`llama-cli --control-vector-scaled FILE:1`).
"""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor

from fgaa_utils.export.steering import Steering

ARCHITECTURE = "controlvector"


def write(steering: Steering, folder: Path) -> Path:
    """Write `<folder>/<name>.gguf`. Raises: ValueError for block 0, which the format cannot express."""
    if steering.layer == 0:
        raise ValueError(
            f"{steering.name} steers block 0, which a GGUF control vector cannot express; take another layer"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{steering.stem}.gguf"
    writer = GGUFWriter(str(path), ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", steering.model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
    for key, value in steering.record.items():
        writer.add_string(f"fgaa.{key}", value)
    writer.add_tensor(f"direction.{steering.layer}", steering.delta.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> dict[int, Tensor]:
    """{block: delta (d_model,)} of a control vector from anywhere.

    Raises: FileNotFoundError if it is not there; ValueError for a file that is no control vector.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = GGUFReader(str(path))
    except ValueError as error:
        raise ValueError(f"{path} is no GGUF file: {error}") from error
    deltas = {}
    for tensor in found.tensors:
        prefix, _, number = tensor.name.partition(".")
        if prefix != "direction" or not number.isdigit():
            raise ValueError(f"{path} holds {tensor.name!r}, so that it is no control vector")
        deltas[int(number)] = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    if not deltas:
        raise ValueError(f"{path} holds no direction, so that it is no control vector")
    return deltas
