"""README.md: its computed parts are those of the metrics, and what it names is there."""

import re

import nbformat
import pytest
import yaml

from fgaa_utils.pipeline import render
from fgaa_utils.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_only_what_stands_between_the_markers_is_replaced():
    text = "before é\n<!-- verdict: by render -->\nold\nlines\n<!-- end of verdict -->\nafter\n"
    expected = "before é\n<!-- verdict: by render -->\nnew\n<!-- end of verdict -->\nafter\n"
    once = render.with_block(text, "verdict", "new")
    assert once == expected == render.with_block(once, "verdict", "new")


@pytest.mark.parametrize(
    "text", ["", "<!-- verdict: x -->\n", "<!-- verdict: x -->\n<!-- verdict: x -->\n<!-- end of verdict -->"]
)
def test_a_missing_marker_is_named(text):
    with pytest.raises(ValueError, match="<!-- end of verdict -->"):
        render.with_block(text, "verdict", "new")


@pytest.mark.parametrize("name", ["verdict", "behaviours"])  # times differ from run to run
def test_the_readme_says_what_the_metrics_say(name):
    """`python -m fgaa_utils.pipeline.render` writes it."""
    assert render.with_block(README, name, render.BLOCKS[name]()) == README


def test_the_readme_is_written_where_it_has_its_markers(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "BLOCKS", {name: (lambda n=name: f"block of {n}") for name in render.BLOCKS})
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    render.update_readme()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert [text.count(f"-->\nblock of {name}\n<!-- end") for name in render.BLOCKS] == [1, 1, 1]


def test_every_file_that_the_readme_links_is_there():
    made = {"reports/samples.html", "reports/latents.html"}  # by a run, from texts that are not in git
    links = set(re.findall(r"\]\(([^)#]+)\)", README)) - made
    assert not [link for link in links if not re.match(r"https?:", link) and not (ROOT / link).exists()]


def test_every_section_that_the_readme_names_is_in_its_notebook():
    rows = [line.split("|")[2] for line in README.splitlines() if "](reports/pages/" in line and line.startswith("|")]
    assert len(rows) > 5
    for name, named in [
        pair for row in rows for pair in re.findall(r"\[(\w+)\]\(reports/pages/\w+\.md\)(?:, ([^|\[]+))?", row)
    ]:
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        headings = re.findall(r"^## (.+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
        sections = [part.split("; their")[0].strip() for part in re.split(r"; (?!their)", named) if part.strip()]
        assert set(sections) <= set(headings), (name, sections, headings)


def test_every_parameter_that_the_readme_names_is_one():
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    named = set(re.findall(rf"(?<![\w/.-])({'|'.join(params)})\.(\w+)(?![\w.]*\()", README)) - {("data", "md")}
    files = {"yaml", "json", "html", "ipynb", "py"}
    assert ("recipe", "theta") in named and ("judge", "judge") in named
    assert not [(section, key) for section, key in named if key not in params[section] and key not in files]


def test_every_target_that_the_readme_names_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.M)) <= targets


def test_main_calls_the_parts_and_leaves_the_readme_of_a_setting_alone(tmp_path, monkeypatch, capsys):
    calls = []
    for name in ("update_readme", "write_pages", "write_index"):
        monkeypatch.setattr(render, name, lambda *given, name=name: calls.append(name) or [])
    monkeypatch.setattr(render, "DATA", tmp_path)
    monkeypatch.setattr(render, "repository", lambda: render.ROOT)
    render.main()
    monkeypatch.setattr(render, "repository", lambda: tmp_path)
    render.main()
    assert calls == ["update_readme", "write_pages", "write_index", "write_pages", "write_index"]
    assert "rendered 0 pages" in capsys.readouterr().out
