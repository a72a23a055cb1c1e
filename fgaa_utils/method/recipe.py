"""Recipes of steering vectors: everything that shapes one, and the one function that makes it (paper, Eq. 1-5).

Every vector of every method and control, of every stage, is `steering_vector(recipe, behaviour, ingredients)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import (
    SIDES,
    bos_filter,
    check_norm,
    contrastive_difference,
    density_filter,
    load_features,
    means_name,
    target,
)
from fgaa_utils.method.vectors import bias_direction, caa, fgaa, sae_row, sae_ts, unit
from fgaa_utils.names import CONTROLS, FITS, METHODS, SHARED, VectorName
from fgaa_utils.project import unknown

DECODER = "decoder"  # a fit: no effect map, a latent's direction is its decoder row
Sides = dict[str, tuple[Tensor, Tensor]]  # behaviour: means of the texts of X+ and of X-
EffectMaps = Callable[[str, int | None], EffectMap]  # of (fit, effect_vectors)


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes one vector.

    n1, n2: positive and negative latents of FGAA's target. rank: place of the latent of SAE and SAE-TS in the filtered
    difference, 1 is the highest. examples: contrastive texts of each side, drawn at random, those of a smaller number
    among those of a larger; None: all. draw: which random vector or latent (from 1), or which random order of the
    texts. effect_vectors: how many vectors the effect map was fitted on; None: all.

    Raises: ValueError for a method or norm that does not exist, or for entries that do not go together.
    """

    method: str
    include_bos: bool
    theta: float
    density_filter: bool
    bos_filter: bool
    target_norm: str
    bias_weight: float
    fit: str
    n1: int | None = None
    n2: int | None = None
    rank: int | None = None
    draw: int = 0
    examples: int | None = None
    effect_vectors: int | None = None

    def __post_init__(self):
        if self.method not in METHODS + CONTROLS:
            raise unknown("method", self.method, [*METHODS, *CONTROLS])
        check_norm(self.target_norm)
        if self.fit == DECODER and self.bias_weight:
            raise ValueError(f"a recipe has fit: {DECODER}, which has no bias; add bias_weight: 0.0 to it")
        if self.effect_vectors and self.fit not in FITS:
            raise ValueError(
                f"a recipe has effect_vectors with fit {self.fit!r}; only {', '.join(FITS)} are fitted here"
            )

    def changed(self, changes: dict) -> "Recipe":
        """This recipe with some entries changed.

        Raises: ValueError for an entry or fit that does not exist, or as a new recipe does.
        """
        for name in changes:
            if name not in vars(self):
                raise unknown("entry of a recipe:", name, list(vars(self)))
        if changes.get("fit", self.fit) not in (*FITS, DECODER, self.fit):
            raise unknown("fit", changes["fit"], [*FITS, DECODER])
        return replace(self, **changes)


@dataclass
class Ingredients:
    """What recipes are made from.

    latents[include_bos][behaviour] are the mean latents of the texts of X+ and of X-, each (texts, d_sae); resid
    likewise the token means of the residual stream, (texts, d_model); density and bos_latents (bool) are (d_sae,),
    W_dec (d_sae, d_model). effect_map(fit, effect_vectors) gives the map of a recipe; None where no recipe needs one.
    """

    latents: dict[bool, Sides]
    resid: dict[bool, Sides]
    density: Tensor
    bos_latents: Tensor
    W_dec: Tensor
    effect_map: EffectMaps | None
    seed: int


def read_ingredients(
    features: Path, W_dec: Tensor, effect_map: EffectMaps | None, *, identity: dict, seed: int
) -> Ingredients:
    """The ingredients that the features stage left in the file `features`.

    Raises: ValueError if it was made with another model, SAE or layer than `identity` says.
    """
    tensors, _ = load_features(features, identity=identity)
    behaviours = dict.fromkeys(name.split(".")[2] for name in tensors if name.count(".") == 3)
    latents, resid = (
        {
            bos: {b: tuple(tensors[means_name(what, bos, b, side)] for side in SIDES) for b in behaviours}
            for bos in (True, False)
        }
        for what in ("latents", "resid")
    )
    return Ingredients(latents, resid, tensors["density"], tensors["bos_latents"], W_dec, effect_map, seed)


def only(effect_map: EffectMap, fit: str) -> EffectMaps:
    """The effect maps of a run that has but one, fitted as `fit` on all vectors; asking for another is a
    ValueError."""

    def find(wanted: str, effect_vectors: int | None) -> EffectMap:
        if (wanted, effect_vectors) != (fit, None):
            raise ValueError(
                f"a recipe wants the effect map {wanted} of {effect_vectors or 'all'} vectors, there is {fit}"
            )
        return effect_map

    return find


def filtered_difference(recipe: Recipe, behaviour: str, ingredients: Ingredients) -> Tensor:
    """v_diff of a behaviour after the recipe's filters, (d_sae,) (Eq. 1-3)."""
    v = contrastive_difference(*_examples(recipe, ingredients.latents[recipe.include_bos][behaviour], ingredients.seed))
    if recipe.density_filter:
        v = density_filter(v, ingredients.density, recipe.theta)
    if recipe.bos_filter:
        v = bos_filter(v, ingredients.bos_latents)
    return v


def steering_vector(recipe: Recipe, behaviour: str, ingredients: Ingredients) -> Tensor:
    """The vector of a recipe for a behaviour, (d_model,) of unit norm (Eq. 1-5). Controls take no behaviour's texts.

    FGAA takes as many positive latents as the filters leave, n1 at most. Raises: ValueError if they leave none, or fewer
    than the rank of SAE or SAE-TS.
    """
    if recipe.method == "caa":
        sides = ingredients.resid[recipe.include_bos][behaviour]
        return caa(*_examples(recipe, sides, ingredients.seed))
    if recipe.method in CONTROLS:
        return _control(recipe, ingredients)
    v = filtered_difference(recipe, behaviour, ingredients)
    if recipe.method == "fgaa":
        if recipe.n1 is None:
            raise ValueError(f"n1 is None for {behaviour}; FGAA needs a number of positive latents")
        wanted = target(v, recipe.n1, recipe.n2 or 0, norm=recipe.target_norm)
        return fgaa(_effect_map(recipe, ingredients), wanted, bias_weight=recipe.bias_weight)
    rank = _check_left(v, behaviour, "rank", recipe.rank)
    latent = int(v.argsort(descending=True)[rank - 1])
    if recipe.method == "sae":
        return sae_row(ingredients.W_dec, latent)
    return sae_ts(_effect_map(recipe, ingredients), latent, bias_weight=recipe.bias_weight)


def steering_vectors(recipes: dict[VectorName, Recipe], ingredients: Ingredients) -> dict[VectorName, Tensor]:
    """The vector of every recipe, for the behaviour that its name says.

    Raises: ValueError if the filters leave fewer positive latents than n1: names would promise what targets do not hold.
    """
    for name, recipe in recipes.items():
        if recipe.method == "fgaa":
            v = filtered_difference(recipe, name.behaviour, ingredients)
            _check_left(v, name.behaviour, "n1", recipe.n1)
    return {name: steering_vector(recipe, name.behaviour, ingredients) for name, recipe in recipes.items()}


def _examples(recipe: Recipe, sides: tuple[Tensor, Tensor], seed: int) -> list[Tensor]:
    """The rows of X+ and X- that the recipe takes: all, or the first of a random order."""
    if recipe.examples is None:
        return list(sides)
    orders = [np.random.default_rng([seed, len(side), recipe.draw]).permutation(len(side)) for side in sides]
    return [side[order[: recipe.examples]] for side, order in zip(sides, orders)]


def _check_left(v: Tensor, behaviour: str, name: str, count: int | None) -> int:
    """The count. Raises: ValueError for none, or more than the filters leave positive latents."""
    left = int((v > 0).sum())
    if count is None or not 1 <= count <= left:
        raise ValueError(
            f"{name} is {count} for {behaviour}; it must be from 1 to {left}, the positive latents left after the filters"
        )
    return count


def _effect_map(recipe: Recipe, ingredients: Ingredients) -> EffectMap:
    if recipe.fit == DECODER:
        return decoder_map(ingredients.W_dec)
    if ingredients.effect_map is None:
        raise ValueError(f"{recipe.method} needs an effect map; give the ingredients one")
    return ingredients.effect_map(recipe.fit, recipe.effect_vectors)


def decoder_map(W_dec: Tensor) -> EffectMap:
    """The map under which a latent's direction is its decoder row (d_sae, d_model), with no bias: no approximator."""
    return EffectMap(W_dec.T, torch.zeros(len(W_dec)), {})


def _control(recipe: Recipe, ingredients: Ingredients) -> Tensor:
    """The bias direction, a random direction, or SAE-TS for a random latent that the effect map says anything of.

    One generator gives direction 1, latent 1, direction 2, latent 2 and so on; draw i reads it up to there.
    """
    effect_map = _effect_map(recipe, ingredients)
    if recipe.method == "bias":
        return bias_direction(effect_map)
    if recipe.draw < 1:
        raise ValueError(f"draw of {recipe.method} is {recipe.draw}; it must be at least 1")
    generator = torch.Generator().manual_seed(ingredients.seed)
    alive = effect_map.M.norm(dim=0).nonzero().squeeze(1)
    for _ in range(recipe.draw):
        direction = torch.randn(len(effect_map.M), generator=generator)
        place = torch.randint(len(alive), (1,), generator=generator)
    if recipe.method == "random":
        return unit(direction)
    return sae_ts(effect_map, int(alive[place]), bias_weight=recipe.bias_weight)


def recipes(
    default: Recipe, behaviours: list[str], *, n1: list[int], ranks: list[int], controls: int
) -> dict[VectorName, Recipe]:
    """The recipes of the main run: every method of every behaviour, then `controls` random directions and random
    latents, and the bias direction, which belong to no behaviour."""
    made = {}
    for b in behaviours:
        made[VectorName(b, "caa")] = replace(default, method="caa")
        for rank in ranks:
            for method in ("sae", "sae_ts"):
                made[VectorName(b, method, rank=rank)] = replace(default, method=method, rank=rank)
        made |= fgaa_recipes(default, [b], n1=n1, n2=[default.n2 or 0])
    made[VectorName(SHARED, "bias")] = replace(default, method="bias")
    for draw in range(1, controls + 1):
        for method in ("random", "random_latent"):
            made[VectorName(SHARED, method, draw=draw)] = replace(default, method=method, draw=draw)
    return made


def fgaa_recipes(default: Recipe, behaviours: list[str], *, n1: list[int], n2: list[int]) -> dict[VectorName, Recipe]:
    """The recipes of FGAA with every pair of n1 and n2, for every behaviour."""
    pairs = [(positives, negatives) for positives in n1 for negatives in n2]
    return {
        VectorName(b, "fgaa", n1=positives, n2=negatives): replace(default, method="fgaa", n1=positives, n2=negatives)
        for b in behaviours
        for positives, negatives in pairs
    }
