"""Tables and sentences of the page on the gradient: how far halves agree, what vectors cost, what G predicts."""

import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.figures import with_interval
from fgaa_utils.method.gradient_checks import (
    IN_F_NORM,
    NATURAL_GRADIENT,
    PLAIN_GRADIENT,
    Measured,
    kl_ratios,
    quadratic_range,
)


def largest_halves(halves: pd.DataFrame) -> pd.DataFrame:
    """Rows of split_halves at the most rollouts, by what is compared."""
    return halves[halves.rollouts == halves.rollouts.max()].set_index("compared")


def of_all(cosine: float) -> float:
    """Cosine with the truth of the gradient of all rollouts, from the cosine r of its two halves.

    2r / (1 + r) is what two sets of all rollouts would have (Spearman and Brown), its root what one has with the truth.
    0 where the halves disagree.
    """
    r = max(0.0, cosine)
    return (2 * r / (1 + r)) ** 0.5


def halves_sentence(halves: pd.DataFrame) -> str:
    """How well the halves agree at the most rollouts."""
    last = largest_halves(halves)
    columns = last.loc[PLAIN_GRADIENT]
    return (
        f"A latent's gradients from two separate sets of {columns.rollouts:,.0f} rollouts have a cosine of "
        f"{columns['median']:.2f} (median of {columns.latents:,.0f} latents, quartiles {columns.lo:.2f} and "
        f"{columns.hi:.2f}); its natural gradients {last.loc[NATURAL_GRADIENT, 'median']:.2f}, or "
        f"{last.loc[IN_F_NORM, 'median']:.2f} where directions are weighed by what they do to the text."
    )


def kl_sentence(kl: pd.DataFrame) -> str:
    """Up to which cost the quadratic form of the KL holds, and how far off it is at the next."""
    ratios, highest = kl_ratios(kl), quadratic_range(kl)
    if highest is None:
        return (
            f"F does not say what a vector costs: where it promises {ratios.index[0]:g} nats a token, the smallest "
            f"level, the measured KL is {ratios.iloc[0]:.2f} times that (median over the kind of vectors furthest off)."
        )
    beyond = ratios[ratios.index > highest]
    then = f"; at {beyond.index[0]:g} it is {beyond.iloc[0]:.2f} times" if len(beyond) else ", the largest level"
    return (
        f"F says what a vector costs up to {highest:g} nats a token, where the measured KL is {ratios[highest]:.2f} "
        f"times the promised (median over the kind of vectors furthest off){then}."
    )


def agreement_sentence(agreement: pd.DataFrame) -> str:
    """How well G predicts the changes at the smallest cost."""
    median = agreement_table(agreement).iloc[0]
    return (
        f"At {median.name:g} nats a token G predicts the changes of the latents' means with a correlation of "
        f"{median.correlation:.2f} (median over vectors; a perfect prediction would reach {median.ceiling:.2f}, given "
        f"the noise of what is measured) and a slope of {median.slope:.2f}."
    )


def verdict(halves: pd.DataFrame, measured: Measured) -> str:
    """What the page says first: whether the gradient comes out again, and what F and G are worth."""
    return " ".join([halves_sentence(halves), kl_sentence(measured.kl), agreement_sentence(measured.agreement)])


def growth(halves: pd.DataFrame) -> str:
    """How far more rollouts still help, and how near the truth all of them together are."""
    curve = halves[halves.compared == PLAIN_GRADIENT].sort_values("rollouts")
    last = curve.iloc[-1]
    whole = (
        "If the halves err independently, the gradients of all rollouts have a cosine of about "
        f"{of_all(last['median']):.2f} with the true ones (median)."
    )
    if len(curve) < 2:
        return whole
    before = curve.iloc[-2]
    return (
        f"From {before.rollouts:,} to {last.rollouts:,} rollouts of each half the median cosine of the gradients goes "
        f"from {before['median']:.2f} to {last['median']:.2f}. {whole}"
    )


def halves_table(halves: pd.DataFrame) -> pd.DataFrame:
    """Median cosine and quartiles of what is compared, by the rollouts of each half; latents that fired in both."""
    quartiles = [
        with_interval({"value": row["median"], "lo": row["lo"], "hi": row["hi"]}) for row in halves.to_dict("records")
    ]
    shown = halves.assign(shown=quartiles).pivot(index=["rollouts", "latents"], columns="compared", values="shown")
    shown = shown[[PLAIN_GRADIENT, NATURAL_GRADIENT, IN_F_NORM]].reset_index("latents")
    return shown.rename_axis("rollouts of each half").rename_axis(columns=None)


def kl_table(kl: pd.DataFrame) -> pd.DataFrame:
    """By nominal level, medians over vectors: measured KL by kind, the ratio of the kind furthest off to the nominal, the standard error."""
    kinds = kl.pivot_table(index="nats", columns="kind", values="measured", aggfunc="median")
    kinds = kinds[list(kl.kind.unique())].rename_axis("nominal, nats a token").rename_axis(columns=None)
    errors = kl.groupby("nats").error.median()
    return kinds.assign(**{"measured over nominal": kl_ratios(kl), "standard error": errors})


def agreement_table(agreement: pd.DataFrame) -> pd.DataFrame:
    """By nominal level, medians over vectors of correlation, ceiling and slope."""
    columns = ["correlation", "ceiling", "slope"]
    return agreement.groupby("nats")[columns].median().rename_axis("nominal, nats a token")


def spectrum_sentence(eigenvalues: NDArray, ridge: float) -> str:
    """How unequal directions are, and how many of them the ridge outweighs."""
    found = fisher_metrics(eigenvalues)
    outweighed = int((eigenvalues < ridge * eigenvalues.mean()).sum())
    half = int((eigenvalues.cumsum() < eigenvalues.sum() / 2).sum()) + 1
    return (
        f"Largest eigenvalue {found['largest']:g}, median {found['median']:g}, smallest {found['smallest']:g}. Half of "
        f"the sum lies in {half} of {len(eigenvalues)} directions; what is added to the diagonal outweighs "
        f"{outweighed} of them."
    )


def fisher_metrics(eigenvalues: NDArray) -> dict[str, float]:
    """Largest, median and smallest eigenvalue, to three digits."""
    places = {"largest": 0, "median": len(eigenvalues) // 2, "smallest": -1}
    return {name: float(f"{eigenvalues[place]:.3g}") for name, place in places.items()}


def gradients_metrics(
    model: str, rollouts: int, segments: int, halves: pd.DataFrame, eigenvalues: NDArray, measured: Measured
) -> dict:
    """What reports/metrics/gradients.json holds; `model` is the model's identity."""
    last, kl = largest_halves(halves), measured.kl.groupby("nats").measured.median()
    check = agreement_table(measured.agreement).iloc[0]
    return {
        "rollouts": rollouts,
        "segments": segments,
        "model": model,
        "split_half": {
            "rollouts_each": int(last.rollouts[PLAIN_GRADIENT]),
            "latents": int(last.latents[PLAIN_GRADIENT]),
            "G_cosine_median": round(float(last["median"][PLAIN_GRADIENT]), 4),
            "natural_cosine_median": round(float(last["median"][NATURAL_GRADIENT]), 4),
            "natural_F_cosine_median": round(float(last["median"][IN_F_NORM]), 4),
        },
        "fisher": fisher_metrics(eigenvalues),
        "kl": {f"{nats:g}": round(float(value), 4) for nats, value in kl.items()},
        "quadratic_up_to": quadratic_range(measured.kl),
        "gradient_check": {"nats": float(check.name)}
        | {f"{name}_median": round(float(value), 4) for name, value in check.items()},
    }
