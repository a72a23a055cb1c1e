import copy

import pytest

from fgaa_utils.quick import overlay

PARAMS = {"base": {"seed": 0}, "sae": {"d_sae": 8192, "l0": 40, "lr": 0.001}, "vectors": {"n1": [1, 2, 4, 8]}}


def test_changed_values_are_in_place_and_the_rest_as_it_was():
    merged = overlay(PARAMS, {"sae": {"d_sae": 64, "l0": 0}, "vectors": {"n1": []}})
    assert merged == {"base": {"seed": 0}, "sae": {"d_sae": 64, "l0": 0, "lr": 0.001}, "vectors": {"n1": []}}
    assert overlay(PARAMS, {}) == PARAMS


def test_the_real_parameters_are_left_alone():
    before = copy.deepcopy(PARAMS)
    overlay(PARAMS, {"sae": {"d_sae": 64}})["base"]["seed"] = 7
    assert before == PARAMS


def test_an_unknown_key_gets_the_nearest():
    with pytest.raises(ValueError, match=r"section 'sae' of params\.quick\.yaml: 'd_sea'; did you mean 'd_sae'"):
        overlay(PARAMS, {"sae": {"d_sea": 64}})


def test_a_key_of_another_section_is_unknown():
    with pytest.raises(ValueError, match="section 'vectors'"):
        overlay(PARAMS, {"vectors": {"seed": 1}})


def test_an_unknown_section_is_refused():
    with pytest.raises(ValueError, match="'saee'"):
        overlay(PARAMS, {"saee": {"d_sae": 64}})
