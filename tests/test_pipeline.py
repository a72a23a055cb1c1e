"""Wiring: what a stage reads is what dvc.yaml says it reads, and every parameter reaches its notebook."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from fgaa_utils.params import load_params, stage_params
from fgaa_utils.pipeline import run, wiring
from fgaa_utils.pipeline.wiring import outputs, related
from fgaa_utils.project import ROOT, STAGES

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PIPELINE = DVC["stages"]
FROZEN = {"sae", "effects", "gradients", "ablation_samples", "ablations"}
# Left by frozen stages and not in git, so not in dvc.yaml: it would ask a fresh clone for them.
UNLISTED = {"reports/ablation_samples.ipynb", "reports/figures/sae"}
PARAMS = load_params()
NOTEBOOK_STAGES = run.notebook_stages()


def stale_after(path: str) -> set[str]:
    """The stages that are to run again when `path` changes, if every output of theirs changes too."""
    changed, stale = {path}, set()
    for stage, entries in PIPELINE.items():  # in order: a stage reads nothing of later ones
        if any(related(dep, entry) for dep in entries["deps"] for entry in changed):
            stale.add(stage)
            changed |= set(outputs(entries))
    return stale


def test_stages_are_those_of_the_package_in_order():
    assert list(PIPELINE) == list(STAGES)
    assert {name for name, stage in PIPELINE.items() if stage.get("frozen")} == FROZEN


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_earlier_stages_and_files_in_git_alone(stage):
    made_later = {out for name in list(STAGES)[list(STAGES).index(stage) :] for out in outputs(PIPELINE[name])}
    assert not [dep for dep in PIPELINE[stage]["deps"] if dep in made_later]


@pytest.mark.parametrize("stage", wiring.wired_stages())
def test_a_stage_lists_exactly_what_it_reads(stage):
    """Else run `python -m fgaa_utils.pipeline.wiring --sync`."""
    wired = wiring.wired(stage, PIPELINE, PARAMS)
    assert {kind: PIPELINE[stage].get(kind, []) for kind in wired} == wired


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_a_notebook_names_exactly_the_inputs_that_it_reads(stage):
    assert wiring.input_differences(stage, PIPELINE) == []


def test_a_word_in_the_evaluation_runs_nothing_that_makes_texts():
    assert stale_after("notebooks/04_evaluation.ipynb") == {"evaluation", "compare", "render"}


def test_a_change_of_fetch_or_of_the_runner_makes_no_result_stale_by_itself():
    readers = {path: {stage for stage in STAGES if path in PIPELINE[stage]["deps"]} for path in _package_files()}
    assert readers["fgaa_utils/data/fetch.py"] == {"fetch"}
    assert readers["fgaa_utils/params.py"] == {"model", "render"}
    assert {
        path for path, stages in readers.items() if path.startswith("fgaa_utils/pipeline/") and stages - {"render"}
    } == set()


def _package_files() -> list[str]:
    return [str(path.relative_to(ROOT)) for path in (ROOT / "fgaa_utils").rglob("*.py")]


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_figures_are_declared_where_a_notebook_draws_some(stage):
    drawn = re.search(r"^\s*(show|save_figure)\(", wiring.code_cells(stage), re.M) is not None
    assert drawn == (f"reports/figures/{stage}" in {*outputs(PIPELINE[stage]), *UNLISTED})


@pytest.mark.parametrize("stage", [stage for stage, notebook in STAGES.items() if notebook])
def test_a_stage_leaves_its_notebook_and_one_metrics_file(stage):
    assert PIPELINE[stage]["metrics"] == [{f"reports/metrics/{stage}.json": {"cache": False}}]
    assert f"reports/{STAGES[stage]}.ipynb" in {*outputs(PIPELINE[stage]), *UNLISTED}


def test_what_frozen_stages_leave_is_in_git_and_what_others_leave_is_ignored():
    for name, stage in PIPELINE.items():
        for out in stage.get("outs", []):
            path, cached = (
                (out, True) if isinstance(out, str) else next((p, o.get("cache", True)) for p, o in out.items())
            )
            ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT).returncode == 0
            assert (ignored, cached) == ((False, False) if name in FROZEN or not cached else (True, True)), path


def test_every_plot_is_an_output_in_git():
    assert [next(iter(plot)) for plot in DVC["plots"]] == [
        out for stage in ("evaluation", "capability", "effects") for out in outputs(PIPELINE[stage]) if "/plots/" in out
    ]


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_every_parameter_is_used_in_its_notebook(stage):
    cells = nbformat.read(run.notebook_path(stage), as_version=4).cells
    code = "\n".join(
        c.source for c in cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])
    )
    loaded = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert set(run.accepted_parameters(run.notebook_path(stage))) <= loaded


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_source_notebooks_hold_the_values_of_params_yaml_and_no_output(stage):
    notebook = nbformat.read(run.notebook_path(stage), as_version=4)
    values = run.cell_values(run.parameters_cell(notebook, stage).source)
    assert values == stage_params(stage, list(values), PARAMS)
    assert not any(c.get("outputs") or c.get("execution_count") for c in notebook.cells if c.cell_type == "code")


def test_every_number_of_params_yaml_has_a_comment_or_a_telling_neighbour():
    lines = [line for line in (ROOT / "params.yaml").read_text().splitlines() if re.match(r"^  \w+:", line)]
    bare = [line for line in lines if "#" not in line]
    assert len(bare) <= 0.3 * len(lines), bare


def test_no_prompt_of_the_evaluation_shaped_the_effect_map():
    scored = {p for side in ("validation", "test") for p in PARAMS["design"][f"{side}_prompts"]}
    assert not scored & set(PARAMS["effects"]["openers"])


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="'feature'; did you mean 'features'"):
        run.notebook_path("feature")
    done = subprocess.run(
        [sys.executable, "-m", "fgaa_utils.pipeline.run", "feature"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0 and "did you mean 'features'" in done.stderr and "Traceback" not in done.stderr


def locked_versions() -> dict[str, str]:
    """{package: version} of requirements.lock, and torch's of the Makefile."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    entries = [re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines]
    torch = re.search(r"^TORCH := torch==([\d.]+)", (ROOT / "Makefile").read_text(), re.M).group(1)
    return {entry[1]: entry[2] for entry in entries if entry} | {"torch": torch}


def test_the_lock_has_every_package_of_the_project_with_its_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.sub(r"[-_.]+", "-", name.lower()) for name in names} <= set(locked_versions())
    assert not any(spec in name for name in names for spec in "=<>"), "versions live in requirements.lock alone"
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert f"torch=={locked_versions()['torch']}" in uv["constraint-dependencies"]
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))


def test_environment_yml_gives_a_python_that_the_project_takes():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert python.removeprefix("python=") in SpecifierSet(wanted)


def test_installed_versions_are_the_locked_ones():
    from importlib.metadata import version

    locked = locked_versions()
    for name in ("torch", "nnsight", "sae-lens", "transformers", "papermill", "dvc", "numpy", "pandas", "seaborn"):
        assert version(name).split("+")[0] == locked[name], name


@pytest.mark.parametrize("stage", sorted(FROZEN))
def test_the_lock_knows_what_a_frozen_stage_left(stage):
    """Else DVC would want its dependencies, which a fresh clone does not have yet, to enter the stage anew."""
    entry = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"][stage]
    assert entry["cmd"] == PIPELINE[stage]["cmd"]
    assert {out["path"] for out in entry["outs"]} == set(outputs(PIPELINE[stage]))
    for out in entry["outs"]:
        if (path := ROOT / out["path"]).is_file():
            assert hashlib.md5(path.read_bytes()).hexdigest() == out["md5"], out["path"]


@pytest.mark.parametrize("plot", DVC["plots"], ids=lambda plot: next(iter(plot)))
def test_dvc_draws_columns_that_are_there(plot):
    """One line through all methods is what DVC draws if nobody tells it apart."""
    [(path, how)] = plot.items()
    template = (ROOT / ".dvc" / "plots" / f"{how['template']}.json").read_text(encoding="utf-8")
    columns = (ROOT / path).read_text(encoding="utf-8").splitlines()[0].split(",")
    named = set(re.findall(r'"field": "(\w+)"', template)) | {how["x"], how["y"]}
    assert named - {"rev"} <= set(columns) and named & {"method", "fit"}
    assert {"<DVC_METRIC_DATA>", "<DVC_METRIC_X>", "<DVC_METRIC_Y>"} <= set(re.findall(r"<DVC_\w+>", template))
