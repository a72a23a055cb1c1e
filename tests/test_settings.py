"""Named settings: each is checked against params.yaml and against what is known of the paper's models."""

import copy
from collections import Counter

import pytest
import yaml
from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from fgaa_utils.method.recipe import Recipe
from fgaa_utils.method.tries import Tries, recipes
from fgaa_utils.names import FITS
from fgaa_utils.params import check_params, load_params
from fgaa_utils.pipeline import settings
from fgaa_utils.pipeline.settings import (
    SETTINGS,
    overlay,
    params_of,
    pipeline_for,
    prepare,
    read_setting,
    report,
    rows_that_can_run,
    stage_lists,
    workspace_of,
)
from fgaa_utils.pipeline.wiring import outputs
from fgaa_utils.project import ROOT

PARAMS = {"base": {"seed": 0}, "sae": {"d_sae": 8192, "l0": 40, "lr": 0.001}, "vectors": {"n1": [1, 2, 4, 8]}}
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
NAMES = sorted(path.stem for path in SETTINGS.glob("*.yaml"))


def test_changed_values_are_in_place_and_the_rest_as_it_was():
    merged = overlay(PARAMS, {"sae": {"d_sae": 64, "l0": 0}, "vectors": {"n1": []}}, "quick")
    assert merged == {"base": {"seed": 0}, "sae": {"d_sae": 64, "l0": 0, "lr": 0.001}, "vectors": {"n1": []}}
    assert overlay(PARAMS, {}, "quick") == PARAMS


def test_the_real_parameters_are_left_alone():
    before = copy.deepcopy(PARAMS)
    overlay(PARAMS, {"sae": {"d_sae": 64}}, "quick")["base"]["seed"] = 7
    assert before == PARAMS


def test_an_unknown_key_gets_the_nearest():
    with pytest.raises(ValueError, match=r"section 'sae' of the setting quick: 'd_sea'; did you mean 'd_sae'"):
        overlay(PARAMS, {"sae": {"d_sea": 64}}, "quick")
    with pytest.raises(ValueError, match="section 'vectors'"):
        overlay(PARAMS, {"vectors": {"seed": 1}}, "quick")
    with pytest.raises(ValueError, match="'saee'"):
        overlay(PARAMS, {"saee": {"d_sae": 64}}, "quick")


def test_an_unknown_setting_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown setting 'gemma-2-2'; did you mean 'gemma-2-2b'"):
        read_setting("gemma-2-2")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_right_and_every_method_chooses_among_as_many(name):
    merged = params_of([name])
    vectors = merged["vectors"]
    tried = {len(vectors["n1"]), len(vectors["ranks"]), vectors["controls"], merged["design"]["prompting_orders"]}
    assert len(tried) == 1
    params_of([name, "quick"])


@pytest.mark.parametrize(("name", "d_model"), [("gemma-2-2b", 2304), ("gemma-2-9b", 3584)])
def test_the_papers_settings_name_saes_of_the_known_shapes(name, d_model):
    base = read_setting(name)["base"]
    release, _, sae_id = base["sae_source"].partition(":")
    known = get_pretrained_saes_directory()[release]
    path = known.saes_map[sae_id]
    config = get_gemma_2_config_from_hf(known.repo_id, path, "cpu")
    assert (config["d_in"], config["d_sae"]) == (d_model, 16384)
    assert config["hook_name"] == f"blocks.{base['layer']}.hook_resid_post"
    assert base["model"] == f"google/{config['model_name']}"


@pytest.mark.parametrize("name", ["gemma-2-2b", "gemma-2-9b"])
def test_the_papers_settings_ablate_all_that_needs_no_effect_data(name):
    rows = params_of([name])["ablation_samples"]["rows"]
    dropped = [row for row in load_params()["ablation_samples"]["rows"] if row not in rows]
    assert dropped and all(row.get("fit") in FITS or "effect_vectors" in row for row in dropped)
    assert {"fit": "decoder", "bias_weight": 0.0} in rows and not any("effect_vectors" in row for row in rows)


def test_rows_are_dropped_only_where_the_effect_map_is_from_elsewhere():
    rows = [{"theta": 0.1}, {"fit": "ridge"}, {"effect_vectors": 3}, {"fit": "decoder"}, {"fit": "a/b:c"}]
    assert rows_that_can_run(rows, "adam") == rows
    assert rows_that_can_run(rows, "a/b:c") == [rows[0], *rows[3:]]


def test_a_missing_variable_or_device_stops_a_setting_before_anything_runs(tmp_path, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "FGAA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL is not set"):
        prepare(tmp_path / "work", ["gemma-2-2b"])
    (tmp_path / "judge.yaml").write_text("judge: {judge: opanai, coherence_texts: 0}")
    with pytest.raises(
        ValueError, match=r"judge.judge is 'opanai'; it must be one of local, openai, hf\n.*texts is 0;"
    ):
        prepare(tmp_path / "work", [str(tmp_path / "judge.yaml")])
    (tmp_path / "there.yaml").write_text("base: {device: 'cuda:7'}")
    with pytest.raises(ValueError, match=r"base\.device is 'cuda:7'"):
        prepare(tmp_path / "work", [str(tmp_path / "there.yaml")])
    assert not (tmp_path / "work").exists()


def test_metrics_of_stages_that_no_longer_run_are_not_reported(tmp_path):
    (tmp_path / "reports" / "metrics").mkdir(parents=True)
    for stage in ("ablation_samples", "ablations", "evaluation"):
        (tmp_path / "reports" / "metrics" / f"{stage}.json").write_text("{}")
    prepare(tmp_path, ["smollm2-135m", "quick"])
    assert [path.stem for path in (tmp_path / "reports" / "metrics").iterdir()] == ["evaluation"]


def test_the_scope_setting_names_an_sae_that_exists():
    base = read_setting("gemma-3-270m-scope")["base"]
    release, _, sae_id = base["sae_source"].partition(":")
    known = get_pretrained_saes_directory()[release]
    assert sae_id in known.saes_map and known.model == base["model"]
    assert f"layer_{load_params()['base']['layer']}_" in sae_id


def products(stages: dict) -> set[str]:
    return {out for stage in stages.values() for out in outputs(stage)}


def test_a_setting_that_takes_sae_and_map_from_elsewhere_runs_neither_stage():
    stages = pipeline_for(params_of(["gemma-2-2b"]), PIPELINE)["stages"]
    assert not {"sae", "effects", "ablation_samples", "ablations", "compare"} & set(stages)
    in_git = (
        "fgaa_utils/",
        "notebooks/",
        "data/behaviours",
        "data/labels",
        "data/paper",
        "data/sources",
        "requirements",
    )
    made = tuple(products(stages))
    for name, stage in stages.items():
        assert all(dep.startswith(in_git) or dep.startswith(made) for dep in stage["deps"]), name
        assert not any("ablation" in dep for dep in stage["deps"] if not dep.startswith(in_git))
        assert not any("data/sae" in dep or "data/effects" in dep for dep in stage["deps"])


def test_a_setting_that_trains_runs_every_stage_unfrozen():
    stages = pipeline_for(params_of(["smollm2-135m"]), PIPELINE, ablations=True)["stages"]
    assert set(stages) == set(PIPELINE["stages"]) - {"compare"}
    assert not any("frozen" in stage for stage in stages.values())
    assert PIPELINE["stages"]["sae"]["frozen"], "the repository's own pipeline is left as it is"
    assert "data/ablation_samples" in outputs(stages["ablation_samples"]), "what the ablations read is made before"


def test_a_setting_takes_what_it_does_not_change_and_leaves_out_what_it_says(tmp_path):
    prepare(tmp_path / "work", ["unseen"])
    stages = yaml.safe_load((tmp_path / "work" / "dvc.yaml").read_text())["stages"]
    assert {name for name, stage in stages.items() if stage.get("frozen")} == {"sae", "effects", "gradients"}
    assert not {"costs", "capability", "compare"} & set(stages)
    for stage in ("sae", "effects", "gradients"):
        for path in outputs(stages[stage]):
            if (ROOT / path).is_file():
                assert (tmp_path / "work" / path).read_bytes() == (ROOT / path).read_bytes()


def test_quick_runs_what_another_setting_takes():
    lists = stage_lists(["unseen", "quick"])
    assert lists == {"takes": [], "without": []}
    assert not any(
        "frozen" in stage
        for stage in pipeline_for(params_of(["unseen", "quick"]), PIPELINE, **lists)["stages"].values()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("takes: [sea]", "unknown stage in 'takes' of the setting .*'sea'; did you mean 'sae'"),
        ("takes: [features]", "unknown stage in 'takes'"),
        ("without: [cost]", "did you mean 'costs'"),
        ("takes: sae", "'takes' of the setting .* is 'sae'; it must be a list"),
        ("{takes: [sae], sae: {l0: 41}}", "takes sae from git, where sae was made with another sae; leave sae out"),
        ("{takes: [effects], base: {layer: 8}}", r"where effects was made with another base\.layer"),
        (
            "{takes: [gradients], data: {density_rows: 8}}",
            "takes gradients from git, where data was made with another data",
        ),
        ("without: [judge]", "samples needs judge, which `without` leaves out"),
        ("without: [costs]", "capability needs costs"),
    ],
)
def test_a_setting_that_takes_what_it_cannot_is_refused(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "work", [str(tmp_path / "mine.yaml")])


def test_two_settings_of_one_name_do_not_share_results(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "WORKSPACES", tmp_path / "work")
    mine, other, twin = (tmp_path / folder / "mine.yaml" for folder in ("a", "b", "c"))
    for path in (mine, other, twin := twin.with_name("gemma-2-2b.yaml")):
        path.parent.mkdir()
        path.write_text("base: {seed: 1}")
    assert workspace_of([str(mine), "quick"]) == workspace_of([str(mine), "quick"])
    with pytest.raises(
        ValueError, match=r"mine\+quick has the results of .*a/mine\.yaml, settings/quick\.yaml; rename"
    ):
        workspace_of([str(other), "quick"])
    with pytest.raises(ValueError, match=r"gemma-2-2b\.yaml has the name of settings/gemma-2-2b\.yaml"):
        workspace_of([str(twin)])
    assert workspace_of(["quick"]) == workspace_of([str(SETTINGS / "quick.yaml")])
    with pytest.raises(ValueError, match="unknown setting 'quik'"):
        workspace_of(["quik"])
    assert not (tmp_path / "work" / "quik").exists()


def test_a_workspace_has_the_settings_parameters_and_reports_into_a_folder_of_its_own(tmp_path, monkeypatch):
    workspace = tmp_path / "work"
    prepare(workspace, ["smollm2-135m", "quick"])
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    assert params["base"]["model"] == "smollm2-135m-instruct"
    assert params["sae"]["d_sae"] == read_setting("quick")["sae"]["d_sae"], "the later setting prevails"
    check_params(params)
    assert (workspace / "fgaa_utils" / "params.py").exists() and (workspace / "data" / "paper.yaml").exists()
    (workspace / "reports" / "metrics").mkdir()
    (workspace / "reports" / "metrics" / "evaluation.json").write_text("{}")
    monkeypatch.setattr(settings, "REPORTS", tmp_path / "reports")
    report(workspace, "smollm2-135m")
    report(workspace, "smollm2-135m")
    kept = tmp_path / "reports" / "settings" / "smollm2-135m"
    assert sorted(p.name for p in kept.iterdir()) == ["metrics", "params.yaml"]


@pytest.mark.parametrize("name", [[], ["quick"], ["small"], ["smollm2-135m"], ["gemma-2-2b"], ["gemma-2-9b"]])
def test_every_method_has_as_many_tries(name):
    """CAA's contrasts are four at most: fewer than the others' eight in the paper's settings, as the README says."""
    params = params_of(name)
    vectors, recipe = params["vectors"], params["recipe"]
    tries = Tries(vectors["n1"], vectors["natural_n1"], vectors["ranks"], vectors["contrasts"], vectors["controls"])
    default = Recipe("fgaa", **{key: value for key, value in recipe.items() if key != "natural_ridge"})
    methods = Counter(made.method for made in recipes(default, ["love"], tries))
    counts = {m: n for m, n in methods.items() if m not in ("bias",)}
    wanted = {len(vectors["n1"])} | ({4} if name and name[0].startswith("gemma-2") else set())
    assert set(counts.values()) == wanted, counts
