"""The Markdown pages in reports/pages/: a body (see bodies) in a frame of navigation, contents and, where the notebook has
changed since it ran, a notice. The frame is made anew from all pages whenever one of them changes."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import nbformat

from fgaa_utils.pipeline.bodies import headings, notebook_body
from fgaa_utils.pipeline.results import repository
from fgaa_utils.pipeline.run import NOTEBOOKS, source_digest
from fgaa_utils.project import METRICS, REPORTS, STAGES, frozen_stages

PAGES = REPORTS / "pages"
FRAME = re.compile(r"<!-- frame -->\n.*?<!-- end of frame -->\n+", re.S)
SOURCE = re.compile(r"<!-- source: (\w*) -->\n")


@dataclass(frozen=True)
class Page:
    """What a page says, without its frame; `source` is the digest of the notebook that ran, "" if the run noted none."""

    name: str
    source: str
    body: str

    @property
    def title(self) -> str:
        return next(text for level, text in headings(self.body) if level == 1)

    @property
    def sections(self) -> list[str]:
        return [text for level, text in headings(self.body) if level == 2]

    def is_stale(self) -> bool:
        """Whether the notebook has changed since it ran."""
        return self.source != source_digest(NOTEBOOKS / f"{self.name}.ipynb")


def write_pages() -> list[Page]:
    """Write the page of every executed notebook and frame anew those at hand of earlier runs; all, in order.

    A page without an executed notebook keeps its body, as long as its stage has metrics.
    """
    PAGES.mkdir(parents=True, exist_ok=True)
    pages = []
    for stage, name in STAGES.items():
        if name and (REPORTS / f"{name}.ipynb").exists():
            pages.append(executed_page(REPORTS / f"{name}.ipynb"))
        elif name and (PAGES / f"{name}.md").exists() and (METRICS / f"{stage}.json").exists():
            pages.append(read_page(PAGES / f"{name}.md"))
    names = [page.name for page in pages]
    for page in pages:
        (PAGES / f"{page.name}.md").write_text(framed(page, names), encoding="utf-8")
    drop_pages_but(names)
    return pages


def drop_pages_but(names: list[str]) -> None:
    """Delete the pages of stages that the run does not have any more."""
    for path in PAGES.glob("*.md"):
        if path.stem not in names:
            path.unlink()
            shutil.rmtree(PAGES / f"{path.stem}_files", ignore_errors=True)


def executed_page(path: Path) -> Page:
    """The page of an executed notebook, its figures written to reports/pages/<name>_files/."""
    notebook = nbformat.read(path, as_version=4)
    folder = PAGES / f"{path.stem}_files"
    shutil.rmtree(folder, ignore_errors=True)
    source = notebook.metadata.get("fgaa", {}).get("source", "")
    return Page(path.stem, source, notebook_body(notebook, folder))


def read_page(path: Path) -> Page:
    """The page that a file holds. All of a file without a frame is body."""
    text = path.read_text(encoding="utf-8")
    source = SOURCE.search(text)
    return Page(path.stem, source.group(1) if source else "", SOURCE.sub("", FRAME.sub("", text)).strip("\n") + "\n")


def framed(page: Page, names: list[str]) -> str:
    """The page's file: navigation among the pages `names`, notice, title, contents, the rest of the body, navigation."""
    section = re.search(r"^## ", page.body, re.M)
    title, rest = (page.body[: section.start()], page.body[section.start() :]) if section else (page.body, "")
    bar = frame(navigation(page.name, names))
    notice = frame(stale_notice(page.name)) if page.is_stale() else ""
    parts = [f"<!-- source: {page.source} -->\n{bar}", notice, title, frame(contents(page)), rest, bar]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def frame(text: str) -> str:
    return f"<!-- frame -->\n{text}\n<!-- end of frame -->\n"


def navigation(name: str, names: list[str]) -> str:
    """previous | README | all pages in one | next, in the order of the pipeline."""
    at = names.index(name)
    before = [f"[← {other}]({other}.md)" for other in names[max(0, at - 1) : at]]
    after = [f"[{other} →]({other}.md)" for other in names[at + 1 : at + 2]]
    return " | ".join([*before, f"[README]({from_pages('README.md')})", "[all pages in one](../index.html)", *after])


def contents(page: Page) -> str:
    """Links to the page's sections and to its code."""
    lines = [f"- [{text}](#{slug(text)})" for text in page.sections]
    notebook = f"notebooks/{page.name}.ipynb"
    return "\n".join([*lines, "", f"Code: [{notebook}]({from_pages(notebook)})"]).strip("\n")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def stale_notice(name: str) -> str:
    """What a page says whose notebook has changed since it ran."""
    stage = next(stage for stage, notebook in STAGES.items() if notebook == name)
    command = f"make again STAGE={stage}" if stage in frozen_stages() else f"dvc repro {stage}"
    return f"> **Older than its notebook.** `notebooks/{name}.ipynb` has changed since this run; `{command}` runs it again."


def from_pages(path: str) -> str:
    """The link from a page to a file of the repository."""
    return Path(os.path.relpath(repository() / path, PAGES)).as_posix()
