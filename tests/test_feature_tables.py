import numpy as np
import pandas as pd
import pytest
import torch

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.method import feature_tables as tables
from fgaa_utils.method.feature_tables import FATES, Differences
from fgaa_utils.method.features import LatentStats, text_means
from fgaa_utils.method.recipe import DECODER, Ingredients, Recipe

D_SAE = 24
NAMES = {"love": "Love", "anger": "Anger"}
FILTERS = Recipe("sae", True, 0.5, True, True, target_norm="none", bias_weight=0.0, fit=DECODER)


@pytest.fixture
def ingredients():
    """Latent 0 is dense, 1 a BOS latent, 2 both; `love` rises from 3 on with alternating signs."""
    love = torch.zeros(1, D_SAE)
    love[0, :7] = torch.tensor([9.0, 8, -20, 4, -3, 2, 1])
    latents = {"love": (love, torch.zeros(1, D_SAE)), "anger": (love.flip(1), torch.zeros(1, D_SAE))}
    density, bos = torch.full((D_SAE,), 0.1), torch.zeros(D_SAE, dtype=torch.bool)
    density[[0, 2]], bos[[1, 2]] = 0.9, True
    return Ingredients({True: latents}, {}, density, bos, torch.eye(D_SAE), None, 0)


@pytest.fixture
def found(ingredients):
    return tables.differences(FILTERS, list(NAMES), ingredients)


def test_differences_are_those_with_fewer_filters(found):
    assert found.before["love"][:7].tolist() == [9, 8, -20, 4, -3, 2, 1]
    assert found.after_density["love"][:7].tolist() == [0, 8, 0, 4, -3, 2, 1]
    assert found.after["love"][:7].tolist() == [0, 0, 0, 4, -3, 2, 1]


def test_removed_table_counts_latents_and_shares_of_the_positive_sum(found):
    removed = tables.removed_table(found, NAMES)
    assert removed.index.tolist() == ["Love", "Anger"] and removed.index.name == "behaviour"
    assert removed.loc["Love"].tolist() == pytest.approx([7, 5, 4, 3, 15 / 24, 7 / 24])
    assert removed.loc["Anger"].tolist() == [7, 7, 7, 5, 1, 1]
    assert removed["after BOS"].tolist() == [4, 7] and removed["after BOS"].dtype == int


def test_fates_follow_the_filters_that_are_on(ingredients):
    assert tables.latent_fates(FILTERS, ingredients)[:4].tolist() == [FATES[1], FATES[2], FATES[3], FATES[0]]
    off = FILTERS.changed({"density_filter": False})
    assert tables.latent_fates(off, ingredients)[:4].tolist() == [FATES[0], FATES[2], FATES[2], FATES[0]]
    off = FILTERS.changed({"bos_filter": False, "theta": 0.95})
    assert set(tables.latent_fates(off, ingredients)) == {FATES[0]}


def test_heights_table_by_hand(found, ingredients):
    fates = tables.latent_fates(FILTERS, ingredients)
    row = tables.heights_table(found, fates, NAMES).loc["Love"]
    assert row.tolist() == ["removed: density and BOS", 1, 1, 1, "100%", "100%", "0.50"]
    said = tables.heights_sentence(found, fates, {"m": {"love": {3: 4.0, 5: 1.0}, "praise": {1: 1.0, 2: 2.0}}})
    assert "largest entry of v_diff for 1 of 2 behaviours" in said
    assert "0.38 (0.25 for m love and 0.50 for m praise)" in said


def test_shares_of_tall_entries():
    v = torch.tensor([-8.0, *[1.0] * 12])
    assert tables.carried(v) == pytest.approx(17 / 20)
    assert tables.second_to_first(torch.tensor([1.0, 4.0, -9.0, 3.0])) == 0.75
    assert tables.tallest(torch.tensor([1.0, -4.0, 3.0])) == [1, 2, 0]


def stats(max_bos, max_other, density):
    nothing = torch.zeros(len(density), 1)
    return LatentStats(torch.tensor(density), torch.tensor(max_bos), torch.tensor(max_other), nothing, nothing, nothing)


BOS = stats([5.0, 9.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.2, 0.005, 0.4, 0.0])


def test_bos_latents_are_counted_named_and_listed():
    said = tables.bos_sentences(BOS, 0.01, {"gemma-2-2b": [1, 2]}, model="google/gemma-2-2b", sae_source="release:id")
    assert said[0] == "2 of 4 latents fire most on BOS, 1 of them denser than theta too."
    assert said[1:3] == ["The paper names 2 of gemma-2-2b.", "Ours are 0 and 1."]
    assert said[3] == "Of those that the paper names, 1 of 2 are among ours."
    for other in ({"sae_source": "own"}, {"model": "gemma-3-270m"}):
        given = {"model": "google/gemma-2-2b", "sae_source": "release:id"} | other
        assert len(tables.bos_sentences(BOS, 0.01, {"gemma-2-2b": [1, 2]}, **given)) == 3
    table = tables.bos_table(BOS, 8)
    assert table.index.tolist() == [1, 0] and table.loc[1].tolist() == pytest.approx([9, 2, 0.005])
    assert tables.bos_table(BOS, 1).index.tolist() == [1]


def test_density_sentence():
    said = tables.density_sentence(BOS, 0.01)
    assert said == "The mean density is 0.1513. theta = 0.01 removes 50.0% of the latents; 25.00% never fire here."


def test_auc_of_the_highest_latent_and_of_five_by_pairs():
    v = torch.tensor([-9.0, 2.0, 5.0, 1.0, 0.0, 0.5, 0.1])
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(6, 7, generator=generator), torch.rand(5, 7, generator=generator)
    weights = [max(float(x), 0.0) for x in v]
    scores = {
        "highest latent": lambda t: float(t[2]),
        "five highest": lambda t: sum(map(float.__mul__, weights, t.tolist())),
    }
    ours = tables.tells_apart(v, positive, negative)
    for name, score in scores.items():
        pairs = [score(p) > score(n) for p in positive for n in negative]
        assert ours[name] == pytest.approx(np.mean(pairs))


def test_auc_table_reads_judge_texts_without_bos(tiny, tiny_sae):
    sides = ["the cat sat", "we love"], ["rain", "a dog ran on"]
    behaviour = Behaviour("love", "Love", "", (), (), *map(tuple, sides))
    means = [text_means(tiny, tiny_sae, side, 1)[False].latents for side in sides]
    v = means[0].mean(dim=0) - means[1].mean(dim=0)
    table = tables.auc_table(tiny, tiny_sae, [behaviour], 1, {"love": v})
    assert table.loc["love", "texts"] == 4 and table["texts"].dtype == int
    assert table.loc["love", "five highest"] == tables.tells_apart(v, *means)["five highest"]


def test_verdict_and_metrics(found):
    removed = tables.removed_table(found, NAMES)
    rows = {"love": {"highest latent": 0.60455, "five highest": 0.9, "texts": 4}}
    rows["anger"] = {"highest latent": 0.5, "five highest": 0.7, "texts": 4}
    aucs = pd.DataFrame.from_dict(rows, orient="index")
    said = tables.verdict(aucs.rename(index=NAMES), removed)
    assert "AUC of 0.70 to 0.90, 0.80 on average" in said[0] and "worst for Anger and Love" in said[1]
    assert "leave 29% to 100%" in said[2]
    metrics = tables.metrics(BOS, 0.01, 1524.5312, aucs, removed, list(NAMES))
    assert metrics == {
        "resid_std": 1524.53,
        "mean_density": 0.15125,
        "share_over_theta": 0.5,
        "bos_latents": 2,
        "auc_on_judge_texts": {
            "love": {"highest latent": round(0.60455, 4), "five highest": 0.9},
            "anger": {"highest latent": 0.5, "five highest": 0.7},
        },
        "latents_after_density": {"love": 5, "anger": 7},
        "latents_after_bos": {"love": 4, "anger": 7},
    }


def test_differences_need_the_behaviour():
    with pytest.raises(KeyError):
        tables.removed_table(Differences({"love": torch.ones(3)}, {}, {}), NAMES)
