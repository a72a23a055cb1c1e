"""Compare a finished run with the committed one.

    python -m fgaa_utils.pipeline.verify                  this checkout's reports/ with those of its last commit
    python -m fgaa_utils.pipeline.verify unseen           those of a setting's workspace with the ones it reported
    python -m fgaa_utils.pipeline.verify quick            those of `make quick` with tests/quick/, every digit
    python -m fgaa_utils.pipeline.verify quick --record   write these, when a change was meant to change numbers

Another processor rounds otherwise, and a sampled text that differs in one token is another text: single numbers differ from
the third digit on. What is promised: on the same processor, with as many threads, every number is equal to the last digit; on
another, averages lie within the committed 95 % intervals and decisions are the same.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fgaa_utils.names import LABELS, method_order
from fgaa_utils.pipeline.settings import QUICK, WORKSPACES
from fgaa_utils.project import ROOT, STAGES, frozen_stages

CLOSE = 0.02  # relative difference of a number without an interval that another processor may make
LEVEL = 0.05  # of the corrected p of a difference, below which it is decided
RECORDS = {QUICK: "tests/quick"}  # of settings that report nothing
MISSING = "missing"
Key = tuple[str, ...]  # stage, and the keys that lead to a value


@dataclass(frozen=True)
class Row:
    """One compared value: what it is, both runs', and whether yours is as promised of another processor."""

    key: Key
    committed: object
    yours: object
    kept: bool

    @property
    def equal(self) -> bool:
        return self.committed == self.yours


def is_estimate(value: object) -> bool:
    return isinstance(value, dict) and {"value", "lo", "hi"} <= set(value)


def leaves(value: object, key: Key = ()) -> Iterator[tuple[Key, object]]:
    """The values of a metrics file, an estimate with its interval being one."""
    if isinstance(value, dict) and not is_estimate(value):
        for name, inner in value.items():
            yield from leaves(inner, (*key, name))
    else:
        yield key, value


def kept(committed: object, yours: object) -> bool:
    """Whether a value is as promised: an estimate inside the committed interval, another number within CLOSE of it, and
    whatever is no number equal."""
    if is_estimate(committed) and is_estimate(yours):
        return bool(committed["lo"] <= yours["value"] <= committed["hi"])  # type: ignore[index]
    numbers = [v for v in (committed, yours) if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == 2:
        return bool(abs(numbers[0] - numbers[1]) <= CLOSE * max(map(abs, numbers)))
    return committed == yours


def decision(entry: object) -> str | None:
    """Of a paired difference: above, below or undecided; None for what is none."""
    if not is_estimate(entry) or "p" not in entry:  # type: ignore[operator]
        return None
    if entry["p"] >= LEVEL:  # type: ignore[index]
        return "undecided"
    return "above" if entry["value"] > 0 else "below"  # type: ignore[index]


def compare(committed: dict[str, dict], yours: dict[str, dict]) -> list[Row]:
    """A row for every committed value of the stages that both runs have, and for the decision of a paired difference; what
    yours lacks is MISSING and not as promised."""
    rows = []
    for stage in (stage for stage in STAGES if stage in committed and stage in yours):
        theirs, ours = (dict(leaves(run[stage])) for run in (committed, yours))
        for key, value in theirs.items():
            own = ours.get(key, MISSING)
            rows.append(Row((stage, *key), value, own, kept(value, own)))
            if decision(value) is not None:
                said = decision(value), decision(own) or MISSING
                rows.append(Row((stage, *key, "decision"), *said, said[0] == said[1]))
    return rows


def headlines(rows: list[Row]) -> list[Row]:
    """The rows that decide whether a run is reproduced, which are also shown: average scores, decisions between methods,
    claims, the judge's agreement with labels and the SAE's quality. Samples and choices may differ."""
    chosen = []
    for row in rows:
        stage, *path = row.key
        average = stage == "evaluation" and path[0] == "bcs" and path[-1] == "average"
        decided = stage == "evaluation" and path[0] in ("paired", "paired_natural") and path[-1] == "decision"
        claim = stage == "evaluation" and path[0] == "claims"
        judge = stage == "judge" and path in (["judge_on_steered", c, "spearman"] for c in ("behaviour", "coherence"))
        sae = stage == "sae" and path in (["explained_variance"], ["l0"], ["ce_recovered"])
        if average or decided or claim or judge or sae:
            chosen.append(row)
    return chosen


def spelt(value: object) -> str:
    if is_estimate(value):
        return f"{value['value']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]"  # type: ignore[index]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def named(key: Key) -> str:
    """`BCS of CAA`, `FGAA against SAE`, or the keys themselves."""
    stage, first, *rest = key
    if first == "bcs":
        return f"BCS of {LABELS.get(rest[0], rest[0])}"
    if first in ("paired", "paired_natural"):
        return f"{'FGAA' if first == 'paired' else 'NG'} against {LABELS.get(rest[0], rest[0])}"
    if first == "claims":
        return f"claim: {rest[0].split(':')[0]}"
    return " ".join([stage, *(part for part in (first, *rest) if part not in ("judge_on_steered", "spearman"))])


def table(rows: list[Row]) -> str:
    """Aligned columns: what, committed, yours, difference, as promised or not."""
    head = ("what", "committed", "yours", "difference", "")
    lines = []
    for row in rows:
        values = [v["value"] if is_estimate(v) else v for v in (row.committed, row.yours)]  # type: ignore[index]
        numbers = all(isinstance(v, int | float) for v in values)
        difference = f"{values[1] - values[0]:+.4f}" if numbers else ""  # type: ignore[operator]
        verdict = "equal" if row.equal else "as promised" if row.kept else "NOT AS PROMISED"
        lines.append((named(row.key), spelt(row.committed), spelt(row.yours), difference, verdict))
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *lines]
    )


def verdict(rows: list[Row], chosen: list[Row], missing: list[str]) -> str:
    """One line: reproduced or not, and how many values are equal or as promised."""
    equal, promised = sum(row.equal for row in rows), sum(row.kept for row in rows)
    counts = f"{equal} of {len(rows)} values are equal to the last digit, {promised} as promised of another processor"
    partial = f"; not run: {', '.join(missing)}" if missing else ""
    off = [named(row.key) for row in chosen if not row.kept]
    if not chosen:
        return f"Nothing to compare: no stage that decides was run{partial}."
    if off:
        return f"NOT reproduced: {', '.join(off)} ({counts}{partial})."
    return f"Reproduced: {'every value is equal' if equal == len(rows) else counts}{partial}."


def of_record(rows: list[Row], missing: list[str], *, alike: bool) -> tuple[str, bool]:
    """(what a small run beside its record shows, whether that is a failure): on the processor of the record, `alike`, every
    number has to be equal; on another, or with more threads, so small a run promises nothing."""
    off = [row for row in rows if not row.equal]
    count = f"{len(rows) - len(off)} of {len(rows)} values are equal to the last digit"
    if not alike:
        return (
            f"{count}; the record is of another processor or number of threads, where so small a run promises nothing.",
            False,
        )
    if missing:
        return f"NOT reproduced: {', '.join(missing)} did not run.", True
    if not off:
        return f"Reproduced: every one of {len(rows)} values is equal.", False
    return f"{table(off[:20])}\n\nNOT reproduced: {count}; if they were meant to change, run this with --record.", True


def read_run(reports: Path) -> dict[str, dict]:
    """{stage: its metrics} of the stages that ran here: those whose executed notebook is there, which is not in git."""
    ran = {stage for stage, notebook in STAGES.items() if notebook and (reports / f"{notebook}.ipynb").exists()}
    found = {path.stem: path for path in (reports / "metrics").glob("*.json")}
    return {stage: json.loads(found[stage].read_text(encoding="utf-8")) for stage in found if stage in ran}


def git_show(path: str) -> str:
    """A file of the last commit; empty if it has none of that name. Raises: OSError where there is no repository."""
    english = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, env=english)
    if done.returncode and "does not exist" not in done.stderr and "exists on disk" not in done.stderr:
        raise OSError(f"git show HEAD:{path} failed ({done.stderr.strip()}); verify needs a clone of the repository")
    return done.stdout


def committed_run(folder: str) -> dict[str, dict]:
    """{stage: its metrics} of the last commit's reports/."""
    found = {stage: git_show(f"{folder}/{stage}.json") for stage in STAGES}
    return {stage: json.loads(text) for stage, text in found.items() if text}


def made_on(resources: dict[str, dict]) -> str:
    """The processors that made a run's stages, those that are frozen left out."""
    said = {entry.get("processor", "a processor that was not noted") for stage, entry in resources.items() if stage not in frozen_stages()}  # fmt: skip
    return "; ".join(sorted(said)) or "nothing"


def record(setting: str, here: Path) -> None:
    """Keep a setting's metrics as those to compare with. Raises: ValueError for a setting that reports its own."""
    if setting not in RECORDS:
        raise ValueError(
            f"--record is for {', '.join(RECORDS)}; `make repro SETTING={setting}` reports its own numbers"
        )
    folder = ROOT / RECORDS[setting]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(here / "metrics", folder / "metrics")
    shutil.copy(here / "resources.json", folder)
    print(f"{folder.relative_to(ROOT)} has the numbers of this run; commit it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", nargs="?", help="a file of settings/ without .yaml; none: the default run")
    parser.add_argument("--record", action="store_true", help="keep this run's numbers as those to compare with")
    args = parser.parse_args()
    setting = args.setting
    place = RECORDS.get(setting, f"reports/settings/{setting}") if setting else "reports"
    here = WORKSPACES / setting / "reports" if setting else ROOT / "reports"
    if setting and not here.exists():
        sys.exit(f"error: {here.relative_to(ROOT)} is not there; run `make repro SETTING={setting}` first")
    if args.record:
        try:
            return record(setting or "the default", here)
        except ValueError as error:
            sys.exit(f"error: {error}")
    try:
        committed = committed_run(f"{place}/metrics")
        resources = json.loads(git_show(f"{place}/resources.json") or "{}")
    except OSError as error:
        sys.exit(f"error: {error}")
    if not committed:
        sys.exit(f"error: the last commit has no {place}/metrics; nothing was reported to compare with")
    yours = read_run(here)
    rows = compare(committed, yours)
    chosen = headlines(rows)
    chosen.sort(key=lambda row: _order(row.key))
    own = json.loads((here / "resources.json").read_text()) if (here / "resources.json").exists() else {}
    print(f"committed: made on {made_on(resources)}\nyours:     made on {made_on(own)}\n")
    missing = [stage for stage in committed if stage not in yours]
    if setting in RECORDS:
        said, failed = of_record(rows, missing, alike=made_on(resources) == made_on(own))
        print(said)
        sys.exit(failed)
    print(table(chosen) + "\n")
    print(verdict(rows, chosen, missing))
    sys.exit(not chosen or any(not row.kept for row in chosen))


def _order(key: Key) -> tuple[int, int]:
    """Of rows in the table: stages as they run, methods as in the tables."""
    methods = method_order(list(LABELS))
    return list(STAGES).index(key[0]), next((methods.index(part) for part in key if part in methods), -1)


if __name__ == "__main__":
    main()
