"""Ablations: FGAA with one thing changed at a time, its scale chosen on validation, its score on test prompts.

A row of the table is a set of changes to the default settings. Vectors that come out equal share their texts, with
one another and with the evaluation; only what a change alters is generated.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.evaluation import cells as ev
from fgaa_utils.judges.local import Judge
from fgaa_utils.method.approximator import EffectMap, Moments, fit_adam, fit_reduced_rank, fit_ridge
from fgaa_utils.method.effects import EffectData
from fgaa_utils.method.features import bos_filter, check_norm, contrastive_difference, density_filter, target
from fgaa_utils.method.vectors import fgaa
from fgaa_utils.model.generate import SamplingParams, sampling_identity
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import FITS
from fgaa_utils.project import unknown
from fgaa_utils.shards import digest, load_tensors, save_frame
from fgaa_utils.stats import bcs, bcs_draws, paired_comparisons

SAME = 1e-5  # vectors that differ by no more in any entry are one vector
GROUP = 54  # vectors generated together
DECODER = "decoder"  # no effect map: a latent's direction is its decoder row


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a behaviour's FGAA vector, each field an entry of a row of `ablations.rows`.

    n1 None: the value that the evaluation chose for the behaviour. examples None: all texts of each side, else so many
    drawn at random, those of a smaller number among those of a larger; draw: which random order. effect_vectors None: all that the effect map
    was fitted on.
    """

    include_bos: bool
    theta: float
    density_filter: bool
    bos_filter: bool
    target_norm: str
    n2: int
    bias_weight: float
    fit: str
    n1: int | None = None
    examples: int | None = None
    draw: int = 0
    effect_vectors: int | None = None

    def changed(self, changes: dict) -> "Recipe":
        """This recipe with some fields changed.

        Raises: ValueError for a field, fit or norm that does not exist, or for changes that do not go together.
        """
        for name in changes:
            if name not in vars(self):
                raise unknown("entry of a row of ablations.rows:", name, list(vars(self)))
        if changes.get("fit", self.fit) not in (*FITS, DECODER, self.fit):
            raise unknown("fit", changes["fit"], [*FITS, DECODER])
        made = Recipe(**(vars(self) | changes))
        check_norm(made.target_norm)
        if made.fit == DECODER and made.bias_weight:
            raise ValueError(f"a row has fit: {DECODER}, which has no bias; add bias_weight: 0.0 to it")
        if made.effect_vectors and made.fit not in FITS:
            raise ValueError(f"a row has effect_vectors with fit {made.fit!r}; only {', '.join(FITS)} are fitted here")
        return made


def row_label(changes: dict) -> str:
    """A row's name in tables: what is changed."""
    shown = {True: "on", False: "off"}
    return ", ".join(f"{name} {shown.get(v, v) if isinstance(v, bool) else v}" for name, v in changes.items())


def decoder_map(W_dec: Tensor) -> EffectMap:
    """The map under which a latent's direction is its decoder row (d_sae, d_model), with no bias: no approximator."""
    return EffectMap(W_dec.T, torch.zeros(len(W_dec)), {})


@dataclass
class VectorBuilder:
    """Makes the vectors of recipes. latents[include_bos][behaviour] holds the mean latents of the texts of X+ and X-,
    each (texts, d_sae); density, bos_latents (d_sae,); effect_map(fit, effect_vectors) gives the map of a recipe;
    n1 is the evaluation's choice of each behaviour."""

    latents: dict[bool, dict[str, tuple[Tensor, Tensor]]]
    density: Tensor
    bos_latents: Tensor
    effect_map: Callable[[str, int | None], EffectMap]
    n1: dict[str, int]
    seed: int = 0

    def _drawn(self, side: Tensor, count: int | None, draw: int) -> Tensor:
        order = np.random.default_rng([self.seed, len(side), draw]).permutation(len(side))
        return side if count is None else side[order[:count]]

    def vector(self, behaviour: str, recipe: Recipe) -> Tensor:
        """The unit steering vector (d_model,) (Eq. 1-5). Raises: ValueError if the filters leave no latent."""
        positive, negative = (
            self._drawn(side, recipe.examples, recipe.draw) for side in self.latents[recipe.include_bos][behaviour]
        )
        v = contrastive_difference(positive, negative)
        if recipe.density_filter:
            v = density_filter(v, self.density, recipe.theta)
        if recipe.bos_filter:
            v = bos_filter(v, self.bos_latents)
        wanted = target(v, recipe.n1 or self.n1[behaviour], recipe.n2, norm=recipe.target_norm)
        return fgaa(self.effect_map(recipe.fit, recipe.effect_vectors), wanted, bias_weight=recipe.bias_weight)


def fit_on(
    lm: LanguageModel,
    sae: SAE,
    layer: int,
    folder: Path,
    count: int,
    fit: str,
    effects: dict,
    *,
    identity: dict,
    seed: int,
) -> EffectMap:
    """The map that `fit` makes of the first `count` vectors of the effect data in `folder`, under the parameters
    `effects` of its stage; data that are not there are made, as that stage makes them. The map is kept as the stage
    keeps its own.

    Raises: ValueError for a count that is no number of chunks, from two up to all.
    """
    chunks, rest = divmod(count, effects["chunk_size"])
    if rest or not 2 <= chunks <= effects["chunks"]:
        sizes = [n * effects["chunk_size"] for n in range(2, effects["chunks"] + 1)]
        raise ValueError(f"effect_vectors is {count}; the effect data come in chunks, so that it can be one of {sizes}")
    sampling = SamplingParams(**{name: effects[name] for name in ("new_tokens", "top_k", "temperature", "batch")})
    names = ("openers", "chunk_size", "heldout_vectors", "heldout_rollouts", "unsteered_rollouts")
    scales = load_tensors(folder / "scales.safetensors")[0]["scales"]
    data = EffectData(
        lm,
        sae,
        scales,
        layer,
        folder / "shards",
        sampling=sampling,
        seed=seed,
        **{name: effects[name] for name in names},
    )
    file = folder / "shards" / f"{fit}_{count}_{digest([data.identity, effects])}.safetensors"
    if not file.exists():
        _fit(fit, data, chunks, effects, identity, seed).save(file)
    return EffectMap.load(file, **identity)


def _fit(fit: str, data: EffectData, chunks: int, effects: dict, identity: dict, seed: int) -> EffectMap:
    if fit == "adam":
        settings = {name: effects[f"adam_{name}"] for name in ("epochs", "lr", "batch")}
        total, device = chunks * effects["chunk_size"], data.lm.device
        return fit_adam(lambda: data.chunks(chunks), identity, total=total, seed=seed, device=device, **settings)
    folds = [Moments.of(x, y) for x, y in data.chunks(chunks)]
    return {"ridge": fit_ridge, "reduced_rank": fit_reduced_rank}[fit](folds, effects["ridge_strengths"], identity)[0]


@dataclass
class TextPlan:
    """Which texts the rows need: every distinct vector of a behaviour is run once. `known` are the evaluation's vectors
    by name; their texts are there already. Of equal ones, the first name counts."""

    vectors: dict[tuple[str, str], Tensor]  # (row, behaviour): vector
    known: dict[tuple[str, str, int], Tensor]
    names: dict[tuple[str, str], tuple[str, str, int]] = field(init=False)  # (row, behaviour): name of its texts
    new: dict[tuple[str, str, int], Tensor] = field(init=False)  # name: vector, of those that have no texts yet

    def __post_init__(self):
        self.names, self.new = {}, {}
        for (row, behaviour), vector in self.vectors.items():
            equal = [
                name
                for name, other in [*self.known.items(), *self.new.items()]
                if name[0] == behaviour and torch.allclose(vector, other, rtol=0, atol=SAME)
            ]
            name = equal[0] if equal else (behaviour, "ablation", len(self.new))
            if not equal:
                self.new[name] = vector
            self.names[row, behaviour] = name

    def same(self, row: str, other: str) -> bool:
        """Whether two rows have the same vectors for every behaviour."""
        return all(self.names[row, b] == self.names[other, b] for r, b in self.vectors if r == row)


def run_cells(
    lm: LanguageModel,
    vectors: dict[tuple[str, str, int], Tensor],
    cells: Callable[[dict], pd.DataFrame],
    prompts: list[str],
    samples: int,
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    judge: Judge,
    behaviours: list[str],
    *,
    seeds: tuple[int, ...],
    progress: str,
) -> pd.DataFrame:
    """Scored samples of cells(vectors), made for groups of vectors and kept vector by vector: a row that is added,
    changed or moved leaves the texts of all others as they are."""
    kept = folder / "texts"
    kept.mkdir(parents=True, exist_ok=True)
    common = sampling_identity(lm, layer, sampling)
    (kept / "identity.json").write_text(json.dumps(common, indent=1, sort_keys=True))
    rows, files = {}, {}
    for name, vector in vectors.items():
        rows[name] = ev.expand_samples(cells({name: vector}), prompts, samples, seeds=seeds)
        drawn = {column: rows[name][column].tolist() for column in ("prompt", "coeff", "seed")}
        files[name] = kept / f"shard_{digest(common | drawn | {'vector': digest(vector)})}.parquet"
    missing = [name for name in vectors if not files[name].exists()]
    groups = [{name: vectors[name] for name in missing[i : i + GROUP]} for i in range(0, len(missing), GROUP)]
    for number, group in enumerate(groups, start=1):
        joint = pd.concat([rows[name] for name in group], ignore_index=True)
        label = f"{progress} {number} of {len(groups)}"
        texts = ev.generate_samples(lm, joint, group, layer, sampling, folder, progress=label)
        for name, part in texts.groupby(["behaviour", "method", "variant"]):
            save_frame(files[name], part[["text"]])
    if not vectors:
        return pd.DataFrame()
    read = [rows[name].assign(text=pd.read_parquet(files[name]).text.to_numpy()) for name in vectors]
    texts = pd.concat(read, ignore_index=True)
    ev.announce(judge, texts, behaviours)
    return ev.score_samples(texts, judge, behaviours)


def best_scales(scores: pd.DataFrame) -> dict[tuple[str, str, int], tuple[float, float]]:
    """{name: (scale, coeff)}: the scale of the highest BCS of each vector's cells, from evaluation.cell_scores."""
    best = ev.choose_cells(scores.assign(method=list(zip(scores.method, scores.variant))))
    return {(c.target, *c.method): (c.scale, c.coeff) for c in best.itertuples()}


def score_row(cells: list[pd.DataFrame], *, draws: int, seed: int) -> tuple[NDArray, NDArray]:
    """(BCS (behaviours,), bootstrap draws (behaviours, draws)) of one cell for each behaviour, with columns B,
    coherence and prompt."""
    parts = [(c.B.to_numpy(), c.coherence.to_numpy(), c.prompt.to_numpy()) for c in cells]
    values = np.array([bcs(b, c) for b, c, _ in parts])
    return values, np.stack([bcs_draws(*part, draws=draws, seed=seed) for part in parts])


def differences(scores: dict[str, NDArray], plan: TextPlan, default: str = "default") -> dict[str, dict[str, float]]:
    """{row: {value, lo, hi, p, better_on, same}}: a row's BCS (behaviours,) minus the default's, with a 95 % interval
    over behaviours and a p value corrected for the rows whose vectors differ (Holm)."""
    same = {row: plan.same(row, default) for row in scores if row != default}
    against = paired_comparisons(scores[default], {row: scores[row] for row, equal in same.items() if not equal})
    table = {}
    for row, equal in same.items():
        if equal:
            table[row] = {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0, "better_on": 0, "same": True}
            continue
        p = against[row]
        better = int((scores[row] > scores[default]).sum())
        entry = {"value": -p["value"], "lo": -p["hi"], "hi": -p["lo"], "p": p["p"], "better_on": better, "same": False}
        table[row] = entry
    return table
