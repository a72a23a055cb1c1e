"""Notebooks are short: what is worth a function is worth a test, and stands in the package."""

import ast

import nbformat
import pytest

from fgaa_utils.project import ROOT, STAGES

NOTEBOOKS = {
    name: nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4) for name in STAGES.values() if name
}


def code_cells(name, *, parameters=False):
    return [
        cell.source
        for cell in NOTEBOOKS[name].cells
        if cell.cell_type == "code" and ("parameters" in cell.metadata.get("tags", [])) == parameters
    ]


def lines(source):
    return [line for line in source.splitlines() if line.strip()]


def test_notebooks_have_at_most_62_lines_of_code_on_average():
    counts = {
        name: sum(len(lines(cell.source)) for cell in notebook.cells if cell.cell_type == "code")
        for name, notebook in NOTEBOOKS.items()
    }
    assert sum(counts.values()) <= 62 * len(counts), counts


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_cell_is_short_and_defines_nothing(name):
    for source in code_cells(name):
        assert len(lines(source)) <= 15, source
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)], source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_conclusions_are_markdown_not_printed(name):
    for source in code_cells(name):
        calls = [
            n.func.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        assert "print" not in calls, source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_what_it_asks_and_answers_it_under_a_heading(name):
    first, *rest = [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown"]
    assert first.startswith("# ") and all(f"**{part}.**" in first for part in ("Question", "Inputs", "Outputs"))
    headings = [line for source in rest for line in source.splitlines() if line.startswith("## ")]
    assert "## Answer" in headings, headings


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_two_code_cells_with_a_figure_follow_one_another_without_prose(name):
    before = None
    for cell in NOTEBOOKS[name].cells:
        shows = cell.cell_type == "code" and "show(" in cell.source
        assert not (shows and before), cell.source
        before = shows


@pytest.mark.parametrize("stage", [stage for stage, name in STAGES.items() if name])
def test_a_figure_is_kept_under_its_stage_and_has_the_caption_of_its_name(stage):
    trees = [ast.parse(source) for source in code_cells(STAGES[stage])]
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "show"]
    for call in calls:
        _, folder, name = call.args
        caption = ast.unparse(call.keywords[0].value)
        assert folder.value == stage, ast.unparse(call)
        assert "CAPTIONS" not in caption or caption.endswith(f"CAPTIONS['{name.value}']"), ast.unparse(call)
