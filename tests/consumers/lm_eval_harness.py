"""python lm_eval_harness.py MODEL VECTOR.pt REFERENCE.npz OUT.npz: logits, and one task of the harness with and without."""

import json
import sys
from pathlib import Path

from hugging_face import logits, run
from lm_eval import simple_evaluate
from lm_eval.models.hf_steered import SteeredModel
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

OPTIONS = {"dtype": "float32", "device": "cpu", "batch_size": 4}


def questions(folder: Path) -> Path:
    """A task of multiple choice with its questions in a file, so that nothing is fetched."""
    rows = [
        {"question": f"{place} is the capital of", "choices": [" France.", " Peru.", " Japan."], "gold": i}
        for i, place in enumerate(("Paris", "Lima", "Tokyo"))
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "capitals.yaml").write_text(json.dumps(task))
    return folder


def likelihoods(model, folder: Path) -> list[float]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model, tasks=["capitals"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    return [float(pair[0]) for sample in found["samples"]["capitals"] for pair in sample["filtered_resps"]]


def consume(path, vector, reference):
    plain, steered = HFLM(pretrained=path, **OPTIONS), SteeredModel(pretrained=path, steer_path=vector, **OPTIONS)
    folder = questions(Path(sys.argv[4]).parent)
    found = {"plain": likelihoods(plain, folder), "steered": likelihoods(steered, folder)}
    (folder / "likelihoods.json").write_text(json.dumps(found))
    return logits(plain._model_call, reference), logits(steered._model_call, reference)


run(consume)
