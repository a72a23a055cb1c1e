"""Judges: how much a text shows a behaviour, and how coherent it is, both 0..1 (paper, section 4).

The paper asks gpt-4o-mini. LocalJudge needs no network: classifiers on frozen models, fitted once and kept in a file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.coherence import CoherenceModel, predict_coherence
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.fitting import Linear, fit_behaviours, fit_both_coherences, judge_texts
from fgaa_utils.judges.readers import EMBEDDER, LANGUAGE_ID, Readers
from fgaa_utils.judges.readings import PART, Readings, ReadingStore
from fgaa_utils.project import unknown
from fgaa_utils.shards import digest, load_tensors, save_tensors

COHERENCES = ("damage", "labels")  # what the two models of coherence are fitted to


class Judge(Protocol):
    """What the evaluation asks of a judge."""

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """Probability (texts,) that each text shows the behaviour. Raises: ValueError for an unknown one."""

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1."""


class LocalJudge:
    """A judge made of frozen models and classifiers fitted on top: offline, the same scores every time.

    A behaviour is scored by a logistic model of a sentence embedding beside a middle layer of the reference
    model, or by language identification if it names a language. Coherence: see fgaa_utils.judges.coherence.
    A score depends on its text alone. Readings are kept: a text is read once, for all behaviours, coherence and judges.
    `heldout` are the held-out scores (see fgaa_utils.judges.fitting) of a judge that was fitted, None of a loaded one.
    """

    def __init__(
        self,
        store: ReadingStore,
        models: dict[str, Linear | str],
        coherences: tuple[CoherenceModel, CoherenceModel],
        centre: NDArray,
        heldout: pd.DataFrame | None = None,
    ):
        self.store, self.heldout = store, heldout
        self._models, self._coherences, self._centre = models, coherences, centre

    @classmethod
    def fit(
        cls,
        behaviours: list[Behaviour],
        documents: pd.DataFrame,
        labelled: pd.DataFrame,
        *,
        reference: Path,
        seed: int,
        coherence_texts: int,
        folder: Path,
        embedder: Path = EMBEDDER,
        language_id: Path = LANGUAGE_ID,
    ) -> "LocalJudge":
        """A judge of these behaviours, its `heldout` scored by models of five folds.

        documents: columns source and text; `coherence_texts` windows of them, and as many damaged copies, fit
        one model of coherence. labelled: steered texts, columns behaviour, text, behaviour_label and coherence_label (0..1),
        which fit the other, and the behaviours. folder: where the readings are kept, so that a fit that was killed goes on.

        Raises: ValueError for too few judge texts or documents; FileNotFoundError for a model that is not there.
        """
        judge_texts(behaviours)  # counts are checked before anything heavy starts
        store = ReadingStore(Readers.load(reference, embedder=embedder, language_id=language_id), folder)
        coherence = fit_both_coherences(store, documents, labelled, coherence_texts, seed=seed)
        models, of_behaviours = fit_behaviours(store, behaviours, labelled, coherence.centre, seed=seed)
        heldout = pd.concat([of_behaviours, coherence.heldout], ignore_index=True)
        return cls(store, models, coherence.models, coherence.centre, heldout)

    @property
    def behaviours(self) -> list[str]:
        return list(self._models)

    def _tensors(self) -> dict[str, Tensor]:
        """All fitted numbers, each in the type it was fitted in, so that scores come out equal to the last bit."""
        linear = {key: model for key, model in self._models.items() if not isinstance(model, str)}
        arrays = {"centre": self._centre}
        for key, (weights, bias) in linear.items():
            arrays |= {f"{key}.weights": weights, f"{key}.bias": np.float64(bias)}
        for name, model in zip(COHERENCES, self._coherences):
            arrays |= {f"{COHERENCE}.{name}.{part}": array for part, array in vars(model).items()}
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    def _languages(self) -> dict[str, str]:
        return {key: model for key, model in self._models.items() if isinstance(model, str)}

    @property
    def identity(self) -> str:
        """16 hex digits of all that shapes a score: the fitted numbers, and the models that read the texts."""
        fitted = {name: digest(tensor) for name, tensor in self._tensors().items()}
        return digest([self.behaviours, self._languages(), fitted, self.store.readers.identity])

    def save(self, path: Path, **metadata: object) -> None:
        """Write all that was fitted to a safetensors file, with what it was fitted to; `metadata` is added to that."""
        about = {"behaviours": self.behaviours, "languages": self._languages(), "readers": self.store.readers.identity}
        save_tensors(path, self._tensors(), identity=self.identity, **about, **metadata)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        reference: Path,
        folder: Path | None = None,
        embedder: Path = EMBEDDER,
        language_id: Path = LANGUAGE_ID,
    ) -> "LocalJudge":
        """The judge that save() wrote; its scores are equal to the last bit to those of the judge that was fitted.

        folder: where readings are kept, so that a run that was killed, or is run again, reads no text twice.

        Raises: FileNotFoundError if the file or a model is not there; ValueError if the file is damaged, or the
        models that read the texts are not those that it was fitted with.
        """
        tensors, metadata = load_tensors(path)
        fitted_with = json.loads(metadata["readers"])
        dtype = fitted_with["reference"].rsplit(":", 1)[1]
        readers = Readers.load(reference, embedder=embedder, language_id=language_id, dtype=dtype)
        if readers.identity != fitted_with:
            raise ValueError(
                f"{path.name} was fitted with {fitted_with}, here are {readers.identity}; run `dvc repro judge`"
            )
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        languages = json.loads(metadata["languages"])
        models = {
            key: languages.get(key) or (arrays[f"{key}.weights"], float(arrays[f"{key}.bias"]))
            for key in json.loads(metadata["behaviours"])
        }
        parts = CoherenceModel.__dataclass_fields__
        by_damage, by_label = (
            CoherenceModel(**{part: arrays[f"{COHERENCE}.{name}.{part}"] for part in parts}) for name in COHERENCES
        )
        return cls(ReadingStore(readers, folder), models, (by_damage, by_label), arrays["centre"])

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """How far (texts,) each text shows the behaviour, 0..1.

        Raises: ValueError for a behaviour that the judge was not fitted for.
        """
        if behaviour not in self._models:
            raise unknown("behaviour", behaviour, self.behaviours)
        model = self._models[behaviour]
        if isinstance(model, str):
            return self.store.readers.language_id.probability(texts, model)
        weights, bias = model

        def score(readings: Readings) -> NDArray:
            # Summed row by row: a matrix product may round a row differently beside other rows.
            return expit((readings.behaviour_features(self._centre) * weights).sum(axis=1) + bias)

        return self._scores(texts, score)

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1: the lower of what damage and labels say (see
        fgaa_utils.judges.coherence); 0 for a text without a letter or digit."""
        sound = self._scores(texts, lambda readings: predict_coherence(self._coherences, readings, self._centre))
        return np.where([any(c.isalnum() for c in text) for text in texts], sound, 0.0)

    def _scores(self, texts: list[str], score: Callable[[Readings], NDArray]) -> NDArray:
        """Scores (texts,) of the readings, part by part."""
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        if texts:
            self.store.learn(texts, "texts to judge")  # all that is new under one bar
        return np.concatenate([np.zeros(0), *(score(self.store.read(part)) for part in parts)])
