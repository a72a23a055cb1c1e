import numpy as np
import pytest
import torch

from fgaa_utils.method import features
from fgaa_utils.method.features import (
    SIDES,
    LatentStats,
    TextMeans,
    bos_filter,
    contrastive_difference,
    density_filter,
    latent_stats,
    load_features,
    mean_deviation,
    promoted_tokens,
    save_features,
    target,
    text_means,
    top_k_filter,
)
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.sae.load import encode

ROWS = np.array([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12], [1, 30, 31, 32, 33], [1, 5, 9, 30, 7]], dtype=np.int32)


def all_acts(lm, sae):
    with torch.no_grad():
        return torch.stack([sae.encode(r) for r in capture_resid(lm, ROWS.tolist(), 1)])  # (row, pos, d_sae)


@pytest.mark.parametrize("rows_per_shard", [1, 3, 4])
def test_latent_stats_by_loops(tiny, tiny_sae, tmp_path, monkeypatch, rows_per_shard):
    monkeypatch.setattr(features, "ROWS_PER_SHARD", rows_per_shard)
    stats = latent_stats(tiny, tiny_sae, ROWS, 1, tmp_path, top=3)
    acts = all_acts(tiny, tiny_sae)
    for latent in range(tiny_sae.cfg.d_sae):
        fires = sum(float(acts[r, p, latent]) > 0 for r in range(4) for p in range(1, 5))
        assert stats.density[latent] == pytest.approx(fires / 16)
        assert stats.max_bos[latent] == pytest.approx(float(acts[:, 0, latent].max()), abs=1e-5)
        assert stats.max_other[latent] == pytest.approx(float(acts[:, 1:, latent].max()), abs=1e-5)
        peaks = sorted((float(acts[r, 1:, latent].max()) for r in range(4)), reverse=True)[:3]
        assert stats.top_value[latent].tolist() == pytest.approx(peaks, abs=1e-5)
        for value, row, pos in zip(stats.top_value[latent], stats.top_row[latent], stats.top_pos[latent]):
            if value > 0:
                assert float(acts[row, pos, latent]) == pytest.approx(float(value), abs=1e-5)


def test_latent_stats_go_on_after_a_kill_and_read_nothing_twice(tiny, tiny_sae, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "ROWS_PER_SHARD", 1)
    whole = vars(latent_stats(tiny, tiny_sae, ROWS, 1, tmp_path / "whole", top=2))
    read = []

    def killed_after_two(lm, texts, layer):
        read.append(texts)
        if len(read) == 3:
            raise KeyboardInterrupt
        return capture_resid(lm, texts, layer)

    monkeypatch.setattr(features, "capture_resid", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        latent_stats(tiny, tiny_sae, ROWS, 1, tmp_path, top=2)
    resumed = vars(latent_stats(tiny, tiny_sae, ROWS, 1, tmp_path, top=2))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert len(read) == 3 + 2
    latent_stats(tiny, tiny_sae, ROWS, 1, tmp_path, top=2)
    assert len(read) == 3 + 2


def test_bos_latents_by_the_definition():
    zeros = torch.zeros(3, 1)
    stats = LatentStats(
        torch.zeros(3), torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 0.0]), zeros, zeros, zeros
    )
    assert stats.bos_latents.tolist() == [True, False, False]


def test_text_means_encode_first_and_average_afterwards(tiny, tiny_sae):
    texts = ["the cat sat", "we love"]
    ours = text_means(tiny, tiny_sae, texts, 1)
    for include_bos, means in ours.items():
        for i, text in enumerate(texts):
            resid = next(capture_resid(tiny, tiny.encode([text]), 1))[0 if include_bos else 1 :]
            latents, mean = torch.zeros(tiny_sae.cfg.d_sae), torch.zeros(tiny.d_model)
            for token in resid:
                with torch.no_grad():
                    latents += tiny_sae.encode(token[None])[0]
                mean += token.float()
            torch.testing.assert_close(means.latents[i], latents / len(resid), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(means.resid[i], mean / len(resid), atol=1e-4, rtol=1e-4)


def test_text_means_read_the_texts_once_and_equal_those_of_each_kind_alone(tiny, tiny_sae, monkeypatch):
    texts, read = ["the cat sat", "we love", "rain"], []
    monkeypatch.setattr(features, "capture_resid", lambda *a: read.append(a) or capture_resid(*a))
    both = text_means(tiny, tiny_sae, texts, 1)
    assert len(read) == 1
    for bos in (True, False):
        start = 0 if bos else 1
        resid = list(capture_resid(tiny, tiny.encode(texts), 1))
        assert torch.equal(both[bos].latents, torch.stack([encode(tiny_sae, r[start:]).mean(dim=0) for r in resid]))
        assert torch.equal(both[bos].resid, torch.stack([r[start:].float().mean(dim=0) for r in resid]))
        alone = text_means(tiny, tiny_sae, texts, 1, include_bos=(bos,))
        assert list(alone) == [bos] and torch.equal(alone[bos].latents, both[bos].latents)


def test_mean_deviation_by_loops(tiny):
    tokens = [token for resid in capture_resid(tiny, ROWS.tolist(), 1) for token in resid[1:].double()]
    mean = sum(tokens) / len(tokens)
    expected = sum(float((token - mean).norm()) for token in tokens) / len(tokens)
    assert mean_deviation(tiny, ROWS, 1) == pytest.approx(expected, rel=1e-5)


def test_features_file_round_trip_and_refusals(tmp_path):
    zeros = torch.zeros(3)
    stats = LatentStats(torch.rand(3), torch.tensor([2.0, 1, 0]), torch.tensor([1.0, 2, 0]), zeros, zeros, zeros)
    means = {
        "love": {side: {b: TextMeans(torch.rand(2, 3), torch.rand(2, 4)) for b in (True, False)} for side in SIDES}
    }
    path = tmp_path / "features.safetensors"
    identity = {"model": "m:1", "sae": "s", "layer": 9}
    save_features(path, stats, means, identity=identity, resid_std=1524.530029296875)
    tensors, resid_std = load_features(path, identity=identity)
    assert resid_std == 1524.530029296875
    assert torch.equal(tensors["density"], stats.density) and tensors["bos_latents"].tolist() == [True, False, False]
    assert torch.equal(tensors["latents.on.love.pos"], means["love"]["pos"][True].latents)
    assert torch.equal(tensors["resid.off.love.neg"], means["love"]["neg"][False].resid)
    for other in ({"model": "m:2"}, {"sae": "t"}, {"layer": 8}):
        with pytest.raises(ValueError, match="run `dvc repro features`"):
            load_features(path, identity=identity | other)


def test_difference_and_filters_by_loops():
    generator = np.random.default_rng(0)
    positive, negative = generator.random((3, 20)), generator.random((5, 20))
    density, bos = generator.random(20) * 0.02, generator.random(20) < 0.2
    v = [sum(row[i] for row in positive) / 3 - sum(row[i] for row in negative) / 5 for i in range(20)]
    v = [0.0 if density[i] > 0.01 else v[i] for i in range(20)]
    v = [0.0 if bos[i] else v[i] for i in range(20)]
    ranked = sorted(range(20), key=lambda i: -v[i])
    kept = {i for i in ranked[:3] if v[i] > 0} | {i for i in ranked[-2:] if v[i] < 0}
    expected = [v[i] if i in kept else 0.0 for i in range(20)]
    ours = contrastive_difference(torch.tensor(positive), torch.tensor(negative))
    ours = bos_filter(density_filter(ours, torch.tensor(density), 0.01), torch.tensor(bos))
    assert top_k_filter(ours, 3, 2).tolist() == pytest.approx(expected)


def test_target_norms():
    v = torch.tensor([3.0, -4.0, 1.0, 0.0])
    assert target(v, 1, 1).tolist() == pytest.approx([3 / 7, -4 / 7, 0, 0])
    assert target(v, 1, 1, norm="l2").tolist() == pytest.approx([0.6, -0.8, 0, 0])
    assert target(v, 2, 0, norm="none").tolist() == [3.0, 0.0, 1.0, 0.0]


def test_promoted_tokens_are_those_of_the_unembedding(tiny):
    direction = torch.randn(2, tiny.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tiny.hf.model.norm(direction) @ tiny.hf.lm_head.weight.T
    expected = [[tiny.tokenizer.decode([int(t)]) for t in row.argsort(descending=True)[:3]] for row in logits]
    assert promoted_tokens(tiny, direction, 3) == expected


def test_out_of_range_and_nothing_left():
    v = torch.tensor([-1.0, -2.0, 0.0])
    with pytest.raises(ValueError, match="n1 is 4; it must be from 0 to d_sae = 3"):
        top_k_filter(v, 4, 0)
    with pytest.raises(ValueError, match="n2 is -1"):
        top_k_filter(v, 1, -1)
    with pytest.raises(ValueError, match="no latent is left with n1=2"):
        top_k_filter(v, 2, 0)


def test_an_unknown_norm_of_the_target_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown target_norm 'L1'.*l1, l2, none"):
        target(torch.tensor([1.0, 2.0]), 1, 0, norm="L1")
