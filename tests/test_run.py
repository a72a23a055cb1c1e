import json
import os
import shutil
import time

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fgaa_utils.pipeline import run
from fgaa_utils.project import ROOT
from fgaa_utils.shards import ShardStore


def test_logs_and_this_machines_paths_leave_an_executed_notebook(tmp_path):
    outputs = [
        new_output("stream", name="stderr", text=f"{ROOT}/.venv/lib/warn.py:21: TqdmWarning"),
        new_output("stream", name="stdout", text=f"wrote {ROOT}/data/x"),
        new_output("display_data", data={"text/plain": "a figure"}),
    ]
    path = tmp_path / "stage.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("run()", outputs=outputs)]), path)
    run.drop_logs(path)
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and "TqdmWarning" not in text
    kept = nbformat.read(path, as_version=4).cells[1].outputs
    assert [output.output_type for output in kept] == ["stream", "display_data"]
    assert kept[0].text == "wrote data/x"


def test_resources_keep_the_other_stages_and_the_order_of_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESOURCES", tmp_path / "resources.json")
    run.record_resources("features", 61.4, 1.239)
    run.record_resources("data", 5, 1)
    run.record_resources("features", 62.6, 1.5)
    run.record_resources("features", 9, 0.5, resumed=True)
    run.record_resources("effects", 8, 0.5, resumed=True)
    entries = json.loads((tmp_path / "resources.json").read_text())
    assert list(entries.items()) == [
        ("data", {"seconds": 5, "peak_gib": 1}),
        ("features", {"seconds": 63, "peak_gib": 1.5, "resumed_seconds": 9}),
        ("effects", {"resumed_seconds": 8}),
    ]


def test_a_run_is_resumed_if_it_opened_a_store_with_older_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "DATA", tmp_path)
    ShardStore(tmp_path / "effects" / "shards", {"n": 1}, 2).write(0, {"x": torch.zeros(1)})
    began = time.time() + 1
    assert not run.found_shards("effects", began), "of another parameter, not opened"
    store = ShardStore(tmp_path / "effects" / "shards", {"n": 2}, 1)
    os.utime(store.folder / "identity.json", (began, began))
    store.write(0, {"x": torch.zeros(1)})
    os.utime(store.path(0), (began + 1, began + 1))
    assert not run.found_shards("effects", began), "made by the run itself"
    os.utime(store.path(0), (began - 1, began - 1))
    assert run.found_shards("effects", began)


def test_sync_rewrites_only_notebooks_that_hold_other_values(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path / "notebooks")
    path = run.notebook_path("features")
    changed = path.read_text().replace("theta = 0.01", "theta = 0.5")
    assert changed != path.read_text()
    path.write_text(changed)
    run.sync_parameters()
    notebooks = {p.name: p.read_text() for p in (tmp_path / "notebooks").glob("*.ipynb")}
    assert "theta = 0.5" not in notebooks.pop(path.name)
    assert notebooks == {name: (ROOT / "notebooks" / name).read_text() for name in notebooks}
