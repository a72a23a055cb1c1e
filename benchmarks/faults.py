"""A campaign of faults: the quick pipeline killed, its files damaged and its folders filled up, over and over.

    python benchmarks/faults.py --faults 60 --seed 0 --place /tmp/faults

In a clone of the last commit the plain command runs once to its end. Then its workspace is made anew under faults; after each
the plain command is given again, and what it leaves in the end has to be equal to the first run's to the byte. Where a
command ends with an error instead, that has to name the file, which is then deleted, as it says. Prints Markdown: stage, kind
of fault, what came of it. Linux alone; folders are filled up and made read-only by mounting, which wants root.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import yaml

from fgaa_utils.pipeline.wiring import outputs
from fgaa_utils.project import ROOT

KILLS = ("all", "group", "dvc", "kernel")
DAMAGE = ("truncated", "flipped byte")
MOUNTS = ("full disk", "read-only")
BIT = 0x10
SETTLE = 20.0  # seconds in which what is left of a killed run may end by itself
SHORTEST, LONGEST = 6.0, 40.0  # seconds before a kill
KEPT = ("texts", "readings", "shards")  # stores, whose files depend on what was missing when they were written
TIMED = ("record.json", "resources.json")  # hold seconds


@dataclass
class Campaign:
    """A clone, the command that is given in it, and what has been seen."""

    clone: Path
    rng: np.random.Generator
    outcomes: Counter = field(default_factory=Counter)
    silence: dict[str, float] = field(default_factory=dict)  # longest, by stage
    stage: str = ""
    unclear: list[str] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.clone / ".settings" / "quick"

    @property
    def log(self) -> Path:
        return self.clone / "campaign.log"

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "fgaa_utils.pipeline.settings", "quick"]
        variables = os.environ | {
            "PYTHONPATH": str(self.clone),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with self.log.open("wb") as log:
            pipes = {"stdout": log, "stderr": log}
            return subprocess.Popen(command, cwd=self.clone, env=variables, start_new_session=True, **pipes)

    def wait(self, run: subprocess.Popen, seconds: float = np.inf) -> bool:
        """Until the run ends, or so many seconds; whether it ended. Notes how long it was silent."""
        start = heard = time.monotonic()
        size = 0
        while run.poll() is None and time.monotonic() - start < seconds:
            time.sleep(0.2)
            text = self.log.read_bytes()
            if len(text) != size:
                size, heard = len(text), time.monotonic()
            names = [line.split(b"'")[1].decode() for line in text.splitlines() if line.startswith(b"Running stage '")]
            self.stage = names[-1] if names else "start"
            self.silence[self.stage] = max(self.silence.get(self.stage, 0.0), time.monotonic() - heard)
        return run.poll() is not None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def whole(self) -> dict[str, str]:
        """{file: sha256} of what the stages of the workspace made, timed files and stores left out."""
        stages = yaml.safe_load((self.workspace / "dvc.yaml").read_text())["stages"].values()
        paths = [self.workspace / out for stage in stages for out in outputs(stage)]
        files = sorted(
            file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
        )
        kept = [f for f in files if f.name not in TIMED and f.suffix != ".ipynb" and not set(KEPT) & set(f.parts)]
        return {str(f.relative_to(self.workspace)): hashlib.sha256(f.read_bytes()).hexdigest() for f in kept}

    def damageable(self) -> list[Path]:
        """Files of numbers that stages have left or are making."""
        found = [p for kind in ("*.safetensors", "*.parquet") for p in (self.workspace / "data").rglob(kind)]
        return sorted(p for p in found if p.stat().st_size > 64 and "raw" not in p.parts and not p.is_symlink())

    def kill(self, run: subprocess.Popen, kind: str) -> None:
        """SIGKILL to the whole tree, to its process group, or to DVC or the kernel alone; then to what is left."""
        tree = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
        named = {"dvc": " -m dvc", "kernel": "ipykernel_launcher"}
        if kind == "all":
            for process in tree:
                _kill(process)
        elif kind == "group":
            os.killpg(run.pid, signal.SIGKILL)
        else:
            for process in tree:
                if named[kind] in _command(process):
                    _kill(process)
        _, left = psutil.wait_procs(tree, timeout=SETTLE)
        for process in left:
            _kill(process)
        run.wait()

    def damage(self, kind: str) -> Path | None:
        """A random file cut in half, or with one bit turned."""
        files = self.damageable()
        if not files:
            return None
        path = files[self.rng.integers(len(files))]
        data = bytearray(path.read_bytes())
        if kind == "truncated":
            data = data[: len(data) // 2]
        else:
            data[self.rng.integers(len(data))] ^= BIT
        path.unlink()  # it may be a link into DVC's cache, which is another matter
        path.write_bytes(data)
        return path

    def ended(self, kind: str, path: Path | None) -> None:
        """Count how a run that ended by itself did, and mend what its error names."""
        said = self.said()
        error = [line for line in said.splitlines() if "rror" in line and "failed to reproduce" not in line.lower()]
        clear = path is not None and any(path.name in line or str(path.parent) in line for line in error)
        outcome = "an error that names the file" if clear else "an unclear error"
        if not clear:
            self.unclear.append(f"{kind} in {self.stage}, {path}: {' | '.join(error[-3:]) or said[-300:]}")
        self.outcomes[self.stage, kind, outcome] += 1
        if path is not None and path.is_file():
            path.unlink()

    def under_mount(self, kind: str) -> None:
        """The command with a full or read-only folder in the way of the stage that comes next."""
        place = self.workspace / "data" / (self.stage if (self.workspace / "data" / self.stage).is_dir() else "samples")
        place.mkdir(parents=True, exist_ok=True)
        if kind == "full disk":
            mounts = [["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]]
        else:
            mounts = [["mount", "--bind", str(place), str(place)], ["mount", "-o", "remount,ro,bind", str(place)]]
        for command in mounts:
            subprocess.run(command, check=True)
        run = self.start()
        try:
            over = self.wait(run, 120)
            if not over:
                self.kill(run, "all")
        finally:
            subprocess.run(["umount", str(place)], check=True)
        if not over or run.returncode == 0:
            self.outcomes[self.stage, kind, "not in the way of what ran"] += 1
        else:
            self.ended(kind, place)

    def one(self, kind: str) -> bool:
        """One fault; whether the pipeline came to its end before it."""
        if kind in MOUNTS:
            self.under_mount(kind)
            return False
        run = self.start()
        if self.wait(run, self.rng.uniform(SHORTEST, LONGEST)):
            return self.over(run, kind)
        self.kill(run, kind if kind in KILLS else "all")
        if kind in KILLS:
            self.outcomes[self.stage, f"killed: {kind}", "went on"] += 1
            return False
        stage, path = self.stage, self.damage(kind)
        run = self.start()
        if not self.wait(run, LONGEST):
            self.kill(run, "all")
            self.outcomes[stage, kind, "went on"] += 1
            return False
        if run.returncode:
            self.ended(kind, path)
            return False
        return True

    def over(self, run: subprocess.Popen, kind: str) -> bool:
        if run.returncode == 0:
            return True
        self.ended(kind, None)
        return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def clone_of_head(place: Path) -> Path:
    clone = place / "clone"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if (ROOT / "data" / "wheels").is_dir():  # not fetched again
            shutil.copytree(ROOT / "data" / "wheels", clone / "data" / "wheels")
    return clone


def forget(campaign: Campaign) -> None:
    """What the run made, and DVC's memory of it: nothing may be taken from there."""
    shutil.rmtree(campaign.workspace, ignore_errors=True)
    shutil.rmtree(campaign.clone / ".dvc" / "cache", ignore_errors=True)


def run_through(campaign: Campaign) -> tuple[dict[str, str], float]:
    """({file: sha256}, seconds) of the command until it ends. Raises: RuntimeError if it fails."""
    start, run = time.monotonic(), campaign.start()
    campaign.wait(run)
    if run.returncode:
        raise RuntimeError(f"the plain command failed; see {campaign.log}")
    return campaign.whole(), time.monotonic() - start


def compare(campaign: Campaign, expected: dict[str, str]) -> str:
    found = campaign.whole()
    off = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{len(expected)} files are equal to the byte" if not off else f"DIFFERENT: {', '.join(off)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, required=True, help="a folder for the clone, some GB")
    options = parser.parse_args()
    campaign = Campaign(clone_of_head(options.place), np.random.default_rng(options.seed))
    forget(campaign)
    expected, unbroken = run_through(campaign)
    print(f"Unbroken: {unbroken / 60:.1f} min, {len(expected)} files.", flush=True)
    forget(campaign)
    kinds = [*KILLS, *KILLS, *DAMAGE, *DAMAGE, *MOUNTS]
    compared, start, done = [], time.monotonic(), 0
    while done < options.faults:
        kind = kinds[campaign.rng.integers(len(kinds))]
        if campaign.one(kind):
            compared.append(compare(campaign, expected))
            print(f"after {done} faults: {compared[-1]}", flush=True)
            forget(campaign)
            continue
        done += 1
        print(f"{done}: {kind} in {campaign.stage}", file=sys.stderr, flush=True)
    run_through(campaign)
    compared.append(compare(campaign, expected))
    print(
        f"\n{done} faults in {(time.monotonic() - start) / 60:.0f} min; the pipeline ended {len(compared)} times under them:"
    )
    print("\n".join(f"- {said}" for said in compared))
    print("\n| stage | fault | what came of it | times |\n| --- | --- | --- | --- |")
    for (stage, kind, outcome), times in sorted(campaign.outcomes.items()):
        print(f"| {stage} | {kind} | {outcome} | {times} |")
    longest = sorted(campaign.silence.items(), key=lambda item: -item[1])[:5]
    print("\nLongest silences: " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in longest) + ".")
    if campaign.unclear:
        print("\nErrors that name no file:\n" + "\n".join(f"- {said}" for said in campaign.unclear))
    sys.exit(any(said.startswith("DIFFERENT") for said in compared))


if __name__ == "__main__":
    main()
