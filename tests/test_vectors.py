import numpy as np
import pytest
import torch

from fgaa_utils.method import vectors as module
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import target
from fgaa_utils.method.vectors import (
    behaviour_vectors,
    caa,
    control_vectors,
    fgaa,
    load_vectors,
    sae_ts,
    save_vectors,
    unit,
)

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


def test_caa_by_loops():
    generator = np.random.default_rng(0)
    positive, negative = generator.random((3, D)), generator.random((4, D))
    difference = np.array([sum(row[i] for row in positive) / 3 - sum(row[i] for row in negative) / 4 for i in range(D)])
    assert caa(torch.tensor(positive), torch.tensor(negative)).tolist() == pytest.approx(
        (difference / np.sqrt((difference**2).sum())).tolist()
    )


def make_all(effect_map, v_filtered, **changes):
    arguments = {
        "resid": (torch.rand(3, D), torch.rand(3, D)),
        "v_filtered": v_filtered,
        "W_dec": torch.randn(N, D),
        "effect_map": effect_map,
        "n1": [1, 3],
        "n2": 0,
        "target_norm": "l1",
        "ranks": [1, 2],
        "bias_weight": 1.0,
    }
    return behaviour_vectors(**arguments | changes)


def test_all_vectors_have_unit_norm_and_ranks_follow_the_filtered_difference(effect_map, v_filtered):
    W_dec = torch.randn(N, D)
    vectors = make_all(effect_map, v_filtered, W_dec=W_dec) | control_vectors(
        W_dec, effect_map, count=2, bias_weight=1.0, seed=0
    )
    for v in vectors.values():
        assert float(v.norm()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(vectors["sae", 1], unit(W_dec[3]))
    torch.testing.assert_close(vectors["sae", 2], unit(W_dec[4]))
    torch.testing.assert_close(vectors["bias", 0], -unit(effect_map.M @ effect_map.b))
    assert {m for m, _ in vectors} == {*module.METHODS, *module.CONTROLS}


def test_controls_depend_on_the_seed(effect_map):
    W_dec = torch.randn(N, D)
    first, again, other = (
        control_vectors(W_dec, effect_map, count=2, bias_weight=1.0, seed=s)["random", 1] for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_too_many_latents_asked_for(effect_map, v_filtered):
    with pytest.raises(ValueError, match="must be from 1 to 4"):
        make_all(effect_map, v_filtered, n1=[1, 5])
    with pytest.raises(ValueError, match="must be from 1 to 4"):
        make_all(effect_map, v_filtered, ranks=[0])


def test_zero_vector_is_refused():
    with pytest.raises(ValueError, match="norm 0"):
        unit(torch.zeros(3))


def test_file_round_trip_and_refusals(tmp_path):
    path = tmp_path / "vectors.safetensors"
    made = {("love", "fgaa", 2): torch.rand(D), ("shared", "bias", 0): torch.rand(D)}
    save_vectors(path, made, model="m:1")
    loaded, metadata = load_vectors(path, model="m:1")
    assert metadata["model"] == "m:1" and all(torch.equal(loaded[k], v) for k, v in made.items())
    with pytest.raises(ValueError, match="made for m:1, this run has m:2"):
        load_vectors(path, model="m:2")
    save_vectors(path, {("love", "fgga", 2): torch.rand(D)}, model="m:1")
    with pytest.raises(ValueError, match="unknown method 'fgga'; did you mean 'fgaa'"):
        load_vectors(path, model="m:1")
