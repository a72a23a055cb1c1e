"""Answers of a server on disk: one line each, written at once, so that a kill loses none."""

import contextlib
import json
from pathlib import Path


class AnswerCache:
    """Scores 1..10 by question hash, in a file of JSON lines to which every answer is added at once.

    A line that a crash cut short is ignored. Raises: OSError if the file cannot be read or written.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.write(b"\n")
        self.scores: dict[str, int] = {}
        for line in content.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                answer = json.loads(line)
                self.scores[answer["question"]] = answer["score"]

    def add(self, question: str, score: int) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"question": question, "score": score}) + "\n")
        self.scores[question] = score
