import pytest

from fgaa_utils.evaluation import cells as evaluation
from fgaa_utils.evaluation.scales import check_scales, scale_in_norm


@pytest.mark.parametrize("scales", [[0.2, 0.1], [0.1, 0.1, 0.2], [-0.1, 0.1], [0.0, 0.1], [0.1, float("nan")], []])
def test_bad_scales_are_named(scales):
    for check in (check_scales, lambda s: evaluation.cell_grid([("love", "caa", 0)], s, unit=1.0)):
        with pytest.raises(ValueError) as error:
            check(scales)
        assert f"scales are {scales}" in str(error.value)


def test_scale_units():
    assert scale_in_norm("resid_std", 1500.0) == 1500.0
    assert scale_in_norm("absolute", 1500.0) == 1.0
    with pytest.raises(ValueError, match="unknown scale_unit 'resid_sd'; did you mean 'resid_std'"):
        scale_in_norm("resid_sd", 1500.0)
