"""The paper's printed numbers beside ours, on made-up weights; tests/test_paper_setting.py runs the command."""

import pytest
import torch

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import text_means
from fgaa_utils.method.recipe import Ingredients, Recipe, only
from fgaa_utils.pipeline.check_paper import check_behaviours, cosine_table, means_of_texts, read_texts, v_diff_table

RECIPE = Recipe("fgaa", True, 0.5, True, True, "l1", 0.0, "adam", n2=0)


def test_v_diff_table_has_the_rank_among_ours():
    table = v_diff_table({"love": torch.tensor([1.0, 3.0, 2.0])}, {"love": {2: 1.5, 1: 9.0}})
    assert table.values.tolist() == [["love", 2, 1.5, 2.0, 2], ["love", 1, 9.0, 3.0, 1]]


def test_cosine_table_is_the_average_at_the_papers_n1():
    """With the identity as the map, FGAA's vector is its target: the highest latents, weighted by value."""
    latents = {
        "love": (torch.tensor([[4.0, 3.0, 0.0]]), torch.zeros(1, 3)),
        "anger": (torch.eye(3)[2:], torch.zeros(1, 3)),
    }
    resid = {
        "love": (torch.tensor([[0.0, 5.0, 0.0]]), torch.zeros(1, 3)),
        "anger": (torch.eye(3)[2:], torch.zeros(1, 3)),
    }
    effect_map = EffectMap(torch.eye(3), torch.zeros(3), {})
    nothing = torch.zeros(3)
    ingredients = Ingredients(
        {True: latents}, {True: resid}, nothing, nothing.bool(), torch.eye(3), only(effect_map, "adam"), 0
    )
    table = cosine_table(RECIPE, ingredients, {"love": 2, "anger": 1}, {"caa": 0.1, "sae": 0.2, "sae_ts": 0.3})
    assert table.ours.tolist() == pytest.approx([(0.6 + 1) / 2, (0.8 + 1) / 2, (0.8 + 1) / 2])
    assert table.index.tolist() == ["caa", "sae", "sae_ts"] and table.paper.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("include_bos", [True, False])
def test_texts_are_read_as_the_recipe_takes_them(tiny, tiny_sae, include_bos):
    texts = {"love": (["we love", "love"], ["we hate"])}
    recipe = RECIPE.changed({"include_bos": include_bos})
    latents, resid = means_of_texts(tiny, tiny_sae, recipe, texts, 1)
    assert list(latents) == list(resid) == [include_bos]
    for side, expected in enumerate(text_means(tiny, tiny_sae, t, 1)[include_bos] for t in texts["love"]):
        assert torch.equal(latents[include_bos]["love"][side], expected.latents)
        assert torch.equal(resid[include_bos]["love"][side], expected.resid)


def test_behaviours_must_be_the_papers():
    paper = {"v_diff": {"m": {"love": {1: 2.0}}}, "best_n1": {"m": {"love": 1}}}
    check_behaviours({"love": ([], [])}, paper, "m")
    with pytest.raises(ValueError, match="unknown behaviour among the texts: 'love'"):
        check_behaviours({"anger": ([], [])}, paper, "m")
    with pytest.raises(ValueError, match="unknown behaviour of the paper: 'anger'"):
        check_behaviours({"love": ([], []), "anger": ([], [])}, paper, "m")


def test_a_file_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "texts.yaml"
    path.write_text("love: {positive: [a], negative: [b]}\n")
    assert read_texts(path) == {"love": (["a"], ["b"])}
    path.write_text("love: [a, b]\n")
    with pytest.raises(ValueError, match=r"texts\.yaml must read `behaviour: \{positive"):
        read_texts(path)
