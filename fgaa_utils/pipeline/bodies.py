"""The body of a page from an executed notebook: prose, results and figures, the parameters last, no code.

Times, counts and progress are left out, so that a run that changes no result changes no byte.
"""

import ast
import base64
import io
import re
import tokenize
from pathlib import Path

from nbformat import NotebookNode

from fgaa_utils.figures import CAPTION, escape_markdown
from fgaa_utils.pipeline.run import cell_values

# Streams are logs; a stream is kept only where a cell prints a result on standard output.
PROGRESS = re.compile(r"\r|it/s\]|s/it\]|tok/s\]|Loading weights|captured shard|resumed at")
FIGURE_REPR = re.compile(r"\[?<(seaborn|Axes|matplotlib)|Text\(")
FORMAT = "fmt: skip"  # a comment for the formatter, of no interest to readers
HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.M)
FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1`*\s*$", re.M | re.S)


def headings(body: str) -> list[tuple[int, str]]:
    """(level, text) of the headings outside of fenced text."""
    return [(len(marks), text) for marks, text in HEADING.findall(FENCED.sub("", body))]


def notebook_body(notebook: NotebookNode, folder: Path) -> str:
    """The notebook as Markdown; its figures are written to `folder`, which stands beside the page."""
    parts, figures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.strip())
        for output in clean_outputs(cell):
            if "image/png" in output.get("data", {}):
                figures += 1
                parts.append(figure(output, folder, figures, section=last_heading(parts)))
            else:
                parts.append(as_markdown(output))
    parts.append(parameters_details(notebook.cells))
    return "\n\n".join(part for part in parts if part) + "\n"


def clean_outputs(cell: NotebookNode) -> list[NotebookNode]:
    """The results among a cell's outputs: no logs, no bars, no reprs of figures. Streams that follow one another are one:
    how often a cell was flushed is no result."""
    joined: list[NotebookNode] = []
    for output in cell.get("outputs", []):
        if output.get("name") == "stderr":
            continue
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1] = NotebookNode(joined[-1] | {"text": joined[-1].text + output.text})
        else:
            joined.append(output)
    return [output for output in joined if _is_result(output)]


def _is_result(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return bool(_without_progress(output.text))
    data = output.get("data", {})
    return not (set(data) == {"text/plain"} and FIGURE_REPR.match(data["text/plain"]))


def _without_progress(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not PROGRESS.search(line)).strip("\n ")


def as_markdown(output: NotebookNode) -> str:
    """An output that is no figure, in the first of its forms that a page can show."""
    if output.output_type == "stream":
        return fenced(_without_progress(output.text))
    if output.output_type == "error":
        return fenced("\n".join(output.traceback))
    data = output.data
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    if "text/html" in data:
        return re.sub(r"<style[^>]*>.*?</style>\s*", "", data["text/html"], flags=re.S).strip()
    return fenced(data["text/plain"])


def fenced(text: str) -> str:
    """The text as it is, in a fence that it cannot leave."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def figure(output: NotebookNode, folder: Path, number: int, *, section: str) -> str:
    """The Markdown of a figure, whose file is written; its caption is the alternative text."""
    target = folder / f"{output.metadata.get('figure', f'figure_{number}')}.png"
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(output.data["image/png"]))
    text = output.metadata.get(CAPTION) or f"Figure {number}, in the section {section}"
    return f"![{alternative_text(text)}]({folder.name}/{target.name})"


def alternative_text(text: str) -> str:
    """The text on one line, with nothing that would end or mark up an image's description."""
    return re.sub(r"\s+", " ", re.sub(r"[\[\]\\`*]", "", text)).strip()


def last_heading(parts: list[str]) -> str:
    return next(text for part in reversed(parts) for _, text in reversed(headings(part)))


def parameters_details(cells: list[NotebookNode]) -> str:
    """A folded table name, value, comment: the parameter cell, with the values that papermill injected."""
    tagged = {tag: c.source for c in cells for tag in c.metadata.get("tags", [])}
    if "parameters" not in tagged:
        return ""
    values = assigned(tagged["parameters"]) | assigned(tagged.get("injected-parameters", ""))
    comments = comments_of(tagged["parameters"])
    rows = [
        f"| `{name}` | {code(value)} | {escape_markdown(comments.get(name, ''))} |" for name, value in values.items()
    ]
    head = ["<details>", "<summary>Parameters of this run</summary>", "", "| name | value | comment |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", "</details>"])


def assigned(source: str) -> dict[str, str]:
    """{name: literal on one line} of a parameter cell."""
    return {name: repr(value) for name, value in cell_values(source).items()}


def comments_of(source: str) -> dict[str, str]:
    """{name: comment above or beside its assignment} of a parameter cell."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found, line = {}, 1
    for name, node in zip(cell_values(source), ast.parse(source).body, strict=True):
        end = (node.end_lineno or node.lineno) + 1
        found[name] = " ".join(comments[n] for n in range(line, end) if comments.get(n, FORMAT) != FORMAT)
        line = end
    return found


def code(literal: str) -> str:
    """A literal for a cell of a Markdown table: code that may hold bars and backticks."""
    return f"<code>{escape_markdown(literal)}</code>"
