"""What the page of vectors tells: cosines between methods (paper, table D.1), the bias term, effects that the map
expects."""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from fgaa_utils.figures import listed
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.recipe import Ingredients, Recipe, steering_vector
from fgaa_utils.method.tries import Tries
from fgaa_utils.names import LABELS, METHODS, VectorName, method_order

ByMethod = dict[str, dict[str, Tensor]]  # behaviour: method: vector
AVERAGE = "average"


def typical(vectors: dict[VectorName, Tensor], behaviours: list[str], tries: Tries, n2: int) -> ByMethod:
    """One vector of every method for each behaviour: FGAA's with the middle n1, SAE's and SAE-TS's with the first rank,
    CAA's of means without BOS, by natural gradient whitened, and NG's last, the sum of all three."""
    middle, natural = (counts[len(counts) // 2] for counts in (tries.n1, tries.natural_n1))
    return {
        b: {
            "caa": vectors[VectorName(b, "caa", bos=False, white=False)],
            "sae": vectors[VectorName(b, "sae", rank=tries.ranks[0])],
            "sae_ts": vectors[VectorName(b, "sae_ts", rank=tries.ranks[0])],
            "fgaa": vectors[VectorName(b, "fgaa", n1=middle, n2=n2)],
            "ng_caa": vectors[VectorName(b, "ng_caa", bos=False, white=True)],
            "ng_fgaa": vectors[VectorName(b, "ng_fgaa", n1=natural, n2=n2)],
            "ng": [v for name, v in vectors.items() if (name.behaviour, name.method) == (b, "ng")][-1],
        }
        for b in behaviours
    }


def fgaa_cosines(vectors: ByMethod) -> pd.DataFrame:
    """Cosine of FGAA's vector with every other method's: rows are behaviours, columns methods, all vectors of unit
    norm."""
    rows = {
        b: {m: float(made["fgaa"] @ made[m]) for m in METHODS if m in made and m != "fgaa"}
        for b, made in vectors.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")


def beside_paper(cosines: pd.DataFrame, printed: dict[str, dict[str, float]], names: dict[str, str]) -> pd.DataFrame:
    """fgaa_cosines with behaviours and methods by name, its average, and the averages that the paper prints by
    model."""
    shown = cosines.rename(index=names)
    shown.loc[AVERAGE] = cosines.mean()
    for model, row in printed.items():
        shown.loc[f"{AVERAGE} in the paper, {model}"] = pd.Series(row)
    return shown.rename(columns=LABELS)


def alikeness(vectors: ByMethod, bias: Tensor) -> pd.DataFrame:
    """For FGAA and CAA: the mean cosine between vectors of different behaviours, and with the bias direction."""
    off = ~torch.eye(len(vectors), dtype=torch.bool)
    rows = {}
    for method in ("fgaa", "caa"):
        stacked = torch.stack([made[method] for made in vectors.values()])
        rows[method] = {
            "between behaviours": float((stacked @ stacked.T)[off].mean()),
            "with the bias direction": float((stacked @ bias).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def predicted_effects(
    vectors: ByMethod, effect_map: EffectMap, wanted: dict[str, Tensor], names: dict[str, str]
) -> dict[str, pd.DataFrame]:
    """{method: cosines}: of the effect that the map predicts of a behaviour's vector (rows), less the mean effect,
    with the positive part of each behaviour's filtered difference (columns)."""
    targets = torch.stack([wanted[b].clamp(min=0) for b in vectors])
    shown = [names[b] for b in vectors]
    matrices = {}
    for method in method_order(list(next(iter(vectors.values())))):
        effects = torch.stack([made[method] for made in vectors.values()]) @ effect_map.M
        cosines = torch.nn.functional.cosine_similarity(effects[:, None], targets[None], dim=2)
        matrices[method] = pd.DataFrame(cosines.numpy(), index=shown, columns=shown)
    return matrices


def on_target(predicted: dict[str, pd.DataFrame]) -> dict[str, float]:
    """{method: mean predicted cosine of a vector with its own behaviour}."""
    return {method: float(matrix.to_numpy().diagonal().mean()) for method, matrix in predicted.items()}


def norm_distance(default: Recipe, behaviours: list[str], n1: list[int], ingredients: Ingredients) -> float:
    """The largest distance between FGAA's vectors from targets of unit L1 norm and those of unit L2 norm."""
    distances = []
    for b in behaviours:
        for count in n1:
            recipes = (replace(default, method="fgaa", n1=count, target_norm=norm) for norm in ("l1", "l2"))
            one, other = (steering_vector(recipe, b, ingredients) for recipe in recipes)
            distances.append(float((one - other).norm()))
    return max(distances)


def count_sentence(vectors: dict[VectorName, Tensor]) -> str:
    """How many vectors there are of each method."""
    methods = [name.method for name in vectors]
    counts = listed(f"{methods.count(m)} of {LABELS[m]}" for m in dict.fromkeys(methods))
    return f"There are {len(vectors)} vectors: {counts}."


def verdict(cosines: pd.DataFrame, on: dict[str, float]) -> list[str]:
    """The sentences that answer the page's question, from fgaa_cosines and on_target."""
    mean = cosines.mean()
    near = mean.idxmax()
    rest = listed(f"{mean[m]:.2f} with {LABELS[m]}" for m in mean.index if m != near)
    expected = listed(f"{value:.2f} for {LABELS[m]}" for m, value in sorted(on.items(), key=lambda pair: -pair[1]))
    return [
        f"FGAA's vectors lie nearest to {LABELS[near]}'s: the mean cosine is {mean[near]:.2f}, against {rest}.",
        f"The effect map expects effects with a mean cosine to the own target of {expected}.",
    ]


def metrics(
    count: int, fit: str, distance: float, cosines: pd.DataFrame, alike: pd.DataFrame, on: dict[str, float]
) -> dict:
    """What reports/metrics/vectors.json says of `count` vectors, from norm_distance, fgaa_cosines, alikeness,
    on_target."""
    return {
        "vectors": count,
        "fit": fit,
        "l1_l2_distance": float(f"{distance:.0e}"),
        "cosine_fgaa": {m: round(float(value), 4) for m, value in cosines.mean().items()},
        "cosine_between_behaviours": {m: round(float(value), 4) for m, value in alike["between behaviours"].items()},
        "predicted_on_target": {m: round(value, 4) for m, value in on.items()},
    }
