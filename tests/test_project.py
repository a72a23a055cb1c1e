import json
import re

import pytest

from fgaa_utils import project
from fgaa_utils.project import (
    artefact,
    metrics_of,
    need_space,
    read_yaml,
    stage_dir,
    unknown,
    write_metrics,
    write_plot,
)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "DATA", tmp_path / "data")
    monkeypatch.setattr(project, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(project, "METRICS", tmp_path / "reports" / "metrics")
    return tmp_path


def test_an_artefact_that_is_not_there_names_its_stage(folders):
    with pytest.raises(FileNotFoundError, match=r"data/vectors/a\.safetensors is not there; run `dvc repro vectors`"):
        artefact("vectors/a.safetensors")
    (folders / "data" / "vectors").mkdir(parents=True)
    assert artefact("vectors") == folders / "data" / "vectors"


def test_metrics_come_back_and_equal_ones_are_equal_bytes(folders):
    with pytest.raises(FileNotFoundError, match=r"reports/metrics/vectors\.json is not there; run `dvc repro vectors`"):
        metrics_of("vectors")
    write_metrics("vectors", {"b": 1.5, "a": {"d": None, "c": [1]}})
    first = (project.METRICS / "vectors.json").read_bytes()
    write_metrics("vectors", {"a": {"c": [1], "d": None}, "b": 1.5})
    assert (project.METRICS / "vectors.json").read_bytes() == first
    assert metrics_of("vectors") == json.loads(first) == {"b": 1.5, "a": {"d": None, "c": [1]}}


def test_a_yaml_file_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("b: [1, ü]", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"b": [1, "ü"]}


def test_a_plot_is_a_csv_with_a_line_a_row(folders):
    write_plot("front", [{"x": 1, "method": "a, b"}, {"x": 2.5, "method": "c"}])
    assert (folders / "reports" / "plots" / "front.csv").read_bytes() == b'x,method\n1,"a, b"\n2.5,c\n'


def test_unknown_names_the_nearest_or_only_what_there_is():
    near = str(unknown("layer type", "resdi", ["resid", "mlp"]))
    assert "unknown layer type 'resdi'; did you mean 'resid'?" in near and "resid, mlp" in near
    far = str(unknown("layer type", "xyz", ["resid", "mlp"]))
    assert "did you mean" not in far and "'xyz'" in far and "resid, mlp" in far


def test_need_space_says_what_is_free_and_what_is_needed(tmp_path):
    folder = tmp_path / "new"
    need_space(folder, 0)
    assert folder.is_dir()
    with pytest.raises(OSError) as error:
        need_space(folder, 10**9)
    assert re.search(rf"{folder}: [\d.]+ GiB free, 1000000000\.0 GiB needed", str(error.value))


def test_stage_dir_is_made_and_left_empty(folders):
    folder = stage_dir("features")
    assert folder == folders / "data" / "features" == stage_dir("features")
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_stage_dir_that_cannot_be_written_is_named(folders):
    (folders / "data" / "features" / ".writable").mkdir(parents=True)  # refuses root too
    with pytest.raises(OSError, match=f"{folders / 'data' / 'features'} cannot be written"):
        stage_dir("features")


def test_an_artefact_of_a_frozen_stage_is_made_again(folders, monkeypatch):
    monkeypatch.setattr("fgaa_utils.project.frozen_stages", lambda: ["gradients"])
    with pytest.raises(FileNotFoundError, match="run `make again STAGE=gradients`"):
        artefact("gradients/gradients.safetensors")
