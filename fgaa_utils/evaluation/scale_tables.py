"""How scores move with the scale: figures 2, 3 and E.1, E.2 of the paper in numbers, norms, peaks; ends of the grid."""

import pandas as pd

from fgaa_utils.evaluation.results import Results
from fgaa_utils.evaluation.scores import best_over_scales
from fgaa_utils.names import LABELS, METHODS, PAPER_METHODS


def ends_of_the_grid(results: Results) -> dict[str, tuple[int, int]]:
    """{method: behaviours that chose the smallest scale, the largest}: many mean that the grid ends too early."""
    chosen = {m: results.choices[results.choices.method == m].scale for m in results.steering}
    low, high = results.scales[0], results.scales[-1]
    return {m: (int((s == low).sum()), int((s == high).sum())) for m, s in chosen.items()}


def ends_sentence(results: Results) -> str:
    """What ends_of_the_grid finds."""
    ends = ends_of_the_grid(results).items()
    said = "; ".join(f"{LABELS[m]} {low} and {high}" for m, (low, high) in ends)
    return (
        f"Behaviours that chose the smallest and the largest scale of the grid: {said}. "
        "Many at an end mean that the grid stops too early for that method."
    )


def curve_source(results: Results) -> str:
    """Which texts show score against scale, where it is not those that are reported; nothing else."""
    if results.whole:
        reported, drawn = (frame["sample"].nunique() for frame in (results.test, results.along))
        if drawn == reported:
            return ""
        return f"These curves have {drawn} of the {reported} samples of each test prompt that a reported score has."
    return (
        "Test texts were made at the chosen scales alone, so that these curves are of validation texts, which also chose "
        "the variant and the scale: their heights flatter every method."
    )


def norms_table(results: Results) -> pd.DataFrame:
    """The absolute norm of every scale, by method: the median over behaviours' chosen variants."""
    steered = results.along[results.along.method.isin(results.steering)]
    norms = steered.groupby(["method", "scale"]).coeff.median().unstack()
    shown = norms.loc[results.steering].map("{:.0f}".format).rename(index=LABELS)
    return shown.set_axis([f"{s:g}" for s in norms], axis=1).rename_axis(index="norm at the scale", columns=None)


def peaks(results: Results) -> dict[str, int]:
    """{"inside", "highest"}: behaviours where FGAA's curve peaks inside the grid of scales, and where its peak is the
    highest of the paper's methods', alone or level."""
    best = best_over_scales(results.curve[results.curve.method.isin(PAPER_METHODS)])
    at = {
        key: part.sort_values("value").scale.iloc[-1]
        for key, part in results.curve[results.curve.method == "fgaa"].groupby("target")
    }
    low, high = results.scales[0], results.scales[-1]
    return {
        "inside": sum(low < at[key] < high for key in results.keys),
        "highest": sum(
            best["fgaa"][k]["value"] >= max(best[m][k]["value"] for m in PAPER_METHODS) for k in results.keys
        ),
    }


def peaks_sentence(results: Results, paper: dict) -> str:
    """What `peaks` counts, beside the paper's table 1."""
    counts = {
        name: sum(t[k]["fgaa"] >= max(t[k].values()) for k in t if k != "average")
        for name, t in paper["table_1"].items()
    }
    theirs = ", ".join(f"{name} {n} of {len(paper['table_1'][name]) - 1}" for name, n in counts.items())
    found = peaks(results)
    return (
        f"FGAA's curve has its peak inside the grid on {found['inside']} of {len(results.keys)} behaviours, and the highest "
        f"peak of the paper's four methods, alone or level, on {found['highest']} (paper: {theirs})."
    )


def changes_over_scales(results: Results) -> pd.DataFrame:
    """How behaviour and coherence change from the smallest to the largest scale, averaged over behaviours, and on how
    many behaviours the behaviour score is highest before the largest scale."""
    low, high = results.scales[0], results.scales[-1]
    rows = {}
    for m in results.steering:
        own = results.curve[results.curve.method == m]
        b, c = (own.pivot(index="target", columns="scale", values=name) for name in ("B", "C"))
        inner = int((b.idxmax(axis=1) < high).sum())
        rows[LABELS[m]] = {
            "behaviour": f"{(b[high] - b[low]).mean():+.2f}",
            "coherence": f"{(c[high] - c[low]).mean():+.2f}",
            "behaviour highest at an inner scale": f"{inner} of {len(results.keys)}",
        }
    return pd.DataFrame(rows).T.rename_axis("method")


def plot_rows(results: Results) -> list[dict]:
    """Average BCS of every steering method at every scale, for `dvc plots`."""
    shown = results.curve[results.curve.method.isin(METHODS)]
    means = shown.groupby(["method", "scale"]).value.mean()
    return [{"method": m, "scale": s, "BCS": round(float(v), 4)} for (m, s), v in means.items()]
