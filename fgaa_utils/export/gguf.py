"""GGUF control vectors: llama.cpp and all that embeds it, repeng, EasySteer.

`direction.N` is added to the output of block N, counted from 0, at all positions; block 0 cannot be expressed. The strength is
in the vector: load it with scale 1 (`llama-cli --control-vector-scaled FILE:1`).
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

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
