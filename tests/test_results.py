"""The blocks that a run's reports begin with: whose labels count, what is frozen, how long it took."""

import json

import pytest

from fgaa_utils import project
from fgaa_utils.pipeline import results


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A repository whose evaluation is of the labelled model; returns its root."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    metrics = {"evaluation": {"model": "gemma-3-270m:d9df:bfloat16"}, "judge": {"labelled_bcs": {}}, "capability": {}}
    monkeypatch.setattr(results, "metrics_of", metrics.__getitem__)
    return tmp_path, metrics


def test_the_labels_count_for_the_default_setting_of_the_labelled_model(run):
    root, metrics = run
    (root / "dvc.yaml").write_text("stages: {capability: {}}")
    assert results.run_metrics() == (metrics["evaluation"], metrics["judge"], metrics["capability"], None)
    metrics["evaluation"]["model"] = "smollm2-135m-instruct:12:bfloat16"
    assert results.run_metrics()[1] is None


def test_what_no_choice_had_seen_stands_beside_a_run(run, monkeypatch):
    root, metrics = run
    (root / "dvc.yaml").write_text("stages: {}")
    place = root / "settings" / "unseen" / "metrics"
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text('{"bcs": {}}')
    (place.parent / "params.yaml").write_text("recipe: {theta: 0.01}")
    monkeypatch.setattr(results, "params_of", lambda names: {"recipe": {"theta": 0.01}})
    assert results.run_metrics()[2:] == (None, {"bcs": {}}) and not results.unseen_is_old()
    monkeypatch.setattr(results, "params_of", lambda names: {"recipe": {"theta": 0.02}})
    assert results.run_metrics()[3] is None and results.unseen_is_old(), "of other parameters it does not stand there"
    others = {"recipe": {"theta": 0.01}, "ablation_samples": {"rows": []}}
    monkeypatch.setattr(results, "params_of", lambda names: others)
    assert not results.unseen_is_old(), "of a stage that it leaves out"


def test_the_labels_do_not_count_for_a_setting(tmp_path, run, monkeypatch):
    workspace = tmp_path / ".settings" / "small"
    workspace.mkdir(parents=True)
    (workspace / "setting.json").write_text("[]")
    (workspace / "dvc.yaml").write_text("stages: {}")
    monkeypatch.setattr(results, "ROOT", workspace)
    assert results.repository() == tmp_path and results.run_metrics()[1] is None
    run[1]["evaluation"]["corrected"] = {"bcs": {}}  # but where the labels are of its own texts
    assert results.run_metrics()[1] is run[1]["judge"]


def test_times_are_those_of_the_stages_that_run_longest_first(run):
    root, _ = run
    (root / "dvc.yaml").write_text(
        "stages: {data: {}, sae: {frozen: true}, effects: {frozen: true}, samples: {}, render: {}}"
    )
    entries = {"data": 46, "sae": 1629, "samples": 1628}
    resources = {stage: {"seconds": s, "peak_gib": 1.0} for stage, s in entries.items()}
    resources["effects"] = {"resumed_seconds": 644, "peak_gib": 5.2}  # says nothing of a run from nothing
    (root / "resources.json").write_text(json.dumps(resources))
    assert results.times_block() == (
        "In the run shown here the notebooks of `make repro` took 28 min (`samples` 27 min and `data` under 1 min); "
        "of the frozen stages, which it does not run, `sae` 27 min."
    )


def test_times_name_the_processors_that_made_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    entries = {stage: {"seconds": 60, "processor": "AMD EPYC, AVX512"} for stage in ("data", "samples")}
    (tmp_path / "resources.json").write_text(json.dumps(entries | {"sae": {"seconds": 60, "processor": "another"}}))
    assert "took 2 min on AMD EPYC, AVX512 (`data` 1 min and `samples` 1 min); of" in results.times_block()


def test_a_stage_that_was_interrupted_is_not_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    entries = {"data": {"seconds": 50}, "samples": {"resumed_seconds": 2920}, "effects": {"resumed_seconds": 644}}
    (tmp_path / "resources.json").write_text(json.dumps(entries))
    assert (
        "under 1 min (`data` under 1 min), and more for what was interrupted: the last part alone of `samples` 49 min; of"
    ) in results.times_block()


def test_stages_frozen_in_the_shipped_pipeline():
    assert {"sae", "effects", "ablations"} <= set(results.frozen_stages())
