"""What the readers of the local judge see in a text, read once and kept: a judge that is fitted anew reads nothing again."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fgaa_utils.judges.readers import LANES, MAX_TOKENS, STEP, Readers
from fgaa_utils.shards import ShardStore, digest, identity, load_tensors, save_tensors
from fgaa_utils.workers import Tick, fill

PART = 1024  # texts that are read between two savings
VERSION = 1  # of what is read: another number where the features of a text change


@dataclass(frozen=True)
class Readings:
    """Of texts, a row each, float32: surface (texts, 13), the coherence features; resid (texts, d_model), the mean residual
    stream of the reference model's middle layer; embedding (texts, 384)."""

    surface: NDArray
    resid: NDArray
    embedding: NDArray

    def centred(self, centre: NDArray) -> NDArray:
        """The residual stream less its mean over natural text, each of length 1, (texts, d_model)."""
        centred = self.resid - centre
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    def behaviour_features(self, centre: NDArray) -> NDArray:
        """(texts, 384 + d_model): the embedding and the centred residual stream, each of length 1."""
        return np.hstack([self.embedding, self.centred(centre)])

    def rows(self, index: list[int] | NDArray) -> "Readings":
        return Readings(**{name: array[index] for name, array in vars(self).items()})


class ReadingStore:
    """Readings by text, in memory, and in files of PART texts each under `folder`/<hash of the readers> if there is one.

    A text's readings do not depend on other texts, nor on whether they were kept. Raises: ValueError for a damaged file.
    """

    def __init__(self, readers: Readers, folder: Path | None = None):
        self.readers = readers
        read_so = identity(readers=readers.identity, max_tokens=MAX_TOKENS, lanes=LANES, step=STEP, version=VERSION)
        self.folder = ShardStore(folder, read_so, 0).folder if folder else None
        self._place: dict[str, int] = {}
        self._parts: list[dict[str, NDArray]] = []  # as they are kept, float16 where that is enough
        self._known: Readings | None = None
        for path in sorted(self.folder.glob("shard_*.safetensors")) if self.folder else ():
            tensors, metadata = load_tensors(path)
            self._add(json.loads(metadata["texts"]), {name: tensor.numpy() for name, tensor in tensors.items()})

    def _add(self, texts: list[str], arrays: dict[str, NDArray]) -> None:
        start = sum(len(part["surface"]) for part in self._parts)  # rows, in which a text may stand twice
        self._place |= {text: start + i for i, text in enumerate(texts)}
        self._parts.append(arrays)
        self._known = None

    def _all(self) -> Readings:
        if self._known is None:
            joined = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            self._parts, self._known = [joined], Readings(**joined)
        return self._known

    def read(self, texts: list[str], what: str = "texts") -> Readings:
        """The readings of the texts, at least one; those that are not known are learnt first."""
        self.learn(texts, what)
        found = self._all().rows([self._place[text] for text in texts])
        return Readings(**{name: array.astype(np.float32) for name, array in vars(found).items()})

    def learn(self, texts: list[str], what: str) -> None:
        """Read the texts that are not known and keep their readings, part by part, with progress."""
        new = list(dict.fromkeys(text for text in texts if text not in self._place))
        parts = [new[start : start + PART] for start in range(0, len(new), PART)]
        with tqdm(total=len(new), desc=f"reading {what}", unit="text", mininterval=5, disable=len(new) < 100) as bar:
            fill(_read_part, parts, self._keep, using=self.readers, tick=bar.update)

    def _keep(self, part: list[str], arrays: dict[str, NDArray]) -> None:
        if self.folder:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            save_tensors(self.folder / f"shard_{digest(part)}.safetensors", tensors, texts=part)
        self._add(part, arrays)


def _read_part(readers: Readers, texts: list[str], tick: Tick) -> dict[str, NDArray]:
    surface, resid = readers.read(texts, progress=tick)
    half = {"resid": resid.astype(np.float16), "embedding": readers.embedder.read(texts).astype(np.float16)}
    return {"surface": surface.astype(np.float32)} | half
