import pytest
import torch

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import target
from fgaa_utils.method.vectors import (
    bias_direction,
    fgaa,
    load_vectors,
    sae_row,
    sae_ts,
    save_vectors,
    twins,
    unit,
)
from fgaa_utils.names import SHARED, VectorName
from fgaa_utils.shards import save_tensors

D, N = 6, 15


@pytest.fixture
def effect_map():
    generator = torch.Generator().manual_seed(0)
    return EffectMap(torch.randn(D, N, generator=generator), torch.randn(N, generator=generator), {})


@pytest.fixture
def v_filtered():
    return torch.tensor([0.5, 0.0, -2.0, 3.0, 1.0, 0.25] + [0.0] * 9)


def naive_fgaa(effect_map, v, weight=1.0):
    """Eq. 5 with loops."""
    M, b = effect_map.M.double().tolist(), effect_map.b.double().tolist()
    first = [sum(M[i][j] * v[j] for j in range(N)) for i in range(D)]
    second = [sum(M[i][j] * b[j] for j in range(N)) for i in range(D)]
    length = lambda x: sum(e * e for e in x) ** 0.5  # noqa: E731
    out = [f / length(first) - weight * s / length(second) for f, s in zip(first, second)]
    return [e / length(out) for e in out]


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.4])
def test_fgaa_by_loops(effect_map, v_filtered, weight):
    v = target(v_filtered, 2, 1)
    assert fgaa(effect_map, v, bias_weight=weight).tolist() == pytest.approx(
        naive_fgaa(effect_map, v.tolist(), weight), abs=1e-5
    )


def test_sae_ts_is_fgaa_of_one_latent(effect_map, v_filtered):
    one = fgaa(effect_map, target(v_filtered, 1, 0), bias_weight=1.0)
    torch.testing.assert_close(sae_ts(effect_map, 3, bias_weight=1.0), one)


def test_l1_and_l2_give_the_same_vector(effect_map, v_filtered):
    """Eq. 5 does not depend on the scale of v_target, whatever the paper's appendix F says."""
    made = [fgaa(effect_map, target(v_filtered, 3, 1, norm=norm), bias_weight=1.0) for norm in ("l1", "l2", "none")]
    torch.testing.assert_close(made[0], made[1])
    torch.testing.assert_close(made[0], made[2])


def test_decoder_row_and_bias_direction_have_unit_norm(effect_map):
    W_dec = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae_row(W_dec, 3), W_dec[3] / W_dec[3].norm())
    away = -(effect_map.M @ effect_map.b)
    torch.testing.assert_close(bias_direction(effect_map), away / away.norm())


def test_zero_vector_is_refused():
    with pytest.raises(ValueError, match="norm 0"):
        unit(torch.zeros(3))


def test_twins_are_equal_vectors_of_one_behaviour():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    vectors = {
        VectorName("love", "fgaa", n1=1, n2=0): one,
        VectorName("love", "sae_ts", rank=1): one + 5e-6,
        VectorName("love", "caa"): one + 2e-5,
        VectorName("anger", "sae_ts", rank=1): one,
        VectorName(SHARED, "bias"): one,
        VectorName("love", "sae", rank=1): other,
    }
    found = twins(vectors)
    assert list(found) == list(vectors)
    assert found.pop(VectorName("love", "sae_ts", rank=1)) == VectorName("love", "fgaa", n1=1, n2=0)
    assert all(name == first for name, first in found.items())
    cells = twins({name.cell: vector for name, vector in vectors.items()})
    assert cells["love", "sae_ts", "rank=1"] == ("love", "fgaa", "n1=1,n2=0")
    assert cells["anger", "sae_ts", "rank=1"] == ("anger", "sae_ts", "rank=1")


IDENTITY = {"model": "m:1", "sae": "s", "layer": 9}


def test_file_round_trip_in_the_order_of_the_names(tmp_path):
    made = {
        VectorName("love", "fgaa", n1=2, n2=0): torch.rand(D),
        VectorName(SHARED, "bias"): torch.rand(D),
        VectorName("love", "caa"): torch.rand(D),
    }
    path = tmp_path / "vectors.safetensors"
    save_vectors(path, made, **IDENTITY, fit="adam")
    loaded = load_vectors(path, identity=IDENTITY)
    assert [str(name) for name in loaded] == ["love.caa", "love.fgaa.n1=2,n2=0", "shared.bias"]
    assert all(torch.equal(loaded[name], vector) for name, vector in made.items())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "m:2"}, "made with model='m:1', this run has 'm:2'; run `dvc repro vectors`"),
        ({"sae": "t"}, "made with sae='s', this run has 't'"),
        ({"layer": 8}, "made with layer='9', this run has '8'"),
    ],
)
def test_vectors_of_another_model_sae_or_layer_are_refused(tmp_path, other, message):
    path = tmp_path / "vectors.safetensors"
    save_vectors(path, {VectorName("love", "caa"): torch.rand(D)}, **IDENTITY)
    with pytest.raises(ValueError, match=message):
        load_vectors(path, identity=IDENTITY | other)


def test_a_name_that_is_none_is_refused(tmp_path):
    path = tmp_path / "vectors.safetensors"
    save_tensors(path, {"love.fgga.n1=2": torch.rand(D)}, **IDENTITY)
    with pytest.raises(ValueError, match="unknown method 'fgga'"):
        load_vectors(path, identity=IDENTITY)
