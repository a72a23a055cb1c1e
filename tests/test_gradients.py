"""Scores against finite differences, G and F against rollouts that can all be listed."""

import numpy as np
import pytest
import torch

from fgaa_utils.method import gradients
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.gradients import (
    ScoreSums,
    frozen_weights,
    gradient_map,
    read_rollouts,
    sums_of,
    tail_sums,
)
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.model.head import kept_tokens
from fgaa_utils.model.steer import edited_logits
from fgaa_utils.sae.load import encode

LAYER, TOP, HEAT = 1, 3, 0.8
PROMPT = [1, 5, 9]


def log_probabilities(lm, ids, prompt, delta):
    """Of every token that was drawn, (rows, new): from the whole vocabulary, in another way than read_rollouts."""
    logits = edited_logits(lm, ids, LAYER, lambda h: h + delta[:, None, :])[:, prompt - 1 : -1].float() / HEAT
    plain = edited_logits(lm, ids, LAYER, lambda h: h)[:, prompt - 1 : -1]
    kept = plain.topk(TOP, dim=-1).indices
    logp = logits.gather(2, kept).log_softmax(dim=-1)
    return logp[kept == ids[:, prompt:, None]].view(len(ids), -1)


@pytest.fixture(scope="module")
def every_rollout(tiny):
    """All rollouts of two tokens from the prompt, each drawn among the three likeliest: ids (9, pos)."""
    first = edited_logits(tiny, torch.tensor([PROMPT]), LAYER, lambda h: h)[0, -1].topk(TOP).indices.tolist()
    rows = []
    for token in first:
        then = edited_logits(tiny, torch.tensor([[*PROMPT, token]]), LAYER, lambda h: h)[0, -1].topk(TOP).indices
        rows += [[*PROMPT, token, second] for second in then.tolist()]
    return torch.tensor(rows)


def read(lm, ids, segments, delta=None):
    with frozen_weights(lm):
        return read_rollouts(lm, ids, len(PROMPT), LAYER, delta=delta, segments=segments, top_k=TOP, temperature=HEAT)


@pytest.mark.parametrize("at", [0.0, 0.3])
def test_scores_are_the_slope_of_the_log_probability(tiny, every_rollout, at):
    direction = torch.nn.functional.normalize(torch.randn(9, 32, generator=torch.Generator().manual_seed(3)), dim=1)
    start, step = at * direction.flip(0), 1e-2
    up, down = (log_probabilities(tiny, every_rollout, 3, start + c * step * direction) for c in (1, -1))
    measured = (up - down) / (2 * step)
    scores = read(tiny, every_rollout, 2, None if at == 0 else start).scores
    assert scores.shape == (9, 2, 32)
    assert torch.einsum("rsd,rd->rs", scores, direction) == pytest.approx(measured, abs=2e-4)
    assert measured.abs().max() > 1e-2


def test_the_weights_are_as_before(tiny):
    before = [p.requires_grad for p in tiny.hf.parameters()]
    with pytest.raises(ZeroDivisionError), frozen_weights(tiny):
        assert not any(p.requires_grad for p in tiny.hf.parameters())
        raise ZeroDivisionError
    assert [p.requires_grad for p in tiny.hf.parameters()] == before


def expectation(lm, sae, ids, delta):
    """(expected mean latents of what follows the prompt (d_sae,), KL from unsteered) over all rollouts under delta."""
    rows = delta.expand(len(ids), -1)
    logp, plain = (log_probabilities(lm, ids, 3, d).sum(1).double() for d in (rows, torch.zeros_like(rows)))
    latents = encode(sae, read(lm, ids, 1).resid[:, 3:]).sum(1) / 4
    return (logp.exp()[:, None] * latents).sum(0), float((logp.exp() * (logp - plain)).sum())


def test_G_is_the_slope_of_expected_latents_and_F_the_curvature_of_the_kl(tiny, tiny_sae, every_rollout):
    reading = read(tiny, every_rollout, 2)
    p = log_probabilities(tiny, every_rollout, 3, torch.zeros(9, 32)).sum(1).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    rewards = tail_sums(encode(tiny_sae, reading.resid[:, 3:]), 2) / 4
    G = torch.einsum("r,rsd,rsw->dw", p, reading.scores, rewards)
    F = torch.einsum("r,rsd,rse->de", p, reading.scores, reading.scores)
    for seed in range(4):
        v = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(seed)), dim=0)
        step = 0.05
        (up, _), (down, _) = (expectation(tiny, tiny_sae, every_rollout, c * step * v) for c in (1, -1))
        slope = (up - down) / (2 * step)
        assert v @ G == pytest.approx(slope.float(), abs=3e-3 * float(slope.abs().max()) + 1e-5)
        kls = [expectation(tiny, tiny_sae, every_rollout, c * 0.4 * v)[1] for c in (1, -1)]  # odd terms go
        assert sum(kls) / 2 == pytest.approx(float(v @ F @ v) * 0.4**2 / 2, rel=0.05)


def drawn_sums(rows=24, openers=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    scores, rewards = torch.randn(rows, 2, 5, generator=g), {"latents": torch.randn(rows, 2, 7, generator=g)}
    means, opener = torch.randn(rows, 5, generator=g), torch.arange(rows) % openers
    return scores, rewards | {"resid": torch.randn(rows, 2, 5, generator=g)}, means, opener


def test_the_baseline_is_the_mean_of_the_other_rollouts():
    scores, rewards, means, opener = drawn_sums()
    wanted = torch.zeros(5, 7)
    for i in range(24):
        others = [j for j in range(24) if opener[j] == opener[i] and j != i]
        wanted += scores[i].T @ (rewards["latents"][i] - rewards["latents"][others].mean(0)) / 24
    sums = ScoreSums.of(scores, rewards, means, opener, 3)
    assert sums.gradient("latents") == pytest.approx(wanted, abs=1e-5)
    assert sums.covariance() == pytest.approx(torch.from_numpy(np.cov(means.T, bias=True)).float(), abs=1e-5)


def test_sums_of_parts_are_the_sum_of_the_whole():
    scores, rewards, means, opener = drawn_sums()
    whole = ScoreSums.of(scores, rewards, means, opener, 3)
    halves = [
        ScoreSums.of(scores[k], {n: r[k] for n, r in rewards.items()}, means[k], opener[k], 3)
        for k in (slice(0, 9), slice(9, 24))
    ]
    added = ScoreSums.from_tensors((halves[0] + halves[1]).tensors())
    for name, tensor in whole.tensors().items():
        assert added.tensors()[name] == pytest.approx(tensor, abs=1e-4), name


def test_unequal_openers_are_refused():
    scores, rewards, means, opener = drawn_sums(rows=25)
    with pytest.raises(ValueError, match=r"\[9, 8, 8\] rollouts; each needs the same number"):
        ScoreSums.of(scores, rewards, means, opener, 3).gradient("latents")


def test_tail_sums_run_from_a_segment_to_the_end():
    values = torch.arange(10.0).view(1, 5, 2)
    assert tail_sums(values, 2).tolist() == [[[20, 25], [18, 21]]]
    with pytest.raises(ValueError, match="segments is 6; a rollout of 5 tokens has from 1 to 5"):
        tail_sums(values, 6)


@pytest.fixture(scope="module")
def map_of_drawn():
    scores, rewards, means, opener = drawn_sums(rows=60)
    return gradient_map(ScoreSums.of(scores, rewards, means, opener, 3), 2, {"model": "m", "layer": 1})


def test_the_natural_gradient_climbs_most_at_equal_kl(map_of_drawn):
    reward = map_of_drawn.G @ torch.tensor([1.0, 0, 0, 2, 0, 0, 0])
    best = map_of_drawn.natural(reward, 0.0)

    def gain(v):
        return float(v @ reward) / float(v @ map_of_drawn.F @ v) ** 0.5

    others = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    assert all(gain(best) >= gain(v) for v in (*others, reward))
    assert map_of_drawn.natural(reward, float("inf")) == pytest.approx(reward)
    damped = map_of_drawn.natural(reward, 1e6)  # far from F the direction is the plain gradient's
    assert torch.cosine_similarity(damped, reward, dim=0) == pytest.approx(1, abs=1e-4)


def test_a_coefficient_costs_its_nats(map_of_drawn):
    v = torch.nn.functional.normalize(torch.ones(5), dim=0)
    c = map_of_drawn.coefficient(v, 0.25)
    assert c**2 * float(v @ map_of_drawn.F @ v) / 2 == pytest.approx(0.25 * 2)  # of a rollout of two tokens


def test_a_map_comes_back_from_its_file(map_of_drawn, tmp_path):
    map_of_drawn.save(tmp_path / "g.safetensors")
    back = GradientMap.load(tmp_path / "g.safetensors", model="m", layer=1)
    assert back.G == pytest.approx(map_of_drawn.G, abs=1e-3 * float(map_of_drawn.G.abs().max()))
    assert torch.equal(back.F, map_of_drawn.F) and back.tokens == 2
    with pytest.raises(ValueError, match="made with layer='1', this run has '2'"):
        GradientMap.load(tmp_path / "g.safetensors", layer=2)


SAMPLING = SamplingParams(new_tokens=6, top_k=TOP, temperature=HEAT, batch=8)


def shards(lm, sae, folder, rollouts=32, parts=2):
    sizes = {"openers": ["", "the", "a cat"], "rollouts": rollouts, "parts": parts, "segments": 3, "seed": 5}
    return gradients.gradient_shards(lm, sae, LAYER, folder, sampling=SAMPLING, batch_tokens=128, **sizes)


def test_shards_resume_and_hold_what_a_new_reward_needs(tiny, tiny_sae, tmp_path):
    store = shards(tiny, tiny_sae, tmp_path, rollouts=36)
    whole = sums_of(store).gradient("latents")
    store.path(1).unlink()
    again = shards(tiny, tiny_sae, tmp_path, rollouts=36)
    assert torch.equal(sums_of(again).gradient("latents"), whole)
    assert whole.shape == (32, 64) and whole.abs().sum() > 0
    shard = again.read(0)
    assert shard["scores"].shape == (18, 3, 32) and shard["tokens"].shape == (18, 6)
    flat = shard["scores"].float().flatten(0, 1)
    assert flat.T @ flat == pytest.approx(shard["fisher"], rel=0.02, abs=1e-2 * float(shard["fisher"].abs().max()))
    assert sums_of(again, [0]).count.sum() == 18


def test_what_does_not_divide_is_refused(tiny, tiny_sae, tmp_path):
    with pytest.raises(ValueError, match=r"rollouts is 32; 2 parts .* need a multiple of 6, 12 or more"):
        shards(tiny, tiny_sae, tmp_path)


def test_a_drawn_token_outside_the_top_takes_the_last_place(tiny):
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    order = tiny.hf.lm_head(hidden).argsort(descending=True)
    drawn = torch.stack([order[0, 1], order[1, 0], order[2, 2], order[3, 50]])
    kept = kept_tokens(tiny, hidden, drawn, 3)
    assert kept[:, 0].tolist() == drawn.tolist()
    for row, ranks, wanted in zip(kept, order, ([0, 1, 2], [0, 1, 2], [0, 1, 2], [50, 0, 1])):
        assert set(row.tolist()) == set(ranks[wanted].tolist())
