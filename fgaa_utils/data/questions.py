"""Multiple-choice questions of the capability measurement: ARC-Easy, SciQ, basic_skills and MMLU.

The paper measures MMLU and MMLU-Pro against scale (section 4, figure 5); a model of 270M parameters is near chance
there, so easier sets show the drop. Options are scored as text after the question, without examples and without
letters. Nothing of these sets trains the SAE.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from fgaa_utils.project import RAW, unknown

SKILLS = ("arithmetic", "coding", "common_knowledge", "logical_reasoning", "pattern", "string_operations")


@dataclass(frozen=True)
class Question:
    """`options[answer]` is the right way to go on after `prefix` and a blank.

    category: the subject (MMLU) or the skill (basic_skills), else empty. id: distinct within task and category.

    Raises: ValueError for fewer than two options, an empty one, or an answer that is none of them.
    """

    task: str
    category: str
    id: str
    prefix: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self):
        name = f"{self.task} question {self.category} {self.id}"
        if len(self.options) < 2 or not all(self.options):
            raise ValueError(f"{name} has options {self.options}; it needs two or more, none empty")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"{name} has {len(self.options)} options; its answer is number {self.answer}")


def _docs(path: Path) -> Iterator[dict]:
    """The items of a requests file, which has a line for each option and again for each option on its own."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["doc"]


def _arc_easy(folder: Path) -> Iterator[Question]:
    for doc in _docs(folder / "arc_easy.jsonl.gz"):
        yield Question("arc_easy", "", doc["id"], doc["query"], tuple(doc["choices"]), doc["gold"])


def _sciq(folder: Path) -> Iterator[Question]:
    """Without the support text, which holds the answer."""
    for doc in _docs(folder / "sciq.jsonl.gz"):
        prefix = f"Question: {doc['question']}\nAnswer:"
        yield Question("sciq", "", str(doc["index"]), prefix, tuple(doc["choices"]), doc["gold"])


def _basic_skills(folder: Path) -> Iterator[Question]:
    for skill in SKILLS:
        for doc in _docs(folder / f"basic_skills/{skill}.jsonl.gz"):
            prefix = doc["question"].rstrip()  # the blank belongs to the option
            yield Question("basic_skills", skill, doc["id"], prefix, tuple(doc["choices"]), doc["gold"])


def _mmlu(folder: Path) -> Iterator[Question]:
    for path in sorted(folder.glob("mmlu/*/test/*.arrow")):
        for number, row in enumerate(pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()):
            prefix = f"Question: {row['question'].strip()}\nAnswer:"
            options = tuple(option.strip() for option in row["choices"])
            yield Question("mmlu", row["subject"], str(number), prefix, options, row["answer"])


TASKS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "arc_easy": _arc_easy,
    "sciq": _sciq,
    "basic_skills": _basic_skills,
    "mmlu": _mmlu,
}


def read_task(task: str, folder: Path = RAW / "capability") -> list[Question]:
    """The distinct questions of a task, in file order.

    Raises: ValueError for an unknown task; FileNotFoundError if its files are not in `folder`.
    """
    if task not in TASKS:
        raise unknown("task", task, list(TASKS))
    distinct: dict[tuple, Question] = {}
    for question in TASKS[task](folder):
        distinct.setdefault((question.prefix, question.options), question)
    if not distinct:
        raise FileNotFoundError(f"no questions of {task} in {folder}; run `dvc repro fetch`")
    return list(distinct.values())


def sample_questions(task: str, count: int, seed: int, folder: Path = RAW / "capability") -> list[Question]:
    """`count` random questions of a task, its categories taking turns; a larger count goes on where a smaller ends.

    Raises: ValueError for an unknown task, or a count below 1 or beyond what there is.
    """
    questions = read_task(task, folder)
    if not 1 <= count <= len(questions):
        raise ValueError(f"{count} questions of {task} asked for, it has {len(questions)}; ask for 1 to that many")
    order = np.random.default_rng(seed).permutation(len(questions))
    categories = pd.Series([questions[i].category for i in order])
    turns = categories.groupby(categories).cumcount().to_numpy()  # how many of its category stand before it
    return [questions[i] for i in order[np.argsort(turns, kind="stable")[:count]]]


def chance_level(questions: list[Question]) -> float:
    """Expected accuracy of guessing: the mean of 1 / options."""
    return float(np.mean([1 / len(question.options) for question in questions]))
