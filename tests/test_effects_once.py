"""The effects stage makes its maps once, keeps a record of what they are of, and judges them on held-out rollouts."""

from dataclasses import replace

import pytest
import torch
from made_effects import COURSE

from fgaa_utils.method import effects_once as module
from fgaa_utils.method.approximator import Moments
from fgaa_utils.method.effect_fits import mean_effect
from fgaa_utils.method.effects_once import course_of, effects_once, read_record
from fgaa_utils.names import FITS

IDS = torch.tensor([[2, 5, 6, 7, 8, 9], [2, 9, 8, 7, 6, 5]])


def made(tiny, tiny_sae, folder, course=COURSE, seed=0):
    identity = {"model": tiny.identity, "sae": "s", "layer": 2}
    return effects_once(tiny, tiny_sae, IDS, 2, folder, course, identity=identity, seed=seed)


def test_maps_are_made_once(tiny, tiny_sae, tmp_path, monkeypatch):
    first = made(tiny, tiny_sae, tmp_path)
    assert list(first.maps) == list(FITS) and set(first.curve.fit) == {"Adam", "ridge", "reduced rank"}
    assert first.curve.vectors.tolist()[-1] == 48 and first.record == read_record(tmp_path)
    assert first.record["made_of"]["seed"] == 0 and first.record["made_of"]["chunk_size"] == 16
    assert set(first.record["files"]) == {f"{name}.safetensors" for name in (*FITS, "scales")}
    assert course_of(tmp_path, "adam") == COURSE and course_of(tmp_path / "nothing", "adam") is None
    assert course_of(tmp_path, "a/b:c.safetensors") is None
    with monkeypatch.context() as patched:
        patched.setattr(module, "_make", None)  # what is there is read back
        again = made(tiny, tiny_sae, tmp_path)
    assert all(torch.equal(again.maps[fit].M, first.maps[fit].M) for fit in FITS)
    assert torch.equal(again.heldout().rollouts, first.heldout().rollouts)


@pytest.mark.parametrize("what", ["course", "seed", "file"])
def test_other_maps_are_made_anew(tiny, tiny_sae, tmp_path, monkeypatch, what):
    first = made(tiny, tiny_sae, tmp_path)
    calls = []
    make = module._make
    monkeypatch.setattr(module, "_make", lambda *args, **kwargs: calls.append(1) or make(*args, **kwargs))
    if what == "course":
        other = made(tiny, tiny_sae, tmp_path, replace(COURSE, adam_epochs=2))
        assert not torch.equal(other.maps["adam"].M, first.maps["adam"].M)
    elif what == "seed":
        assert made(tiny, tiny_sae, tmp_path, seed=1).record["made_of"]["seed"] == 1
    else:
        (tmp_path / "ridge.safetensors").write_bytes(b"damaged")
        assert made(tiny, tiny_sae, tmp_path).record["files"] == first.record["files"]
        assert first.record["seconds"] is not None
    assert calls == [1]


def test_the_mean_effect_is_that_of_the_vectors_fitted_to(tiny, tiny_sae, tmp_path):
    found = made(tiny, tiny_sae, tmp_path)
    folds = [Moments.of(x, y) for x, y in found.data.chunks(COURSE.chunks)]
    expected = mean_effect(folds)
    torch.testing.assert_close(
        found.heldout().mean_effect, expected, rtol=2e-2, atol=1e-3 * float(expected.abs().max())
    )
