"""Judges: how much a text shows a behaviour, and how coherent it is, both 0..1 (paper, section 4).

The paper asks gpt-4o-mini. LocalJudge needs no network: classifiers on frozen models, fitted once and kept in a file.
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.coherence import CoherenceModel, predict_coherence
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.fitting import Linear, fit_behaviours, fit_both_coherences, judge_texts
from fgaa_utils.judges.readers import EMBEDDER, LANGUAGE_ID, Readers
from fgaa_utils.project import unknown
from fgaa_utils.shards import digest, load_tensors, save_frame, save_tensors

PART = 2048  # texts that are scored between two savings of the scores
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
    A score depends on its text alone. Scores are kept: a text is read once, for all behaviours and coherence.
    `heldout` are the held-out scores (see fgaa_utils.judges.fitting) of a judge that was fitted, None of a loaded one.
    """

    def __init__(
        self,
        readers: Readers,
        models: dict[str, Linear | str],
        coherences: tuple[CoherenceModel, CoherenceModel],
        centre: NDArray,
        heldout: pd.DataFrame | None = None,
    ):
        self.readers, self.heldout = readers, heldout
        self._models, self._coherences, self._centre = models, coherences, centre
        self._scores: dict[str, NDArray] = {}  # text: one score for each of _models, and coherence
        self._file: Path | None = None  # where the scores are kept

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
        one model of coherence. labelled: columns text and coherence_label (0..1), which fit the other. folder: where
        the readings are kept, so that a fit that was killed goes on.

        Raises: ValueError for too few judge texts or documents; FileNotFoundError for a model that is not there.
        """
        judge_texts(behaviours)  # counts are checked before anything heavy starts
        readers = Readers.load(reference, embedder=embedder, language_id=language_id)
        kept: dict = {"seed": seed, "folder": folder}
        coherence = fit_both_coherences(readers, documents, labelled, coherence_texts, **kept)
        models, of_behaviours = fit_behaviours(readers, behaviours, coherence.centre, **kept)
        heldout = pd.concat([of_behaviours, coherence.heldout], ignore_index=True)
        return cls(readers, models, coherence.models, coherence.centre, heldout)

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
        return digest([self.behaviours, self._languages(), fitted, self.readers.identity])

    def save(self, path: Path, **metadata: object) -> None:
        """Write all that was fitted to a safetensors file, with what it was fitted to; `metadata` is added to that."""
        about = {"behaviours": self.behaviours, "languages": self._languages(), "readers": self.readers.identity}
        save_tensors(path, self._tensors(), identity=self.identity, **about, **metadata)

    @classmethod
    def load(
        cls, path: Path, *, reference: Path, embedder: Path = EMBEDDER, language_id: Path = LANGUAGE_ID
    ) -> "LocalJudge":
        """The judge that save() wrote; its scores are equal to the last bit to those of the judge that was fitted.

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
        return cls(readers, models, (by_damage, by_label), arrays["centre"])

    def keep(self, folder: Path) -> "LocalJudge":
        """This judge, its scores kept in `folder` too and those taken up that a judge of the same identity left
        there, so that a run that was killed, or is run again, reads no text twice."""
        self._file = folder / f"scores_{self.identity}.parquet"
        if self._file.exists():
            frame = pd.read_parquet(self._file)
            self._scores |= zip(frame.pop("text"), frame.to_numpy())
        return self

    def _save_scores(self) -> None:
        if self._file:
            frame = pd.DataFrame(np.array(list(self._scores.values())), columns=[*self._models, COHERENCE])
            save_frame(self._file, frame.assign(text=list(self._scores)))

    def _apply(self, model: Linear | str, texts: list[str], features: NDArray) -> NDArray:
        if isinstance(model, str):
            return self.readers.language_id.probability(texts, model)
        weights, bias = model
        return expit(features @ weights + bias)

    def _score_part(self, texts: list[str], bar: tqdm) -> NDArray:
        """(texts, behaviours + 1): the scores of each text, computed."""
        read, resid = self.readers.read(texts, progress=bar.update)
        features = self.readers.behaviour_features(texts, resid, self._centre)
        columns = [self._apply(model, texts, features) for model in self._models.values()]
        sound = predict_coherence(self._coherences, read)
        columns.append(np.where([any(c.isalnum() for c in text) for text in texts], sound, 0.0))
        return np.stack(columns, axis=1)

    def _score(self, texts: list[str]) -> NDArray:
        """(texts, behaviours + 1): the scores of each text, computed if they are not known."""
        new = [text for text in dict.fromkeys(texts) if text not in self._scores]
        with tqdm(total=len(new), desc="judging", unit="text", mininterval=5, disable=len(new) < 100) as bar:
            for start in range(0, len(new), PART):
                part = new[start : start + PART]
                self._scores |= zip(part, self._score_part(part, bar))
                self._save_scores()
        return np.array([self._scores[text] for text in texts]).reshape(len(texts), len(self._models) + 1)

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """Probability (texts,) that each text shows the behaviour, at a prior of 1/2.

        Raises: ValueError for a behaviour that the judge was not fitted for.
        """
        if behaviour not in self._models:
            raise unknown("behaviour", behaviour, self.behaviours)
        return self._score(texts)[:, self.behaviours.index(behaviour)]

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1: the lower of what damage and labels say (see
        fgaa_utils.judges.coherence); 0 for a text without a letter or digit."""
        return self._score(texts)[:, -1]
