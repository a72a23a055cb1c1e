import re

import pytest
import yaml

from fgaa_utils import project
from fgaa_utils.project import ROOT, STAGES, load_params, need_space, stage_dir, stage_params, unknown

PARAMS = {"base": {"seed": 0, "layer": 9, "model": "m"}, "features": {"theta": 0.01, "layer": 5}}


def write(folder, params):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    return path


def test_shipped_params_load_with_a_section_for_every_stage_that_has_one():
    params = load_params()
    assert params == yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    notebooks = {stage for stage, notebook in STAGES.items() if notebook}
    assert set(params) == {"base", *notebooks} - {"compare"}, "compare takes nothing but the model's name"
    assert all(isinstance(section, dict) and section for section in params.values())


def test_no_key_of_the_shipped_params_stands_twice():
    """YAML would keep the last one silently."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert len(re.findall(r"^  ?\w+:", text, re.M)) == sum(map(len, load_params().values()))


def test_an_unknown_section_gets_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="section 'feature'; did you mean 'features'"):
        load_params(write(tmp_path, {"base": {}, "feature": {"theta": 0.01}}))


@pytest.mark.parametrize("text", ["", "[]", "features: {theta: 0.01}", "base:\n", "base: {}\nfeatures:\n"])
def test_params_without_a_section_or_its_keys_are_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml"):
        load_params(path)


def test_an_unknown_key_gets_the_nearest():
    params = {"base": {}, "features": {"thetta": 0.01}}
    with pytest.raises(ValueError, match=r"section 'features' of params\.yaml: 'thetta'; did you mean 'theta'"):
        stage_params("features", ["theta", "top_contexts"], params)


def test_missing_keys_are_all_named():
    with pytest.raises(ValueError, match="section 'features' lacks dtype, top_contexts"):
        stage_params("features", ["theta", "layer", "dtype", "top_contexts"], PARAMS)
    with pytest.raises(ValueError, match="section 'vectors' lacks n1"):  # a stage without a section
        stage_params("vectors", ["n1"], PARAMS)


def test_base_keys_are_merged_only_if_accepted():
    assert stage_params("features", ["theta", "layer", "seed"], PARAMS) == {"theta": 0.01, "layer": 5, "seed": 0}
    assert stage_params("model", ["model"], PARAMS) == {"model": "m"}
    assert stage_params("model", [], PARAMS) == {}


def test_a_stages_own_value_goes_before_the_shared_one_and_false_is_a_value():
    assert stage_params("features", ["theta", "layer"], PARAMS)["layer"] == 5
    params = {"base": {"seed": 0}, "features": {"density_filter": False, "language": None}}
    merged = stage_params("features", ["seed", "density_filter", "language"], params)
    assert merged == {"seed": 0, "density_filter": False, "language": None}


def test_merging_changes_nothing_for_the_next_stage():
    params = {"base": {"layer": 9}, "features": {"layer": 5}}
    stage_params("features", ["layer"], params)["layer"] = 7
    assert params == {"base": {"layer": 9}, "features": {"layer": 5}}


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


def test_stage_dir_is_made_and_left_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "DATA", tmp_path / "data")
    folder = stage_dir("features")
    assert folder == tmp_path / "data" / "features" == stage_dir("features")
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_stage_dir_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "DATA", tmp_path)
    (tmp_path / "features" / ".writable").mkdir(parents=True)  # refuses root too
    with pytest.raises(OSError, match=f"{tmp_path / 'features'} cannot be written"):
        stage_dir("features")
