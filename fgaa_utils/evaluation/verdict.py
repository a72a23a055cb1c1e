"""What a run found, in four sentences and two tables, from its metrics: README, reports and `make repro` say the same.

Scores are average BCS over behaviours; differences are one method's less another's, paired by behaviour, p corrected (Holm).
Where texts of the run were labelled, scores and differences are those corrected by the labels.
"""

import pandas as pd

from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import CONTROLS, LABELS, METHODS, PAPER_METHODS, PROMPTING, method_order

LEVEL = 0.05  # of a corrected p below which a difference is decided
FGAA, NG = "fgaa", "ng"
OUTCOMES = ("beats", "loses to", "is not told apart from")
Paired = dict[str, dict]  # a method's difference to each other one: value, lo, hi, p, n, detectable


def verdict(evaluation: dict, judge: dict | None, capability: dict | None, unseen: dict | None = None) -> list[str]:
    """Sentences of Markdown: behaviours that no method was tuned on; those of this run; judge and labels; the price.

    evaluation, judge, capability: the metrics of these stages; judge None for a run whose texts nobody labelled, capability
    for one that did not measure it. unseen: the metrics of evaluation of the setting `unseen`, if it was run.
    """
    return [
        *([unseen_sentence(unseen)] if unseen else []),
        run_sentence(evaluation),
        judge_sentence([run for run in (unseen, evaluation) if run], judge),
        *([price_sentence(capability)] if capability else []),
    ]


def unseen_sentence(evaluation: dict) -> str:
    """NG on behaviours that no method was tuned on, against each method of the paper and prompting."""
    paired = differences(evaluation, NG)
    return (
        f"**On {count_of(evaluation)} behaviours that no method was tuned on, steering by natural gradient (NG) {place(paired)}.** "
        f"{source(evaluation)} NG has an average BCS (behaviour times coherence) of {standing(evaluation, NG)}."
    )


def run_sentence(evaluation: dict) -> str:
    """NG, and the paper's methods among themselves, on the behaviours of this run; FGAA alone where there is no NG."""
    papers = [m for m in PAPER_METHODS if m in scores_of(evaluation)]
    paired = differences(evaluation, FGAA)
    best = headline(papers, paired)
    where = f"On {of_behaviours(evaluation)}, on which methods were tuned"
    if NG in scores_of(evaluation):
        said = f"{where}, NG {place(differences(evaluation, NG))}; of the paper's methods {best}"
    else:
        said = f"{where}, of the steering methods {best}"
    first = NG if NG in scores_of(evaluation) else FGAA
    found = f"**{said}.** {source(evaluation)} {LABELS[first]} has {standing(evaluation, first)}"
    entry = paired[max((m for m in papers if m != FGAA), key=lambda m: scores_of(evaluation)[m]["value"])]
    if entry["p"] < LEVEL:
        return f"{found}."
    return f"{found} ({entry['n']} behaviours find a true difference of {entry['detectable']:.2f} from FGAA four times in five)."


def judge_sentence(runs: list[dict], judge: dict | None) -> str:
    """What the judge alone would say otherwise than the labels, of the runs whose texts were labelled, and whom it favours."""
    if not judge or not judge["judge_bias"]:
        return "**No labels.** Nobody has labelled texts of this run, so that its judge is all there is."
    changed = [said for run in runs for said in overruled(run)]
    labelled = [run for run in runs if labels_of(run)]
    if not labelled:
        said = "**Nobody has labelled texts of this run, so that its judge decides.** On texts of an earlier one"
    elif changed:
        said = f"**The labels overrule the judge:** by it alone {listed(changed)}. On labelled texts"
    else:
        said = "**The judge alone would have decided the same.** On labelled texts"
    bias = {m: entry["value"] for m, entry in judge["judge_bias"]["behaviour"].items()}
    low, high = min(bias, key=lambda m: bias[m]), max(bias, key=lambda m: bias[m])
    return (
        f"{said} its score of behaviour less the label is from {bias[low]:+z.2f} ({LABELS[low]}) to {bias[high]:+z.2f} "
        f"({LABELS[high]})."
    )


def overruled(evaluation: dict) -> list[str]:
    """The differences of NG and FGAA that the judge alone decides otherwise than the labels, as it has them."""
    where = of_behaviours(evaluation).replace("these", "the")
    said = []
    for method, corrected in (labels_of(evaluation) or {}).get("paired", {}).items():
        alone = by_the_judge(evaluation, method)
        others = [m for m in corrected if m in alone and m not in (FGAA if method == NG else NG)]
        for m in others:
            if outcome(alone[m]) != outcome(corrected[m]):
                said.append(f"{LABELS[method]} {outcome(alone[m])} {LABELS[m]} on {where}")
    return said


def price_sentence(capability: dict) -> str:
    """What the methods cost at their chosen scales: the cheapest, and NG, FGAA and prompting."""
    price = capability["at_chosen_scale"]
    ratio = {m: entry["perplexity_ratio"]["value"] for m, entry in price.items() if m in METHODS}
    cheapest = min(ratio, key=lambda m: ratio[m])
    told = [m for m in (NG, FGAA, PROMPTING) if m in price]
    times = listed(f"{LABELS[m]} {with_interval(price[m]['perplexity_ratio'], '.1f')}" for m in told)
    accuracy = listed(f"{LABELS[m]} {with_interval(price[m]['accuracy_change'], '+z.2f')}" for m in told)
    less = (
        "costs less than any vector"
        if price[PROMPTING]["perplexity_ratio"]["value"] < ratio[cheapest]
        else "costs more"
    )
    return (
        f"**Of the steering methods {LABELS[cheapest]} costs least at the chosen scales; prompting {less}.** The perplexity of "
        f"held-out text is multiplied by {times}; accuracy on multiple choice changes by {accuracy}."
    )


def labels_of(evaluation: dict) -> dict | None:
    """The scores corrected by labels, if those of NG are among them where the run has NG."""
    corrected = evaluation.get("corrected") or None
    return corrected if corrected and (NG in corrected["paired"] or NG not in evaluation["bcs"]) else None


def source(evaluation: dict) -> str:
    """What the scores of a run are by."""
    corrected = labels_of(evaluation)
    return f"Corrected by labels of {corrected['labels']:,} of the texts" if corrected else "By the judge alone"


def standing(evaluation: dict, method: str) -> str:
    """`0.37 [0.29, 0.44], prompting 0.41, CAA 0.31 and FGAA 0.24`: a method's score and, in their order, those of prompting,
    FGAA and the highest of the paper's methods."""
    scores = scores_of(evaluation)
    best = max((m for m in PAPER_METHODS if m in scores and m != FGAA), key=lambda m: scores[m]["value"])
    others = sorted({FGAA, best, PROMPTING} - {method}, key=lambda m: -scores[m]["value"])
    return listed([f"{with_interval(scores[method])}", *(f"{LABELS[m]} {scores[m]['value']:.2f}" for m in others)])


def scores_of(evaluation: dict) -> dict[str, dict]:
    """{method: average BCS}, corrected by labels where texts of the run were labelled; controls are not among these."""
    corrected = labels_of(evaluation)
    return corrected["bcs"] if corrected else judged(evaluation)


def judged(evaluation: dict) -> dict[str, dict]:
    """{method: average BCS} by the judge."""
    return {method: table["average"] for method, table in evaluation["bcs"].items()}


def differences(evaluation: dict, method: str) -> Paired:
    """A method's (FGAA's or NG's) differences, corrected by labels where texts of the run were labelled."""
    corrected = labels_of(evaluation)
    return corrected["paired"][method] if corrected else by_the_judge(evaluation, method)


def by_the_judge(evaluation: dict, method: str) -> Paired:
    return evaluation["paired_natural" if method == NG else "paired"]


def place(paired: Paired) -> str:
    """`beats CAA, and is not told apart from prompting`: of the differences to the paper's methods and prompting."""
    others = [m for m in (*PAPER_METHODS, PROMPTING) if m in paired]
    groups = {verb: [LABELS[m] for m in others if outcome(paired[m]) == verb] for verb in OUTCOMES}
    *first, last = [f"{verb} {listed(labels)}" for verb, labels in groups.items() if labels]
    return f"{', '.join(first)}, and {last}" if first else last


def outcome(entry: dict) -> str:
    """What a difference decides."""
    if entry["p"] >= LEVEL:
        return OUTCOMES[2]
    return OUTCOMES[0] if entry["value"] > 0 else OUTCOMES[1]


def headline(methods: list[str], paired: Paired) -> str:
    """Who wins among `methods`: FGAA against all, others against FGAA, or none."""
    others = [m for m in methods if m != FGAA]
    if above := [LABELS[m] for m in others if outcome(paired[m]) == OUTCOMES[1]]:
        return f"FGAA loses to {listed(above)}"
    if all(outcome(paired[m]) == OUTCOMES[0] for m in others):
        return "FGAA wins"
    return "none is shown to be the best"


def summary_table(evaluation: dict, capability: dict | None, unseen: dict | None = None) -> pd.DataFrame:
    """Average BCS by judge and labels, NG's lead on unseen behaviours and the price, one row a method; of the controls
    unsteered text alone. What was not measured has no column."""
    price = capability["at_chosen_scale"] if capability else {}
    of_unseen = scores_of(unseen) if unseen else {}
    leads = differences(unseen, NG) if unseen else {}
    corrected = (labels_of(evaluation) or {}).get("bcs", {})
    first = f"BCS, {count_of(unseen)} unseen behaviours" if unseen else ""
    here = f"BCS, {of_behaviours(evaluation)}"
    rows = {}
    for method in method_order(list(evaluation["bcs"])):
        if method not in CONTROLS:
            cost = price.get(method, {})
            rows[LABELS[method]] = {
                first: shown(of_unseen.get(method)),
                "NG less it there": lead(leads.get(method)),
                here if corrected else f"{here}, by the judge": shown((corrected or judged(evaluation)).get(method)),
                "by the judge alone": shown(judged(evaluation)[method]) if corrected else "",
                "perplexity, times": shown(cost.get("perplexity_ratio"), ".1f"),
                "accuracy, change": shown(cost.get("accuracy_change"), "+z.2f"),
            }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.loc[:, (table != "").any()]


def lead(entry: dict | None) -> str:
    """`+0.06 [0.00, 0.12], p = 0.095` of a difference; nothing of what was not measured."""
    if not entry:
        return ""
    p = "p < 0.001" if entry["p"] < 0.001 else f"p = {entry['p']:.{3 if entry['p'] < 0.1 else 2}f}"
    return f"{with_interval(entry, '+z.2f')}, {p}"


def count_of(evaluation: dict) -> int:
    """How many behaviours an evaluation is of."""
    return len(set(next(iter(evaluation["bcs"].values()))) - {"average"})


def of_behaviours(evaluation: dict) -> str:
    """`these 9 behaviours`."""
    count = count_of(evaluation)
    return f"these {count} behaviours" if count > 1 else "this behaviour"


def behaviour_table(evaluation: dict) -> pd.DataFrame:
    """BCS with intervals, one row a behaviour and the average last, one column a method."""
    scores = evaluation["bcs"]
    methods = method_order(list(scores))
    keys = sorted(scores[methods[0]], key=lambda key: (key == "average", key))
    rows = {key.replace("_", " ").capitalize(): {LABELS[m]: shown(scores[m][key]) for m in methods} for key in keys}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")


def shown(entry: dict | None, form: str = ".2f") -> str:
    """The value with its interval; nothing of what was not measured."""
    return with_interval(entry, form) if entry else ""
