"""Recipes of steering vectors: everything that shapes one, and the one function that makes it (paper, Eq. 1-5).

Every vector of every method and control, of every stage, is `steering_vector(recipe, behaviour, ingredients)`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from fgaa_utils.method.gradient_map import GradientMap, damped_solve
from fgaa_utils.method.vectors import bias_direction, fgaa, sae_row, sae_ts, unit
from fgaa_utils.names import CONTROLS, FITS, GRADIENT, MADE, NATURAL, VectorName
from fgaa_utils.project import unknown
from fgaa_utils.shards import check_identity, load_tensors

DECODER = "decoder"  # a fit: no effect map, a latent's direction is its decoder row
Sides = dict[str, tuple[Tensor, Tensor]]  # behaviour: means of the texts of X+ and of X-
EffectMaps = Callable[[str, int | None], EffectMap]  # of (fit, effect_vectors)


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes one vector.

    n1, n2: positive and negative latents of FGAA's target. rank: place of the latent of SAE and SAE-TS in the filtered
    difference, 1 is the highest. examples: contrastive texts of each side, drawn at random, those of a smaller number
    among those of a larger; None: all. draw: which random vector or latent (from 1), or which random order of the
    texts. effect_vectors: how many vectors the effect map was fitted on; None: all. fisher: whether the map is multiplied by
    the inverse of the Fisher information, damped by natural_ridge (of its mean diagonal); with fit: gradient that is the natural
    gradient. white: whether the contrast of residual streams is whitened by the covariance of texts' means (CAA and the
    methods by natural gradient); None where the reward of the latter has no contrast. means: whether the plain difference of
    means is one part more of a sum by natural gradient.

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
    fisher: bool = False
    natural_ridge: float = 0.1
    white: bool | None = None
    means: bool | None = None

    def __post_init__(self):
        if self.method not in MADE + CONTROLS:
            raise unknown("method", self.method, [*MADE, *CONTROLS])
        check_norm(self.target_norm)
        if self.fit in (DECODER, GRADIENT) and self.bias_weight:
            raise ValueError(f"a recipe has fit: {self.fit}, which has no bias; add bias_weight: 0.0 to it")
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
        fits = [*FITS, GRADIENT, DECODER]
        if changes.get("fit", self.fit) not in (*fits, self.fit):
            raise unknown("fit", changes["fit"], fits)
        return replace(self, **changes)


@dataclass
class Ingredients:
    """What recipes are made from.

    latents[include_bos][behaviour] are the mean latents of the texts of X+ and of X-, each (texts, d_sae); resid
    likewise the token means of the residual stream, (texts, d_model); density and bos_latents (bool) are (d_sae,),
    W_dec (d_sae, d_model). effect_map(fit, effect_vectors) gives the map of a recipe; None where no recipe needs one.
    gradients: what the methods by natural gradient, the Fisher information and whitened contrasts need.
    """

    latents: dict[bool, Sides]
    resid: dict[bool, Sides]
    density: Tensor
    bos_latents: Tensor
    W_dec: Tensor
    effect_map: EffectMaps | None
    seed: int
    gradients: GradientMap | None = None
    solved: dict[tuple, EffectMap] = field(default_factory=dict)  # maps times F^-1, each made once


def read_ingredients(
    features: Path,
    W_dec: Tensor,
    effect_map: EffectMaps | None,
    *,
    identity: dict,
    seed: int,
    gradients: GradientMap | None = None,
) -> Ingredients:
    """The ingredients that the features stage left in the file `features`, beside those given.

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
    return Ingredients(latents, resid, tensors["density"], tensors["bos_latents"], W_dec, effect_map, seed, gradients)


def described(default: Recipe, identity: dict[str, str]) -> dict:
    """What a file of vectors made by changes of `default` says of itself, beside the identity."""
    parameters = {name: value for name, value in vars(default).items() if name != "method"}
    norm = "unit L2; a coefficient is in the absolute norm of the residual stream"
    return identity | {"fit": default.fit, "norm": norm, "parameters": parameters}


def main_recipe(vectors: Path, *, identity: dict) -> Recipe:
    """FGAA's recipe of the vectors in the file `vectors`, which n1 completes; written there by described().

    Raises: ValueError if it was made with another model, SAE or layer than `identity` says, or is damaged.
    """
    metadata = load_tensors(vectors)[1]
    check_identity(vectors, metadata, identity, fix="run `dvc repro vectors`")
    return Recipe("fgaa", **json.loads(metadata["parameters"]))


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
        return unit(contrast(recipe, behaviour, ingredients))
    if recipe.method in CONTROLS:
        return _control(recipe, ingredients)
    if recipe.method in NATURAL:
        return _natural(recipe, behaviour, ingredients)
    v = filtered_difference(recipe, behaviour, ingredients)
    if recipe.method == "fgaa":
        return fgaa(_effect_map(recipe, ingredients), _target(recipe, v, behaviour), bias_weight=recipe.bias_weight)
    assert recipe.rank is not None, "a recipe of SAE or SAE-TS has its rank"
    _check_left(v, behaviour, "rank", recipe.rank)
    latent = int(v.argsort(descending=True)[recipe.rank - 1])
    if recipe.method == "sae":
        return sae_row(ingredients.W_dec, latent)
    return sae_ts(_effect_map(recipe, ingredients), latent, bias_weight=recipe.bias_weight)


def contrast(recipe: Recipe, behaviour: str, ingredients: Ingredients) -> Tensor:
    """Mean residual stream over X+ less that over X- (CAA, arXiv 2312.06681), (d_model,), in the stream's own units.

    Whitened, if the recipe says so, by the covariance of unsteered texts' means: the direction that tells the sides apart
    best where both vary alike (Fisher's linear discriminant).
    """
    sides = _examples(recipe, ingredients.resid[recipe.include_bos][behaviour], ingredients.seed)
    difference = sides[0].mean(dim=0) - sides[1].mean(dim=0)
    if not recipe.white:
        return difference
    return damped_solve(_gradients(recipe, ingredients).covariance.double(), difference, recipe.natural_ridge)


def _natural(recipe: Recipe, behaviour: str, ingredients: Ingredients) -> Tensor:
    """(F + natural_ridge mean(diag F) I)^-1 g, where g is the gradient of the recipe's reward.

    The reward is FGAA's target of latents if the recipe has n1, the contrast of mean residual streams if it says whether
    that is whitened. With both, or with the difference of means itself (`means`), the vector is the sum of such vectors,
    each as long as costs the same KL: their errors are other ones, and average out.
    """
    gradients = _gradients(recipe, ingredients)
    parts = []
    if recipe.n1 is not None:
        v = filtered_difference(recipe, behaviour, ingredients)
        slope = gradients.G.double() @ _target(recipe, v, behaviour).double()
        parts.append(gradients.natural(slope, recipe.natural_ridge))
    if recipe.white is not None:
        slope = gradients.G_resid.double() @ contrast(recipe, behaviour, ingredients).double()
        parts.append(gradients.natural(slope, recipe.natural_ridge))
    if not parts:
        raise ValueError(f"a recipe of {recipe.method} has neither n1 nor white; it needs a reward")
    if recipe.means:
        parts.append(contrast(replace(recipe, white=False), behaviour, ingredients))
    if len(parts) == 1:
        return unit(parts[0])
    return unit(sum(v / gradients.cost(v).sqrt() for v in parts).float())


def _target(recipe: Recipe, v: Tensor, behaviour: str) -> Tensor:
    """FGAA's target (d_sae,) of a filtered difference v (Eq. 4)."""
    if recipe.n1 is None:
        raise ValueError(f"n1 is None for {behaviour}; a recipe of FGAA says how many positive latents it takes")
    return target(v, recipe.n1, recipe.n2 or 0, norm=recipe.target_norm)


def _gradients(recipe: Recipe, ingredients: Ingredients) -> GradientMap:
    if ingredients.gradients is None:
        raise ValueError(
            f"{recipe.method} (fit {recipe.fit}, white {recipe.white}) needs gradients; give the ingredients some"
        )
    return ingredients.gradients


def steering_vectors(recipes: dict[VectorName, Recipe], ingredients: Ingredients) -> dict[VectorName, Tensor]:
    """The vector of every recipe, for the behaviour that its name says.

    Raises: ValueError if the filters leave fewer positive latents than n1: names would promise what targets do not hold.
    """
    for name, recipe in recipes.items():
        if recipe.n1 is not None:
            v = filtered_difference(recipe, name.behaviour, ingredients)
            key = "natural_n1" if name.method in NATURAL else "n1"
            _check_left(v, name.behaviour, key, recipe.n1)
    return {name: steering_vector(recipe, name.behaviour, ingredients) for name, recipe in recipes.items()}


def _examples(recipe: Recipe, sides: tuple[Tensor, Tensor], seed: int) -> list[Tensor]:
    """The rows of X+ and X- that the recipe takes: all, or the first of a random order."""
    if recipe.examples is None:
        return list(sides)
    orders = [np.random.default_rng([seed, len(side), recipe.draw]).permutation(len(side)) for side in sides]
    return [side[order[: recipe.examples]] for side, order in zip(sides, orders)]


def _check_left(v: Tensor, behaviour: str, name: str, count: int | None) -> None:
    left = int((v > 0).sum())
    if count is None or not 1 <= count <= left:
        raise ValueError(
            f"{name} is {count} for {behaviour}; it must be from 1 to {left}, the positive latents left after the filters"
        )


def _effect_map(recipe: Recipe, ingredients: Ingredients) -> EffectMap:
    """The map of a recipe, times the inverse of the Fisher information if it says so."""
    if not recipe.fisher:
        return _fitted(recipe, ingredients)
    key = recipe.fit, recipe.effect_vectors, recipe.natural_ridge
    if key not in ingredients.solved:
        fitted = _fitted(recipe, ingredients)
        M = _gradients(recipe, ingredients).natural(fitted.M, recipe.natural_ridge)
        ingredients.solved[key] = EffectMap(M, fitted.b, {})
    return ingredients.solved[key]


def _fitted(recipe: Recipe, ingredients: Ingredients) -> EffectMap:
    if recipe.fit == DECODER:
        return decoder_map(ingredients.W_dec)
    if recipe.fit == GRADIENT:
        G = _gradients(recipe, ingredients).G
        return EffectMap(G, torch.zeros(G.shape[1]), {})
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
