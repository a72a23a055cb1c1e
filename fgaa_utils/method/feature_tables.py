"""What the page of features tells: which latents the filters take, and whether the rest tell a behaviour from its
near misses (paper, Eq. 1-4, figure A.3, table G.1)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.figures import listed
from fgaa_utils.method.features import LatentStats, text_means
from fgaa_utils.method.recipe import Ingredients, Recipe, filtered_difference
from fgaa_utils.model.lm import LanguageModel

FATES = ("passes the filters", "removed: density", "removed: BOS", "removed: density and BOS")
TALLEST = 20  # entries of v_diff by size, of which the fates are counted and drawn
HIGHEST, FIVE = "highest latent", "five highest"  # what tells texts apart


@dataclass(frozen=True)
class Differences:
    """v_diff (d_sae,) by behaviour: before the filters, after the density filter, and after the BOS filter too."""

    before: dict[str, Tensor]
    after_density: dict[str, Tensor]
    after: dict[str, Tensor]


def differences(recipe: Recipe, behaviours: list[str], ingredients: Ingredients) -> Differences:
    """The differences of behaviours under a recipe and under the same with fewer filters."""
    steps = (replace(recipe, density_filter=False, bos_filter=False), replace(recipe, bos_filter=False), recipe)
    return Differences(*({b: filtered_difference(step, b, ingredients) for b in behaviours} for step in steps))


def removed_table(found: Differences, names: dict[str, str]) -> pd.DataFrame:
    """One row a behaviour: how many entries of v_diff are not zero after each filter, how many of those left are
    positive, and the shares of the sum of positive entries that are left."""
    rows = {}
    for key, v in found.before.items():
        steps = v, found.after_density[key], found.after[key]
        mass = [float(x.clamp(min=0).sum() / v.clamp(min=0).sum()) for x in steps[1:]]
        counts = [int((x != 0).sum()) for x in steps]
        rows[names[key]] = [*counts, int((steps[-1] > 0).sum()), *mass]
    columns = ["latents", "after density", "after BOS", "positive", "sum after density", "sum after BOS"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("behaviour")


def latent_fates(recipe: Recipe, ingredients: Ingredients) -> NDArray:
    """Which of FATES each latent has under the recipe's filters, (d_sae,)."""
    dense = (ingredients.density > recipe.theta) & recipe.density_filter
    return np.array(FATES)[(dense + 2 * (ingredients.bos_latents & recipe.bos_filter)).numpy()]


def tallest(v: Tensor) -> list[int]:
    """The latents of the TALLEST entries of v by size, in falling order."""
    return v.abs().argsort(descending=True)[:TALLEST].tolist()


def carried(v: Tensor) -> float:
    """The share of the ten largest entries in the sum of |v|."""
    return float(v.abs().topk(10).values.sum() / v.abs().sum().clamp(min=1e-9))


def second_to_first(v: Tensor) -> float:
    """The second highest entry as a share of the highest."""
    return float(v.topk(2).values[1] / v.max())


def heights_table(found: Differences, fates: NDArray, names: dict[str, str]) -> pd.DataFrame:
    """One row a behaviour: what the filters do to the largest entry of v_diff by size and how many of the TALLEST
    each takes; the share of the ten largest in the sum, before the filters and after; the second highest entry left
    as a share of the highest."""
    rows = {}
    for key, v in found.before.items():
        top = list(fates[tallest(v)])
        rows[names[key]] = {
            "largest entry": top[0],
            **{f"of {TALLEST}, by {how}": top.count(fate) for fate, how in zip(FATES[1:], ("density", "BOS", "both"))},
            "ten largest, before": f"{carried(v):.0%}",
            "ten largest, after": f"{carried(found.after[key]):.0%}",
            "second / first": f"{second_to_first(found.after[key]):.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")


def heights_sentence(found: Differences, fates: NDArray, printed: dict[str, dict[str, dict[int, float]]]) -> str:
    """How often the largest entry is filtered out, and how far the highest that is left stands out, here and in the
    pairs of values that the paper prints (`v_diff` of data/paper.yaml)."""
    lost = sum(fates[tallest(v)[0]] != FATES[0] for v in found.before.values())
    ours = np.nanmedian([second_to_first(v) for v in found.after.values()])
    theirs = {f"{m} {b}": min(p.values()) / max(p.values()) for m, pairs in printed.items() for b, p in pairs.items()}
    pairs = listed(f"{ratio:.2f} for {name}" for name, ratio in theirs.items())
    return (
        f"A filter takes the largest entry of v_diff for {lost} of {len(found.before)} behaviours. "
        f"The second highest entry that is left is {ours:.2f} of the highest (median over behaviours). In the pairs that the "
        f"paper prints it is {np.median(list(theirs.values())):.2f} ({pairs}): too few pairs to call that a difference."
    )


def density_sentence(stats: LatentStats, theta: float) -> str:
    """What densities look like and what theta takes."""
    density = stats.density.numpy()
    return (
        f"The mean density is {density.mean():.4f}. theta = {theta} removes {(density > theta).mean():.1%} of the latents; "
        f"{(density == 0).mean():.2%} never fire here."
    )


def bos_sentences(
    stats: LatentStats, theta: float, printed: dict[str, list[int]], *, model: str, sae_source: str
) -> list[str]:
    """How many BOS latents there are, which, how many the paper names of each model (`printed`), and how many of
    these are among ours, if model and SAE can be the paper's."""
    ours = stats.bos_latents
    dense = int((stats.density[ours] > theta).sum())
    said = [
        f"{int(ours.sum())} of {len(ours):,} latents fire most on BOS, {dense} of them denser than theta too.",
        f"The paper names {listed(f'{len(latents)} of {name}' for name, latents in printed.items())}.",
        f"Ours are {listed(map(str, ours.nonzero().squeeze(1).tolist()))}.",
    ]
    named = printed.get(Path(model).name, [])
    if named and sae_source != "own" and max(named) < len(ours):
        said.append(f"Of those that the paper names, {int(ours[named].sum())} of {len(named)} are among ours.")
    return said


def bos_table(stats: LatentStats, count: int) -> pd.DataFrame:
    """The `count` BOS latents with the highest activation on BOS."""
    latents = stats.bos_latents.nonzero().squeeze(1)
    latents = latents[stats.max_bos[latents].argsort(descending=True)][:count]
    columns = {"on BOS": stats.max_bos, "highest elsewhere": stats.max_other, "density": stats.density}
    frame = pd.DataFrame({name: values[latents].tolist() for name, values in columns.items()}, dtype=float)
    return frame.set_index(pd.Index(latents.tolist(), name="latent"))


def tells_apart(v: Tensor, positive: Tensor, negative: Tensor) -> dict[str, float]:
    """AUC for telling texts of a behaviour from near misses, by their mean latents (texts, d_sae): of the highest
    entry of a filtered v_diff, and of its five highest, weighted as FGAA's target weights them."""
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    values, places = v.clamp(min=0).topk(5)
    weighted = torch.cat([positive, negative])[:, places] * values
    return {
        HIGHEST: float(roc_auc_score(labels, weighted[:, 0])),
        FIVE: float(roc_auc_score(labels, weighted.sum(dim=1))),
    }


def auc_table(
    lm: LanguageModel, sae: SAE, behaviours: list[Behaviour], layer: int, v_filtered: dict[str, Tensor]
) -> pd.DataFrame:
    """tells_apart on the judge texts of each behaviour, which take no part in v_diff, BOS left out; rows are keys of
    behaviours."""
    rows = {}
    for b in behaviours:
        sides = [
            text_means(lm, sae, list(side), layer, include_bos=(False,))[False].latents
            for side in (b.judge_positive, b.judge_negative)
        ]
        rows[b.key] = tells_apart(v_filtered[b.key], *sides) | {"texts": sum(map(len, sides))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")


def verdict(aucs: pd.DataFrame, removed: pd.DataFrame) -> list[str]:
    """The sentences that answer the page's question; both frames are indexed by the names of behaviours."""
    five = aucs[FIVE].sort_values()
    left = removed["sum after BOS"]
    return [
        f"The five highest latents left after the filters tell fresh texts of a behaviour from near misses with an AUC of "
        f"{five.iloc[0]:.2f} to {five.iloc[-1]:.2f}, {five.mean():.2f} on average (0.5 is chance).",
        f"They do so worst for {listed(five.index[:3])}.",
        f"The filters leave {left.min():.0%} to {left.max():.0%} of the sum of positive entries of v_diff, by behaviour.",
    ]


def metrics(
    stats: LatentStats, theta: float, resid_std: float, aucs: pd.DataFrame, removed: pd.DataFrame, keys: list[str]
) -> dict:
    """What reports/metrics/features.json says; `removed` has its rows in the order of `keys`."""
    density = stats.density.numpy()
    return {
        "resid_std": round(resid_std, 2),
        "mean_density": round(float(density.mean()), 6),
        "share_over_theta": round(float((density > theta).mean()), 5),
        "bos_latents": int(stats.bos_latents.sum()),
        "auc_on_judge_texts": {
            key: {name: round(float(row[name]), 4) for name in (HIGHEST, FIVE)} for key, row in aucs.iterrows()
        },
        "latents_after_density": dict(zip(keys, removed["after density"].tolist())),
        "latents_after_bos": dict(zip(keys, removed["after BOS"].tolist())),
    }
