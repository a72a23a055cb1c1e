"""Pages in reports/pages/: navigation, contents, the notice of an older run, what is kept and what is made anew."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fgaa_utils.pipeline import pages as p
from fgaa_utils.project import ROOT, STAGES

NAMES = ["01_data", "sae", "02_features"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository of three notebooks, run, under tmp_path; returns a function that runs one (again)."""
    reports, notebooks = tmp_path / "reports", tmp_path / "notebooks"
    monkeypatch.setattr(p, "PAGES", reports / "pages")
    monkeypatch.setattr(p, "REPORTS", reports)
    monkeypatch.setattr(p, "METRICS", reports / "metrics")
    monkeypatch.setattr(p, "NOTEBOOKS", notebooks)
    monkeypatch.setattr(p, "repository", lambda: tmp_path)
    monkeypatch.setattr(p, "frozen_stages", lambda: ["sae"])
    (reports / "metrics").mkdir(parents=True)
    notebooks.mkdir()

    def run(name, result="0.0049"):
        cells = [
            new_markdown_cell(f"# Title of {name}\n\n**Question.** Why?"),
            new_markdown_cell("## Answer, in short"),
        ]
        cells += [new_code_cell("compute()"), new_markdown_cell("## The doubt\n\n### Small\n\nProse.")]
        nbformat.write(new_notebook(cells=cells), notebooks / f"{name}.ipynb")
        cells[2].outputs = [new_output("stream", name="stdout", text=result)]
        executed = new_notebook(
            cells=cells, metadata={"fgaa": {"source": p.source_digest(notebooks / f"{name}.ipynb")}}
        )
        nbformat.write(executed, reports / f"{name}.ipynb")
        (reports / "metrics" / f"{name.lstrip('012_')}.json").write_text("{}")

    for name in NAMES:
        run(name)
    return run


def files():
    return {path.name: path.read_text() for path in p.PAGES.glob("*.md")}


def change(name):
    """An author edits a notebook that ran."""
    path = p.NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source += " and clear"
    nbformat.write(notebook, path)


def test_pages_stand_in_the_order_of_the_pipeline(project):
    assert [page.name for page in p.write_pages()] == NAMES
    assert set(files()) == {f"{name}.md" for name in NAMES}


def test_navigation_stands_at_top_and_bottom(project):
    p.write_pages()
    both = "[README](../../README.md) | [all pages in one](../index.html)"
    first, second, last = (
        f"{line}\n"
        for line in (
            both + " | [sae →](sae.md)",
            f"[← 01_data](01_data.md) | {both} | [02_features →](02_features.md)",
            f"[← sae](sae.md) | {both}",
        )
    )
    for name, line in zip(NAMES, (first, second, last)):
        lines = [text for text in files()[f"{name}.md"].splitlines() if text and not text.startswith("<!--")]
        assert lines[0] == lines[-1] == line.strip()


def test_contents_name_the_sections_and_the_code_after_the_question(project):
    p.write_pages()
    text = files()["sae.md"]
    assert (
        "- [Answer, in short](#answer-in-short)\n- [The doubt](#the-doubt)\n\nCode: [notebooks/sae.ipynb](../../notebooks/sae.ipynb)\n"
        in text
    )
    assert text.index("**Question.**") < text.index("#answer-in-short") < text.index("## Answer")
    assert "compute()" not in text and "Small](" not in text


def test_writing_twice_changes_no_byte(project):
    p.write_pages()
    first = files()
    p.write_pages()
    assert files() == first


def test_a_frame_comes_off_as_it_went_on(project):
    for page in p.write_pages():
        assert p.read_page(p.PAGES / f"{page.name}.md") == page


def test_a_page_whose_notebook_has_changed_says_so_and_no_other(project):
    p.write_pages()
    assert "Older than its notebook" not in "".join(files().values())
    change("sae"), change("02_features")
    p.write_pages()
    found = files()
    assert "Older than its notebook" not in found["01_data.md"]
    notice = "> **Older than its notebook.** `notebooks/sae.ipynb` has changed since this run; `make again STAGE=sae` runs it again."
    assert found["sae.md"].count(notice) == 1
    assert "`dvc repro features` runs it again" in found["02_features.md"]
    project("sae"), p.write_pages()
    assert "Older" not in files()["sae.md"]


def test_a_page_without_an_executed_notebook_keeps_its_body_and_gets_the_notice(project):
    p.write_pages()
    (p.REPORTS / "sae.ipynb").unlink()
    change("sae")
    p.write_pages()
    text = files()["sae.md"]
    assert "0.0049" in text and "Older than its notebook" in text and "[← 01_data]" in text
    project("01_data", "0.0050"), p.write_pages()
    assert "0.0050" in files()["01_data.md"] and "0.0049" in files()["sae.md"]


def test_a_page_of_an_earlier_form_is_kept_as_one_of_unknown_source(project):
    p.PAGES.mkdir()
    (p.REPORTS / "sae.ipynb").unlink()
    (p.PAGES / "sae.md").write_text("# Old\n\nText.\n\n## Section\n\n```python\n# no heading\n```\n")
    p.write_pages()
    page = p.read_page(p.PAGES / "sae.md")
    assert (page.title, page.sections, page.source) == ("Old", ["Section"], "") and page.is_stale()


def test_a_page_of_a_stage_that_the_run_does_not_have_is_dropped(project):
    p.write_pages()
    (p.REPORTS / "sae.ipynb").unlink()
    (p.REPORTS / "metrics" / "sae.json").unlink()
    assert [page.name for page in p.write_pages()] == ["01_data", "02_features"]
    assert "sae.md" not in files() and "sae" not in files()["01_data.md"]


def test_links_of_a_setting_lead_to_the_repository_from_both_places(project, tmp_path, monkeypatch):
    """Its pages are written in .settings/<name>/reports/pages/ and read in reports/settings/<name>/pages/."""
    monkeypatch.setattr(p, "PAGES", tmp_path / ".settings" / "small" / "reports" / "pages")
    assert p.from_pages("notebooks/sae.ipynb") == "../../../../notebooks/sae.ipynb"
    home = tmp_path / "reports" / "settings" / "small" / "pages"
    assert (home / p.from_pages("notebooks")).resolve() == (tmp_path / "notebooks").resolve()


def committed_pages():
    return [ROOT / "reports" / "pages" / f"{name}.md" for name in STAGES.values() if name]


@pytest.mark.parametrize("path", [path for path in committed_pages() if path.exists()], ids=lambda path: path.stem)
def test_a_committed_page_is_of_its_notebook(path):
    """`python -m fgaa_utils.pipeline.render` puts a notice into one that is not; running the stage takes it away."""
    assert not p.read_page(path).is_stale(), (
        "run the stage again: dvc repro, or make again STAGE=<stage> if it is frozen"
    )
    assert "> **Older than its notebook.**" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in committed_pages() if path.exists()], ids=lambda path: path.stem)
def test_every_figure_of_a_committed_page_is_there(path):
    for file in re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / file).is_file(), file
