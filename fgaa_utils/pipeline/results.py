"""What the pages of a run begin with: its metrics, as sentences and tables of Markdown, and how long its stages took."""

import json

from fgaa_utils.evaluation.verdict import behaviour_table, summary_table, verdict
from fgaa_utils.figures import listed, markdown_table
from fgaa_utils.judges.labels import WRITER
from fgaa_utils.pipeline.settings import params_of
from fgaa_utils.project import REPORTS, ROOT, STAGES, frozen_stages, metrics_of, read_yaml

NOTE = (
    "BCS is mean behaviour times mean coherence, from 0 to 1, averaged over behaviours; in brackets 95 % intervals. Variant "
    "and scale of every method were chosen on validation prompts, the scores are from other prompts. FGAA, SAE-TS, SAE and CAA "
    "are the paper's methods; NG, NG-FGAA and NG-CAA, by natural gradient, are ours. Prompting puts positive texts before the "
    "opener and steers nothing."
)
COSTS = " Perplexity and accuracy are those at the chosen scales against the unsteered model."
UNSEEN = "unseen"  # the setting of behaviours that no method was tuned on
OLD = "The setting `unseen` was run with other parameters than these, and is left out; `make repro SETTING=unseen` runs it again."


def repository():
    """The repository's root; of a setting, too, which runs two folders below it and whose reports come to stand as deep."""
    return ROOT.parent.parent if (ROOT / "setting.json").exists() else ROOT


def run_metrics() -> tuple[dict, dict | None, dict | None, dict | None]:
    """The metrics of evaluation, judge and capability, and those of evaluation of the setting `unseen`. None: the judge's
    where no text of this run was labelled, for the labels are of the default setting's texts; and what was not run."""
    evaluation = metrics_of("evaluation")
    labelled = evaluation["model"].startswith(f"{WRITER}:") and (repository() == ROOT or evaluation.get("corrected"))
    capability = metrics_of("capability") if "capability" in stages_here() else None
    path = REPORTS / "settings" / UNSEEN / "metrics" / "evaluation.json"
    unseen = None if unseen_is_old() or not path.exists() else json.loads(path.read_text(encoding="utf-8"))
    return evaluation, metrics_of("judge") if labelled else None, capability, unseen


def unseen_is_old() -> bool:
    """Whether the setting `unseen` was run with parameters that a run of today would not have, those of stages aside that
    it leaves out."""
    folder = REPORTS / "settings" / UNSEEN
    if not (folder / "params.yaml").exists():
        return False
    then, now = read_yaml(folder / "params.yaml"), params_of([UNSEEN])
    left_out = {stage for stage in STAGES if not (folder / "metrics" / f"{stage}.json").exists()}
    return any(then.get(section) != now.get(section) for section in {*then, *now} - left_out)


def stages_here() -> list[str]:
    """The stages of this pipeline; a setting may leave some out."""
    return list(read_yaml(ROOT / "dvc.yaml")["stages"])


def verdict_block() -> str:
    """The sentences, the small table and what its columns are."""
    metrics = run_metrics()
    lines = [f"{number}. {sentence}" for number, sentence in enumerate(verdict(*metrics), start=1)]
    note = NOTE + (COSTS if metrics[2] else "")
    note += f" {OLD}" if unseen_is_old() else ""
    return "\n".join([*lines, "", markdown_table(summary_table(metrics[0], *metrics[2:])), "", note])


def behaviours_block() -> str:
    """The table of scores by behaviour and method."""
    return markdown_table(behaviour_table(metrics_of("evaluation")))


def times_block() -> str:
    """How long the stages took that `make repro` runs, and those that are frozen, from reports/resources.json."""
    entries = json.loads((REPORTS / "resources.json").read_text(encoding="utf-8"))
    seconds = {stage: entry["seconds"] for stage, entry in entries.items() if "seconds" in entry}
    frozen = {stage: seconds.pop(stage) for stage in frozen_stages() if stage in seconds}
    resumed = {
        stage: entry["resumed_seconds"]
        for stage, entry in entries.items()
        if "seconds" not in entry and stage not in frozen_stages()
    }
    made_on = {entry.get("processor") for stage, entry in entries.items() if stage not in frozen_stages()}
    place = "" if None in made_on else f" on {listed(sorted(made_on))}"  # None: a stage of a run that did not note it
    more = f", and more for what was interrupted: the last part alone of {by_stage(resumed)}" if resumed else ""
    return (
        f"In the run shown here the notebooks of `make repro` took {minutes(sum(seconds.values()))}{place} "
        f"({by_stage(seconds)}){more}; of the frozen stages, which it does not run, {by_stage(frozen)}."
    )


def by_stage(seconds: dict[str, int]) -> str:
    return listed(f"`{stage}` {minutes(value)}" for stage, value in sorted(seconds.items(), key=lambda item: -item[1]))


def minutes(seconds: int) -> str:
    """`27 min`, `under 1 min`."""
    return f"{round(seconds / 60)} min" if seconds >= 60 else "under 1 min"
