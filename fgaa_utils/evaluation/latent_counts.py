"""FGAA by its numbers of latents: n1 (figures A.1, A.2 of the paper) and n2 (figure A.4)."""

import numpy as np
import pandas as pd

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import cell_scores
from fgaa_utils.figures import listed
from fgaa_utils.names import variant_values
from fgaa_utils.stats import paired_difference


def best_by_latents(samples: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """FGAA's best BCS over scales for every number of latents, on the first sample of every prompt, which all cells have:
    target, n1, n2, BCS."""
    scores = cell_scores(samples[samples["sample"] == 0], keys).query("method == 'fgaa'")
    best = scores.groupby(["target", "variant"], as_index=False, sort=False).BCS.max()
    values = [variant_values(variant) for variant in best.variant]
    counts = pd.DataFrame(values, index=best.index, columns=["n1", "n2"])
    return pd.concat([best[["target"]], counts, best.BCS], axis=1).sort_values(
        ["target", "n2", "n1"], ignore_index=True
    )


def means_by_n1(best: pd.DataFrame) -> dict[int, tuple[float, float, float]]:
    """{n1: (mean, lo, hi)} of best_by_latents over behaviours, with Student's interval."""
    return {int(n): paired_difference(p.BCS.to_numpy(), np.zeros(len(p))) for n, p in best.groupby("n1")}


def n1_sentence(means: dict[int, tuple[float, float, float]]) -> str:
    """Which n1 of means_by_n1 is best and worst."""
    low, high = (pick(means, key=lambda n: means[n][0]) for pick in (min, max))
    return (
        f"Averaged over behaviours n1 = {high} is best and {low} worst, {means[high][0]:.2f} against {means[low][0]:.2f}. "
        f"The paper tries 1 to 8, here {listed(map(str, means))}."
    )


def chosen_n1(results: Results, paper: dict) -> pd.DataFrame:
    """n1 as chosen here and as the paper's figures show it, by behaviour."""
    ours = {key: variant_values(results.choice("fgaa", key).variant)["n1"] for key in results.keys}
    rows = {results.model.split(":")[0]: ours} | paper["best_n1"]
    table = pd.DataFrame({name: [str(n.get(k, "")) for k in results.keys] for name, n in rows.items()})
    return table.set_axis(results.names.values()).T.rename_axis("n1")


def change_by_n2(best: pd.DataFrame, default_n2: int) -> pd.Series:
    """BCS of the most negative latents tried less that of the default number, by behaviour, averaged over n1."""
    mean = best.groupby(["n2", "target"]).BCS.mean()
    return mean[best.n2.max()] - mean[default_n2]


def n2_sentence(best: pd.DataFrame, default_n2: int, names: dict[str, str]) -> str:
    """What change_by_n2 finds, by behaviour."""
    if best.n2.nunique() == 1:
        return f"No other number of negative latents than {default_n2} was tried."
    change = change_by_n2(best, default_n2)
    return (
        f"{int(best.n2.max())} negative latents in place of {default_n2} change the score, averaged over n1, by "
        f"{listed(f'{names[k]} {change[k]:+.2f}' for k in names)}: lower on {int((change < 0).sum())} of {len(names)} behaviours."
    )
