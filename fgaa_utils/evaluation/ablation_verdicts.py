"""What the ablations show, in words: the verdict on every row and the sentences of the page."""

import pandas as pd

from fgaa_utils.evaluation.ablation_plan import Plan
from fgaa_utils.evaluation.ablation_tables import Scores, crosses_zero, detectable, heat_map
from fgaa_utils.figures import listed, with_interval

SAME, SURE, PROBABLE, OPEN = "same", "sure", "probable", "open"


def verdict(difference: dict) -> tuple[str, str]:
    """(how sure, better or worse) of an entry of differences: `same` vectors; `sure` after the correction; `probable`
    if the interval leaves out zero but the correction does not decide; else `open`."""
    side = "better" if difference["value"] > 0 else "worse"
    if difference["same"]:
        return SAME, side
    if difference["p"] < 0.05:
        return SURE, side
    return (OPEN if crosses_zero(difference) else PROBABLE), side


def verdict_sentence(plan: Plan, scores: Scores) -> str:
    """The answer in short: the default's score, and how many changes score higher or lower."""
    verdicts = [verdict(scores.difference(row)) for row in scores.compared]
    sure, probable = (_counted(verdicts, kind) for kind in (SURE, PROBABLE))
    default = (
        f"The default scores {with_interval(scores.default, '.3f')} on average over {len(plan.behaviours)} behaviours."
    )
    if not verdicts:
        return f"{default} No change alters its vectors."
    found = f"{listed(sure) if sure else 'none scores higher or lower'} after correction for their number"
    rest = f" Without the correction, {listed(probable)}{' besides' if sure else ''}." if probable else ""
    return f"{default} Of {len(verdicts)} changes that alter its vectors, {found}.{rest}"


def _counted(verdicts: list[tuple[str, str]], kind: str) -> list[str]:
    """`11 score lower` and `1 scores higher`, where there are such verdicts of a kind."""
    counts = {"lower": verdicts.count((kind, "worse")), "higher": verdicts.count((kind, "better"))}
    return [f"{n} score{'s' if n == 1 else ''} {side}" for side, n in counts.items() if n]


def conclusions(scores: Scores) -> str:
    """A Markdown list: the rows under each verdict, worst first, with their differences."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in scores.ranked:
        f = scores.difference(row)
        kind, side = verdict(f)
        pair = (kind, side if kind in (SURE, PROBABLE) else "")
        groups.setdefault(pair, []).append(_entry(row, f, kind))
    order = [(kind, side) for kind in (SURE, PROBABLE) for side in ("worse", "better")] + [(OPEN, ""), (SAME, "")]
    compared = len(scores.compared)
    return "\n".join(
        f"- **{_heading(*pair, compared)}.** {'; '.join(groups[pair])}." for pair in order if pair in groups
    )


def _heading(kind: str, side: str, compared: int) -> str:
    return {
        SURE: f"{side.capitalize()} than the default, also after correction for {compared} comparisons",
        PROBABLE: f"Probably {side}: the interval leaves out zero, but not after correction for {compared} comparisons",
        OPEN: "No difference that these samples show",
        SAME: "The same vectors as the default",
    }[kind]


def _entry(row: str, difference: dict, kind: str) -> str:
    if kind == SAME:
        return f"`{row}`"
    return f"`{row}` {with_interval(difference, '+.2f') if kind != OPEN else format(difference['value'], '+.2f')}"


def fixed_n1_sentence(plan: Plan, scores: Scores) -> str:
    """What one n1 for all behaviours scores at best against the default's own n1 for each; empty if none was tried."""
    fixed = {
        changes["n1"]: scores.table[row]["value"]
        for row, changes in plan.rows.items()
        if set(changes) == {"n1", "n2"} and changes["n2"] == plan.default["n2"]
    }
    if not fixed:
        return ""
    best, own = max(fixed, key=lambda n1: fixed[n1]), scores.default["value"]
    gap = own - fixed[best]
    means = f"About {gap:.3f} of what another row loses may come from that choice, which was made for the default."
    if gap <= 0:
        means = "So the choice by behaviour explains no other row's loss."
    return (
        f"The best single n1 for all behaviours is {best}, with BCS {fixed[best]:.3f}; the default, with an n1 chosen for "
        f"each behaviour, has {own:.3f}. {means}"
    )


def n2_sentence(plan: Plan, scores: Scores) -> str:
    """At how many values of n1 another n2 than the default's scores lower; empty if none was tried with the same n1."""
    table = heat_map(plan, scores).pivot_table(index="n1", columns="n2", values="BCS")
    own = plan.default["n2"]
    if own not in table:
        return ""
    parts = []
    for n2 in table.columns.drop(own):
        both = table[[own, n2]].dropna()
        parts.append(
            f"With n2 = {n2}, BCS is lower than with n2 = {own} at {(both[n2] < both[own]).sum()} of {len(both)} n1."
        )
    return " ".join(parts)


def detectable_sentence(scores: Scores) -> str:
    """How small a difference the samples can show; empty if no row differs from the default."""
    count = len(scores.compared)
    if not count:
        return ""
    return (
        f"A single comparison finds a true difference of {detectable(scores):.2f} with probability 0.8 (median over "
        f"rows); after the correction for {count} comparisons it takes {detectable(scores, comparisons=count):.2f}."
    )


def last_steps(plan: Plan, tried: pd.DataFrame) -> list[str]:
    """Whether more texts or effect vectors would still help: one sentence on the last step up to all that there are,
    for each of the two that was tried; `tried` as of tried_values."""
    sentences = []
    for parameter, part in tried[tried.parameter.isin(plan.whole)].groupby("parameter", sort=False):
        if len(part) < 2 or not part.iloc[-1].default:
            continue
        before, end = part.iloc[-2], part.iloc[-1]
        gain = {"value": -before.difference, "lo": -before.hi, "hi": -before.lo}
        step = f"from {before['at']:g} to all {end['at']:g}"
        sentences.append(f"`{parameter}`: the step {step} adds {with_interval(gain, '+.3f')} to BCS; {_trend(gain)}.")
    return sentences


def _trend(gain: dict) -> str:
    if crosses_zero(gain):
        return "these samples do not show that more would help"
    return "more may help further" if gain["value"] > 0 else "fewer did better"
