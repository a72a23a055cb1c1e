"""What the measurements of a judge say: tables, points of figures, and sentences of the verdict, all computed.

Takes what fgaa_utils.judges.validation measures; `names` are {behaviour: its name}.
"""

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from fgaa_utils.figures import listed, with_interval
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.validation import (
    BEHAVIOUR,
    ENOUGH,
    Measured,
    clear_texts,
    distinct_last,
    not_validated,
    paired_bias,
    steered_parts,
)
from fgaa_utils.names import LABELS, method_order

BINS = 5  # of the calibration curve, of equally many texts
USEFUL = 0.3  # rank correlation with the labels below which a judge is evidence of nothing
SIGNED = "+.2f"
NO_FGAA = "No labelled text is FGAA's for these behaviours, so methods are not compared by the labels."


def criterion_name(name: str, names: dict[str, str]) -> str:
    return {BEHAVIOUR: "all behaviours", COHERENCE: "coherence"}.get(name) or names[name]


def quality_table(found: dict[str, dict], names: dict[str, str]) -> pd.DataFrame:
    """Rows of quality(), by criterion: AUC, Brier score, number of texts."""
    rows = {
        criterion_name(key, names): {
            "AUC": with_interval(entry["auc"]),
            "Brier score": with_interval(entry.get("brier")),
            "texts": entry["auc"]["n"],
        }
        for key, entry in found.items()
    }
    return pd.DataFrame(rows).T.rename_axis("criterion")


def calibration(heldout: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Columns behaviour, score, share, lo, hi: in each bin of a behaviour's held-out texts, sorted by score, the mean
    score and the share of texts that show the behaviour, with its 95 % interval (Wilson)."""
    rows = []
    of_behaviours = heldout[heldout.own & (heldout.criterion != COHERENCE)]
    for key, part in of_behaviours.groupby("criterion", sort=False):
        labels, scores = part.label.to_numpy(), part.score.to_numpy()
        for chosen in np.array_split(scores.argsort(kind="stable"), BINS):
            lo, hi = proportion_confint(labels[chosen].sum(), len(chosen), method="wilson")
            rows.append((names[key], scores[chosen].mean(), labels[chosen].mean(), lo, hi))
    return pd.DataFrame(rows, columns=["behaviour", "score", "share", "lo", "hi"])


def damage_means(heldout: pd.DataFrame) -> pd.DataFrame:
    """Columns kind, severity, coherence: mean held-out coherence of each kind of damage at each severity, from that of
    untouched text, severity 0, on."""
    windows = heldout[heldout.criterion == COHERENCE]
    untouched = windows[windows.severity == 0].score.mean()
    damaged = windows[windows.severity > 0].groupby(["kind", "severity"], as_index=False, sort=False).score.mean()
    starts = pd.DataFrame({"kind": damaged.kind.unique(), "severity": 0.0, "score": untouched})
    means = pd.concat([starts, damaged]).rename(columns={"score": "coherence"})
    return means.sort_values("severity", kind="stable").reset_index(drop=True)


def damage_sentence(means: pd.DataFrame) -> str:
    """How far coherence falls with damage, and which kinds are hardly noticed."""
    ends = means[means.severity == means.severity.max()].set_index("kind").coherence.sort_values()
    untouched = means[means.severity == 0].coherence.iloc[0]
    missed = [f"{kind} ({value:.2f})" for kind, value in ends.items() if value > untouched / 2]
    return (
        f"Untouched text has a mean coherence of {untouched:.2f}; text with every word damaged has {ends.mean():.2f}, "
        f"averaged over the kinds of damage. More than half of its coherence is left to text with every word damaged by: "
        f"{listed(missed)}."
    )


def agreement_table(found: dict[str, dict], labelled: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Rows of agreement_on_steered(), by criterion, with the number of texts and of clear ones."""
    clear, parts = clear_texts(labelled, list(names)), steered_parts(labelled, list(names))
    rows = {
        criterion_name(key, names): {
            "judge and labels, Spearman": with_interval(entry["spearman"]),
            "annotators with each other": f"{entry['annotators']:.2f}",
            "AUC for clear texts": with_interval(entry["auc"]),
            "texts": len(parts[key]),
            "clear": clear[key],
        }
        for key, entry in found.items()
    }
    return pd.DataFrame(rows).T.rename_axis("criterion")


def agreement_points(found: dict[str, dict], names: dict[str, str]) -> pd.DataFrame:
    """Columns criterion, value, lo, hi (Spearman of judge and labels) and annotators, for the figure."""
    rows = [
        {"criterion": criterion_name(key, names), **entry["spearman"], "annotators": entry["annotators"]}
        for key, entry in found.items()
    ]
    return pd.DataFrame(rows)


def bcs_table(measured: Measured) -> pd.DataFrame:
    """BCS of the texts labelled last, by method: by the labels, by the judge, and FGAA minus each other method."""
    paired = {
        method: f"{with_interval(entry, SIGNED)}, p (Holm) {entry['p']:.2f}"
        for method, entry in measured.labelled_paired.items()
    }
    rows = {
        LABELS[method]: {
            "BCS by labels": with_interval(measured.labelled_bcs["labels"][method]),
            "BCS by judge": with_interval(measured.labelled_bcs["judge"][method]),
            "FGAA minus it, by labels": paired.get(method, ""),
            "texts": measured.labelled_bcs["labels"][method]["n"],
        }
        for method in method_order(list(measured.labelled_bcs.get("labels", {})))
    }
    return pd.DataFrame(rows).T.rename_axis("method")


def bias_table(biases: dict[str, dict]) -> pd.DataFrame:
    """Score minus label by method, for behaviour and coherence."""
    columns = {
        f"{criterion}, score minus label": {LABELS[m]: with_interval(by_method[m], SIGNED) for m in by_method}
        for criterion, by_method in biases.items()
    }
    order = [LABELS[m] for m in method_order(list(biases.get(BEHAVIOUR, {})))]
    return pd.DataFrame(columns).reindex(order).rename_axis("method")


def bias_points(biases: dict[str, dict]) -> pd.DataFrame:
    """Columns criterion, method, value, lo, hi, for the figure."""
    rows = [
        {"criterion": criterion, "method": method, **by_method[method]}
        for criterion, by_method in biases.items()
        for method in method_order(list(by_method))
    ]
    return pd.DataFrame(rows, columns=["criterion", "method", "value", "lo", "hi", "n"])


def agreement_sentence(found: dict[str, dict], kind: str) -> str:
    """The verdict on how well the judge agrees with labels, beside how the annotators agree with each other."""
    said = [
        f"{with_interval(found[name]['spearman'])} for {name} (the two annotators: {found[name]['annotators']:.2f})"
        for name in (BEHAVIOUR, COHERENCE)
        if name in found
    ]
    return (
        f"On steered text, scores of the {kind} judge agree with the labels at {listed(said)}, by Spearman's rank "
        "correlation with 95 % intervals."
    )


def validated_sentence(labelled: pd.DataFrame, names: dict[str, str]) -> str:
    """The verdict on which behaviours have too few clear texts for their agreement to count."""
    few = not_validated(labelled, list(names))
    if not few:
        return f"Every behaviour has at least {ENOUGH} labelled texts that clearly show it."
    found = listed(f"{names[key]} ({count})" for key, count in few.items())
    return f"Not validated, for fewer than {ENOUGH} labelled texts clearly show them: {found}."


def order_sentence(measured: Measured) -> str:
    """The order of methods by the labels and by the judge, and what the labels decide about FGAA."""
    if not measured.labelled_bcs:
        return NO_FGAA
    by_label, by_judge = (
        [LABELS[m] for m, _ in sorted(table.items(), key=lambda item: -item[1]["value"])]
        for table in (measured.labelled_bcs["labels"], measured.labelled_bcs["judge"])
    )
    above = [LABELS[m] for m, entry in measured.labelled_paired.items() if entry["lo"] > 0]
    below = [LABELS[m] for m, entry in measured.labelled_paired.items() if entry["hi"] < 0]
    return (
        f"From best to worst, the labels order the methods {', '.join(by_label)}; the judge, {', '.join(by_judge)}. "
        f"By the labels, the interval of the difference puts FGAA above {listed(above)} and below {listed(below)}."
    )


def calibration_sentence(curves: pd.DataFrame) -> str:
    """In how many bins a score is no probability for certain, and where it is furthest from one."""
    off = ((curves.score < curves.lo) | (curves.score > curves.hi)).sum()
    far = curves.loc[(curves.score - curves.share).abs().idxmax()]
    return (
        f"The interval leaves the diagonal in {off} of {len(curves)} bins. Furthest from it: {far.behaviour}, where of "
        f"texts with a mean score of {far.score:.2f} a share of {far.share:.2f} shows the behaviour."
    )


def spread_sentence(by_method: dict[str, dict], criterion: str) -> str:
    """How far score minus label differs between methods, from the least to the most favoured."""
    least, most = (end(by_method, key=lambda m: by_method[m]["value"]) for end in (min, max))
    low, high = by_method[least]["value"], by_method[most]["value"]
    return (
        f"For {criterion}, score minus label runs from {low:+.2f} ({LABELS[least]}) to {high:+.2f} ({LABELS[most]}), "
        f"a spread of {high - low:.2f} between methods."
    )


def favour_sentence(labelled: pd.DataFrame, behaviours: list[str], criterion: str) -> str:
    """Against which methods the judge is on FGAA's side, and which it favours over FGAA, by paired 95 % intervals."""
    paired = paired_bias(labelled, behaviours, criterion)
    said = "; ".join(f"{LABELS[m]} {with_interval(_entry(found), SIGNED)}" for m, found in paired.items())
    ours = on_our_side(paired)
    theirs = [LABELS[m] for m, (_, _, hi) in paired.items() if hi < 0]
    return (
        f"Score minus label for {criterion}, FGAA's less the other's, paired over behaviours: {said}. The intervals put "
        f"the judge on FGAA's side against: {listed(ours)}; on the other's side: {listed(theirs)}."
    )


def on_our_side(paired: dict[str, tuple[float, float, float]]) -> list[str]:
    """Labels of the methods against which the judge favours FGAA (see paired_bias)."""
    return [LABELS[m] for m, (_, lo, _) in paired.items() if lo > 0]


def _entry(found: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "lo", "hi"), found))


def verdict(measured: Measured, labelled: pd.DataFrame, names: dict[str, str], kind: str) -> list[str]:
    """The sentences that answer whether the judge is to be believed."""
    sentences = [agreement_sentence(measured.judge_on_steered, kind), validated_sentence(labelled, names)]
    if not measured.judge_bias:
        return [*sentences, NO_FGAA]
    spreads = [spread_sentence(by_method, criterion) for criterion, by_method in measured.judge_bias.items()]
    sides = [
        f"against {listed(on_our_side(paired_bias(labelled, list(names), criterion)))} for {criterion}"
        for criterion in measured.judge_bias
    ]
    favour = f"By 95 % intervals of score minus label, paired over behaviours, it favours FGAA {listed(sides)}."
    return [*sentences, *spreads, favour]


def missing_sentence(labelled: pd.DataFrame, kind: str, behaviours: list[str]) -> str:
    """How many of the texts labelled last another judge left without a score; nothing if none."""
    rows = distinct_last(labelled, behaviours)
    missing = {c: int(rows[f"{kind}_{c}"].isna().sum()) for c in (BEHAVIOUR, COHERENCE)}
    if not any(missing.values()):
        return ""
    of_behaviour, of_coherence = missing.values()
    return (
        f"{kind} left {of_behaviour} of {len(rows)} texts without a score for behaviour, {of_coherence} for coherence."
    )


def others_table(rows: list[dict]) -> pd.DataFrame:
    """Rows of other_on_labels(), by judge."""
    return pd.DataFrame(rows).set_index("judge").rename(columns={"labelled": "texts"})


def others_sentence(rows: list[dict]) -> str:
    """Which other judges hardly agree with the labels, so that their scores are no evidence."""
    if not rows:
        return "No other judge was asked."
    useless = [r["judge"] for r in rows if r["labelled"] and max(r["B with labels"], r["C with labels"]) < USEFUL]
    if not useless:
        return f"Each reaches {USEFUL} for behaviour or coherence, or was given no labelled text."
    return f"No evidence for or against anything, since they hardly agree with the labels: {listed(useless)}."
