"""What every stage depends on, written into dvc.yaml from where it is said already.

    python -m fgaa_utils.pipeline.wiring           what dvc.yaml has differently, and inputs that a notebook does not name
    python -m fgaa_utils.pipeline.wiring --sync    write it

Code: the notebook, or the module that the command names, and the package files reached from there by imports. Data: the
paths of the notebook's **Inputs** line; of a script, SCRIPTS. Parameters: the notebook's parameter cell. The rest of
dvc.yaml (commands, outputs, what is frozen) is written by hand.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from fgaa_utils.params import load_params, section_of
from fgaa_utils.pipeline.run import accepted_parameters, notebook_path, notebook_stages
from fgaa_utils.project import ROOT, STAGES

PACKAGE = "fgaa_utils"
LOCK = "requirements.lock"
REPORTING = ("compare", "render")  # read what others found: new versions of libraries change nothing of it


@dataclass(frozen=True)
class Script:
    """What a stage that is no notebook reads."""

    inputs: list[str]
    params: list[str]


# The pages are made of what every notebook left, and say which of them has changed since. The record of
# ablation_samples is not in git, so that a fresh clone has it only once that frozen stage has run.
_PAGES = [
    path
    for stage, notebook in STAGES.items()
    if notebook
    for path in (f"notebooks/{notebook}.ipynb", f"reports/{notebook}.ipynb", f"reports/metrics/{stage}.json")
    if path != "reports/ablation_samples.ipynb"
]
# The browsers of texts and latents are made of these; the last are no Python.
_BROWSERS = [
    "data/features/latents.json",
    "data/labels/steered.csv",
    "data/samples/choices.json",
    "data/samples/test.parquet",
    "data/samples/validation.parquet",
    "fgaa_utils/pipeline/browser_page",
]
SCRIPTS = {
    "fetch": Script(["data/sources.yaml"], []),
    "model": Script(["data/raw/gemma", "data/raw/smollm2"], ["base.model", "base.reference"]),
    "render": Script([*_PAGES, *_BROWSERS, "reports/settings"], []),
}
SAE_FILES = ["data/sae/cfg.json", "data/sae/sae_weights.safetensors"]
# Functions that read without being given a path, by the name or by `module.name`.
READERS = {
    "read_behaviours": ["data/behaviours"],
    "behaviours.sets_of": ["data/behaviours"],
    "read_labels": ["data/labels/steered.csv"],
    "load_model": ["data/model"],
    "load_tokenizer": ["data/model"],
    "load_sae": SAE_FILES,
    "load_model_and_sae": ["data/model", *SAE_FILES],
    "sample_questions": ["data/raw/capability"],
    "LocalJudge.fit": ["data/raw/minilm", "data/raw/lid", "data/model"],
    "open_judge": ["data/raw/minilm", "data/raw/lid", "data/model"],
    "tables.Results.read": [f"data/samples/{name}" for name in ("choices.json", "test.parquet", "validation.parquet")],
}
FOLDERS = {
    "DATA": "data",
    "RAW": "data/raw",
    "MODEL": "data/model",
    "REPORTS": "reports",
    "METRICS": "reports/metrics",
}


def code_cells(stage: str) -> str:
    """The code of a stage's notebook."""
    cells = nbformat.read(notebook_path(stage), as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def imported_files(source: str) -> set[Path]:
    """Files of the package that importing what `source` imports runs first: modules, and what is in `__init__.py`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for name in names if name.split(".")[0] == PACKAGE for file in _module_files(name)}


def _module_files(name: str) -> Iterator[Path]:
    """The files of the module `name` and of the packages around it; those that are there and hold anything."""
    parts = name.split(".")
    packages = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    for file in (*packages, ROOT.joinpath(*parts).with_suffix(".py")):
        if file.is_file() and file.stat().st_size:
            yield file


def import_closure(source: str) -> set[Path]:
    """Files of the package that running `source` reads."""
    found: set[Path] = set()
    todo = imported_files(source)
    while todo:
        found |= todo
        todo = set().union(*(imported_files(file.read_text(encoding="utf-8")) for file in todo)) - found
    return found


def code_deps(stage: str, command: str) -> list[str]:
    """The notebook and the package files of a stage; of a script, the module that its command runs and its files."""
    if STAGES[stage]:
        first, files = [f"notebooks/{STAGES[stage]}.ipynb"], import_closure(code_cells(stage))
    else:
        first, files = [], import_closure(f"import {command.split()[-1]}")
    return first + sorted(str(file.relative_to(ROOT)) for file in files)


def declared_inputs(stage: str) -> list[str]:
    """The paths in backticks of the **Inputs** line of a notebook's first cell, a pattern up to the folder that it is in.

    Raises: ValueError if the cell has no such line, or the line no path.
    """
    first = nbformat.read(notebook_path(stage), as_version=4).cells[0].source
    line = re.search(r"^\*\*Inputs\.\*\*(.*?)(?=\n\*\*|\n\n|\Z)", first, re.M | re.S)
    paths = re.findall(r"`((?:data|reports)/[^`]*)`", line.group(1)) if line else []
    if not paths:
        raise ValueError(
            f"{notebook_path(stage).name}: the first cell needs a line **Inputs.** with paths in backticks"
        )
    return list(dict.fromkeys(re.sub(r"/[^/]*[*<].*", "", path).rstrip("/") for path in paths))


def outputs(stage: dict) -> list[str]:
    """Paths of a stage's outs, metrics and plots in dvc.yaml."""
    listed = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in listed]


def related(path: str, other: str) -> bool:
    """Whether one path is the other or a folder around it."""
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def data_deps(stage: str, stages: dict) -> list[str]:
    """The data that a stage reads. A folder in which earlier stages leave single files stands for these files."""
    inputs = declared_inputs(stage) if STAGES[stage] else SCRIPTS[stage].inputs
    earlier = [out for name in list(STAGES)[: list(STAGES).index(stage)] for out in outputs(stages.get(name, {}))]
    found = set()
    for path in inputs:
        below = [out for out in earlier if out.startswith(f"{path}/")]
        found |= set(below or [path])
    return sorted(found)


def parameter_deps(stage: str, params: dict) -> list[str]:
    """dvc.yaml's `params` of a stage: its section whole, `section.key` for shared keys, other sections by name.

    Raises: ValueError for a parameter that params.yaml does not have.
    """
    if not STAGES[stage]:
        return SCRIPTS[stage].params
    names = accepted_parameters(notebook_path(stage))
    homes = {name: section_of(name, stage, params) for name in names}
    shared = sorted(f"{section}.{name}" for name, section in homes.items() if section not in (stage, None))
    whole = sorted(name for name, section in homes.items() if section is None)
    return [*([stage] if stage in params else []), *whole, *shared]


def wired(stage: str, stages: dict, params: dict) -> dict[str, list[str]]:
    """{"deps", "params"} of a stage as dvc.yaml should have them."""
    lock = [] if stage in REPORTING else [LOCK]
    deps = code_deps(stage, stages[stage]["cmd"]) + lock + data_deps(stage, stages)
    return {"deps": deps, "params": parameter_deps(stage, params)}


def wired_stages() -> list[str]:
    """The stages whose dependencies are known: scripts, and notebooks that are there."""
    return [stage for stage in STAGES if stage in SCRIPTS or stage in notebook_stages()]


def paths_read(source: str) -> set[str]:
    """Repository paths that code reads by name: artefact("..."), metrics_of("..."), DATA / "...", METRICS and the
    calls of READERS. Of a folder and what is in it, what is in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found |= set(_called(node))
        elif path := _folder_path(node):
            found.add(path)
    return {path for path in found if not any(path != other and other.startswith(f"{path}/") for other in found)}


def _called(node: ast.Call) -> list[str]:
    name, given = ast.unparse(node.func), _text(node.args[0]) if node.args else None
    if name == "artefact" and given:
        return [f"data/{given.rstrip('/')}"]
    if name == "metrics_of" and given:
        return [f"reports/metrics/{given}.json"]
    return next((paths for reader, paths in READERS.items() if name == reader or name.endswith(f".{reader}")), [])


def _folder_path(node: ast.AST) -> str | None:
    """`data/raw/corpus` of RAW / "corpus", `reports/metrics` of METRICS."""
    if isinstance(node, ast.Name):
        return FOLDERS.get(node.id)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return None
    left, right = _folder_path(node.left), _text(node.right)
    return f"{left}/{right}" if left and right else None


def _text(node: ast.AST) -> str | None:
    """The text that stands there, if the code names one."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def input_differences(stage: str, stages: dict) -> list[str]:
    """What a notebook's code and its **Inputs** line do not have in common: a line each, [] if they agree. What the
    stage makes itself is no input."""
    own, declared = outputs(stages[stage]), declared_inputs(stage)
    read = {path for path in paths_read(code_cells(stage)) if not any(f"{path}/".startswith(f"{out}/") for out in own)}
    silent = sorted(path for path in read if not any(related(path, entry) for entry in declared))
    unread = sorted(entry for entry in declared if not any(related(path, entry) for path in read))
    name = notebook_path(stage).name
    return [f"{name} reads {path}, which **Inputs** does not name" for path in silent] + [
        f"{name} names {entry} in **Inputs** and does not read it" for entry in unread
    ]


def differences(stages: dict, params: dict) -> list[str]:
    """Where dvc.yaml is not as it should be: a line for each dependency or parameter too few or too many."""
    lines = []
    for stage in wired_stages():
        for kind, right in wired(stage, stages, params).items():
            found = list(stages[stage].get(kind, []))
            lines += [f"{stage}: {kind} lacks {entry}" for entry in right if entry not in found]
            lines += [f"{stage}: {kind} has {entry}, which it does not read" for entry in found if entry not in right]
            if not lines and found != right:
                lines.append(f"{stage}: {kind} is in another order")
    return lines


def sync(path: Path) -> None:
    """Write deps and params of every stage into the dvc.yaml at `path`; everything else is left as it is."""
    yaml = _yaml()
    document = yaml.load(path.read_text(encoding="utf-8"))
    params = load_params()
    for stage in wired_stages():
        for kind, entries in wired(stage, document["stages"], params).items():
            _put(document["stages"][stage], kind, entries)
    yaml.dump(document, path)


def _put(stage: CommentedMap, kind: str, entries: list[str]) -> None:
    """Set stage[kind], behind cmd and deps if it is new; no key without entries. Comments in the old list go with it."""
    if list(stage.get(kind, [])) == entries:
        return
    keys = list(stage)
    place = keys.index(kind) if kind in keys else keys.index("deps" if "deps" in keys else "cmd") + 1
    stage.pop(kind, None)
    if entries:
        stage.insert(place, kind, entries)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    return yaml


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sync", action="store_true", help="write dvc.yaml instead")
    path = ROOT / "dvc.yaml"
    if parser.parse_args().sync:
        sync(path)
    stages = _yaml().load(path.read_text(encoding="utf-8"))["stages"]
    lines = differences(stages, load_params())
    lines += [line for stage in notebook_stages() for line in input_differences(stage, stages)]
    print("\n".join(lines) or "dvc.yaml is as the notebooks say")
    return 1 if lines else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
