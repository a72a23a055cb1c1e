import base64
import random

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fgaa_utils.pipeline.bodies import notebook_body

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TABLE = "<table><tr><td>0.4702</td></tr></table>"


@pytest.fixture
def pages(tmp_path):
    """The folder of the pages."""
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
    """{file under pages: bytes} of the body of a notebook and its figures."""
    body = notebook_body(nbformat.read(path, as_version=4), pages / "results_files")
    (pages / "results.md").write_text(body, encoding="utf-8")
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
    for result in ("# Title", "Prose with $x_1$.", "density 0.0049", TABLE, "| BCS | 0.3979 |"):
        assert text.count(result) == 1, result
    assert list(files.values()) == [PNG]
    for noise in ("it/s", "tok/s", "captured", "FutureWarning", "0x7f", "2026-", "Markdown object", "Loading"):
        assert noise not in text, noise


def test_no_code_is_on_the_page(tmp_path, pages):
    assert "step_" not in text_of(run(tmp_path, 1), pages)


def test_markdown_goes_before_other_forms_of_a_result(tmp_path, pages):
    forms = {"text/markdown": "**bold**", "text/html": "<b>bold</b>", "text/plain": "bold"}
    text = text_of(run(tmp_path, 1, extra=[new_output("display_data", data=forms)]), pages)
    assert "**bold**" in text and "<b>" not in text


def test_a_changed_result_changes_the_page(tmp_path, pages):
    one = run(tmp_path, 1, stdout=out("density 0.0049\n"))
    other = run(tmp_path, 2, stdout=out("density 0.0050\n"))
    assert rendered(one, pages) != rendered(other, pages)


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
    assert f"```text\n{result}\n```\n" in text_of(run(tmp_path, 1, extra=extra), pages)


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


def test_a_new_id_of_a_cell_changes_nothing(tmp_path, pages):
    """papermill gives the cell that it injects a new random id in every run."""
    one, other = (rendered(run(tmp_path, seed, injected_id=f"7e96{seed}"), pages) for seed in (1, 2))
    assert one == other


def figure(**metadata):
    return new_output("display_data", data={"image/png": base64.b64encode(PNG).decode()}, metadata=metadata)


def body_of(pages, *cells):
    return notebook_body(new_notebook(cells=list(cells)), pages / "page_files")


def test_the_caption_is_the_alternative_text_and_the_name_that_of_the_file(pages):
    shown = figure(caption="BCS falls with *scale* [see\nbelow].", figure="front")
    body = body_of(pages, new_markdown_cell("# Title"), new_code_cell("show()", outputs=[shown]))
    assert "![BCS falls with scale see below.](page_files/front.png)" in body
    assert (pages / "page_files" / "front.png").read_bytes() == PNG


def test_a_figure_without_caption_or_name_is_numbered_and_told_by_its_section(pages):
    """As those of notebooks that ran before figures had captions."""
    cells = [new_markdown_cell("# Title"), new_code_cell("a", outputs=[figure()])]
    cells += [new_markdown_cell("## Fits\n\nProse."), new_code_cell("b", outputs=[figure()])]
    body = body_of(pages, *cells)
    assert "![Figure 1, in the section Title](page_files/figure_1.png)" in body
    assert "![Figure 2, in the section Fits](page_files/figure_2.png)" in body


def test_text_cannot_leave_its_fence(pages):
    printed = out("before\n```\n<script>alert(1)</script>\n````\n")
    body = body_of(pages, new_markdown_cell("# Title"), new_code_cell("a", outputs=[printed]))
    assert body.count("`````") == 2


PARAMETERS = """theta = 0.01  # latents denser than this are zeroed
names = ["a", "b|c"]
# dollars for a million tokens
server = {
    "prices": [0.15, 0.6],
}  # fmt: skip
seed = 0"""


def parameter_cells(injected):
    cells = [new_code_cell(PARAMETERS), new_code_cell(injected)]
    cells[0].metadata["tags"], cells[1].metadata["tags"] = ["parameters"], ["injected-parameters"]
    return cells


def test_parameters_are_one_folded_table_at_the_end_with_the_injected_values(pages):
    body = body_of(pages, new_markdown_cell("# Title"), *parameter_cells("# Parameters\ntheta = 0.02\nseed = 7"))
    table = body[body.index("<details>") :]
    assert table.splitlines() == [
        "<details>",
        "<summary>Parameters of this run</summary>",
        "",
        "| name | value | comment |",
        "|---|---|---|",
        "| `theta` | <code>0.02</code> | latents denser than this are zeroed |",
        "| `names` | <code>&#91;'a', 'b&#124;c'&#93;</code> |  |",
        "| `server` | <code>&#123;'prices': &#91;0.15, 0.6&#93;&#125;</code> | dollars for a million tokens |",
        "| `seed` | <code>7</code> |  |",
        "",
        "</details>",
    ]
    assert "injected" not in body and "# Parameters" not in body
