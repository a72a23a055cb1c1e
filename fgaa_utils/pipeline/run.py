"""Run one stage: its notebook, through papermill, with the parameters of params.yaml.

    python -m fgaa_utils.pipeline.run features      run the stage's notebook
    python -m fgaa_utils.pipeline.run --sync        write params.yaml into the notebooks' parameter cells (for JupyterLab)

params.yaml is the one source: a notebook's parameter cell names the keys it takes, and the values are injected.
"""

import argparse
import ast
import hashlib
import json
import os
import resource
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import papermill
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.params import check_extra, load_params, section_of, stage_params
from fgaa_utils.pipeline.literals import assignment
from fgaa_utils.project import DATA, METRICS, REPORTS, ROOT, STAGES, unknown

NOTEBOOKS = ROOT / "notebooks"
RESOURCES = REPORTS / "resources.json"
EXPECTED = ("ValueError", "OSError", "FileNotFoundError", "PermissionError")  # errors that say what to mend
COMMENT = 80  # columns of a comment in a parameter cell
# Of glibc, for the kernels: keep freed memory instead of giving it back. The logits of a large vocabulary are
# hundreds of megabytes; asking for fresh pages at every pass cost more than the sums over them.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}


def notebook_path(stage: str) -> Path:
    """The notebook that is the stage. Raises: ValueError for a name that is no notebook stage."""
    with_notebook = [name for name, notebook in STAGES.items() if notebook]
    if stage not in with_notebook:
        raise unknown("notebook stage", stage, with_notebook)
    return NOTEBOOKS / f"{STAGES[stage]}.ipynb"


def notebook_stages() -> list[str]:
    """The stages that are notebooks, of those that are there, in order."""
    return [name for name, notebook in STAGES.items() if notebook and (NOTEBOOKS / f"{notebook}.ipynb").exists()]


def accepted_parameters(path: Path) -> list[str]:
    """Names in the parameter cell of a notebook. Raises: ValueError if it has not exactly one such cell."""
    return list(cell_values(parameters_cell(nbformat.read(path, as_version=4), path.name).source))


def parameters_cell(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The cell tagged parameters. Raises: ValueError if the notebook `name` has not exactly one."""
    tagged = [cell for cell in notebook.cells if _has_tag(cell, "parameters")]
    if len(tagged) != 1:
        raise ValueError(f"{name} has {len(tagged)} cells tagged parameters; it must have one")
    return tagged[0]


def _has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def source_digest(path: Path) -> str:
    """16 hex digits of the types and sources of a notebook's cells. The executed copy has those of the notebook that
    ran, whatever its outputs and the parameters put into it."""
    cells = nbformat.read(path, as_version=4).cells
    kept = [(cell.cell_type, cell.source) for cell in cells if not _has_tag(cell, "injected-parameters")]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def check_all_parameters() -> None:
    """Hold params.yaml against its types and ranges and every notebook, and read the behaviours that it names, so that
    what is wrong fails in the first stage, not in its own.

    Raises: ValueError naming the key or the file.
    """
    params = load_params()
    for stage in notebook_stages():
        stage_params(stage, accepted_parameters(notebook_path(stage)), params)
    check_extra(params["vectors"]["extra"], [b.key for b in read_behaviours(params["base"]["behaviours"])])


def run_stage(stage: str) -> None:
    """Execute the notebook of a stage into reports/<notebook>.ipynb and note its time and peak memory.

    Raises: ValueError for parameters that the notebook does not take or misses, before it starts, and for an error of the
    notebook that says itself what to mend.
    """
    source = notebook_path(stage)
    check_all_parameters()
    parameters = stage_params(stage, accepted_parameters(source))
    METRICS.mkdir(parents=True, exist_ok=True)
    os.environ |= MALLOC | {"PYTHONWARNINGS": "ignore:IProgress not found"}  # of bars that no terminal shows
    os.chdir(ROOT)
    executed, ran = REPORTS / source.name, source_digest(source)
    began, start = time.time(), time.monotonic()
    try:
        papermill.execute_notebook(
            str(source.relative_to(ROOT)),  # papermill notes both paths in the notebook
            str(executed.relative_to(ROOT)),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename not in EXPECTED:
            raise
        where = f"stage {stage}, cell {error.exec_count}; the traceback is in {executed.relative_to(ROOT)}"
        raise ValueError(f"{error.evalue} ({where})") from error
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    took = time.monotonic() - start
    record_resources(stage, took, peak_kib / 2**20, made_on=made_on(parameters), resumed=found_shards(stage, began))
    tidy(executed, ran)


def tidy(path: Path, source: str) -> None:
    """Note in an executed notebook the digest of the one that ran (see source_digest), and leave out of it what the
    terminal has shown already: standard error, with the paths of this machine in its warnings."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["fgaa"] = {"source": source}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    path.write_text(nbformat.writes(notebook).replace(f"{ROOT}/", "") + "\n", encoding="utf-8")


def found_shards(stage: str, began: float) -> bool:
    """Whether a store that a run opened since `began` (s) holds shards from before it, which opening notes in identity.json,
    or the stage's own record of what it made once is from before it."""
    if any(record.stat().st_mtime < began for record in (DATA / stage).glob("record.json")):
        return True
    opened = [path.parent for path in (DATA / stage).rglob("identity.json") if path.stat().st_mtime >= began]
    return any(shard.stat().st_mtime < began for folder in opened for shard in folder.glob("shard_*"))


def made_on(parameters: dict) -> str:
    """The processor of a stage, and the products that it computes in; of one that runs no model, the CPU."""
    from fgaa_utils.model.lm import (
        resolve_device,
        resolve_dtype,
    )  # torch takes seconds to import, and is not needed to ask
    from fgaa_utils.shards import record_processor

    device = resolve_device(parameters.get("device", "cpu"))
    return record_processor(resolve_dtype(parameters.get("dtype", "auto"), device), str(device))


def record_resources(stage: str, seconds: float, peak_gib: float, *, made_on: str, resumed: bool = False) -> None:
    """Enter a stage's wall time and peak memory in reports/resources.json, which no stage depends on.

    A run that found shards of an earlier one says little of the whole: it is entered as `resumed_seconds` beside what
    a run from nothing took, if there was one. The processor that made it is noted either way: numbers differ with it.
    """
    entries = json.loads(RESOURCES.read_text()) if RESOURCES.exists() else {}
    if resumed:
        entries[stage] = entries.get(stage, {}) | {"resumed_seconds": round(seconds)}
    else:
        entries[stage] = {"seconds": round(seconds), "peak_gib": round(peak_gib, 2)}
    entries[stage]["processor"] = made_on
    ordered = {name: entries[name] for name in STAGES if name in entries}
    RESOURCES.write_text(json.dumps(ordered, indent=1) + "\n")


def parameter_cell(stage: str, names: list[str]) -> str:
    """The source of a stage's parameter cell: each name with its value and comment of params.yaml, as ruff formats it."""
    document = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values = stage_params(stage, names)
    lines = []
    for name in names:
        section = section_of(name, stage, document)
        comment = yaml_comment(document[section], name) if section else f"the section {name} of params.yaml"
        lines.append(assignment(name, values[name], comment))
    return "\n".join(lines)


def yaml_comment(section: CommentedMap, key: str) -> str:
    """The comment behind `key` up to the first `;`, cut between words where it is longer than COMMENT."""
    tokens = section.ca.items.get(key) or [None] * 3
    text = tokens[2].value.split("\n")[0].strip("# ").split(";")[0] if tokens[2] else ""
    return textwrap.shorten(text, COMMENT, placeholder=" ...")


def sync_parameters(*, comments: bool = False) -> None:
    """Write params.yaml's values and comments into the parameter cells of the notebooks that hold other values; with
    `comments`, of those with other comments or another layout too, which then count as changed."""
    for stage in notebook_stages():
        path = notebook_path(stage)
        content = nbformat.read(path, as_version=4)
        cell = parameters_cell(content, path.name)
        source = parameter_cell(stage, list(cell_values(cell.source)))
        if cell_values(source) != cell_values(cell.source) or (comments and source != cell.source):
            cell.source = source
            nbformat.write(content, path)


def cell_values(source: str) -> dict[str, object]:
    """{name: value} of a parameter cell, whatever its layout and comments. Raises: ValueError for a line that is no
    assignment of a literal."""
    values = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            raise ValueError(f"a parameter cell holds {ast.unparse(node)!r}; it must hold `name = value` lines alone")
        values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", help="a stage that is a notebook")
    parser.add_argument("--sync", action="store_true", help="write params.yaml into the parameter cells instead")
    parser.add_argument("--comments", action="store_true", help="with --sync: also where only comments differ")
    args = parser.parse_args()
    if args.sync:
        sync_parameters(comments=args.comments)
    elif args.stage:
        run_stage(args.stage)
    else:
        parser.error("name a stage, or give --sync")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
