"""The project's folders and stages, and what every stage reads and writes in one way."""

import csv
import difflib
import json
import reprlib
import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
RAW = DATA / "raw"
MODEL = DATA / "model"
REPORTS = ROOT / "reports"
METRICS = REPORTS / "metrics"

# Stages in the order of the pipeline; None marks a script, else the notebook that is the stage.
STAGES: dict[str, str | None] = {
    "fetch": None,
    "model": None,
    "data": "01_data",
    "sae": "sae",
    "features": "02_features",
    "effects": "effects",
    "gradients": "gradients",
    "vectors": "03_vectors",
    "judge": "judge",
    "samples": "samples",
    "evaluation": "04_evaluation",
    "costs": "costs",
    "capability": "capability",
    "ablation_samples": "ablation_samples",
    "ablations": "05_ablations",
    "compare": "compare",
    "render": None,
}


def frozen_stages() -> list[str]:
    """The stages that `make repro` takes as they are in git; `make again` alone runs them."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    return [name for name, stage in stages.items() if stage.get("frozen")]


def artefact(path: str) -> Path:
    """data/<path>, which another stage made.

    Raises: FileNotFoundError naming the stage to run if it is not there.
    """
    found = DATA / path
    if not found.exists():
        stage = path.split("/")[0]
        command = f"make again STAGE={stage}" if stage in frozen_stages() else f"dvc repro {stage}"
        raise FileNotFoundError(f"data/{path} is not there; run `{command}`")
    return found


def metrics_of(stage: str) -> dict[str, Any]:
    """reports/metrics/<stage>.json. Raises: FileNotFoundError naming the stage to run if it is not there."""
    path = METRICS / f"{stage}.json"
    if not path.exists():
        raise FileNotFoundError(f"reports/metrics/{stage}.json is not there; run `dvc repro {stage}`")
    return json.loads(path.read_text(encoding="utf-8"))


class _Distinct(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises: ValueError, a line that names the file and the place, if it is not UTF-8 or not YAML, has a key twice or
    asks for anything but plain values.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Distinct)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path.name} is not YAML that can be read: {' '.join(str(error).split())}") from error


def write_metrics(stage: str, metrics: dict[str, Any]) -> None:
    """Write reports/metrics/<stage>.json, keys in order, so that equal results are equal bytes."""
    METRICS.mkdir(parents=True, exist_ok=True)
    (METRICS / f"{stage}.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_plot(name: str, rows: list[dict[str, Any]]) -> None:
    """Write reports/plots/<name>.csv, one line a row: what `dvc plots diff` draws."""
    folder = REPORTS / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def short(value: object) -> str:
    """The value as an error shows it: of what is long or deep only the beginning."""
    cut = reprlib.Repr()
    cut.maxlevel, cut.maxlist, cut.maxdict, cut.maxstring, cut.maxother = 2, 12, 12, 120, 120
    return cut.repr(value)


def unknown(kind: str, name: object, allowed: list[str]) -> ValueError:
    """The error for a name that is not among `allowed`: says the nearest right one."""
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}{hint} (there are: {', '.join(allowed)})")


def stage_dir(stage: str) -> Path:
    """data/<stage>/, made if absent. Raises: OSError if it cannot be written."""
    folder = DATA / stage
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); check its owner and mode") from error
    return folder


def need_space(folder: Path, gib: float) -> None:
    """Raises: OSError if the disk of `folder` has less than `gib` GiB free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise OSError(f"{folder}: {free:.1f} GiB free, {gib:.1f} GiB needed; free some space and run again")
