import numpy as np
import pytest
import torch

from fgaa_utils.method.effects import (
    EffectData,
    ce_scales,
    chunk_vectors,
    interpolate_scale,
    mean_activations,
    rises_at_scale,
)
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.model.steer import steered_ce


def test_interpolation_is_exact_on_a_power_law():
    factor, power = torch.tensor([1e-5, 3e-5]), torch.tensor([1.7, 2.0])
    rises = torch.stack([factor * c**power for c in (120, 300)], dim=1)
    scale = interpolate_scale(rises, [120, 300], 0.5)
    torch.testing.assert_close(factor * scale**power, torch.full((2,), 0.5), rtol=1e-3, atol=1e-3)


def test_interpolation_stays_near_the_probes():
    scale = interpolate_scale(torch.tensor([[0.0, 0.0], [50.0, 60.0]]), [100, 200], 0.5)
    assert scale.tolist() == pytest.approx([400, 50])


def test_probes_must_grow():
    with pytest.raises(ValueError, match="probes are"):
        interpolate_scale(torch.ones(1, 2), [200, 100], 0.5)


def test_ce_scales_give_the_rise_that_was_asked_for(tiny, tmp_path):
    vectors = torch.nn.functional.normalize(
        torch.randn(3, tiny.d_model, generator=torch.Generator().manual_seed(0)), dim=1
    )
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11]])
    base = steered_ce(tiny, ids, 2, None)
    probes = [4.0, 8.0]
    wanted = float((steered_ce(tiny, ids, 2, 6.0 * vectors[:1]) - base).abs())
    scales = ce_scales(tiny, vectors, 2, ids, tmp_path, rise=wanted, probes=probes, batch=2)
    measured = torch.stack([steered_ce(tiny, ids, 2, p * vectors[:1]) - base for p in probes], dim=1)
    torch.testing.assert_close(scales[:1], interpolate_scale(measured, probes, wanted), rtol=1e-3, atol=1e-3)


def test_chunks_leave_out_held_out_rows_and_follow_their_number():
    W_dec = torch.nn.functional.normalize(torch.randn(40, 8), dim=1)
    scales, allowed = torch.rand(40) + 1, np.arange(5, 40)
    rows = chunk_vectors(W_dec, scales, allowed, chunk=0, size=35, seed=0)
    assert sorted(rows.parents[:, 0].tolist()) == allowed.tolist()
    assert torch.equal(rows.x, W_dec[rows.parents[:, 0]]) and torch.equal(rows.scale, scales[rows.parents[:, 0]])
    mixed, again, other = (chunk_vectors(W_dec, scales, allowed, chunk=c, size=100, seed=0) for c in (1, 1, 2))
    assert mixed.parents.min() >= 5
    torch.testing.assert_close(mixed.x.norm(dim=1), torch.ones(100))
    assert torch.equal(mixed.x, again.x) and not torch.equal(mixed.x, other.x)
    low = torch.minimum(*(scales[torch.from_numpy(mixed.parents[:, i])] for i in (0, 1)))
    assert (mixed.scale >= low / 2**0.5 - 1e-5).all()  # cos^2 + sin^2 = 1


def test_rises_are_measured_at_each_vectors_scale(tiny, tiny_sae):
    W_dec, scales = tiny_sae.W_dec.detach(), torch.linspace(2, 6, 64)
    ids = torch.tensor([[1, 5, 6, 7], [1, 9, 10, 11]])
    rises = rises_at_scale(tiny, W_dec, scales, 1, ids, count=3, seed=8)
    assert list(rises) == ["decoder rows", "mixtures"]
    for name, chunk in (("decoder rows", 0), ("mixtures", 1)):
        vectors = chunk_vectors(W_dec, scales, np.arange(64), chunk=chunk, size=3, seed=8)
        for i in range(3):
            delta = (vectors.scale[i] * vectors.x[i])[None]
            steered = [steered_ce(tiny, row[None], 1, delta) - steered_ce(tiny, row[None], 1, None) for row in ids]
            torch.testing.assert_close(rises[name][i], torch.cat(steered).mean(), atol=1e-4, rtol=1e-4)


def test_mean_activations_by_loops(tiny, tiny_sae):
    texts = [[1, 5, 6], [1, 9, 10, 11]]
    ours = mean_activations(tiny, tiny_sae, texts, 1)
    for text, mean in zip(texts, ours):
        resid = next(capture_resid(tiny, [text], 1))
        with torch.no_grad():
            expected = sum(tiny_sae.encode(t[None])[0] for t in resid[1:]) / (len(text) - 1)
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-4)


def make_data(tiny, tiny_sae, folder, unsteered_rollouts=30):
    return EffectData(
        tiny,
        tiny_sae,
        torch.full((64,), 5.0),
        1,
        folder,
        openers=["", "the", "we love"],
        sampling=SamplingParams(new_tokens=4, top_k=20, temperature=1.0, batch=8),
        chunk_size=20,
        heldout_vectors=4,
        heldout_rollouts=3,
        unsteered_rollouts=unsteered_rollouts,
        seed=0,
    )


def test_effects_are_rollout_means_less_the_unsteered_mean_of_their_opener(tiny, tiny_sae, tmp_path):
    data = make_data(tiny, tiny_sae, tmp_path)
    unsteered = data.unsteered().float()
    base = torch.stack([sum(unsteered[r] for r in range(30) if r % 3 == i % 3) / 10 for i in range(20)])
    vectors, raw = data.chunk(1)
    (_, first), (x, y) = data.chunks(2)
    assert torch.equal(x, vectors.x) and first.shape == y.shape == (20, 64)
    torch.testing.assert_close(y, raw.float() - base)
    held_x, held_y = data.heldout_effects()
    assert torch.equal(held_x, tiny_sae.W_dec[data.heldout]) and held_y.shape == (4, 3, 64)
    assert not set(vectors.parents.ravel().tolist()) & set(data.heldout.tolist())


def test_an_opener_without_unsteered_rollouts_is_refused(tiny, tiny_sae, tmp_path):
    with pytest.raises(ValueError, match="unsteered_rollouts is 2; each of the 3 openers"):
        make_data(tiny, tiny_sae, tmp_path, unsteered_rollouts=2)


def test_effect_data_is_read_back(tiny, tiny_sae, tmp_path, monkeypatch):
    first = make_data(tiny, tiny_sae, tmp_path).chunk(0)[1]
    monkeypatch.setattr("fgaa_utils.method.effects.rollout_activations", lambda *_, **__: pytest.fail("made again"))
    assert torch.equal(make_data(tiny, tiny_sae, tmp_path).chunk(0)[1], first)
