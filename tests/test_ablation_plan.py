"""The plan of the ablations: labels, the order of rows, written and read back."""

import json

import pytest
import yaml
from made_ablations import KEYS, made_plan

from fgaa_utils.evaluation.ablation_plan import Plan, row_changes, row_label
from fgaa_utils.project import METRICS, ROOT


def test_labels_say_what_is_changed():
    assert row_label({"density_filter": False, "bias_weight": 0.0}) == "density_filter off, bias_weight 0.0"


def test_the_pairs_of_n1_and_n2_come_first():
    rows = row_changes([{"theta": 0.1}], heat_n1=[1, 2], heat_n2=[0, 4])
    assert list(rows) == ["n1 1, n2 0", "n1 2, n2 0", "n1 1, n2 4", "n1 2, n2 4", "theta 0.1"]
    assert rows["n1 2, n2 4"] == {"n1": 2, "n2": 4}


def test_the_committed_table_has_the_rows_of_the_parameters():
    """Else it is out of date: `make ablations` runs it again."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["ablation_samples"]
    rows = row_changes(section["rows"], heat_n1=section["heat_n1"], heat_n2=section["heat_n2"])
    found = json.loads((METRICS / "ablations.json").read_text())["rows"]
    assert set(found) == {"default", *rows}


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = made_plan()
    plan.write(tmp_path / "plan.json")
    found = Plan.read(tmp_path / "plan.json")
    assert found == plan and list(found.rows) == list(plan.rows)
    assert found.names["theta 0.03"]["b1"] == ("b1", "ablation", "theta 0.03"), "a label may hold dots"


def test_a_file_of_another_shape_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"rows": {}}')
    with pytest.raises(ValueError, match=r"no plan of this version .*scales.*dvc repro ablation_samples"):
        Plan.read(tmp_path / "plan.json")


def test_rows_with_the_defaults_texts_are_the_same():
    plan = made_plan()
    assert plan.same("target_norm l2") and not plan.same("theta 0.03")
    plan.scales["b3", "ablation", "theta 0.03"] = 0.5
    assert plan.row_scales("theta 0.03") == [0.5 if key == "b3" else 0.1 for key in KEYS]
