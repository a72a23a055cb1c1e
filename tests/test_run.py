import copy
import json
import os
import re
import shutil
import time

import nbformat
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.exceptions import PapermillExecutionError

from fgaa_utils import params as parameters
from fgaa_utils.pipeline import run
from fgaa_utils.project import ROOT
from fgaa_utils.shards import ShardStore, record_processor

OUTPUTS = [
    new_output("stream", name="stderr", text=f"{ROOT}/.venv/lib/warn.py:21: TqdmWarning"),
    new_output("stream", name="stdout", text=f"wrote {ROOT}/data/x"),
    new_output("display_data", data={"text/plain": "a figure"}),
]


def parameters_of(source: str):
    return new_code_cell(source, metadata={"tags": ["parameters"]})


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A params.yaml and notebooks of one's own: tmp_path with the notebook features."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(parameters, "ROOT", tmp_path)
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path / "notebooks")
    write(
        run.notebook_path("features"), new_markdown_cell("# Features"), parameters_of("theta = 0.5\ntop_contexts = 1")
    )
    return tmp_path


def test_logs_and_this_machines_paths_leave_an_executed_notebook(tmp_path):
    path = write(tmp_path / "stage.ipynb", new_markdown_cell("# Title"), new_code_cell("run()", outputs=OUTPUTS))
    run.tidy(path, "0123")
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and "TqdmWarning" not in text
    notebook = nbformat.read(path, as_version=4)
    kept = notebook.cells[1].outputs
    assert [output.output_type for output in kept] == ["stream", "display_data"]
    assert kept[0].text == "wrote data/x" and notebook.metadata.fgaa == {"source": "0123"}


def test_an_executed_notebook_has_the_digest_of_its_source(tmp_path):
    cells = [new_markdown_cell("# Title"), parameters_of("theta = 0.5"), new_code_cell("run()")]
    source = write(tmp_path / "source.ipynb", *cells)
    injected = new_code_cell("theta = 0.1", metadata={"tags": ["injected-parameters"]})
    ran = new_code_cell("run()", outputs=OUTPUTS, execution_count=3, metadata={"papermill": {"duration": 1}})
    executed = write(tmp_path / "executed.ipynb", *cells[:2], injected, ran)
    assert run.source_digest(executed) == run.source_digest(source)
    assert len(run.source_digest(source)) == 16
    for changed in ([*cells[:2], new_code_cell("run(1)")], [*cells[:2], new_markdown_cell("run()")], cells[:2]):
        assert run.source_digest(write(tmp_path / "other.ipynb", *changed)) != run.source_digest(source)


def test_resources_keep_the_other_stages_and_the_order_of_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESOURCES", tmp_path / "resources.json")
    run.record_resources("features", 61.4, 1.239, made_on="a")
    run.record_resources("data", 5, 1, made_on="a")
    run.record_resources("features", 62.6, 1.5, made_on="a")
    run.record_resources("features", 9, 0.5, made_on="b", resumed=True)
    run.record_resources("effects", 8, 0.5, made_on="b", resumed=True)
    entries = json.loads((tmp_path / "resources.json").read_text())
    assert [entry.pop("processor") for entry in entries.values()] == ["a", "b", "b"]
    assert list(entries.items()) == [
        ("data", {"seconds": 5, "peak_gib": 1}),
        ("features", {"seconds": 63, "peak_gib": 1.5, "resumed_seconds": 9}),
        ("effects", {"resumed_seconds": 8}),
    ]


def test_the_processor_of_a_stage_is_that_of_its_device_and_dtype():
    assert run.made_on({"device": "cpu", "dtype": "float32"}) == record_processor(torch.float32)
    assert run.made_on({}) == record_processor()


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


def test_a_notebook_has_one_parameter_cell_of_assignments(project):
    path = run.notebook_path("features")
    assert run.accepted_parameters(path) == ["theta", "top_contexts"]
    write(path, new_markdown_cell("# Features"))
    with pytest.raises(ValueError, match=r"02_features\.ipynb has 0 cells tagged parameters; it must have one"):
        run.accepted_parameters(path)
    write(path, parameters_of("theta = 0.5\nprint(theta)"))
    with pytest.raises(ValueError, match=r"holds 'print\(theta\)'; it must hold `name = value` lines alone"):
        run.accepted_parameters(path)


def test_the_cell_has_values_and_comments_of_params_yaml_wherever_they_stand(project):
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("theta: 0.01 #", "theta: 0.02 # the share; not the count;")
    )
    cell = run.parameter_cell("features", ["theta", "top_contexts", "vectors"])
    assert cell.split("\n") == [
        "theta = 0.02  # the share",
        "top_contexts = 5  # highest activations kept for every latent",
        "# the section vectors of params.yaml",
        "vectors = {",
        '    "n1": [1, 2, 4, 8], "natural_n1": [2, 8, 32, 128], "n2_grid": [4], "ranks": [1, 2, 3, 4], "contrasts": 4,',
        '    "controls": 4, "extra": {},',
        "}  # fmt: skip",
    ]


def test_a_long_comment_ends_between_words(project):
    text = "highest activations " * 6
    path = project / "params.yaml"
    path.write_text(re.sub(r"top_contexts: 5 #.*", f"top_contexts: 5 # {text}", path.read_text()))
    assert run.parameter_cell("features", ["top_contexts"]) == f"top_contexts = 5  # {text[:59]} highest ..."


def test_sync_rewrites_only_notebooks_that_hold_other_values(project):
    features, vectors = run.notebook_path("features"), run.notebook_path("vectors")
    names = ["n1", "natural_n1", "n2_grid", "ranks", "contrasts", "controls", "extra"]
    bare = "\n".join(line.split("  #")[0] for line in run.parameter_cell("vectors", names).split("\n"))
    write(vectors, parameters_of(bare))
    before = vectors.read_text()
    run.sync_parameters()
    assert "theta = 0.01" in features.read_text() and vectors.read_text() == before
    run.sync_parameters(comments=True)
    found = run.parameters_cell(nbformat.read(vectors, as_version=4), "").source
    assert found == run.parameter_cell("vectors", names) and found != bare


@pytest.mark.parametrize(
    ("ename", "raised"), [("FileNotFoundError", ValueError), ("KeyError", PapermillExecutionError)]
)
def test_an_error_that_says_what_to_mend_is_one_line_with_its_place(project, monkeypatch, ename, raised):
    def fail(*_, **__):
        raise PapermillExecutionError(
            3, 5, "x = 1", ename, "data/x is not there; run `dvc repro x`", ["a long traceback"]
        )

    monkeypatch.setattr(run.papermill, "execute_notebook", fail)
    monkeypatch.setattr(run, "REPORTS", project / "reports")
    monkeypatch.setattr(run, "METRICS", project / "reports" / "metrics")
    monkeypatch.setattr(run, "MALLOC", {})
    monkeypatch.chdir(project)  # where a stage goes, and back
    with pytest.raises(raised) as error:
        run.run_stage("features")
    if raised is ValueError:
        assert str(error.value) == (
            "data/x is not there; run `dvc repro x` (stage features, cell 5; the traceback is in reports/02_features.ipynb)"
        )


def test_every_parameter_is_checked_before_a_stage_runs(project):
    run.check_all_parameters()
    params = yaml.safe_load((project / "params.yaml").read_text())
    wrong = copy.deepcopy(params)
    wrong["sae"]["lr"] = 0
    (project / "params.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(ValueError, match=r"params\.yaml: sae\.lr is 0; it must be more than 0"):
        run.run_stage("features")
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    write(run.notebook_path("vectors"), parameters_of("n1 = [1]"))
    with pytest.raises(ValueError, match=r"key in section 'vectors' of params\.yaml: 'contrasts'"):
        run.run_stage("features")
