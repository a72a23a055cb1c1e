"""Tables and sentences of the effects page: scales, scores of the fits, the learning curve, latents."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from fgaa_utils.figures import listed
from fgaa_utils.method.approximator import EffectMap, latent_correlations
from fgaa_utils.method.effect_fits import best_fit, own_latents, spread_of_effects
from fgaa_utils.method.effects_once import Effects

CURVE_NAMES = {"reduced_rank": "reduced rank", "ridge": "ridge", "adam": "Adam"}  # of the fits, in the learning curve
RISES = 0.005  # of R2: a step of the learning curve that adds less is flat


def scale_sentence(scales: Tensor, probes: list[float]) -> str:
    """Quartiles of the coefficients (n,), and the share of them beyond which nothing is extrapolated."""
    low, high = probes[0] / 2, probes[-1] * 2
    capped = ((scales <= scales.new_tensor(low * 1.001)) | (scales >= high * 0.999)).float().mean()
    quartiles = ", ".join(f"{q:.0f}" for q in np.quantile(scales, [0.25, 0.5, 0.75]))
    return (
        f"Quartiles: {quartiles}; {float(capped):.1%} lie at a cap, {low:g} or {high:g}: so far from the probes nothing "
        "is extrapolated."
    )


def rise_table(rises: dict[str, Tensor]) -> pd.DataFrame:
    """Of each kind of vectors: mean rise of cross-entropy in nats, half of its 95 % interval, spread between vectors."""
    rows = {
        name: {"mean rise": float(r.mean()), "±": 2 * float(r.std()) / len(r) ** 0.5, "sd of vectors": float(r.std())}
        for name, r in rises.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("steered by")


def score_table(scores: dict[str, dict[str, float]], ceiling: dict[str, float]) -> pd.DataFrame:
    """Scores by prediction, the noise ceiling last."""
    rows = {name.replace("_", " "): values for name, values in (scores | {"ceiling": ceiling}).items()}
    columns = {"r2": "R2", "cosine": "cosine", "cosine_raw": "raw cosine"}
    columns |= {"retrieval_cosine": "retrieval cosine", "retrieval_top1": "retrieval top 1"}
    return pd.DataFrame.from_dict(rows, orient="index")[list(columns)].rename(columns=columns).rename_axis("prediction")


def choice_sentence(record: dict[str, Any], d_model: int) -> str:
    """What cross-validation chose for the ridge and the reduced rank; record: of effects_once."""
    chosen = record["reduced_rank"]
    return (
        f"Strength of the ridge, median over latents: {record['ridge_strength']:g}; reduced rank: strength "
        f"{chosen['strength']:g}, rank {chosen['rank']} of {d_model}."
    )


def made_sentence(record: dict[str, Any]) -> str:
    """Where the maps were fitted, and how long rollouts and fits took."""
    took = f" in {record['seconds'] / 60:.0f} minutes" if record["seconds"] is not None else ""
    return f"Rollouts and fits were made{took} on {record['processor']}."


def verdict(scores: dict[str, dict[str, float]], ceiling: dict[str, float], maps: dict[str, EffectMap], n: int) -> str:
    """Which fit predicts best and which finds most of the n held-out rows, beside the ceiling and what costs nothing."""
    best, finder = best_fit(scores, maps), best_fit(scores, maps, "retrieval_top1")
    decoder = scores["decoder_transposed"]
    return (
        f"{best.replace('_', ' ').capitalize()} predicts best: R2 {scores[best]['r2']:.3f} over the mean effect on held-out "
        f"rows (ceiling {ceiling['r2']:.3f}), cosine of centred effects {scores[best]['cosine']:.3f} (ceiling "
        f"{ceiling['cosine']:.3f}; decoder transposed {decoder['cosine']:.3f}). Used backwards, {finder.replace('_', ' ')} "
        f"retrieves most held-out rows, {scores[finder]['retrieval_top1']:.0%} (chance {1 / n:.1%}; decoder transposed "
        f"{decoder['retrieval_top1']:.0%})."
    )


def curve_gains(curve: pd.DataFrame) -> pd.DataFrame:
    """Last step of the learning curve of each fit: columns `from`, `to` (vectors) and `gain` (of R2)."""
    last = curve.sort_values("vectors").groupby("fit").tail(2)
    steps = last.groupby("fit").filter(lambda rows: len(rows) == 2).groupby("fit")
    ends = steps.vectors.agg(["first", "last"]).set_axis(["from", "to"], axis=1)
    return ends.assign(gain=steps.r2.last() - steps.r2.first())


def growth(curve: pd.DataFrame) -> str:
    """How far the learning curve still rises at its end, in a sentence."""
    gains = curve_gains(curve)
    if gains.empty:
        return "The learning curve has one point, so that it does not say whether more vectors would help."
    rising = gains.gain > RISES
    state = "still rises" if rising.all() else "still rises for some fits" if rising.any() else "no longer rises"
    steps = [
        f"{row.gain:+.3f} for {fit} ({row['from']:,.0f} to {row.to:,.0f} vectors)" for fit, row in gains.iterrows()
    ]
    return f"At its end the learning curve {state}: the last step changes R2 by {listed(steps)}."


def curve_note(curve: pd.DataFrame, scores: dict[str, dict[str, float]]) -> str:
    """That the learning curve was measured on other samples than the scores of the maps, if it was."""
    last = curve.sort_values("vectors").groupby("fit").r2.last()
    ends = {fit: last[name] for fit, name in CURVE_NAMES.items() if name in last}
    if all(abs(scores[fit]["r2"] - end) < RISES for fit, end in ends.items()):  # else than by the maps' rounding
        return ""
    then = listed(f"{end:.3f} for `{fit}`" for fit, end in ends.items())
    return (
        "The curve was measured when the maps were fitted, on other samples of the same held-out rows than those below: at its "
        f"end R2 was {then}."
    )


def curve_metrics(curve: pd.DataFrame) -> dict[str, dict[str, float]]:
    """R2 by fit and number of vectors, for a metrics file."""
    return {
        fit: {str(row.vectors): round(float(row.r2), 4) for row in rows.itertuples()}
        for fit, rows in curve.groupby("fit")
    }


def curve_rows(curve: pd.DataFrame) -> list[dict]:
    """The learning curve for reports/plots/: vectors, fit, r2 and, where they were kept, cosine and retrieval_top1."""
    wanted = ["vectors", "fit", "r2", "cosine", "retrieval_top1"]
    return curve[[column for column in wanted if column in curve]].round(4).to_dict("records")


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Scores for a metrics file."""
    return {key: round(value, 4) for key, value in scores.items()}


def effects_metrics(made: Effects, scores: dict[str, dict[str, float]]) -> dict:
    """What reports/metrics/effects.json holds; scores: of predictions and of the ceiling."""
    data, course = made.data, made.course
    found: dict[str, Any] = dict.fromkeys(("vectors", "rollouts"), course.chunks * course.chunk_size)
    return (
        found
        | {
            "heldout_vectors": len(data.heldout),
            "heldout_rollouts": len(data.heldout) * data.heldout_rollouts,
            "unsteered_rollouts": data.unsteered_rollouts,
            "model": data.lm.identity,
            "median_ridge_strength": made.record["ridge_strength"],
            "reduced_rank_choice": made.record["reduced_rank"],
            "median_scale": round(float(data.scales.median()), 1),
            "learning_curve": curve_metrics(made.curve),
        }
        | {name: rounded(entries) for name, entries in scores.items()}
    )


def latent_table(predicted: Tensor, y: Tensor) -> pd.DataFrame:
    """Of each latent that varies: `spread of the true effect` in fifths, and `correlation` over held-out vectors of
    predicted and measured effect (n, d_sae)."""
    frame = {"spread of the true effect": spread_of_effects(y), "correlation": latent_correlations(predicted, y)}
    return pd.DataFrame(frame).dropna()


def latent_sentence(latents: pd.DataFrame, predicted: Tensor, y: Tensor, heldout: np.ndarray) -> str:
    """How well single latents are predicted, and how well the latent of each held-out row (numbers `heldout`)."""
    largest = latents[latents["spread of the true effect"] == "largest"].correlation.median()
    own = own_latents(predicted, y, heldout)
    return (
        f"The median correlation is {latents.correlation.median():.2f}, {largest:.2f} among the latents with the largest "
        f"effects. A held-out row raises its own latent by {own.measured.mean():.1f} on average; the map says "
        f"{own.predicted.mean():.1f} (correlation {own.corr().iloc[0, 1]:.2f})."
    )
