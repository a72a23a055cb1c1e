"""Wiring: what a stage reads is what dvc.yaml says it reads, and every parameter reaches its notebook."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from fgaa_utils.pipeline import run
from fgaa_utils.project import ROOT, STAGES, load_params, stage_params

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOK_STAGES = [stage for stage, notebook in STAGES.items() if notebook]
PARAMS = load_params()


def imported_modules(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fgaa_utils"):
            if node.module == "fgaa_utils":
                names |= {alias.name for alias in node.names}
            else:
                names.add(node.module.split(".")[1])
    return names


def import_closure(stage: str) -> set[str]:
    """Package files a stage's code reaches by imports."""
    if STAGES[stage]:
        cells = nbformat.read(run.notebook_path(stage), as_version=4).cells
        todo = imported_modules("\n".join(c.source for c in cells if c.cell_type == "code"))
    else:
        todo = {stage}
    seen = set()
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= imported_modules((ROOT / "fgaa_utils" / f"{name}.py").read_text()) - seen
    return {f"fgaa_utils/{name}.py" for name in seen}


def test_stages_are_those_of_the_package_in_order():
    assert list(PIPELINE) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_code_it_runs(stage):
    deps = set(PIPELINE[stage]["deps"])
    assert import_closure(stage) <= deps
    if STAGES[stage]:
        assert f"notebooks/{STAGES[stage]}.ipynb" in deps
    if stage != "render":
        assert "requirements.lock" in deps


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_a_stage_lists_exactly_the_parameters_its_notebook_takes(stage):
    accepted = run.accepted_parameters(run.notebook_path(stage))
    section = set(PARAMS.get(stage, {}))
    whole = {key for key in accepted if key not in section and key in PARAMS}
    from_base = {f"base.{key}" for key in accepted if key not in section | whole}
    own = {stage} if PARAMS.get(stage) else set()
    assert set(PIPELINE[stage]["params"]) == from_base | whole | own
    assert section <= set(accepted)
    stage_params(stage, accepted)


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
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    values = {}
    exec(cell.source, values)  # literals only: checked below
    assert all(isinstance(node, ast.Assign) for node in ast.parse(cell.source).body)
    names = run.accepted_parameters(run.notebook_path(stage))
    assert {name: values[name] for name in names} == stage_params(stage, names)
    assert not any(c.get("outputs") or c.get("execution_count") for c in notebook.cells if c.cell_type == "code")


def test_every_number_of_params_yaml_has_a_comment_or_a_telling_neighbour():
    lines = [line for line in (ROOT / "params.yaml").read_text().splitlines() if re.match(r"^  \w+:", line)]
    bare = [line for line in lines if "#" not in line]
    assert len(bare) <= 0.3 * len(lines), bare


def test_no_prompt_of_the_evaluation_shaped_the_effect_map():
    scored = {p for side in ("validation", "test") for p in PARAMS["evaluation"][f"{side}_prompts"]}
    assert not scored & set(PARAMS["effects"]["openers"])


def test_a_misspelt_key_is_refused_with_the_right_one():
    params = {section: dict(values) for section, values in PARAMS.items()}
    params["features"]["thta"] = params["features"].pop("theta")
    with pytest.raises(ValueError, match="'thta'; did you mean 'theta'"):
        stage_params("features", run.accepted_parameters(run.notebook_path("features")), params)


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="'feature'; did you mean 'features'"):
        run.notebook_path("feature")
    done = subprocess.run(
        [sys.executable, "-m", "fgaa_utils.pipeline.run", "feature"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0 and "did you mean 'features'" in done.stderr and "Traceback" not in done.stderr


def test_metrics_are_one_file_a_stage_in_git():
    for stage in NOTEBOOK_STAGES:
        assert PIPELINE[stage]["metrics"] == [{f"reports/metrics/{stage}.json": {"cache": False}}]


def test_environment_yml_installs_the_lock_on_the_python_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    assert "-r requirements.lock" in pip and python == "python=3.11"
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    project = (ROOT / "pyproject.toml").read_text()
    names = re.search(r"dependencies = \[(.*?)\]", project, re.S).group(1) + re.search(
        r"dev = \[(.*?)\]", project
    ).group(1)
    normal = {name.lower().replace("_", "-") for name in locked}
    assert {name.lower() for name in re.findall(r'"([\w.-]+)"', names)} <= normal
    assert not any(spec in names for spec in ("=", "<", ">")), "versions live in requirements.lock alone"


def test_installed_versions_are_the_locked_ones():
    from importlib.metadata import version

    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    for name in ("torch", "nnsight", "sae-lens", "transformers", "papermill", "dvc", "numpy", "pandas", "seaborn"):
        assert version(name).split("+")[0] == locked[name], name
