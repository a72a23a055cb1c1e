"""What people read of a run: reports/pages/, reports/index.html, the browsers of texts and latents, and the computed
parts of README.md.

    python -m fgaa_utils.pipeline.render
"""

from fgaa_utils.pipeline.index import write_index
from fgaa_utils.pipeline.pages import write_pages
from fgaa_utils.pipeline.results import behaviours_block, repository, times_block, verdict_block
from fgaa_utils.project import DATA, REPORTS, ROOT

BLOCKS = {"verdict": verdict_block, "times": times_block, "behaviours": behaviours_block}


def update_readme() -> None:
    """Write the computed parts of README.md between their markers."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        text = with_block(text, name, block())
    path.write_text(text, encoding="utf-8")


def with_block(text: str, name: str, block: str) -> str:
    """The text with `block` between the markers `<!-- name: ... -->` and `<!-- end of name -->`.

    Raises: ValueError if the text has not both, once.
    """
    start, end = f"<!-- {name}: ", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md must hold `{start}... -->` and `{end}` once; what is computed stands between them")
    begin = text.index("-->\n", text.index(start)) + len("-->\n")
    return text[:begin] + block + "\n" + text[text.index(end) :]


def main() -> None:
    if repository() == ROOT:  # a setting has a copy of the README, which nobody reads
        update_readme()
    pages = write_pages()
    if (DATA / "samples" / "choices.json").exists() and (DATA / "features" / "latents.json").exists():
        from fgaa_utils.pipeline.browser import write_browser

        write_browser(REPORTS, DATA)
    write_index(pages)
    print(f"rendered {len(pages)} pages into reports/pages/ and reports/index.html")


if __name__ == "__main__":
    main()
