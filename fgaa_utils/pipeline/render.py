"""Reading copies of the executed notebooks: Markdown with PNG figures in reports/pages/, one reports/index.html.

Time stamps, execution counts and progress bars are left out, so a re-run that changes no result changes no byte.
"""

import html
import json
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, MarkdownExporter
from traitlets.config import Config

from fgaa_utils.names import CONTROLS, LABELS, method_order
from fgaa_utils.pipeline.run import cell_values
from fgaa_utils.project import METRICS, REPORTS, ROOT, STAGES

PAGES = REPORTS / "pages"
# Streams are logs; a stream is kept only where a cell prints a result on standard output.
PROGRESS = re.compile(r"\r|it/s\]|s/it\]|tok/s\]|Loading weights|captured shard|resumed at")


def clean_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook without time stamps, cell ids of papermill, injected parameter cell's banner and progress."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not _is_repeated_injection(cell, notebook.cells)]
    notebook.metadata = {"kernelspec": notebook.metadata.get("kernelspec", {}), "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = str(number), {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in map(_clean_output, _joined(cell.outputs)) if output is not None]
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs without standard error (logs and bars), and with streams that follow one another made one: how
    often a cell was flushed is no result."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _is_repeated_injection(cell: nbformat.NotebookNode, cells: list[nbformat.NotebookNode]) -> bool:
    """Whether the cell is papermill's injection and says what the commented parameter cell says."""
    if "injected-parameters" not in cell.metadata.get("tags", []):
        return False
    defaults = next(c for c in cells if "parameters" in c.metadata.get("tags", []))
    return cell_values(cell.source) == cell_values(defaults.source)


def _clean_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type == "stream":
        lines = [line for line in output.text.split("\n") if not PROGRESS.search(line)]
        output.text = "\n".join(lines).strip("\n")
        return output if output.text.strip() else None
    if output.output_type == "execute_result":
        output.execution_count = None
        if set(output.data) == {"text/plain"} and re.match(
            r"\[?<(seaborn|Axes|matplotlib)|Text\(", output.data["text/plain"]
        ):
            return None  # the repr of a figure object
    if "text/markdown" in output.get("data", {}):
        output.data = {"text/markdown": output.data["text/markdown"]}
    return output


def to_markdown(notebook: nbformat.NotebookNode, name: str) -> None:
    """Write reports/pages/<name>.md and its figures beside it."""
    body, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    body = re.sub(r"<style[^>]*>.*?</style>\s*", "", body, flags=re.S)
    for file, data in resources["outputs"].items():
        target = PAGES / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (PAGES / f"{name}.md").write_text(body.rstrip() + "\n", encoding="utf-8")


def to_html(notebook: nbformat.NotebookNode) -> str:
    """The notebook's prose and results as HTML, figures inside, code left to the Markdown copy."""
    hidden = {"exclude_input": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", config=Config({"HTMLExporter": hidden}))
    return exporter.from_notebook_node(notebook)[0]


STYLE = """body{font:16px/1.55 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
nav a{margin-right:1.2em}table{border-collapse:collapse;font-size:13px;margin:1em 0}td,th{padding:3px 9px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
pre{background:#f6f6f6;padding:.7em;overflow-x:auto;font-size:13px}img{max-width:100%}
section{border-top:3px solid #ddd;margin-top:3em}.anchor-link{display:none}"""


def results_block(notebook: nbformat.NotebookNode) -> str:
    """The README's results: the main table from the metrics, and the figure of the cell that draws intervals."""
    scores = json.loads((METRICS / "evaluation.json").read_text())["bcs"]
    methods = method_order(list(scores))
    rows = [f"| BCS | {' | '.join(LABELS[m] for m in methods)} |", "|---" * (len(methods) + 1) + "|"]
    for key in sorted(scores[methods[0]], key=lambda key: key == "average"):
        entries = [scores[m][key] for m in methods]
        cells = [f"{e['value']:.2f} [{e['lo']:.2f}, {e['hi']:.2f}]" for e in entries]
        name = key.replace("_", " ").capitalize()
        rows.append(f"| {'**' + name + '**' if key == 'average' else name} | {' | '.join(cells)} |")
    price = json.loads((METRICS / "capability.json").read_text())["at_chosen_scale"]
    for name, key, form in (
        ("Perplexity, times", "perplexity_ratio", ".1f"),
        ("Accuracy, change", "accuracy_change", "+.2f"),
    ):
        found = [price[m][key] if m in price and m not in CONTROLS else None for m in methods]
        cells = [f"{e['value']:{form}} [{e['lo']:{form}}, {e['hi']:{form}}]" if e else "" for e in found]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    number = next(i for i, cell in enumerate(notebook.cells) if "def intervals(" in cell.source)
    figure = next(PAGES.glob(f"04_evaluation_files/*_{number}_*.png")).relative_to(ROOT)
    text = (
        "Behaviour times coherence (BCS) on test prompts with 95 % intervals; variant and scale were chosen on "
        "validation prompts. The methods from `random vector` on know no behaviour. The last two rows are what a method "
        "costs at its chosen scales: perplexity of held-out text and multiple-choice accuracy, against the unsteered model."
    )
    return "\n".join([text, "", *rows, "", f"![BCS by behaviour and method]({figure})"])


def update_readme(block: str) -> None:
    """Put the block between the README's two results markers."""
    path = ROOT / "README.md"
    start, end = "<!-- results:", "<!-- end of results -->"
    text = path.read_text(encoding="utf-8")
    head = text[: text.index("\n", text.index(start)) + 1]
    path.write_text(head + block + "\n" + text[text.index(end) :], encoding="utf-8")


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    links, sections = [], []
    for stage, name in STAGES.items():
        if name is None or not (REPORTS / f"{name}.ipynb").exists():  # a setting need not have every stage
            continue
        notebook = clean_notebook(REPORTS / f"{name}.ipynb")
        to_markdown(notebook, name)
        if stage == "evaluation":
            update_readme(results_block(notebook))
        links.append(f'<a href="#{name}">{html.escape(stage)}</a>')
        sections.append(f'<section id="{name}">{to_html(notebook)}</section>')
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>FGAA: results</title><style>{STYLE}</style><nav>{"".join(links)}</nav>{"".join(sections)}</html>\n'
    (REPORTS / "index.html").write_text(page, encoding="utf-8")
    print(f"rendered {len(sections)} notebooks into {PAGES.relative_to(REPORTS.parent)}")


if __name__ == "__main__":
    main()
