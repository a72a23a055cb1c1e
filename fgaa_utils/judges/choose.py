"""The judge that is asked for: local (default), any OpenAI-compatible server, or a local instruct model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.local import Judge, LocalJudge
from fgaa_utils.judges.model import ModelJudge
from fgaa_utils.judges.server import ServerJudge
from fgaa_utils.project import MODEL, unknown

KINDS = ["local", "openai", "hf"]


def check_kinds(kinds: list[str]) -> None:
    """Raises: ValueError for a kind of judge that does not exist."""
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("judge", kind, KINDS)


def open_judge(
    kind: str,
    behaviours: list[Behaviour],
    *,
    fitted: Path,
    reference: Path,
    folder: Path,
    model: str,
    server: dict,
    device: str = "auto",
) -> Judge:
    """The judge of one kind, for these behaviours.

    fitted: the file of the local judge, made by the stage judge, and reference: the folder of its reference model.
    folder: where readings or a server's answers are kept. model (a folder under data/model/, a path or a hub id) and device (see
    resolve_device): of the kind hf; the local judge stays on the processor, so that its scores are the same anywhere.
    server: concurrency, timeout (s), attempts and prices of the kind openai, whose address, key and model are in the
    environment.

    Raises: ValueError for an unknown kind, a variable that is not set, or a behaviour that the local judge was not
    fitted to; FileNotFoundError if that was not fitted yet.
    """
    check_kinds([kind])
    if kind == "openai":
        return ServerJudge.from_environment(behaviours, folder / "answers.jsonl", **server)
    if kind == "hf":
        return ModelJudge(model, behaviours, device=device)
    local = LocalJudge.load(fitted, reference=reference, folder=folder / "readings")
    if absent := [b.key for b in behaviours if b.key not in local.behaviours]:
        raise ValueError(f"the judge of {fitted.name} was not fitted to {', '.join(absent)}; run `dvc repro judge`")
    return local


@dataclass(frozen=True)
class Judges:
    """The kinds of judge of a run, data/judge/judges.json: the one that scores and those it is compared with, the model of
    the kind hf, the settings of the kind openai, and the reference model of the local judge (a folder under data/model/).

    Raises: ValueError for an unknown kind.
    """

    judge: str
    compare: list[str]
    model: str
    server: dict
    reference: str

    def __post_init__(self):
        check_kinds([self.judge, *self.compare])

    def open_judge(self, kind: str, behaviours: list[Behaviour], *, fitted: Path, folder: Path, device: str) -> Judge:
        """As the function of this name."""
        return open_judge(
            kind,
            behaviours,
            fitted=fitted,
            reference=MODEL / self.reference,
            folder=folder,
            model=self.model,
            server=self.server,
            device=device,
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Judges":
        """Raises: ValueError for a file of another shape."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} names no judges ({error}); run `dvc repro judge`") from error


def announce(judge: Judge, texts_by_criterion: dict[str, list[str]]) -> None:
    """Print what a judge that has to be asked will be asked for and how long it takes, before it starts."""
    if isinstance(judge, ServerJudge):
        found = judge.estimate(texts_by_criterion, timed=True)
        print("to be asked:", found)


def judge_rows(samples: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """B and C of each row (columns target, text): the score of its target behaviour, and coherence; by row index."""
    if samples.empty:
        return pd.DataFrame({"B": [], "C": []}, dtype=float)
    parts = [
        pd.Series(judge.behaviour(part.text.tolist(), target), index=part.index)
        for target, part in samples.groupby("target", sort=False)
    ]
    coherence = pd.Series(judge.coherence(samples.text.tolist()), index=samples.index)
    return pd.DataFrame({"B": pd.concat(parts).loc[samples.index], "C": coherence})
