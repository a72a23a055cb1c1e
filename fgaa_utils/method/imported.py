"""Steering vectors from elsewhere, to be measured like the methods of this package: GGUF control vectors, as llama.cpp and
repeng write them, and safetensors files whose tensors are named by blocks, for the library steering-vectors."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fgaa_utils.method.vectors import unit
from fgaa_utils.names import IMPORTED, VectorName
from fgaa_utils.project import ROOT


def imported_vectors(files: dict[str, list[str]], layer: int, d_model: int) -> dict[VectorName, Tensor]:
    """One vector a file, of unit norm, {love.imported.draw=1: (d_model,)}: what the file adds to the output of block
    `layer`, counted from 0. Its own strength is not used: every method is tried at the same scales.

    Raises: FileNotFoundError for a file that is not there; ValueError for one that holds no vector, none of this block, or
    one of another model's width.
    """
    made = {}
    for behaviour, paths in files.items():
        for draw, path in enumerate(paths, start=1):
            made[VectorName(behaviour, IMPORTED, draw=draw)] = _of_block(ROOT / path, layer, d_model)
    return made


def _of_block(path: Path, layer: int, d_model: int) -> Tensor:
    deltas = read_deltas(path)
    if layer not in deltas:
        raise ValueError(f"{path} has vectors of the blocks {sorted(deltas)}, none of block {layer}; change base.layer")
    delta = deltas[layer]
    if delta.shape != (d_model,):
        raise ValueError(
            f"{path} has a vector of {list(delta.shape)}, the model wants {[d_model]}; it is another model's"
        )
    if not delta.isfinite().all() or not delta.any():
        raise ValueError(f"{path} has a vector that is zero or not finite at block {layer}")
    return unit(delta)


def read_deltas(path: Path) -> dict[int, Tensor]:
    """{block: delta (d_model,)}, float32, of a file `.gguf` or `.safetensors`.

    Raises: as the function of its format; ValueError for another suffix.
    """
    readers = {".gguf": read_gguf, ".safetensors": read_safetensors}
    if path.suffix not in readers:
        raise ValueError(f"{path} is neither .gguf nor .safetensors; a pickle is not read")
    return readers[path.suffix](path)


def read_gguf(path: Path) -> dict[int, Tensor]:
    """{block: delta (d_model,)} of a GGUF control vector: `direction.N` is added to the output of block N.

    Raises: FileNotFoundError if it is not there; ValueError for a file that is no control vector.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = GGUFReader(str(path))
    except (ValueError, LookupError, OverflowError) as error:  # of one that is cut off, too
        raise ValueError(f"{path} is no GGUF file, or a damaged one: {error}") from error
    deltas = {}
    for tensor in found.tensors:
        prefix, _, number = tensor.name.partition(".")
        if prefix != "direction" or not number.isdigit():
            raise ValueError(f"{path} holds {tensor.name!r}, so that it is no control vector")
        deltas[int(number)] = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    if not deltas:
        raise ValueError(f"{path} holds no direction, so that it is no control vector")
    return deltas


def read_safetensors(path: Path) -> dict[int, Tensor]:
    """{block: delta (d_model,)} of tensors named by their blocks, `0`, `1`, ...

    Raises: FileNotFoundError if it is not there; ValueError for a damaged file or other names.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if not tensors or not all(name.isdigit() for name in tensors):
        raise ValueError(f"{path} holds {sorted(tensors)}; its tensors must be named by their blocks, 0, 1, ...")
    return {int(name): tensor.float() for name, tensor in tensors.items()}
