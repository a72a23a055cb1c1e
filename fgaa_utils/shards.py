"""Results in shards: written whole or not at all, tied to what shaped them, checked when read.

A store is a folder named by the hash of its identity, so a changed parameter, model or prompt opens another
folder and can never mix with old shards, and a killed run goes on with the first shard that is missing. The
processor and the number of threads are part of it: others sum in another order and round otherwise.
"""

import hashlib
import json
import os
import platform
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CPUINFO = Path("/proc/cpuinfo")  # Linux's; other systems name the processor themselves


class Model(Protocol):
    """What a LanguageModel tells of itself for an identity."""

    @property
    def identity(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def place(self) -> dict[str, str]: ...


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest(value: object) -> str:
    """16 hex digits that identify a tensor or a value that JSON can hold.

    Raises: TypeError for anything else, a tensor inside another value included: digest it first.
    """
    if isinstance(value, Tensor):
        data = str((value.dtype, tuple(value.shape))).encode() + bytes(_bytes(value))
    else:
        data = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def weights_digest(module: torch.nn.Module) -> str:
    """16 hex digits that identify the weights of a module, in whatever order it holds them."""
    weights = module.state_dict()
    return digest("".join(digest(weights[name]) for name in sorted(weights)))


@cache
def processor(device: str = "cpu") -> dict[str, str | bool]:
    """The kind of processor that computes on `device`: what decides how sums round, beside torch.

    `name` of a GPU; of a CPU `vendor`, `name`, the vector extensions that torch uses and whether it has bfloat16.
    """
    if torch.device(device).type == "cuda":
        return {"name": torch.cuda.get_device_name(device)}
    vendor, name = _cpu_name()
    bf16 = torch.cpu._is_avx512_bf16_supported()
    return {"vendor": vendor, "name": name, "vectors": torch.backends.cpu.get_cpu_capability(), "bf16": bf16}


def _threads(device: str) -> int | None:
    """How many threads share a sum on `device`, which decides its last bits on a CPU; None on a GPU."""
    return None if torch.device(device).type == "cuda" else torch.get_num_threads()


def rounding(device: str = "cpu") -> dict[str, object]:
    """What decides how sums round on a device of this machine: torch, the processor and the number of its threads."""
    return {"torch": torch.__version__, "processor": processor(device), "threads": _threads(device)}


def _cpu_name() -> tuple[str, str]:
    """(vendor, model name) of the CPU, the name with family and model of x86, since clouds give several one name; empty
    texts for what the system does not say."""
    if not CPUINFO.exists():
        return "", platform.processor()
    pairs = (line.partition(":") for line in CPUINFO.read_text().splitlines())
    told = {key.strip(): value.strip() for key, _, value in pairs}
    name = told.get("model name", told.get("CPU part", ""))
    if {"cpu family", "model"} <= set(told):
        name += f" (family {told['cpu family']}, model {told['model']})"
    return told.get("vendor_id", told.get("CPU implementer", "")), name


def record_processor(dtype: torch.dtype | None = None, device: str = "cpu") -> str:
    """One line for reports: `AMD EPYC 7763 (family 25, model 1), AVX2, 2 threads, float32 products; torch 2.13.0`; dtype:
    what `auto` is, by default."""
    kind = processor(device)
    if dtype is None:
        dtype = torch.bfloat16 if kind.get("bf16") else torch.float32
    threads = _threads(device)
    shared = f"{threads} thread{'s' * (threads > 1)}" if threads else ""
    told = [str(kind["name"]), str(kind.get("vectors", "")), shared, f"{str(dtype).removeprefix('torch.')} products"]
    return f"{', '.join(part for part in told if part)}; torch {torch.__version__}"


def identity(lm: Model | None = None, sae: torch.nn.Module | None = None, **parts: object) -> dict:
    """The identity of a computation for the name of its shards: torch, the processor, the number of its threads and, where
    given, the model with its device and the SAE, beside `parts`, which JSON must hold.

    Raises: ValueError for a part that would replace one of these.
    """
    common: dict = rounding(str(lm.device) if lm else "cpu")
    if lm is not None:
        common |= {"model": lm.identity} | lm.place
    if sae is not None:
        common |= {"sae": weights_digest(sae)}
    if taken := sorted({*common, "model", "device"} & set(parts)):
        raise ValueError(f"{', '.join(taken)} cannot be a part of an identity; identity() gives it itself")
    return common | parts


def _checksum(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """Of names, dtypes, shapes, values and metadata."""
    header = {name: (str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())}
    crc = zlib.crc32(json.dumps([header, sorted(texts.items())]).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(_bytes(tensors[name]), crc)
    return f"{crc:08x}"


def _sort_header(path: Path) -> None:
    """Put the header's keys in order; safetensors writes metadata in a random one, and equal tensors are to make
    equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(ordered) == length:
            file.seek(8)
            file.write(ordered)


def save_tensors(path: Path, tensors: dict[str, Tensor], **metadata: object) -> None:
    """Write a safetensors file with a checksum, atomically: the file is there whole or not at all.

    Raises: OSError if the disk is full or the folder cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata=texts | {"crc32": _checksum(tensors, texts)})
        _sort_header(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}); is the disk full or the folder read-only?") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file written by save_tensors.

    Raises: FileNotFoundError if it is absent; ValueError if it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; the stage that writes it has not run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run its stage again") from error
    if metadata.pop("crc32", None) != _checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged (wrong checksum); delete it and run its stage again")
    return tensors, metadata


def check_identity(path: Path, metadata: dict, identity: dict, *, fix: str) -> None:
    """Raises: ValueError, saying `fix`, if the metadata of a file at `path` differ from `identity` in any of its
    entries."""
    for key, value in identity.items():
        if metadata.get(key) != str(value):
            raise ValueError(
                f"{path.name} was made with {key}={metadata.get(key)!r}, this run has {str(value)!r}; {fix}"
            )


def save_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a Parquet file without the index, atomically."""
    partial = path.with_suffix(".partial")
    frame.to_parquet(partial, index=False)
    os.replace(partial, path)


class ShardStore:
    """Shards 0..count-1 of one computation, under folder/<identity hash>/."""

    def __init__(self, folder: Path, identity: dict, count: int):
        self.count = count
        self.folder = folder / digest(identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "identity.json").write_text(json.dumps(identity, indent=1, sort_keys=True, default=str))

    def path(self, index: int) -> Path:
        return self.folder / f"shard_{index:05d}.safetensors"

    def missing(self) -> list[int]:
        """The shards still to be made, in order."""
        return [i for i in range(self.count) if not self.path(i).exists()]

    def write(self, index: int, tensors: dict[str, Tensor]) -> None:
        save_tensors(self.path(index), tensors)

    def read(self, index: int) -> dict[str, Tensor]:
        """Raises: ValueError if the shard is damaged."""
        return load_tensors(self.path(index))[0]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """All shards in order, one in memory at a time."""
        for index in range(self.count):
            yield self.read(index)
