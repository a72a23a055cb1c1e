"""The maps of the effects stage and what they are judged by: fitted once and kept with a record of what they are made of."""

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.digests import sha256
from fgaa_utils.method.approximator import EffectMap, Moments
from fgaa_utils.method.effect_fits import HeldOut, Settings, fit_maps, learning_curve, mean_effect
from fgaa_utils.method.effects import EffectData, ce_scales
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import FITS
from fgaa_utils.project import need_space
from fgaa_utils.sae.load import decoder_rows
from fgaa_utils.shards import digest, load_tensors, record_processor, save_tensors

RECORD = "record.json"


@dataclass(frozen=True)
class Course:
    """The section `effects` of params.yaml, which says of every entry what it is."""

    ce_rise: float
    ce_probes: list[float]
    ce_texts: int
    ce_tokens: int
    openers: list[str]
    new_tokens: int
    top_k: int
    temperature: float
    batch: int
    chunk_size: int
    chunks: int
    unsteered_rollouts: int
    heldout_vectors: int
    heldout_rollouts: int
    ridge_strengths: list[float]
    adam_epochs: int
    adam_lr: float
    adam_batch: int

    def data(self, lm: LanguageModel, sae: SAE, scales: Tensor, layer: int, folder: Path, *, seed: int) -> EffectData:
        """The effect data of decoder rows steered at `scales` (d_sae,), in shards under folder / "shards"."""
        drawn = SamplingParams(self.new_tokens, self.top_k, self.temperature, self.batch)
        names = ("openers", "chunk_size", "heldout_vectors", "heldout_rollouts", "unsteered_rollouts")
        sizes = {name: getattr(self, name) for name in names}
        return EffectData(lm, sae, scales, layer, folder / "shards", sampling=drawn, seed=seed, **sizes)

    def settings(self, identity: dict, *, seed: int) -> Settings:
        """How the maps are fitted."""
        return Settings(self.ridge_strengths, self.adam_epochs, self.adam_lr, self.adam_batch, seed, identity)


@dataclass(frozen=True)
class Effects:
    """The maps {fit: map}, as kept in float16; the effect data, which are made when asked for if they are not there; the
    learning curve (a row a fit and number of vectors); and the record."""

    course: Course
    data: EffectData
    maps: dict[str, EffectMap]
    curve: pd.DataFrame
    record: dict[str, Any]

    def heldout(self) -> HeldOut:
        """Held-out vectors and their rollouts, made if need be, as are the unsteered ones that they are set against.

        The mean effect of the vectors fitted to is what the ridge predicts of their mean vector: its bias is not
        penalised, so that it passes through both means.
        """
        rows = self.course.unsteered_rollouts + self.course.heldout_vectors * self.course.heldout_rollouts
        need_space(self.data.folder, rows * self.data.sae.cfg.d_sae * 2 / 2**30 + 0.1)
        x, rollouts = self.data.heldout_effects()
        mean_x = torch.cat([self.data.vectors(number).x for number in range(self.course.chunks)]).mean(dim=0)
        return HeldOut(x, rollouts, self.maps["ridge"].predict(mean_x))


def effects_once(
    lm: LanguageModel, sae: SAE, ids: Tensor, layer: int, folder: Path, course: Course, *, identity: dict, seed: int
) -> Effects:
    """The effects of a course. Unless the record at `folder` is of this course and of the files beside it, vectors are
    scaled on token rows `ids` (texts, pos), steered rollouts made, and the maps fitted and kept.

    The record, record.json: {"made_of", "files": {name: sha256}, "ridge_strength": median over latents, "reduced_rank":
    {strength, rank}, "learning_curve": rows, "seconds", "processor"}; seconds are None where earlier shards were read.
    Raises: OSError if the disk is too small.
    """
    made_of = identity | {"seed": seed, "texts": digest(ids)} | asdict(course)
    record = read_record(folder)
    if record is None or record["made_of"] != made_of or record["files"] != _digests(folder):
        record = _make(lm, sae, ids, layer, folder, course, identity=identity, seed=seed) | {"made_of": made_of}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scales = load_tensors(folder / "scales.safetensors")[0]["scales"]
    maps = {fit: EffectMap.load(folder / f"{fit}.safetensors", **identity) for fit in FITS}
    data = course.data(lm, sae, scales, layer, folder, seed=seed)
    return Effects(course, data, maps, pd.DataFrame(record["learning_curve"]), record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record at `folder`, data/effects; None if there is none."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def course_of(folder: Path, fit: str) -> Course | None:
    """The course of the maps at `folder`; None if `fit` is none of them but a published map."""
    if fit not in FITS or (record := read_record(folder)) is None:
        return None
    return Course(**{f.name: record["made_of"][f.name] for f in fields(Course)})


def _digests(folder: Path) -> dict[str, str]:
    files = [folder / f"{name}.safetensors" for name in (*FITS, "scales")]
    return {file.name: sha256(file) for file in files if file.exists()}


def _make(
    lm: LanguageModel, sae: SAE, ids: Tensor, layer: int, folder: Path, course: Course, *, identity: dict, seed: int
) -> dict[str, Any]:
    """Scales and maps, kept in `folder`, and their record but for what they are made of."""
    need_space(folder, course.chunk_size * sae.cfg.d_sae * 2 / 2**30 * (course.chunks + 1) + 1)
    began, resumed = time.monotonic(), any((folder / name).exists() for name in ("scales", "shards"))
    W_dec, kept = decoder_rows(sae), folder / "scales"
    scales = ce_scales(lm, W_dec, layer, ids, kept, rise=course.ce_rise, probes=course.ce_probes)
    data = course.data(lm, sae, scales, layer, folder, seed=seed)
    data.unsteered()
    x, rollouts = data.heldout_effects()
    folds = [Moments.of(x, y) for x, y in data.chunks(course.chunks)]
    settings = course.settings(identity, seed=seed)
    fits = fit_maps(data, folds, settings)
    heldout = HeldOut(x, rollouts, mean_effect(folds))
    curve = learning_curve(data, folds, settings, heldout, adam=fits.maps["adam"])
    for name, fitted in fits.maps.items():
        fitted.save(folder / f"{name}.safetensors")
    save_tensors(folder / "scales.safetensors", {"scales": scales}, **identity)
    return {
        "files": _digests(folder),
        "ridge_strength": float(np.median(fits.strengths)),
        "reduced_rank": fits.choice,
        "learning_curve": curve.to_dict("records"),
        "seconds": None if resumed else round(time.monotonic() - began),
        "processor": record_processor(lm.dtype, lm.device.type),
    }
