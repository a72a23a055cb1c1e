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
import json
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
NAMED = {"dvc": " -m dvc", "kernel": "ipykernel_launcher"}
BIT = 0x10
SETTLE = 20.0  # seconds in which what is left of a killed run may end by itself
STAGES_AHEAD = (0, 0, 0, 1)  # stages that a run may begin before it is killed
SHORTEST, LONGEST = 0.5, 20.0  # seconds between the beginning of a stage and the kill
PATIENCE = 120.0  # seconds for a stage to begin, and for a folder that is in the way to be met
KEPT = ("texts", "readings", "shards")  # stores, whose files depend on what was missing when they were written
TIMED = ("record.json", "resources.json")  # hold seconds


@dataclass(frozen=True)
class Fault:
    """What was done in which stage, and the file or folder that it was done to."""

    stage: str
    kind: str
    path: Path | None = None


@dataclass
class Campaign:
    """A clone, the command that is given in it, and what has been seen. `pending`: faults whose stage is not over yet."""

    clone: Path
    rng: np.random.Generator
    outcomes: Counter = field(default_factory=Counter)
    silence: dict[str, float] = field(default_factory=dict)  # longest, by stage
    begun: list[str] = field(default_factory=list)  # stages that the run has begun, in order
    pending: list[Fault] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    left: int = 0  # killed runs of which something was still there after SETTLE seconds

    @property
    def workspace(self) -> Path:
        return self.clone / ".settings" / "quick"

    @property
    def log(self) -> Path:
        return self.clone / "campaign.log"

    @property
    def stage(self) -> str:
        return self.begun[-1] if self.begun else "start"

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "fgaa_utils.pipeline.settings", "quick"]
        variables = {"PYTHONPATH": str(self.clone), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.begun = []
        with self.log.open("wb") as log:
            pipes = {"stdout": log, "stderr": log}
            return subprocess.Popen(
                command, cwd=self.clone, env=os.environ | variables, start_new_session=True, **pipes
            )

    def wait(self, run: subprocess.Popen, seconds: float = np.inf, stages: float = np.inf) -> bool:
        """Until the run ends, so many seconds are over, or it has begun so many stages; whether it ended. Notes how long it
        was silent."""
        start = heard = time.monotonic()
        size = 0
        while run.poll() is None and time.monotonic() - start < seconds and len(self.begun) < stages:
            time.sleep(0.2)
            text = self.log.read_bytes()
            if len(text) != size:
                size, heard = len(text), time.monotonic()
            self.begun = [
                line.split(b"'")[1].decode() for line in text.splitlines() if line.startswith(b"Running stage '")
            ]
            self.silence[self.stage] = max(self.silence.get(self.stage, 0.0), time.monotonic() - heard)
        return run.poll() is not None

    def settle(self, over: bool) -> None:
        """Count the pending faults whose stage the run has left behind, all if it is over."""
        for fault in list(self.pending):
            if over or (self.begun and fault.stage not in (self.stage, "start")):
                self.outcomes[fault.stage, fault.kind, "went on"] += 1
                self.pending.remove(fault)

    def failed(self) -> None:
        """Count a run that ended with an error, and delete what the error names."""
        said = self.log.read_text(errors="replace")
        error = [line for line in said.splitlines() if "rror" in line and "failed to reproduce" not in line.lower()]
        done_to = [fault for fault in self.pending if fault.path]
        named = [f for f in done_to if any(_names(line, f.path) for line in error)]
        for fault in named or self.pending[-1:]:
            outcome = "an error that names it" if fault in named else "an unclear error"
            self.outcomes[fault.stage, fault.kind, outcome] += 1
            self.pending.remove(fault)
        if not named:
            self.unclear.append(f"in {self.stage}, after {done_to}: {' | '.join(error[-3:]) or said[-300:]}")
        for fault in done_to:
            if fault.path.is_file():
                fault.path.unlink()

    def whole(self) -> dict[str, str]:
        """{file: sha256} of what the stages of the workspace made, timed files and stores left out."""
        stages = yaml.safe_load((self.workspace / "dvc.yaml").read_text())["stages"].values()
        paths = [self.workspace / out for stage in stages for out in outputs(stage)]
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        kept = [f for f in files if f.name not in TIMED and f.suffix != ".ipynb" and not set(KEPT) & set(f.parts)]
        return {str(f.relative_to(self.workspace)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(kept)}

    def damageable(self) -> list[Path]:
        """Files of numbers that stages have left or are making."""
        found = [p for kind in ("*.safetensors", "*.parquet") for p in (self.workspace / "data").rglob(kind)]
        return sorted(p for p in found if p.stat().st_size > 64 and "raw" not in p.parts and not p.is_symlink())

    def kill(self, run: subprocess.Popen, kind: str) -> str:
        """SIGKILL to the whole tree, to its process group, or to DVC or the kernel alone, then to what is left; the kind, `all`
        where the process that was meant was not there."""
        root = psutil.Process(run.pid)
        tree = [root, *root.children(recursive=True)]
        meant = [process for process in tree if kind in NAMED and NAMED[kind] in _command(process)]
        if kind in NAMED and not meant:
            kind = "all"
        if kind == "group":
            os.killpg(run.pid, signal.SIGKILL)
        for process in meant or (tree if kind == "all" else []):
            _kill(process)
        _, left = psutil.wait_procs(tree, timeout=SETTLE)
        self.left += bool(left)
        for process in left:
            for child in (process, *_children(process)):
                _kill(child)
        run.wait()
        return kind

    def damage(self, kind: str) -> Path | None:
        """A random file cut in half, or with one bit turned; None if there is none yet."""
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

    def under_mount(self, kind: str) -> bool:
        """The command with a full or read-only folder in the way of a random stage; whether it was met."""
        stages = sorted(p.name for p in (self.workspace / "data").iterdir() if p.is_dir() and not p.is_symlink())
        place = self.workspace / "data" / stages[self.rng.integers(len(stages))]
        if kind == "full disk":
            mounts = [["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]]
        else:
            mounts = [["mount", "--bind", str(place), str(place)], ["mount", "-o", "remount,ro,bind", str(place)]]
        run = None
        try:
            for command in mounts:
                subprocess.run(command, check=True)
            run = self.start()
            over = self.wait(run, PATIENCE)
        finally:
            if run and run.poll() is None:
                self.kill(run, "all")
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        if over and run.returncode:
            self.pending.append(Fault(self.stage, kind, place))
            self.failed()
        return over and run.returncode != 0

    def one(self, kind: str) -> bool | None:
        """One fault; whether it happened, None if the pipeline came to its end before."""
        if kind in MOUNTS:
            return self.under_mount(kind) if (self.workspace / "data" / "data").is_dir() else False
        run = self.start()
        ahead = STAGES_AHEAD[self.rng.integers(len(STAGES_AHEAD))]
        over = self.wait(run, PATIENCE, 1 + ahead) or self.wait(run, self.rng.uniform(SHORTEST, LONGEST))
        if over:
            self.settle(run.returncode == 0)
            if run.returncode:
                self.failed()
                return False
            return None
        self.settle(False)
        killed = self.kill(run, kind if kind in KILLS else "all")
        path = self.damage(kind) if kind in DAMAGE else None
        if kind in DAMAGE and not path:
            return False
        self.pending.append(Fault(self.stage, kind if path else f"killed: {killed}", path))
        return True


def _names(line: str, path: Path) -> bool:
    """Whether a line of an error names a file or, with its parent, a folder."""
    return path.name in line if path.suffix else f"{path.parent.name}/{path.name}" in line


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def clone_of_head(place: Path) -> Path:
    """A clone of the last commit in `place`, made. Raises: ValueError for one of another commit."""
    clone, head = place / "clone", ["git", "rev-parse", "HEAD"]
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if (ROOT / "data" / "wheels").is_dir():  # not fetched again
            shutil.copytree(ROOT / "data" / "wheels", clone / "data" / "wheels")
    commits = [subprocess.run(head, cwd=folder, capture_output=True, check=True).stdout for folder in (ROOT, clone)]
    if commits[0] != commits[1]:
        raise ValueError(f"{clone} is of another commit; delete it")
    return clone


def forget(campaign: Campaign) -> None:
    """What the run made, and DVC's memory of it: nothing may be taken from there."""
    shutil.rmtree(campaign.workspace, ignore_errors=True)
    shutil.rmtree(campaign.clone / ".dvc" / "cache", ignore_errors=True)
    campaign.pending.clear()


def run_through(campaign: Campaign) -> tuple[dict[str, str], float]:
    """({file: sha256}, seconds) of the command, given again as long as an error names what was damaged."""
    start = time.monotonic()
    for _ in range(1 + len(campaign.pending)):
        run = campaign.start()
        campaign.wait(run)
        if run.returncode == 0:
            campaign.settle(True)
            return campaign.whole(), time.monotonic() - start
        campaign.failed()
    raise RuntimeError(f"the plain command failed; see {campaign.log}")


def compare(campaign: Campaign, expected: dict[str, str]) -> str:
    found = campaign.whole()
    off = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{len(expected)} files are equal to the byte" if not off else f"DIFFERENT: {', '.join(off)}"


def told(campaign: Campaign, compared: list[str], done: int, seconds: float) -> None:
    print(
        f"\n{done} faults in {seconds / 60:.0f} min; the pipeline came to its end {len(compared)} times under them:\n"
    )
    print("\n".join(f"- {said}" for said in compared))
    print("\n| stage | fault | what came of it | times |\n| --- | --- | --- | --- |")
    for (stage, kind, outcome), times in sorted(campaign.outcomes.items()):
        print(f"| {stage} | {kind} | {outcome} | {times} |")
    longest = sorted(campaign.silence.items(), key=lambda item: -item[1])[:5]
    print("\nLongest silences: " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in longest) + ".")
    print(f"\nKilled runs of which something still ran after {SETTLE:g} s: {campaign.left}.")
    if campaign.unclear:
        print("\nErrors that name nothing:\n\n" + "\n".join(f"- {said}" for said in campaign.unclear))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, required=True, help="a folder for the clone, some GB")
    options = parser.parse_args()
    campaign = Campaign(clone_of_head(options.place), np.random.default_rng(options.seed))
    kept = options.place / "unbroken.json"
    if not kept.exists():
        forget(campaign)
        expected, unbroken = run_through(campaign)
        print(f"Unbroken: {unbroken / 60:.1f} min, {len(expected)} files.", flush=True)
        kept.write_text(json.dumps(expected, indent=1))
    expected = json.loads(kept.read_text())
    forget(campaign)
    kinds = [*KILLS, *KILLS, *DAMAGE, *DAMAGE, *(MOUNTS if os.geteuid() == 0 else ())]
    compared, start, done = [], time.monotonic(), 0
    try:
        while done < options.faults:
            kind = kinds[campaign.rng.integers(len(kinds))]
            happened = campaign.one(kind)
            if happened is None:
                compared.append(compare(campaign, expected))
                print(f"after {done} faults: {compared[-1]}", file=sys.stderr, flush=True)
                forget(campaign)
            elif happened:
                done += 1
                print(f"{done}: {kind} in {campaign.stage}", file=sys.stderr, flush=True)
        run_through(campaign)
        compared.append(compare(campaign, expected))
    finally:
        told(campaign, compared, done, time.monotonic() - start)
    sys.exit(bool(campaign.unclear) or any(said.startswith("DIFFERENT") for said in compared))


if __name__ == "__main__":
    main()
