import pytest
import torch

from fgaa_utils.evaluation import cells as evaluation
from fgaa_utils.evaluation.scales import Strength, check_scales
from fgaa_utils.method.gradient_map import GradientMap

V = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize("scales", [[0.2, 0.1], [0.1, 0.1, 0.2], [-0.1, 0.1], [0.0, 0.1], [0.1, float("nan")], []])
def test_bad_scales_are_named(scales):
    for check in (check_scales, lambda s: evaluation.cell_grid({("love", "caa", ""): V}, s, Strength("absolute", 1.0))):
        with pytest.raises(ValueError) as error:
            check(scales)
        assert f"scales are {scales}" in str(error.value)


def test_scale_units():
    assert Strength("resid_std", 1500.0).coeff(V, 0.5) == 750.0
    assert Strength("absolute", 1500.0).coeff(V, 0.5) == 0.5
    with pytest.raises(ValueError, match="unknown scale_unit 'resid_sd'; did you mean 'resid_std'"):
        Strength("resid_sd", 1500.0)
    with pytest.raises(ValueError, match="scale_unit is nats, which needs the Fisher information"):
        Strength("nats", 1500.0)


def test_nats_make_every_vector_cost_the_same(tmp_path):
    identity = {"model": "m", "layer": 1}
    fisher = torch.diag(torch.tensor([4.0, 1.0]))
    made = GradientMap(torch.ones(2, 3), torch.eye(2), fisher, torch.eye(2), 8, identity)
    made.save(tmp_path / "g.safetensors")
    strength = Strength.read("nats", 1500.0, tmp_path / "g.safetensors", identity)
    for vector in (V, V.flip(0)):
        c = strength.coeff(vector, 0.25)
        assert c**2 * float(vector @ fisher @ vector) / 2 == pytest.approx(0.25 * 8)  # of a rollout of 8 tokens
    assert strength.coeff(V.flip(0), 0.25) == pytest.approx(2 * strength.coeff(V, 0.25))
    assert Strength.read("absolute", 1.0, tmp_path / "none.safetensors", identity).gradients is None
    with pytest.raises(ValueError, match="made with model='m', this run has 'n'"):
        Strength.read("nats", 1.0, tmp_path / "g.safetensors", identity | {"model": "n"})
