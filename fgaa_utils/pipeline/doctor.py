"""Print whether this machine can run the pipeline, and about how long that takes: `make doctor`."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from fgaa_utils.pipeline.results import minutes
from fgaa_utils.project import REPORTS, ROOT, frozen_stages
from fgaa_utils.shards import processor, record_processor

CORES, MEMORY, DISK = 2, 8, 15  # what the README asks for; GiB and GB
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and, if that is not enough, what to do."""

    what: str
    found: str
    advice: str = ""


def memory_gib() -> float | None:
    """Memory of the machine in GiB; None where the system does not say."""
    if not MEMINFO.exists():
        return None
    total = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal"))
    return int(total.split()[1]) / 2**20


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def findings() -> list[Finding]:
    """What `make repro` wants, beside what is here."""
    memory, disk = memory_gib(), shutil.disk_usage(ROOT).free / 1e9
    few_cores, slow = cores() < CORES, not processor()["bf16"]
    little = memory is not None and memory < MEMORY * 0.9  # some of it is kept by the system
    told = [
        ("Python", sys.version.split()[0], ""),
        ("cores", str(cores()), "it runs, with fewer cores than were measured" if few_cores else ""),
        ("processor", record_processor(), "without bfloat16 everything takes several times as long" if slow else ""),
        (
            "memory",
            "not told by the system" if memory is None else f"{memory:.1f} GiB",
            f"{MEMORY} GiB are needed: set design.batch and effects.batch to 128" if little else "",
        ),
        (
            "free disk",
            f"{disk:.0f} GB",
            f"{DISK} GB are needed: free some, or move the checkout" if disk < DISK else "",
        ),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none; none is needed", ""),
    ]
    return [Finding(*line) for line in told]


def expected(resources: dict[str, dict]) -> str:
    """How long the notebooks of `make repro` took in the committed run, and where."""
    ran = {stage: entry for stage, entry in resources.items() if stage not in frozen_stages()}
    seconds = sum(entry.get("seconds", entry.get("resumed_seconds", 0)) for entry in ran.values())
    places = sorted({entry["processor"] for entry in ran.values() if "processor" in entry})
    return f"make repro: {minutes(seconds)} in the committed run{', on ' + '; '.join(places) if places else ''}"


def main() -> None:
    found = findings()
    for finding in found:
        print(f"{finding.what:10} {finding.found}{' - ' + finding.advice if finding.advice else ''}")
    if (path := REPORTS / "resources.json").exists():
        print(expected(json.loads(path.read_text(encoding="utf-8"))))
    sys.exit(any("needed:" in finding.advice for finding in found))


if __name__ == "__main__":
    main()
