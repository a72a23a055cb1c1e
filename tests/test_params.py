import copy
import re
from typing import get_args

import pytest
import yaml

from fgaa_utils.params import check_params, load_params, section_of, stage_params
from fgaa_utils.project import ROOT, STAGES
from fgaa_utils.sections import Kind, Norm, Params, Row

PARAMS = load_params()
SMALL = {"base": {"seed": 0, "layer": 9}, "recipe": {"theta": 0.01}, "design": {"scales": [1], "batch": 4}}


def changed(**values):
    """The shipped parameters with `section__key=value` in place; `section=value` for a whole section."""
    params = copy.deepcopy(PARAMS)
    for name, value in values.items():
        section, _, key = name.partition("__")
        if key:
            params[section][key] = value
        else:
            params[section] = value
    return params


def message(params) -> str:
    with pytest.raises(ValueError) as error:
        check_params(params)
    return str(error.value)


def test_shipped_params_are_right_and_come_as_they_stand():
    assert PARAMS == yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(PARAMS) == list(Params.model_fields)
    assert set(PARAMS) <= {"base", "recipe", "design", *STAGES}


def test_no_key_of_the_shipped_params_stands_twice():
    """YAML would keep the last one silently."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert len(re.findall(r"^  ?\w+:", text, re.M)) == sum(map(len, PARAMS.values()))


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("base__layer", -1, "at least 0"),
        ("base__seed", True, "a whole number"),
        ("base__seed", 1.5, "a whole number"),
        ("base__dtype", "float16", "one of auto, float32, bfloat16"),
        ("base__model", "", "text, not empty"),
        ("base__model", 270, "text; quote it if it is"),
        ("base__behaviours", "al", "all, development, test, later, unseen, or a list of names"),
        ("base__behaviours", [], "all, development, test, later, unseen, or a list of names"),
        ("base__behaviours", ["love", "love"], "without repeats"),
        ("recipe__theta", -0.5, "at least 0"),
        ("recipe__theta", float("nan"), "a finite number"),
        ("recipe__bos_filter", 1, "true or false"),
        ("recipe__target_norm", None, "one of l1, l2, none"),
        (
            "recipe__fit",
            "adm",
            "one of reduced_rank, ridge, adam, repository:file, or the path of a file that is there",
        ),
        ("design__scale_unit", "std", "one of nats, resid_std, absolute"),
        ("design__scales", [1, 3, 2], "in growing order, without repeats"),
        ("design__test_prompts", ["I", "I"], "without repeats"),
        ("design__test_samples", 0, "at least 1"),
        ("design__temperature", 0, "more than 0"),
        ("data__density_share", 1, "less than 1"),
        ("data__max_overlap", 1.2, "at most 1"),
        ("data__max_chars", 5, "`key: value` lines"),
        ("sae__lr", "fast", "a number"),
        ("effects__ce_probes", [300], "a list of 2 or more"),
        ("vectors__n1", [], "a list of 1 or more"),
        ("vectors__n1", [1, 0], "at least 1"),
        ("judge__compare_judges", "hf", "a list"),
        ("judge__judge", "opanai", "one of local, openai, hf"),
        ("costs__option_score", "mean", "one of per_char, sum"),
        ("ablation_samples__heat_n1", [0], "at least 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(key, value, must):
    section, name = key.split("__")
    text = message(changed(**{key: value}))
    assert text.startswith(f"params.yaml: {section}.{name}") and text.endswith(f"it must be {must}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe__theta", 0),
        ("base__behaviours", ["love"]),
        ("judge__compare_judges", []),
        ("vectors__n2_grid", []),
        ("design__scales", [20, 40]),
    ],
)
def test_values_that_are_right(key, value):
    check_params(changed(**{key: value}))


def test_an_effect_map_from_elsewhere_goes_with_rows_that_fit_none(tmp_path):
    (tmp_path / "map.pt").touch()
    for fit in ("someone/maps:file.pt", str(tmp_path / "map.pt")):
        check_params(changed(recipe__fit=fit, ablation_samples__rows=[{"theta": 0.1}]))


def test_all_errors_are_named_a_line_each_even_inside_a_value():
    server = {"concurrency": 16, "timeout": 0, "attempt": 3, "prices": [0.15]}
    rows = [{"theta": 0.1}, {"thta": 1}, {"theta": None}]
    lines = message(changed(base__seed=-1, judge__server=server, ablation_samples__rows=rows)).splitlines()
    assert lines == [
        "params.yaml: base.seed is -1; it must be at least 0",
        "params.yaml: judge.server.timeout is 0; it must be more than 0",
        "params.yaml: section 'judge.server' lacks attempts",
        "params.yaml: judge.server.prices is [0.15]; it must be a list of 2 or more",
        "unknown key in section 'judge.server' of params.yaml: 'attempt'; did you mean 'attempts'? "
        "(there are: concurrency, timeout, attempts, prices)",
        "unknown key in section 'ablation_samples.rows[1]' of params.yaml: 'thta'; did you mean 'theta'? "
        f"(there are: {', '.join(Row.__annotations__)})",
        "params.yaml: ablation_samples.rows[2].theta is None; it must be a number",
    ]


def test_an_unknown_key_or_section_gets_the_nearest():
    params = changed(recipe__thetta=0.01)
    assert "unknown key in section 'recipe' of params.yaml: 'thetta'; did you mean 'theta'" in message(params)
    assert "unknown params.yaml section 'feature'; did you mean 'features'" in message(changed(feature={}))


def test_what_is_missing_is_named():
    params = changed()
    del params["costs"], params["sae"]["lr"]
    assert message(params).splitlines() == ["params.yaml: section 'sae' lacks lr", "params.yaml has no section costs"]


def test_values_that_do_not_go_together():
    assert message(changed(evaluation__paper_prompt="x")) == (
        "params.yaml: evaluation.paper_prompt is 'x'; it must be one of design.test_prompts"
    )
    prompts = ["I think", "Today"]
    assert "design.test_prompts has 'Today' of validation_prompts" in message(changed(design__test_prompts=prompts))
    with pytest.raises(ValueError, match=r"section 'base' of the setting mine: 'sed'; did you mean 'seed'"):
        check_params(changed(base__sed=1), "the setting mine")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"fit": "adm"}, "the fit must be one of reduced_rank, ridge, adam, gradient, decoder, or recipe.fit"),
        ({"fit": "decoder"}, "fit: decoder has no bias; add bias_weight: 0.0"),
        ({"effect_vectors": 5}, "effect_vectors must be one of [14336, 21504"),
        ({"effect_vectors": 14336, "fit": "decoder", "bias_weight": 0}, "with a fit among reduced_rank, ridge, adam"),
    ],
)
def test_a_row_that_could_not_run_is_named_before_anything_runs(row, error):
    text = message(changed(ablation_samples__rows=[{"theta": 0.1}, row]))
    assert text.startswith(f"params.yaml: ablation_samples.rows has {row}; ") and error in text and "\n" not in text
    check_params(changed(recipe__bias_weight=0, ablation_samples__rows=[{"fit": "decoder"}]))


@pytest.mark.parametrize("text", ["", "[]", "features: {theta: 0.01}", "base:\n", "base: {}\nfeatures:\n", "base: 3"])
def test_a_file_without_sections_or_their_keys_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml"):
        load_params(path)


def test_rows_change_fields_of_a_recipe():
    from fgaa_utils.method.recipe import Recipe

    fields = set(Recipe.__dataclass_fields__) - {"method", "rank", "white", "means"}
    assert set(Row.__annotations__) == fields


def test_choices_are_those_of_the_code_that_makes_them():
    from fgaa_utils.judges.choose import KINDS
    from fgaa_utils.method.features import check_norm

    assert list(get_args(Kind)) == list(KINDS)
    for norm in get_args(Norm):
        check_norm(norm)


def test_a_parameter_is_looked_up_in_its_own_section_first_then_the_shared_ones():
    params = SMALL | {"costs": {"scales": [2]}, "judge": {"judge": "local"}}
    assert section_of("scales", "costs", params) == "costs"
    assert section_of("scales", "samples", params) == "design"
    assert section_of("theta", "vectors", params) == "recipe"
    assert section_of("judge", "judge", params) == "judge"
    assert section_of("judge", "samples", params) is None, "the section, whole"
    for name in ("theata", "recipe", "evaluation"):
        with pytest.raises(ValueError, match=f"unknown parameter of the notebook of samples: '{name}'"):
            section_of(name, "samples", params)


def test_a_stage_gets_what_it_accepts_and_no_more():
    params = SMALL | {"costs": {"scales": [2], "texts": 3}, "judge": {"judge": "local"}}
    assert stage_params("costs", ["scales", "texts", "batch"], params) == {"scales": [2], "texts": 3, "batch": 4}
    assert stage_params("samples", ["judge", "scales"], params) == {"judge": {"judge": "local"}, "scales": [1]}
    assert stage_params("samples", [], params) == {}
    with pytest.raises(ValueError, match=r"key in section 'costs' of params\.yaml: 'texts'"):
        stage_params("costs", ["scales"], params)


def test_false_and_none_are_values():
    params = SMALL | {"features": {"density_filter": False, "language": None}}
    merged = stage_params("features", ["seed", "density_filter", "language"], params)
    assert merged == {"seed": 0, "density_filter": False, "language": None}
