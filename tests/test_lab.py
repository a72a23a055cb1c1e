"""The playground without a browser: what the panel shows is what the model wrote, and mistakes are said in place."""

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup

from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.export import bundle
from fgaa_utils.lab.panel import Panel
from fgaa_utils.lab.play import Play
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import text_means
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.recipe import Ingredients, Recipe, only
from fgaa_utils.model.generate import row_seeds, steered_text
from fgaa_utils.names import MADE
from fgaa_utils.pipeline.run import cell_values, parameters_cell
from fgaa_utils.project import ROOT
from fgaa_utils.sae.load import decoder_rows, encode

LAYER = 2
LOVE = (["we love the cat", "love love the dog"], ["the cat sat on the mat", "a dog ran in"])


@pytest.fixture
def play(tiny, tiny_sae):
    torch.manual_seed(2)
    means = [text_means(tiny, tiny_sae, texts, LAYER) for texts in LOVE]
    latents, resid = (
        {b: {"love": tuple(getattr(m[b], what) for m in means)} for b in (True, False)} for what in ("latents", "resid")
    )
    A, G = torch.randn(32, 32), torch.randn(32, 64)
    gradients = GradientMap(G, torch.eye(32), A @ A.T / 32 + torch.eye(32), torch.eye(32), 5, {})
    fitted = EffectMap(torch.randn(32, 64), torch.randn(64), {})
    W_dec = decoder_rows(tiny_sae)
    dense = torch.zeros(64)
    ingredients = Ingredients(latents, resid, dense, dense > 0, W_dec, only(fitted, "adam"), 0, gradients)
    default = Recipe("fgaa", True, 0.01, True, True, "l1", 1.0, "adam", n2=0)
    return Play(
        tiny, tiny_sae, LAYER, default, ingredients, Strength("nats", 1.0, gradients), None, {"love": "Love"}, 50, 1.0
    )


def test_every_method_has_its_vector_of_unit_norm(play):
    found = {method: play.vector("love", method, 2) for method in MADE}
    for vector in found.values():
        torch.testing.assert_close(vector.norm(), torch.tensor(1.0))
    assert found["ng"] is play.vector("love", "ng", 2), "made once"
    assert not torch.allclose(found["fgaa"], play.vector("love", "fgaa", 1))
    loving, plain = (side.mean(dim=0) for side in play.ingredients.resid[False]["love"])
    torch.testing.assert_close(found["caa"], torch.nn.functional.normalize(loving - plain, dim=0))
    assert torch.equal(found["sae"], play.vector("love", "sae", 128)), "n1 is not its"
    with pytest.raises(ValueError, match="n1 is 128 for love"):
        play.vector("love", "fgaa", 128)


def test_a_pair_is_the_text_without_and_with_the_vector_from_the_same_numbers(play, tiny):
    vector = play.vector("love", "caa", 2)
    pairs = list(play.pairs(vector, 0.5, "the cat", seed=3, samples=2, new_tokens=6))
    assert pairs == list(play.pairs(vector, 0.5, "the cat", seed=3, samples=2, new_tokens=6))
    assert pairs[0] != pairs[1] and pairs[0].plain != pairs[0].steered
    again = next(iter(play.pairs(vector, 2.0, "the cat", seed=3, new_tokens=6)))
    assert again.plain == pairs[0].plain and again.steered != pairs[0].steered
    alone = {"layer": LAYER, "new_tokens": 6, "seed": int(row_seeds(3, count=1)[0])}
    norm = play.strength.coeff(vector, 0.5)
    for side, coeff in (("plain", 0.0), ("steered", norm)):
        assert steered_text(tiny, "the cat", vector, coeff, **alone) == tiny.decode([getattr(pairs[0], side)])[0]


def test_latents_are_what_the_gradient_expects_and_what_the_texts_did(play, tiny, tiny_sae):
    vector = play.vector("love", "ng", 2)
    pairs = list(play.pairs(vector, 0.5, "the cat", samples=2, new_tokens=5))
    found = play.latents(vector, 0.5, pairs, "the cat", count=3)
    expected = play.strength.coeff(vector, 0.5) * (vector @ play.ingredients.gradients.G)
    assert found.index.tolist() == expected.argsort(descending=True)[:3].tolist()
    start = tiny.encode(["the cat"])[0]

    def mean(side, latent):
        rows = torch.tensor([[*start, *getattr(p, side)] for p in pairs])
        resid = tiny.hf(rows, output_hidden_states=True).hidden_states[LAYER + 1][:, len(start) :]
        return float(encode(tiny_sae, resid.flatten(0, 1))[:, latent].mean())

    for latent, row in found.iterrows():
        assert row.measured == pytest.approx(mean("steered", latent) - mean("plain", latent), abs=1e-4)


def test_a_behaviour_of_ones_own_is_steered_like_the_others(play):
    key = play.add("Blue & red", "blue red blue\n\n red ", "one two\nthe mat")
    assert key == "blue_red" and play.names[key] == "Blue & red"
    first = play.vector(key, "caa", 1)
    play.add("Blue & red", "green green", "one two")
    assert not torch.allclose(first, play.vector(key, "caa", 1)), "a second try replaces the first"
    for name, positive, negative, said in (
        ("Love", "a", "b", "not be a behaviour of the run"),
        (" ! ", "a", "b", "must have letters"),
        ("New", "a", " \n", "there is no negative text"),
    ):
        with pytest.raises(ValueError, match=said):
            play.add(name, positive, negative)


def tables(html):
    """Each table as a list of rows of cells, the head first."""
    found = BeautifulSoup(html, "html.parser").find_all("table")
    return [[[cell.text for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")] for table in found]


class Judge:
    behaviours = ("love",)

    def behaviour(self, texts, key):
        return torch.linspace(0, 1, len(texts)).numpy()

    def coherence(self, texts):
        return torch.full((len(texts),), 0.25).numpy()


def test_the_panel_shows_texts_scores_and_latents(play):
    play.judge = Judge()
    panel = Panel(play)
    panel.n1.value, panel.prompt.value = 2, "the cat"
    panel.write.click()
    (head, *texts), (names, *_) = tables(panel.shown.value)
    assert head == ["without steering", "steered", "behaviour", "coherence"] and len(texts) == 4
    assert all(row[0].startswith("the cat") and row[3] == "0.25" for row in texts)
    assert names == ["latent", "its tokens", "expected change", "measured change"]
    panel.name.value, panel.positive.value, panel.negative.value = "Red", "red red", "one two"
    panel.add.click()
    assert panel.behaviour.value == "red" and tables(panel.shown.value)[0][0] == head[:2]


def test_what_was_played_with_can_be_taken_elsewhere(play, tmp_path):
    panel = Panel(play, n1=2, exports=tmp_path)
    panel.name.value, panel.positive.value, panel.negative.value = "Red", "red red", "one two"
    panel.add.click()
    panel.method.value, panel.nats.value, panel.format.value = "ng_fgaa", 0.5, "bundle"
    panel.export.click()
    (folder,) = tmp_path.iterdir()
    assert str(folder) in panel.exported.value and folder.name == "played-red-ng_fgaa-n1_2-n2_0-0.5nats"
    found = bundle.read(folder, model=play.lm.identity, layer=LAYER)
    vector = play.vector("red", "ng_fgaa", 2)
    torch.testing.assert_close(found.delta, play.strength.coeff(vector, 0.5) * vector)
    assert found.about["recipe"]["n1"] == 2 and found.about["scores"] == {} and found.module.endswith(f".{LAYER}")
    panel.format.value = "gguf"
    panel.export.click()
    assert "played-red-ng_fgaa-n1_2-n2_0-0.5nats" in panel.exported.value and len(list(tmp_path.iterdir())) == 2


def test_mistakes_are_said_in_place_and_markup_cannot_run(play):
    panel = Panel(play)
    panel.name.value = "<script>"
    panel.positive.value = "a"
    panel.add.click()
    assert "there is no negative text" in panel.shown.value
    panel.n1.value = 128
    panel.write.click()
    assert "n1 is 128 for love; it must be from 1 to" in panel.shown.value or "natural_n1 is 128" in panel.shown.value
    panel.n1.value, panel.prompt.value = 1, "<script>alert(1)</script>"
    panel.write.click()
    assert "<script>" not in panel.shown.value and "&lt;script&gt;" in panel.shown.value


def test_the_panel_begins_with_what_it_is_told_and_the_notebook_tells_it(play):
    cell = parameters_cell(nbformat.read(ROOT / "notebooks" / "playground.ipynb", as_version=4), "playground.ipynb")
    start = cell_values(cell.source)
    panel = Panel(play, **(start | {"n1": 2, "seed": 7}))
    assert (panel.method.value, panel.nats.value, panel.prompt.value) == tuple(
        start[k] for k in ("method", "nats", "prompt")
    )
    assert (panel.n1.value, panel.seed.value) == (2, 7)
