"""Texts of the ablations: FGAA with one thing changed at a time, its scale chosen on validation.

A row is a set of changes to the default recipe. Vectors that come out equal share their texts, with one another and
with the main run; only what a change alters is generated.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.evaluation import cells as ev
from fgaa_utils.evaluation.ablation_plan import ABLATION, DEFAULT
from fgaa_utils.evaluation.scores import fully_sampled, smoothed
from fgaa_utils.method.approximator import (
    EffectMap,
    Moments,
    fit_reduced_rank,
    fit_ridge,
    load_effect_map,
)
from fgaa_utils.method.effect_fits import Settings, fit_published
from fgaa_utils.method.effects import EffectData
from fgaa_utils.method.effects_once import Course
from fgaa_utils.method.recipe import Ingredients, Recipe, steering_vector
from fgaa_utils.method.vectors import load_vectors
from fgaa_utils.model.generate import sampling_identity
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import Cell
from fgaa_utils.shards import digest, load_tensors, save_frame

GROUP = 54  # vectors generated together
CELL = ["behaviour", "method", "variant"]


def row_vectors(
    default: Recipe, rows: dict[str, dict], n1: dict[str, int], ingredients: Ingredients
) -> dict[Cell, Tensor]:
    """{(behaviour, "ablation", row): unit vector (d_model,)} of the default and of all rows {label: changes}.

    n1: the default's for each behaviour; a row that sets n1 takes its own. Raises: ValueError for a row that is no
    change of the recipe.
    """
    recipes = {DEFAULT: default} | {label: default.changed(changes) for label, changes in rows.items()}
    return {
        (behaviour, ABLATION, label): steering_vector(
            replace(recipe, n1=recipe.n1 or n1[behaviour]), behaviour, ingredients
        )
        for label, recipe in recipes.items()
        for behaviour in n1
    }


def whole_data(behaviours: list[Behaviour], course: Course | None) -> dict[str, int | None]:
    """How many contrastive texts of a side and effect vectors there are, for which a recipe says None. course: of the
    effects stage; None where the map is a published one."""
    sides = [len(side) for b in behaviours for side in (b.positive, b.negative)]
    return {"examples": min(sides), "effect_vectors": course.chunk_size * course.chunks if course else None}


def new_sentences(made: dict[Cell, Tensor], new: list[Cell], rows: dict[str, dict], n1: dict[str, int]) -> list[str]:
    """How many vectors the rows and the default give, and how many of them need texts of their own."""
    return [
        f"{len(rows)} rows and the default give {len(made)} vectors for {len(n1)} behaviours.",
        f"{len(new)} of them differ from those of the main run and from one another: these need texts of their own.",
    ]


def changeable(recipe: Recipe) -> dict:
    """The entries of a recipe that a row can change; FGAA has no rank and no contrast."""
    return {name: value for name, value in vars(recipe).items() if name not in ("method", "rank", "white", "means")}


def main_run_vectors(files: list[Path], identity: dict) -> dict[Cell, Tensor]:
    """FGAA's vectors of the main run, whose texts are there already."""
    found: dict[Cell, Tensor] = {}
    for file in files:
        vectors = load_vectors(file, identity=identity)
        found |= {name.cell: vector for name, vector in vectors.items() if name.method == "fgaa"}
    return found


def names_of_rows(twin: dict[Cell, Cell]) -> dict[str, dict[str, Cell]]:
    """{row: {behaviour: name of its texts}} of the twins of row_vectors and other vectors."""
    names: dict[str, dict[str, Cell]] = {}
    for (behaviour, method, label), name in twin.items():
        if method == ABLATION:
            names.setdefault(label, {})[behaviour] = name
    return names


def new_by_row(names: dict[str, dict[str, Cell]]) -> pd.DataFrame:
    """How many vectors of each row are its own: neither the main run nor an earlier row has them."""
    own = {row: sum(name[1:] == (ABLATION, row) for name in cells.values()) for row, cells in names.items()}
    return pd.DataFrame({"new vectors": own}).rename_axis("row")


@dataclass
class EffectMapCache:
    """Effect maps by fit and number of effect vectors (None: as the effects stage made it), each had once.

    folder: data/effects. course: of its stage; None where the map is a published one.
    """

    lm: LanguageModel
    sae: SAE
    layer: int
    folder: Path
    course: Course | None
    identity: dict
    seed: int
    _kept: dict[tuple[str, int | None], EffectMap] = field(default_factory=dict)

    def __call__(self, fit: str, count: int | None = None) -> EffectMap:
        """Raises: ValueError for a map of another model, SAE or layer, or a count that is no number of chunks."""
        if (fit, count) not in self._kept:
            self._kept[fit, count] = self._fitted(fit, count) if count else self._loaded(fit)
        return self._kept[fit, count]

    def _loaded(self, fit: str) -> EffectMap:
        sizes = {"d_model": self.lm.d_model, "d_sae": self.sae.cfg.d_sae}
        return load_effect_map(fit, self.folder, identity=self.identity, **sizes)

    def _fitted(self, fit: str, count: int) -> EffectMap:
        if self.course is None:
            raise ValueError(f"effect_vectors is {count}, but the effect map was not made here; leave the row out")
        data = (self.lm, self.sae, self.layer, self.folder)
        return fit_on(*data, count, fit, self.course, identity=self.identity, seed=self.seed)


def fit_on(
    lm: LanguageModel,
    sae: SAE,
    layer: int,
    folder: Path,
    count: int,
    fit: str,
    course: Course,
    *,
    identity: dict,
    seed: int,
) -> EffectMap:
    """The map that `fit` makes of the first `count` vectors of the effect data in `folder`, of which the effects stage
    made its own in this course.

    Data that are not there are made, as that stage makes them; the map is kept as that stage keeps its own.
    Raises: ValueError for a count that is no number of chunks, from two up to all.
    """
    chunks, rest = divmod(count, course.chunk_size)
    if rest or not 2 <= chunks <= course.chunks:
        sizes = [n * course.chunk_size for n in range(2, course.chunks + 1)]
        raise ValueError(f"effect_vectors is {count}; the effect data come in chunks, so that it can be one of {sizes}")
    scales = load_tensors(folder / "scales.safetensors")[0]["scales"]
    data = course.data(lm, sae, scales, layer, folder, seed=seed)
    file = folder / "shards" / f"{fit}_{count}_{digest([data.identity, asdict(course)])}.safetensors"
    if not file.exists():
        _fit(fit, data, chunks, course.settings(identity, seed=seed)).save(file)
    return EffectMap.load(file, **identity)


def _fit(fit: str, data: EffectData, chunks: int, settings: Settings) -> EffectMap:
    if fit == "adam":
        return fit_published(data, chunks, settings)
    folds = [Moments.of(x, y) for x, y in data.chunks(chunks)]
    return {"ridge": fit_ridge, "reduced_rank": fit_reduced_rank}[fit](
        folds, settings.ridge_strengths, settings.identity
    )[0]


def run_cells(
    bench: ev.Bench,
    cells: pd.DataFrame,
    vectors: dict[Cell, Tensor],
    split: ev.Split,
    *,
    first: bool = False,
) -> pd.DataFrame:
    """Scored samples of the cells, as of Bench.samples, or of Bench.first_samples, generated for groups of vectors and kept
    vector by vector: a row that is added, changed or moved leaves the texts of all others as they are. An empty frame of no
    cells."""
    if cells.empty:
        return pd.DataFrame()
    rows = {name: bench.rows(part, split, first=first) for name, part in cells.groupby(CELL, sort=False)}
    files = {name: _kept(bench, part, vectors[name]) for name, part in rows.items()}
    _generate(bench, {name: rows[name] for name in rows if not files[name].exists()}, files, vectors, split.name)
    read = [rows[name].assign(text=pd.read_parquet(files[name]).text.to_numpy()) for name in rows]
    texts = pd.concat(read, ignore_index=True)
    ev.announce(bench.judge, texts, bench.behaviours)
    return ev.score_samples(texts, bench.judge, bench.behaviours)


def _kept(bench: ev.Bench, samples: pd.DataFrame, vector: Tensor) -> Path:
    """Where the texts of one vector are kept: the name is a digest of all that shapes them."""
    drawn = {column: samples[column].tolist() for column in ("prompt", "coeff", "seed")}
    shaped_by = sampling_identity(bench.lm, bench.layer, bench.sampling) | drawn | {"vector": digest(vector)}
    return bench.folder / "texts" / f"shard_{digest(shaped_by)}.parquet"


def _generate(
    bench: ev.Bench,
    rows: dict[Cell, pd.DataFrame],
    files: dict[Cell, Path],
    vectors: dict[Cell, Tensor],
    progress: str,
) -> None:
    """Make the texts of rows {name: samples}, group by group, and keep them in files."""
    kept = bench.folder / "texts"
    kept.mkdir(parents=True, exist_ok=True)
    identity = sampling_identity(bench.lm, bench.layer, bench.sampling)
    (kept / "identity.json").write_text(json.dumps(identity, indent=1, sort_keys=True))
    names = list(rows)
    groups = [names[i : i + GROUP] for i in range(0, len(names), GROUP)]
    for number, group in enumerate(groups, start=1):
        joint = pd.concat([rows[name] for name in group], ignore_index=True)
        steered = {name: vectors[name] for name in group}
        label = f"{progress} {number} of {len(groups)}"
        texts = ev.generate_samples(bench.lm, joint, steered, bench.layer, bench.sampling, bench.folder, progress=label)
        for name, part in texts.groupby(CELL):
            save_frame(files[name], part[["text"]])


def best_scales(scores: pd.DataFrame, *, smoothing: float = 0.0) -> dict[Cell, tuple[float, float]]:
    """{name: (scale, coeff)}: the scale of the highest BCS of each vector, smoothed as in choose_cells, of equal ones the
    smallest; scores as of cell_scores."""
    ranked = scores.assign(smooth=smoothed(scores, smoothing))
    ranked = ranked.sort_values(["smooth", "scale"], ascending=[False, True], kind="stable")
    best = ranked.drop_duplicates(["target", "method", "variant"])
    return {(c.target, c.method, c.variant): (c.scale, c.coeff) for c in best.itertuples()}


def untested_cells(
    names: Iterable[Cell], scales: dict[Cell, tuple[float, float]], tested: pd.DataFrame
) -> pd.DataFrame:
    """The cells of `names` at their scales of which `tested` has not all samples: behaviour, method, variant, scale, coeff."""
    tested = fully_sampled(tested)
    have = set(zip(tested.behaviour, tested.method, tested.variant, tested.scale))
    cells = [(*name, *scales[name]) for name in dict.fromkeys(names) if (*name, scales[name][0]) not in have]
    return pd.DataFrame(cells, columns=[*CELL, "scale", "coeff"])
