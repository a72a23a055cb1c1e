import numpy as np
import pytest
import torch

from fgaa_utils.method.features import LatentStats
from fgaa_utils.method.latent_cards import CARDS, cards_table, contexts, latent_cards

ROWS = np.array([[1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [1, 20, 21, 22, 23, 24, 3, 4, 5, 6, 7, 8, 9]])


@pytest.fixture
def stats():
    """Latent 0 fires at row 0, pos 10 and row 1, pos 1; latent 1 once; latent 2 never."""
    value = torch.tensor([[5.0, 4.126], [3.0, 0.0], [0.0, 0.0]])
    row, pos = torch.tensor([[0, 1], [1, 0], [0, 0]]), torch.tensor([[10, 1], [12, 0], [0, 0]])
    nothing = torch.zeros(3)
    return LatentStats(torch.tensor([0.1234567, 0.2, 0.0]), nothing, nothing, value, row, pos)


def test_contexts_are_excerpts_around_the_token(tiny, stats):
    decode = tiny.tokenizer.decode
    first, second = contexts(stats, 0, ROWS, tiny)
    assert first == {
        "before": decode(ROWS[0][3:10]),
        "token": decode(ROWS[0][10:11]),
        "after": decode(ROWS[0][11:13]),
        "value": 5.0,
    }
    assert second["before"] == "" and second["token"] == decode(ROWS[1][1:2]) and second["value"] == 4.13
    assert len(second["after"].split()) == 3
    (only,) = contexts(stats, 1, ROWS, tiny)
    assert only["after"] == "" and list(contexts(stats, 2, ROWS, tiny)) == []


def test_cards_are_of_the_highest_positive_entries_of_any_behaviour(tiny, stats):
    W_dec = torch.randn(3, tiny.d_model, generator=torch.Generator().manual_seed(0))
    nothing = [0.0] * CARDS
    v = {"love": torch.tensor([2.0, 0.0, -5.0, *nothing]), "anger": torch.tensor([1.0, 3.0004, 0.0, *nothing])}
    cards = latent_cards(v, stats, ROWS, tiny, W_dec)
    assert [card["latent"] for card in cards] == [0, 1]
    assert [card["wanted_by"] for card in cards] == [{"love": 2.0, "anger": 1.0}, {"anger": 3.0}]
    assert cards[0]["density"] == 0.123457 and len(cards[0]["promotes"]) == 6
    assert len(cards[0]["contexts"]) == 2


def test_no_more_cards_than_asked_for(tiny):
    nothing, many = torch.zeros(20), torch.zeros(20, 1)
    stats = LatentStats(nothing, nothing, nothing, many, many, many)
    cards = latent_cards({"love": torch.arange(20.0)}, stats, ROWS, tiny, torch.ones(20, tiny.d_model))
    assert [card["latent"] for card in cards] == list(range(20 - CARDS, 20))


def test_the_table_shows_a_behaviours_own_latents_with_text_made_safe():
    context = {"before": "a|b ", "token": " <i>", "after": "", "value": 2.0}
    cards = [
        {"latent": 7, "density": 0.01, "promotes": ["x"], "contexts": [context] * 4, "wanted_by": {"love": 1.0}},
        {"latent": 3, "density": 0.01, "promotes": ["_y"], "contexts": [], "wanted_by": {"love": 2.0, "anger": 1.0}},
    ]
    table = cards_table(cards, "love")
    assert table.index.tolist() == [3, 7] and table.loc[7, "value"] == "1.0"
    assert table.loc[7, "contexts"].count("<br>") == 2
    assert table.loc[7, "contexts"].startswith("a&#124;b <b>[ &lt;i&gt;]</b>")
    assert table.loc[3, "promotes"] == "'&#95;y'"
    assert cards_table(cards, "anger").index.tolist() == [3]
    assert cards_table(cards, "london").empty and cards_table(cards, "london").index.name == "latent"
