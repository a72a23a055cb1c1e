import numpy as np
import pytest
import torch

from fgaa_utils.model.capture import capture_resid
from fgaa_utils.sae.figures import draw_densities
from fgaa_utils.sae.quality import (
    density_sentence,
    evaluate_sae,
    latent_densities,
    quality_table,
    sae_metrics,
    stream_norms,
    verdict,
)

ROWS = np.array([[1, 5, 6, 7, 8, 9], [1, 10, 11, 12, 13, 14]], dtype=np.int32)
QUALITY = {
    "explained_variance": 0.954263,
    "l0": 41.171442,
    "dead_fraction": 0.00757,
    "ce_recovered": 0.98212,
    "ce_recovered_mean": 0.93172,
    "ce_base": 3.5,
    "heldout_tokens": 32512.0,
}


def test_evaluation_by_hand(tiny, tiny_sae):
    quality = evaluate_sae(tiny_sae, tiny, ROWS, 1)
    resid = torch.stack([r[1:] for r in capture_resid(tiny, ROWS.tolist(), 1)]).flatten(0, 1)
    with torch.no_grad():
        acts = tiny_sae.encode(resid)
        error = (resid - tiny_sae.decode(acts)).pow(2).sum()
    expected = 1 - float(error / (resid - resid.mean(dim=0)).pow(2).sum())
    assert quality["explained_variance"] == pytest.approx(expected, rel=1e-4)
    assert quality["l0"] == pytest.approx(float((acts > 0).float().sum(dim=1).mean()))
    assert quality["dead_fraction"] == pytest.approx(float((~(acts > 0).any(dim=0)).float().mean()))
    assert quality["heldout_tokens"] == 10


def test_cross_entropy_recovered_by_plain_hooks(tiny, tiny_sae):
    quality = evaluate_sae(tiny_sae, tiny, ROWS, 1)
    mean = torch.cat([r[1:] for r in capture_resid(tiny, ROWS.tolist(), 1)]).mean(dim=0)

    def ce(replace):
        def hook(module, inputs, out):
            return torch.cat([out[:, :1], replace(out[:, 1:])], dim=1)

        handle = tiny.hf.model.layers[1].register_forward_hook(hook)
        ids = torch.from_numpy(ROWS).long()
        with torch.no_grad():
            logits = tiny.hf(ids).logits
        handle.remove()
        return float(torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), ids[:, 2:].flatten()))

    base, zero = ce(lambda h: h), ce(torch.zeros_like)
    with torch.no_grad():
        sae = ce(lambda h: tiny_sae(h))
    assert quality["ce_base"] == pytest.approx(base, abs=1e-5) and quality["ce_zero"] == pytest.approx(zero, abs=1e-5)
    assert quality["ce_recovered"] == pytest.approx((zero - sae) / (zero - base), rel=1e-3)
    to_mean = ce(lambda h: mean.expand_as(h))
    assert quality["ce_recovered_mean"] == pytest.approx((to_mean - sae) / (to_mean - base), rel=1e-3)


def test_densities_by_loops(tiny, tiny_sae):
    counts = np.zeros(64)
    for resid in capture_resid(tiny, ROWS.tolist(), 1):
        for h in resid[1:]:
            with torch.no_grad():
                counts += (tiny_sae.encode(h[None])[0] > 0).numpy()
    densities = latent_densities(tiny_sae, tiny, ROWS, 1)
    np.testing.assert_allclose(densities, counts / 10)
    assert 0 < densities.max() <= 1


def test_norms_of_the_stream():
    resid = torch.tensor([[3.0, 4.0], [3.0, -4.0]])
    table = stream_norms(resid, torch.tensor([30.0, 40.0]))
    assert table.norm.tolist() == [50, 5, 3, 4] and table.index.name == "residual stream"


def test_metrics_are_rounded_and_say_what_is_dense():
    metrics = sae_metrics(QUALITY, np.array([0.0, 0.005, 0.02, 0.5]), tokens=1600, model="tiny")
    assert metrics["mean_density"] == QUALITY["l0"] / 4 and metrics["share_denser_than_0.01"] == 0.5
    assert (metrics["d_sae"], metrics["tokens"], metrics["model"]) == (4, 1600, "tiny")
    assert metrics["explained_variance"] == 0.95426 and metrics["heldout_tokens"] == 32512.0


def test_the_verdict_and_the_table_say_the_numbers():
    said = verdict(QUALITY)
    for number in ("41.2 active", "95.4% of the centred variance", "98.2% of the", "93.2% against", "0.8%", "32,512"):
        assert number in said
    assert density_sentence(QUALITY, np.full(8000, 0.001) + 0.1 * (np.arange(8000) < 1000)) == (
        "The mean density is 0.0051; 12.5% of the latents are denser than 0.01."
    )
    table = quality_table(QUALITY)
    assert table["held out"]["explained variance"] == 0.954263 and "cross-entropy base" in table.index


def test_the_figure_leaves_out_silent_latents():
    grid = draw_densities(np.array([0.0, 0.1, 0.01, 0.001]))
    assert sum(bar.get_height() for bar in grid.ax.patches) == 3
