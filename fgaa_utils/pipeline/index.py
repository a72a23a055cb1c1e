"""reports/index.html: the verdict, then all pages, in one file that needs no other. Made from the Markdown pages.

Pages quote behaviours and steered texts. All HTML goes through bleach with a short list of tags and attributes, so that
markup in a text is shown, never run.
"""

import base64
import posixpath
import re
from pathlib import Path

import bleach
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fgaa_utils.pipeline.pages import PAGES, Page, read_page, slug
from fgaa_utils.pipeline.results import verdict_block
from fgaa_utils.project import REPORTS

TAGS = frozenset(
    "a b blockquote br code dd details div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre s strong sub summary sup table "
    "tbody td th thead tr ul".split()
)
STYLE = """\
:root { --text: #1f2328; --quiet: #57606a; --back: #fff; --panel: #f4f5f7; --line: #d5d9de; --link: #0a58b5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e6ea; --quiet: #a3abb5; --back: #15181c; --panel: #20252b; --line: #3a414a; --link: #82b6ff; }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 3.2em; }
body { margin: 0; color: var(--text); background: var(--back); font: 16px/1.6 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 0 1rem 4rem; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { margin: 1.2rem 0 .6rem; }
h2 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.25; }
h3 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
section + section { margin-top: 3rem; padding-top: 1.4rem; border-top: 3px solid var(--line); }
nav { position: sticky; top: 0; z-index: 1; display: flex; gap: 1.1rem; padding: .55rem 1rem; overflow-x: auto;
      white-space: nowrap; background: var(--panel); border-bottom: 1px solid var(--line); }
ol { padding-left: 1.4rem; }
ol > li { margin-bottom: .6rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; z-index: 2; padding: .3rem .8rem; background: var(--back); }
.box { max-width: 100%; margin: 1rem 0; overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; min-width: 100%; font-size: .82rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
         overflow-wrap: break-word; }
thead th { background: var(--panel); }
tr:last-child td { border-bottom: 0; }
pre { padding: .7rem; font-size: .82rem; white-space: pre-wrap; background: var(--panel); border-radius: 6px; }
code { font-size: .92em; }
img { display: block; max-width: 100%; height: auto; padding: .4rem; background: #fff; border-radius: 6px; }
blockquote { margin: 1rem 0; padding: .2rem 1rem; color: var(--quiet); border-left: 4px solid var(--line); }
details { margin: 1.5rem 0; }
summary { cursor: pointer; }
"""
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""


def write_index(pages: list[Page]) -> Path:
    """Write reports/index.html from the pages and the run's metrics; returns its path."""
    title = "FGAA: results"
    parts = [
        HEAD.format(title=title, style=STYLE),
        '<a class="skip" href="#contents">Skip to the contents</a>',
        site_navigation(pages),
        f"<main>\n<h1>{title}</h1>",
        f'<section id="verdict">\n{to_html(verdict_block(), "verdict")}</section>',
        f'<section id="contents">\n<h2>Contents</h2>\n{to_html(contents(pages), "contents")}</section>',
        *(section(page) for page in pages),
        "</main>\n</body>\n</html>\n",
    ]
    path = REPORTS / "index.html"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def site_navigation(pages: list[Page]) -> str:
    """The bar of links to the pages, which stays in sight."""
    places = ["verdict", "contents", *(page.name for page in pages)]
    links = [f'<a href="#{place}">{place}</a>' for place in places]
    return f'<nav aria-label="Pages">{"".join(links)}</nav>'


def section(page: Page) -> str:
    """A page as a section of the index."""
    notice = "> **Older than its notebook**, which has changed since this run.\n\n" if page.is_stale() else ""
    text = to_html(notice + page.body, page.name, shift=1)
    return f'<section id="{page.name}">\n{text}<p><a href="#contents">Contents</a></p>\n</section>'


def contents(pages: list[Page]) -> str:
    """Markdown: every page with its sections, then the other reports."""
    lines = []
    for page in pages:
        lines.append(f"- [{page.title}](#{page.name}) ({page.name})")
        lines += [f"  - [{text}](#{page.name}--{slug(text)})" for text in page.sections]
    others = other_reports()
    return "\n".join([*lines, *(["", "Beside this file:", "", *others] if others else [])])


def other_reports() -> list[str]:
    """Markdown lines that link the browsers of texts and latents and the reports of settings, as far as they are there."""
    browsers = [("samples", "Every steered text with its scores"), ("latents", "Latents and where they are active")]
    lines = [f"- [{text}]({name}.html)" for name, text in browsers if (REPORTS / f"{name}.html").exists()]
    for report in sorted(REPORTS.glob("settings/*/index.html")):
        name = report.parent.name
        older = any(read_page(page).is_stale() for page in report.parent.glob("pages/*.md"))
        notice = ", run with notebooks that have changed since" if older else ""
        lines.append(f"- [The setting {name}](settings/{name}/index.html){notice}")
    return lines


def to_html(text: str, page: str, *, shift: int = 0) -> str:
    """Clean HTML of a page's Markdown: headings lowered by `shift` with anchors of the index, figures inlined."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrs["id"] = f"{page}--{slug(tokens[at + 1].content)}"
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        for child in token.children or []:
            if child.type == "link_open":
                redirect(child, page)
    found = parser.renderer.render(tokens, parser.options, {})
    return boxed_tables(inlined_figures(cleaned(found)))


def redirect(link: Token, page: str) -> None:
    """Point a link of a page in reports/pages/ to the same place from reports/index.html, or within it."""
    target = str(link.attrs["href"])
    path, _, anchor = target.partition("#")
    if re.match(r"\w+:", target) or page in ("verdict", "contents"):
        return
    if path and not path.endswith(".md"):
        link.attrs["href"] = posixpath.normpath(posixpath.join(PAGES.name, path))
        return
    name = Path(path).stem or page
    link.attrs["href"] = f"#{name}--{anchor}" if anchor else f"#{name}"


def cleaned(text: str) -> str:
    """The HTML with nothing but the allowed tags; others are shown as text."""
    return bleach.clean(text, tags=TAGS, attributes=is_allowed, protocols=["http", "https", "mailto"])


def is_allowed(tag: str, attribute: str, value: str) -> bool:
    """Whether bleach may keep an attribute: links, anchors of headings, and figures that are files of a page."""
    if tag == "img":
        return attribute == "alt" or (attribute == "src" and is_figure(value))
    return (tag, attribute) == ("a", "href") or (re.fullmatch(r"h\d", tag) is not None and attribute == "id")


def is_figure(source: str) -> bool:
    return re.fullmatch(r"[\w-]+_files/[\w.-]+\.png", source) is not None and (PAGES / source).is_file()


def inlined_figures(text: str) -> str:
    """Clean HTML with every figure's file in its place."""

    def inline(found: re.Match) -> str:
        data = base64.b64encode((PAGES / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return re.sub(r'src="([\w-]+_files/[\w.-]+\.png)"', inline, text)


def boxed_tables(text: str) -> str:
    """Clean HTML with every table in a box of its own that scrolls, by keyboard too."""
    return text.replace("<table>", '<div class="box" tabindex="0"><table>').replace("</table>", "</table></div>")
