import numpy as np
import pandas as pd
import pytest

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.data.corpus import SPLITS
from fgaa_utils.data.figures import draw_sources
from fgaa_utils.data.tables import (
    behaviour_table,
    contrast_table,
    data_metrics,
    overlap_table,
    source_table,
    token_table,
    verdict,
)

OCEAN = Behaviour(
    key="ocean",
    name="Ocean",
    description="of the sea",
    positive=("waves roll in", "salt", "the tide", "gulls", "deep blue water"),
    negative=("cars", "sand dry", "the road", "crows", "brown"),
    judge_positive=("a ship",),
    judge_negative=("a bus", "a tram"),
)
ROWS = {"heldout": np.zeros((2, 8)), "density": np.zeros((3, 8)), "sae_train": np.zeros((10, 8))}


def words(texts, add_special_tokens):
    assert not add_special_tokens
    return {"input_ids": [text.split() for text in texts]}


def documents(rows):
    frame = pd.DataFrame(rows, columns=["source", "split", "text", "overlap"])
    frame["split"] = pd.Categorical(frame.split, categories=SPLITS, ordered=True)
    return frame


ALL = documents(
    [
        ("coqa", "heldout", "a" * 100, 0.0),
        ("quac", "density", "b" * 300, 0.01),
        ("quac", "sae_train", "c" * 1000, 0.03),
        ("drop", "sae_train", "d" * 2000, 0.01),
        ("drop", "sae_train", "e" * 50, 0.9),
    ]
)
KEPT = ALL[ALL.overlap < 0.05]


def test_behaviours_are_counted_and_measured():
    table = behaviour_table([OCEAN], words)
    row = table.loc["Ocean"]
    assert table.index.name == "behaviour"
    assert (row["positive"], row["negative"], row["judge +"], row["judge -"]) == (5, 5, 1, 2)
    assert row["tokens +"] == pytest.approx(10 / 5) and row["tokens -"] == pytest.approx(7 / 5)
    assert table.dtypes["positive"].kind == "i" and table.dtypes["tokens +"].kind == "f"


def test_pairs_are_matched_by_number():
    assert contrast_table(OCEAN).values.tolist() == [["gulls", "crows"], ["deep blue water", "brown"]]
    assert contrast_table(OCEAN, first=0, count=1).values.tolist() == [["waves roll in", "cars"]]


def test_sources_are_sized_in_million_characters_largest_first():
    table = source_table(KEPT)
    assert table.index.tolist() == ["drop", "quac", "coqa"] and table.index.name == "source"
    assert table.loc["quac"].tolist() == [0, 300 / 1e6, 1000 / 1e6]
    assert table.loc["drop", "sae_train"] == 2000 / 1e6


def test_overlap_of_what_is_kept_and_the_number_dropped():
    table = overlap_table(ALL, KEPT)
    assert table.index.tolist() == list(SPLITS) and table.index.name == "split"
    assert table.documents.tolist() == [1, 1, 2] and table.dropped.tolist() == [0, 0, 1]
    assert table.loc["sae_train", "mean overlap"] == pytest.approx(0.02)
    assert table.loc["sae_train", "largest overlap"] == 0.03


def test_tokens_leave_out_bos():
    assert token_table(ROWS)["tokens without BOS"].to_dict() == {"heldout": 14, "density": 21, "sae_train": 70}


def test_metrics_of_the_stage():
    metrics = data_metrics([OCEAN], overlap_table(ALL, KEPT), ROWS)
    assert metrics == {
        "behaviours": 1,
        "documents": {"heldout": 1, "density": 1, "sae_train": 2},
        "tokens": {"heldout": 14, "density": 21, "sae_train": 70},
        "overlap": {"heldout": 0.0, "density": 0.01, "sae_train": 0.02},
        "overlap_max": {"heldout": 0.0, "density": 0.01, "sae_train": 0.03},
    }
    assert all(type(n) is int for n in metrics["documents"].values())


def test_the_verdict_says_how_much_and_what_is_left_of_overlap():
    said = verdict([OCEAN], overlap_table(ALL, KEPT), ROWS)
    assert "1 behaviours, and 105 tokens of background text from 4 documents of 5" in said
    assert "2.000%" in said and "3.0% at most" in said


def test_the_bars_are_the_characters():
    grid = draw_sources(source_table(KEPT))
    assert sum(bar.get_width() for bar in grid.ax.patches) == pytest.approx(3400 / 1e6)
