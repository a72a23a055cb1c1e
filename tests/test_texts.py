"""Kept texts: what names one, and a damaged file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgaa_utils.evaluation.texts import TextStore, row_keys
from fgaa_utils.model.generate import Rows

ROWS = Rows(
    prompts=[[1, 5], [1, 6, 5]],
    vectors=torch.eye(2),
    prompt=np.array([0, 0]),
    vector=np.array([0, 1]),
    coeff=np.array([2.0, 0.0], dtype=np.float32),
    seed=np.array([7, 7]),
)
STARTS = [[5], [5]]


@pytest.mark.parametrize(
    "changed, starts",
    [
        ({"prompt": np.array([1, 0])}, STARTS),  # a prefix in front of the same opener
        ({}, [[], [5]]),
        ({"vectors": torch.tensor([[1.0, 1e-6], [0, 1]])}, STARTS),
        ({"coeff": np.array([2.000001, 0.0], dtype=np.float32)}, STARTS),
        ({"seed": np.array([8, 7])}, STARTS),
    ],
)
def test_all_that_shapes_a_text_is_in_its_key(changed, starts):
    first, second = row_keys(ROWS, STARTS)
    other, same = row_keys(replace(ROWS, **changed), starts)
    assert other != first and same == second


def test_unsteered_text_has_one_key_whatever_the_vector():
    unsteered = replace(ROWS, coeff=np.zeros(2, dtype=np.float32))
    first, second = row_keys(unsteered, STARTS)
    assert first == second == row_keys(ROWS, STARTS)[1]


def test_two_stores_of_one_folder_lose_nothing_and_a_damaged_file_is_named(tmp_path):
    a, b = TextStore(tmp_path, {"n": 1}), TextStore(tmp_path, {"n": 1})
    a.add(["k1", "k2"], ["one", "two"], together=4)
    b.add(["k3"], ["three"], together=4)
    found = TextStore(tmp_path, {"n": 1})
    assert [found[key] for key in ("k1", "k2", "k3")] == ["one", "two", "three"] and "k4" not in found
    assert "k1" not in TextStore(tmp_path, {"n": 2})
    path = next(tmp_path.rglob("shard_*.parquet"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"shard_.* is damaged .*delete it and run its stage again"):
        TextStore(tmp_path, {"n": 1})
