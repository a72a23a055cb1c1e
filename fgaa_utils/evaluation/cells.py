"""Steered samples over behaviours, methods, scales and prompts: made, scored, and the choice made on validation.

A cell is one vector at one scale; its samples are `prompts` x `samples` texts (in a race some cells have the first of each
prompt alone), with the same random numbers in every cell of a split, so that cells are compared on equal luck.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fgaa_utils.evaluation.scales import Strength, check_scales
from fgaa_utils.evaluation.scores import cell_scores, chosen_samples, for_target, leading_cells, only_chosen
from fgaa_utils.evaluation.texts import kept_texts
from fgaa_utils.judges.choose import judge_rows
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.local import Judge
from fgaa_utils.judges.server import ServerJudge
from fgaa_utils.method.vectors import twins
from fgaa_utils.model.generate import Rows, SamplingParams, row_seeds
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import METHODS, SHARED, UNSTEERED, Cell, VectorName

PLAIN = VectorName(SHARED, UNSTEERED).cell  # text without steering
# What a split adds to the run's seed. All cells of a split share their random numbers; the splits share none.
VALIDATION, TEST = 11, 12


def cell_grid(
    vectors: dict[Cell, Tensor],
    scales: list[float],
    strength: Strength,
    *,
    plain: Iterable[Cell] = (),
) -> pd.DataFrame:
    """One row per cell: behaviour, method, variant, scale (in the unit of `strength`), coeff (absolute norm).

    Unsteered text and the names of `plain` have one cell, at scale 0.
    """
    check_scales(scales)
    rows = [(*name, scale, strength.coeff(v, scale)) for name, v in vectors.items() for scale in scales]
    rows += [(*name, 0.0, 0.0) for name in (PLAIN, *plain)]
    return pd.DataFrame(rows, columns=["behaviour", "method", "variant", "scale", "coeff"])


def expand_samples(cells: pd.DataFrame, prompts: list[str], samples: int, *, seeds: tuple[int, ...]) -> pd.DataFrame:
    """One row per text to generate: the cell's columns, prompt, sample and seed.

    Raises: ValueError for no prompts or a sample count below 1.
    """
    if samples < 1 or not prompts:
        raise ValueError(f"{samples} samples of {len(prompts)} prompts asked for; both must be at least 1")
    pairs = pd.DataFrame([(p, s) for p in prompts for s in range(samples)], columns=["prompt", "sample"])
    pairs["seed"] = row_seeds(*seeds, count=len(pairs))
    return cells.merge(pairs, how="cross")


def generate_samples(
    lm: LanguageModel,
    samples: pd.DataFrame,
    vectors: dict[Cell, Tensor],
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    *,
    progress: str,
    prefixes: dict[Cell, list[int]] | None = None,
) -> pd.DataFrame:
    """The samples with a column `text`: prompt and continuation as one string, without the prefix if there is one.

    Equal vectors of a behaviour are one: their samples are generated once and stand under every name. Texts are kept in
    `folder` (see evaluation.texts).
    """
    same = twins(vectors)
    names = [same.get(name, name) for name in zip(samples.behaviour, samples.method, samples.variant)]
    texts = _generate(lm, samples, names, vectors, layer, sampling, folder, progress, prefixes or {})
    return samples.assign(text=texts)


def _generate(
    lm: LanguageModel,
    samples: pd.DataFrame,
    names: list[Cell],
    vectors: dict[Cell, Tensor],
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    progress: str,
    prefixes: dict[Cell, list[int]],
) -> list[str]:
    """The text of each sample, which the vector or the prefix of its name shapes."""
    number = {name: i for i, name in enumerate(vectors)}
    openers = dict(zip(samples.prompt, lm.encode(samples.prompt.tolist(), bos=False)))
    contexts = [(tuple(prefixes.get(name, ())), prompt) for name, prompt in zip(names, samples.prompt)]
    distinct = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    rows = Rows(
        prompts=[[lm.tokenizer.bos_token_id, *prefix, *openers[prompt]] for prefix, prompt in distinct],
        vectors=torch.stack([*vectors.values(), torch.zeros(lm.d_model)]),
        prompt=np.array([distinct[context] for context in contexts]),
        vector=np.array([number.get(name, len(vectors)) for name in names]),  # the last one is zero
        coeff=samples.coeff.to_numpy(dtype=np.float32),
        seed=samples.seed.to_numpy(),
    )
    starts = [openers[prompt] for prompt in samples.prompt]
    return kept_texts(lm, rows, starts, layer, sampling, folder, progress=progress)


def score_samples(samples: pd.DataFrame, judge: Judge, behaviours: list[str]) -> pd.DataFrame:
    """The samples with a column `coherence` and one `B_<behaviour>` for every behaviour, all 0..1.

    A sample is scored for the behaviour that it is to show, shared ones for all; the rest of B is NaN.
    """
    scored = samples.assign(coherence=judge.coherence(samples.text.tolist()))
    for name in behaviours:
        texts = for_target(samples, name).text
        scored[f"B_{name}"] = pd.Series(judge.behaviour(texts.tolist(), name), index=texts.index)
    return scored


def announce(judge: Judge, samples: pd.DataFrame, behaviours: list[str]) -> None:
    """Print what a judge that has to be asked will be asked for and how long it takes, before it starts."""
    if isinstance(judge, ServerJudge):
        texts = {name: for_target(samples, name).text.tolist() for name in behaviours}
        print("to be asked:", judge.estimate(texts | {COHERENCE: samples.text.tolist()}, timed=True))


@dataclass(frozen=True)
class Split:
    """Prompts, samples of each in a cell, and what the split adds to the run's seed."""

    name: str
    prompts: list[str]
    samples: int
    number: int


def make_splits(
    validation_prompts: list[str], test_prompts: list[str], validation_samples: int, test_samples: int
) -> tuple[Split, Split]:
    """(validation, test) of a design. Raises: ValueError for a prompt named twice or on both sides, or no samples."""
    made = (
        Split("validation", validation_prompts, validation_samples, VALIDATION),
        Split("test", test_prompts, test_samples, TEST),
    )
    for split in made:
        if len(set(split.prompts)) < len(split.prompts):
            raise ValueError(f"{split.name}_prompts names a prompt twice: {split.prompts}")
        if split.samples < 1:
            raise ValueError(f"{split.name}_samples is {split.samples}; it must be at least 1")
    if both := set(validation_prompts) & set(test_prompts):
        raise ValueError(f"prompts {sorted(both)} are in validation_prompts and in test_prompts; each may be in one")
    return made


@dataclass(frozen=True)
class Bench:
    """What makes and scores samples: a model, how it samples, a judge, and the folder that keeps the texts."""

    lm: LanguageModel
    layer: int
    sampling: SamplingParams
    folder: Path
    judge: Judge
    behaviours: list[str]
    seed: int

    def samples(
        self,
        cells: pd.DataFrame,
        vectors: dict[Cell, Tensor],
        split: Split,
        prefixes: dict[Cell, list[int]] | None = None,
    ) -> pd.DataFrame:
        """Scored samples of the cells on a split; prefixes stand before the prompts of the cells that they name."""
        return self._scored(self.rows(cells, split), vectors, f"{split.name} samples", prefixes)

    def first_samples(
        self,
        cells: pd.DataFrame,
        vectors: dict[Cell, Tensor],
        split: Split,
        prefixes: dict[Cell, list[int]] | None = None,
    ) -> pd.DataFrame:
        """The part of `samples` that is the first sample of every prompt."""
        return self._scored(self.rows(cells, split, first=True), vectors, f"first {split.name} samples", prefixes)

    def raced(
        self,
        cells: pd.DataFrame,
        vectors: dict[Cell, Tensor],
        split: Split,
        prefixes: dict[Cell, list[int]] | None = None,
        *,
        finalists: int,
        smoothing: float,
    ) -> pd.DataFrame:
        """Few samples where they tell little: the first of every prompt in all cells, the rest in the `finalists` cells of
        each behaviour and method that lead by these (scores.leading_cells); what all behaviours share gets them if it leads
        for one. 0 finalists: `samples`."""
        if finalists == 0:
            return self.samples(cells, vectors, split, prefixes)
        first = self.first_samples(cells, vectors, split, prefixes)
        leading = leading_cells(cell_scores(first, self.behaviours), finalists, smoothing=smoothing)
        rows = self.rows(cells, split)
        rest = only_chosen(rows[rows["sample"] > 0], leading)
        if rest.empty:
            return first
        more = self._scored(rest, vectors, f"{split.name} samples of the leading cells", prefixes)
        return pd.concat([first, more]).sort_index()

    def tested(
        self,
        cells: pd.DataFrame,
        vectors: dict[Cell, Tensor],
        split: Split,
        prefixes: dict[Cell, list[int]] | None = None,
        *,
        choices: pd.DataFrame,
        scales: str,
    ) -> pd.DataFrame:
        """`samples` of the chosen cells and, as `scales` says, those of the others: `all`, the first of every prompt
        (`once`), or none (`chosen`)."""
        rows = self.rows(cells, split)
        chosen = only_chosen(rows, choices)
        if scales == "chosen":
            rows = chosen
        if scales == "once":
            rows = rows[(rows["sample"] == 0) | rows.index.isin(chosen.index)]
        return self._scored(rows, vectors, f"{split.name} samples", prefixes)

    def rows(self, cells: pd.DataFrame, split: Split, *, first: bool = False) -> pd.DataFrame:
        """The texts to make of the cells on a split (see expand_samples), or the first sample of every prompt alone."""
        rows = expand_samples(cells, split.prompts, split.samples, seeds=(self.seed, split.number))
        return rows[rows["sample"] == 0] if first else rows

    def _scored(
        self, rows: pd.DataFrame, vectors: dict[Cell, Tensor], progress: str, prefixes: dict[Cell, list[int]] | None
    ) -> pd.DataFrame:
        made: dict = {"progress": progress, "prefixes": prefixes}
        texts = generate_samples(self.lm, rows, vectors, self.layer, self.sampling, self.folder, **made)
        announce(self.judge, texts, self.behaviours)
        return score_samples(texts, self.judge, self.behaviours)


def side_effects(samples: pd.DataFrame, choices: pd.DataFrame, judge: Judge, behaviours: list[str]) -> pd.DataFrame:
    """The samples of the chosen cells, scored for every behaviour; `target` is the one that they are to show."""
    parts = [chosen_samples(samples, choice)[["target", "method", "text"]] for choice in choices.itertuples()]
    chosen = pd.concat(parts, ignore_index=True)
    announce(judge, chosen.assign(behaviour=SHARED), behaviours)
    scores = {f"B_{name}": judge.behaviour(chosen.text.tolist(), name) for name in behaviours}
    return chosen.assign(**scores)


def cosines_with_fgaa(vectors: dict[Cell, Tensor], choices: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{method: {behaviour: cosine}} of FGAA's vector with each other method's, at the variants chosen."""
    chosen = {(c.target, c.method): (c.target, c.method, c.variant) for c in choices.itertuples()}
    keys = sorted({target for target, _ in chosen})
    return {
        m: {key: float(vectors[chosen[key, "fgaa"]] @ vectors[chosen[key, m]]) for key in keys}
        for m in METHODS
        if m != "fgaa" and (keys[0], m) in chosen
    }


def other_judges(samples: pd.DataFrame, judges: dict[str, Judge], behaviours: list[str]) -> pd.DataFrame:
    """Samples (columns target, method, text, B, coherence) with `<kind>_B` and `<kind>_C` of each other judge."""
    scored = samples.reset_index(drop=True)
    for kind, judge in judges.items():
        announce(judge, scored.assign(behaviour=scored.target), behaviours)
        theirs = judge_rows(scored, judge)
        scored = scored.assign(**{f"{kind}_B": theirs.B, f"{kind}_C": theirs.C})
    return scored
