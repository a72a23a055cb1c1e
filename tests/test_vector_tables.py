import pytest
import torch

from fgaa_utils.method import vector_tables as tables
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.recipe import Ingredients, Recipe, only
from fgaa_utils.method.tries import Tries
from fgaa_utils.names import VectorName

NAMES = {"love": "Love", "anger": "Anger"}
X, Y, Z = torch.eye(3)
COMPARED = {
    "love": {"caa": X, "sae": Y, "sae_ts": 0.6 * X + 0.8 * Y, "fgaa": 0.8 * X + 0.6 * Y},
    "anger": {"caa": Z, "sae": X, "sae_ts": X, "fgaa": X},
}


def test_typical_vectors_are_those_of_the_middle_n1_and_the_first_rank():
    names = [VectorName("love", m, bos=False, white=white) for m in ("caa", "ng_caa") for white in (False, True)]
    names += [VectorName("love", m, n1=n, n2=0) for m in ("fgaa", "ng_fgaa") for n in (1, 2, 4)]
    names += [VectorName("love", "ng", n1=2, n2=0), VectorName("love", "ng", n1=2, n2=0, white=True)]
    names += [VectorName("love", method, rank=rank) for method in ("sae", "sae_ts") for rank in (1, 2)]
    vectors = {name: torch.tensor([float(i)]) for i, name in enumerate(names)}
    found = tables.typical(vectors, ["love"], Tries([1, 2, 4], [1, 2, 4], [1, 2], 4, 1), 0)["love"]
    assert {method: names[int(v)].variant for method, v in found.items()} == {
        "caa": "bos=0,white=0",
        "sae": "rank=1",
        "sae_ts": "rank=1",
        "fgaa": "n1=2,n2=0",
        "ng_caa": "bos=0,white=1",
        "ng_fgaa": "n1=2,n2=0",
        "ng": "n1=2,n2=0,white=1",
    }


def test_cosines_by_hand_and_beside_the_papers():
    cosines = tables.fgaa_cosines(COMPARED)
    assert cosines.loc["love"].tolist() == pytest.approx([0.8, 0.6, 0.96])
    assert cosines.columns.tolist() == ["caa", "sae", "sae_ts"]
    shown = tables.beside_paper(cosines, {"m": {"caa": 0.1, "sae": 0.2, "sae_ts": 0.3}}, NAMES)
    assert shown.index.tolist() == ["Love", "Anger", "average", "average in the paper, m"]
    assert shown.columns.tolist() == ["CAA", "SAE", "SAE-TS"] and shown.index.name == "behaviour"
    assert shown.loc["average"].tolist() == pytest.approx([0.4, 0.8, 0.98])
    assert shown.loc["average in the paper, m"].tolist() == [0.1, 0.2, 0.3]
    assert len(cosines) == 2, "the frame given is left as it was"


def test_alikeness_by_hand():
    alike = tables.alikeness(COMPARED, X)
    assert alike.loc["fgaa"].tolist() == pytest.approx([0.8, 0.9])
    assert alike.loc["caa"].tolist() == pytest.approx([0.0, 0.5])


def test_predicted_effects_are_cosines_with_what_is_wanted():
    effect_map = EffectMap(torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1]]), torch.zeros(4), {})
    wanted = {"love": torch.tensor([1.0, 0, 0, -7]), "anger": torch.tensor([0, 0, 1.0, 0])}
    matrices = tables.predicted_effects(COMPARED, effect_map, wanted, NAMES)
    assert list(matrices) == ["fgaa", "sae_ts", "sae", "caa"]
    first = 0.8 / (0.8**2 + 1.2**2) ** 0.5
    assert matrices["fgaa"].loc["Love"].tolist() == pytest.approx([first, 0])
    assert matrices["caa"].loc["Anger"].tolist() == pytest.approx([0, 0.5**0.5])
    assert tables.on_target(matrices)["caa"] == pytest.approx((1 + 0.5**0.5) / 2)


def test_the_norm_of_the_target_makes_no_difference():
    generator = torch.Generator().manual_seed(0)
    effect_map = EffectMap(torch.randn(3, 5, generator=generator), torch.randn(5, generator=generator), {})
    latents = {True: {"love": (torch.rand(4, 5, generator=generator), torch.zeros(1, 5))}}
    nothing = torch.zeros(5)
    ingredients = Ingredients(latents, {}, nothing, nothing.bool(), torch.eye(5), only(effect_map, "adam"), 0)
    default = Recipe("fgaa", True, 0.5, True, True, "none", 1.0, "adam", n2=0)
    assert 0 <= tables.norm_distance(default, ["love"], [1, 3], ingredients) < 1e-6


def test_sentences_and_metrics():
    cosines = tables.fgaa_cosines(COMPARED)
    on = {"fgaa": 0.2, "caa": 0.31234567}
    near, expected = tables.verdict(cosines, on)
    assert near.startswith("FGAA's vectors lie nearest to SAE-TS's: the mean cosine is 0.98, against 0.40 with CAA")
    assert expected.endswith("to the own target of 0.31 for CAA and 0.20 for FGAA.")
    vectors = dict.fromkeys([VectorName("love", "caa"), VectorName("anger", "caa"), VectorName("love", "sae", rank=1)])
    assert tables.count_sentence(vectors) == "There are 3 vectors: 2 of CAA and 1 of SAE."
    assert tables.metrics(3, "adam", 1.49e-7, cosines, tables.alikeness(COMPARED, X), on) == {
        "vectors": 3,
        "fit": "adam",
        "l1_l2_distance": 1e-7,
        "cosine_fgaa": {"caa": 0.4, "sae": 0.8, "sae_ts": 0.98},
        "cosine_between_behaviours": {"fgaa": 0.8, "caa": 0.0},
        "predicted_on_target": {"fgaa": 0.2, "caa": 0.3123},
    }
