import base64
import json
import random

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fgaa_utils.pipeline import render
from fgaa_utils.pipeline.render import clean_notebook, to_html, to_markdown, update_readme

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TABLE = "<table><tr><td>0.4702</td></tr></table>"


@pytest.fixture(autouse=True)
def pages(tmp_path, monkeypatch):
    """Pages go to tmp_path."""
    monkeypatch.setattr(render, "PAGES", tmp_path / "pages")
    (tmp_path / "pages").mkdir()
    return tmp_path / "pages"


def out(*lines):
    return new_output("stream", name="stdout", text="".join(lines))


def execution(luck):
    """What an execution leaves in a cell's metadata."""
    clock = f"2026-11-{luck.randint(10, 28)}T12:{luck.randint(10, 59)}:45.374474+00:00"
    return {
        "execution": {"iopub.execute_input": clock, "shell.execute_reply": clock},
        "papermill": {"duration": luck.random(), "end_time": clock, "status": "completed", "exception": False},
        "tags": ["parameters"],
    }


def run(tmp_path, seed, *, stdout=None, injected_id="cell-01", extra=()):
    """An executed notebook on disk: results always the same, all else as the seed has it."""
    luck = random.Random(seed)
    count = luck.randint(1, 9)
    bars = [
        f"\rLoading weights: {luck.randint(0, 99)}%|# | 1/9 [00:0{luck.randint(1, 9)}<00:01, 3.{luck.randint(0, 9)}it/s]"
        for _ in range(count)
    ]
    outputs = [
        [new_output("stream", name="stderr", text=bar) for bar in bars],
        [
            stdout or out(f"captured shard {count} of 9, 2{count} tok/s]\n", "density 0.0049\n"),
            new_output("stream", name="stderr", text=f"/tmp/ipykernel_{luck.randint(100, 999)}/1.py: FutureWarning\n"),
            new_output(
                "display_data",
                data={"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure size 640x480 with 1 Axes>"},
            ),
            new_output("execute_result", data={"text/html": TABLE, "text/plain": "0.4702"}, execution_count=count),
        ],
        [
            new_output(
                "display_data",
                data={"text/markdown": "| BCS | 0.3979 |", "text/plain": "<IPython.core.display.Markdown object>"},
            ),
            new_output(
                "execute_result",
                data={"text/plain": f"<seaborn.axisgrid.FacetGrid at 0x7f{luck.randint(1000, 9999)}>"},
                execution_count=count,
            ),
            *extra,
        ],
    ]
    codes = [
        new_code_cell(f"step_{i}()", outputs=o, execution_count=i + count, id=("cell-00", injected_id, "cell-02")[i])
        for i, o in enumerate(outputs)
    ]
    cells = [new_markdown_cell("# Title\n\nProse with $x_1$.", id="cell-title"), *codes]
    for cell in cells:
        cell.metadata = execution(luck)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "version": f"3.11.{count}"},
        "papermill": {"start_time": f"12:{count}", "duration": luck.random(), "output_path": str(tmp_path / str(seed))},
    }
    path = tmp_path / f"{seed}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def rendered(path, pages):
    """{file under pages: bytes} of the Markdown copy of a notebook."""
    to_markdown(clean_notebook(path), "results")
    files = {str(file.relative_to(pages)): file.read_bytes() for file in pages.rglob("*") if file.is_file()}
    for file in files:
        (pages / file).unlink()
    return files


def text_of(path, pages):
    return rendered(path, pages)["results.md"].decode()


def test_two_runs_of_one_result_are_the_same_bytes(tmp_path, pages):
    one, other = run(tmp_path, 1), run(tmp_path, 2)
    assert one.read_bytes() != other.read_bytes()
    first = rendered(one, pages)
    assert first == rendered(other, pages) == rendered(one, pages)
    assert len(first) == 2


def test_results_are_kept_and_the_rest_is_not(tmp_path, pages):
    files = rendered(run(tmp_path, 1), pages)
    text = files.pop("results.md").decode()
    for result in ("# Title", "Prose with $x_1$.", "step_0()", "step_2()", "density 0.0049", TABLE, "| BCS | 0.3979 |"):
        assert text.count(result) == 1, result
    ((figure, data),) = files.items()
    assert data == PNG and f"({figure})" in text and figure.startswith("results_files/")
    for noise in ("it/s", "tok/s", "captured", "FutureWarning", "0x7f", "2026-", "Markdown object", "Loading"):
        assert noise not in text, noise


def test_nothing_of_the_execution_stays_in_the_notebook(tmp_path):
    one, other = (clean_notebook(run(tmp_path, seed)) for seed in (1, 2))
    assert one == other
    assert all(cell.metadata == {} for cell in one.cells) and set(one.metadata) == {"kernelspec", "language_info"}
    assert one.metadata.language_info == {"name": "python"}  # what colours code


def test_markdown_goes_before_other_forms_of_a_result(tmp_path, pages):
    forms = {"text/markdown": "**bold**", "text/html": "<b>bold</b>", "text/plain": "bold"}
    text = text_of(run(tmp_path, 1, extra=[new_output("display_data", data=forms)]), pages)
    assert "**bold**" in text and "<b>" not in text


def test_a_changed_result_changes_the_page(tmp_path, pages):
    one = run(tmp_path, 1, stdout=out("density 0.0049\n"))
    other = run(tmp_path, 2, stdout=out("density 0.0050\n"))
    assert rendered(one, pages) != rendered(other, pages)


def test_the_executed_notebook_is_not_touched(tmp_path):
    path = run(tmp_path, 1)
    before = path.read_bytes()
    clean_notebook(path)
    assert path.read_bytes() == before


def test_a_progress_bar_on_standard_output_leaves_no_trace(tmp_path, pages):
    """A run that finds everything made shows no bar; one that does the work shows it many times."""
    silent = run(tmp_path, 1, stdout=out("density 0.0049\n"))
    bars = [f"\r{i}0%|# | {i}/9 [00:01<00:09, 1.{i}it/s]" for i in range(9)]
    busy = run(tmp_path, 2, stdout=out(*bars, "\n", "density 0.0049\n"))
    assert text_of(silent, pages) == text_of(busy, pages)


def test_a_counter_that_overwrites_itself_is_progress(tmp_path, pages):
    silent = run(tmp_path, 1, stdout=out("density 0.0049\n"))
    busy = run(tmp_path, 2, stdout=out("\rbatch 1 of 3", "\rbatch 2 of 3", "\rbatch 3 of 3\n", "density 0.0049\n"))
    assert text_of(silent, pages) == text_of(busy, pages)


@pytest.mark.parametrize(
    "pieces",
    [
        ("density 0.0049\n", "held out 12\n"),
        ("density 0.0049", "\nheld out 12", "\n"),
        ("density ", "0.0049\nheld out 12\n"),
    ],
)
def test_when_the_output_was_flushed_does_not_matter(tmp_path, pages, pieces):
    """What a cell prints reaches the notebook in as many pieces as time makes of it."""
    between = new_output("stream", name="stderr", text="\r 50%|# | 1/2 [00:01<00:01, 1.0it/s]")
    whole = run(tmp_path, 1, extra=[out(*pieces)])
    apart = run(tmp_path, 2, extra=[output for piece in pieces for output in (out(piece), between)])
    assert text_of(whole, pages) == text_of(apart, pages)


@pytest.mark.parametrize("result", ["[0.1, 0.25]", "'Text'", "(1, 2)", "0.4702"])
def test_a_plain_result_is_kept(tmp_path, pages, result):
    extra = [new_output("execute_result", data={"text/plain": result}, execution_count=3)]
    assert f"    {result}\n" in text_of(run(tmp_path, 1, extra=extra), pages)


@pytest.mark.parametrize(
    "shown",
    [
        "<Axes: xlabel='scale', ylabel='BCS'>",
        "<seaborn.axisgrid.FacetGrid at 0x7f1c>",
        "[<matplotlib.lines.Line2D at 0x7f1c>]",
        "Text(0.5, 1.0, 'scale')",
    ],
)
def test_the_name_of_a_figure_object_is_no_result(tmp_path, pages, shown):
    extra = [new_output("execute_result", data={"text/plain": shown}, execution_count=3)]
    plain = text_of(run(tmp_path, 1), pages)
    assert text_of(run(tmp_path, 2, extra=extra), pages) == plain


def test_an_error_is_kept(tmp_path, pages):
    extra = [new_output("error", ename="ValueError", evalue="theta is -1", traceback=["ValueError: theta is -1"])]
    assert "ValueError: theta is -1" in text_of(run(tmp_path, 1, extra=extra), pages)


def test_the_style_of_a_table_is_left_out(tmp_path, pages):
    styled = f"<div>\n<style scoped>\n    td {{ color: red }}\n</style>\n{TABLE}</div>"
    extra = [new_output("execute_result", data={"text/html": styled, "text/plain": "x"}, execution_count=3)]
    text = text_of(run(tmp_path, 1, extra=extra), pages)
    assert "style" not in text and text.count(TABLE) == 2


def test_the_html_page_is_the_same_too(tmp_path):
    """papermill gives the cell that it injects a new random id in every run."""
    pages = [to_html(clean_notebook(run(tmp_path, seed, injected_id=f"7e96{seed}"))) for seed in (1, 2)]
    assert pages[0] == pages[1]


def test_the_html_page_holds_results_and_figures_but_no_code(tmp_path):
    page = to_html(clean_notebook(run(tmp_path, 1)))
    for result in ("density 0.0049", "0.4702", "0.3979", base64.b64encode(PNG).decode()):
        assert result in page.replace("\n", "")
    assert "step_0" not in page and "it/s" not in page


def test_the_average_is_the_last_row_of_the_readmes_table(tmp_path, monkeypatch):
    entry = {"value": 0.5, "lo": 0.25, "hi": 0.75, "n": 4}
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"bcs": {"fgaa": dict.fromkeys(("anger", "average", "want_to_die"), entry)}})
    )
    cost = {"perplexity_ratio": {"value": 22.0, "lo": 1.5, "hi": 300.0}}
    cost["accuracy_change"] = {"value": -0.125, "lo": -0.25, "hi": 0.0}
    (tmp_path / "capability.json").write_text(json.dumps({"at_chosen_scale": {"fgaa": cost}}))
    monkeypatch.setattr(render, "METRICS", tmp_path)
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "PAGES", tmp_path)
    (tmp_path / "04_evaluation_files").mkdir()
    (tmp_path / "04_evaluation_files" / "04_evaluation_0_0.png").write_bytes(PNG)
    block = render.results_block(new_notebook(cells=[new_code_cell("def intervals(): pass")]))
    rows = [line for line in block.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "Anger",
        "Want to die",
        "**Average**",
        "Perplexity, times",
        "Accuracy, change",
    ]
    assert rows[2].split("|")[2].strip() == "0.50 [0.25, 0.75]"
    assert rows[-2].split("|")[2].strip() == "22.0 [1.5, 300.0]"


def test_only_the_readmes_results_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "ROOT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(
        "before é\n<!-- results: by render -->\nold\nlines\n<!-- end of results -->\nafter\n", encoding="utf-8"
    )
    expected = "before é\n<!-- results: by render -->\nnew\n<!-- end of results -->\nafter\n"
    for _ in range(2):
        update_readme("new")
        assert readme.read_text(encoding="utf-8") == expected
