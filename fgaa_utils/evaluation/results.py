"""A run's results: its scored samples, the choices made on them, and the scores that follow at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.evaluation.scores import (
    bcs_table,
    cell_scores,
    choices_by_method,
    choose_cells,
    read_choices,
    scale_curves,
)
from fgaa_utils.names import METHODS, method_order


@dataclass(frozen=True)
class Results:
    """The scored samples of a run and what follows from them at once.

    validation, test: samples with scores. choices: of choose_cells, with the validation scores that chose. bcs, draws:
    of bcs_table on the test samples. whole: whether these have every scale; then `along`, the samples that show score
    against scale, are test samples, as many at one scale as at another, else those of validation. curve: of scale_curves on
    them.
    """

    names: dict[str, str]  # behaviours by key
    unit: str  # of scales, see names.SCALE_UNITS
    model: str
    validation: pd.DataFrame
    test: pd.DataFrame
    choices: pd.DataFrame
    bcs: dict[str, dict]
    draws: dict[str, NDArray]
    whole: bool
    along: pd.DataFrame
    curve: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, *, draws: int, seed: int) -> "Results":
        """Those of data/samples/. Raises: ValueError if the samples and the choices are of different runs."""
        about = read_choices(folder / "choices.json")
        validation, test = (pd.read_parquet(folder / f"{split}.parquet") for split in ("validation", "test"))
        choices = choose_cells(cell_scores(validation, about.keys), smoothing=about.smoothing)
        if choices_by_method(choices) != about.choices:
            raise ValueError(
                f"choices.json of {folder} is of other samples than lie beside it; run `dvc repro samples`"
            )
        table, distributions = bcs_table(test, choices, draws=draws, seed=seed)
        grid = validation.scale[validation.scale > 0].nunique()
        whole = bool((_scales_of_a_vector(test) == grid).all())
        along = _equally_many(test) if whole else validation
        curve = scale_curves(along, choices, draws=draws, seed=seed)
        of_texts = (validation, test, choices, table, distributions)
        return cls(about.behaviours, about.unit, about.model, *of_texts, whole, along, curve)

    @property
    def keys(self) -> list[str]:
        return list(self.names)

    @property
    def methods(self) -> list[str]:
        """All methods, controls and prompting, in the order of tables."""
        return method_order(self.choices.method.unique().tolist())

    @property
    def steering(self) -> list[str]:
        """The methods that steer towards a behaviour, in the order of tables."""
        return [m for m in self.methods if m in METHODS]

    @property
    def scales(self) -> list[float]:
        return sorted(scale for scale in self.along.scale.unique() if scale > 0)

    def scores(self, method: str) -> NDArray:
        """Test BCS (behaviours,) of a method at its chosen cells."""
        return np.array([self.bcs[method][key]["value"] for key in self.keys])

    def choice(self, method: str, key: str) -> pd.Series:
        """The chosen cell of a method for a behaviour."""
        return self.choices[(self.choices.method == method) & (self.choices.target == key)].iloc[0]


def _equally_many(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of each prompt that every steered cell has: a cell with more would have another chance of the maximum."""
    steered = samples[samples.scale > 0]
    counts = steered.groupby(["behaviour", "method", "variant", "scale"])["sample"].nunique()
    return samples[samples["sample"] < counts.min()]


def _scales_of_a_vector(samples: pd.DataFrame) -> pd.Series:
    """How many scales every vector of the samples was run at."""
    steered = samples[samples.scale > 0]
    return steered.groupby(["behaviour", "method", "variant"]).scale.nunique()
