from functools import wraps

import pytest
import torch

from fgaa_utils.evaluation.capability import steered_text_ce
from fgaa_utils.method.effects import ce_scales
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.halving import Halving

IDS = torch.tensor([[1, 5, 9, 13, 2, 7], [1, 30, 4, 4, 8, 11]])


def parts_of(rows, size, each=1, *, fits=10**9):
    """Lengths of the parts that were run, and the rows that came out."""
    tried = []

    def run(part):
        tried.append(len(range(*part.indices(rows))))
        if tried[-1] * each > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.arange(rows)[part]

    return tried, Halving(size)(run, rows, each=each)


@pytest.mark.parametrize(
    ("size", "each", "expected"), [(10, 1, [10]), (100, 30, [3, 3, 3, 1]), (6, 1, [5, 5]), (5, 30, [1] * 10)]
)
def test_parts_are_bounded_and_cover_all_rows(size, each, expected):
    tried, rows = parts_of(10, size, each)
    assert tried == expected and rows.tolist() == list(range(10))


def test_the_size_that_fits_is_kept():
    tried, rows = parts_of(10, 10, 7, fits=21)
    assert tried == [1] * 10 and rows.tolist() == list(range(10)), "10 counts for less than two rows of 7"
    tried, rows = parts_of(10, 70, 7, fits=21)
    assert tried == [10, 5, 3, 3, 3, 1] and rows.tolist() == list(range(10))


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        parts_of(8, 4, fits=0)


@pytest.fixture
def small_memory(tiny, monkeypatch):
    """The tiny model on a device that holds two rows after the first block; the sizes that were tried."""
    sizes, block = [], tiny.hf.model.layers[3]
    real = block.forward

    @wraps(real)
    def forward(hidden, *args, **kwargs):
        sizes.append(len(hidden))
        if len(hidden) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(hidden, *args, **kwargs)

    def limit():
        monkeypatch.setattr(block, "forward", forward)
        return sizes

    return limit


def test_texts_that_do_not_fit_are_read_in_parts(tiny, small_memory):
    texts = [[1, *range(2, 3 + i)] for i in range(7)]
    whole = list(capture_resid(tiny, texts, 3))
    sizes = small_memory()
    halved = list(capture_resid(tiny, texts, 3))
    for a, b in zip(whole, halved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert sizes[0] == 7 and max(sizes[3:]) <= 2


def test_deltas_that_do_not_fit_are_measured_in_parts(tiny, small_memory):
    deltas = torch.randn(6, tiny.d_model, generator=torch.Generator().manual_seed(0))
    whole = steered_text_ce(tiny, IDS, deltas, 1)
    sizes = small_memory()
    torch.testing.assert_close(steered_text_ce(tiny, IDS, deltas, 1), whole, atol=1e-4, rtol=1e-4)
    assert sizes[0] == 6 and max(sizes[2:]) <= 2


def test_scales_do_not_depend_on_what_fits(tiny, small_memory, tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn(5, tiny.d_model, generator=torch.Generator().manual_seed(0)))
    rule = {"rise": 0.5, "probes": [1.0, 3.0]}
    whole = ce_scales(tiny, vectors, 1, IDS, tmp_path / "whole", **rule)
    sizes = small_memory()
    halved = ce_scales(tiny, vectors, 1, IDS, tmp_path / "halved", **rule)
    torch.testing.assert_close(halved, whole, atol=1e-3, rtol=1e-3)
    assert 5 in sizes and max(sizes[sizes.index(5) + 2 :]) <= 2
