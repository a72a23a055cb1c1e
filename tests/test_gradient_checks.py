"""Halves against loops, the measured KL against rollouts that can all be listed, the rest against plain readings."""

import numpy as np
import pandas as pd
import pytest
import torch

from fgaa_utils.method import gradient_checks as checks
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.gradients import ScoreSums, frozen_weights, read_rollouts
from fgaa_utils.model import generate as generation
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import SamplingParams, generate_all
from fgaa_utils.model.steer import edited_logits
from fgaa_utils.shards import ShardStore

LAYER, TOP, HEAT = 1, 3, 0.8
PROMPT = [1, 5, 9]


def unit(width, seed):
    return torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(seed)), dim=0)


PARTS, ROWS, OPENERS = 4, 12, 3


@pytest.fixture(scope="module")
def rollouts():
    """Scores (rows, 2, 5), rewards (rows, 2, 7) and opener of four parts; latent 6 is silent, 5 in the second half."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(PARTS * ROWS, 2, 5, generator=g)
    rewards = torch.randn(PARTS * ROWS, 2, 7, generator=g) + scores.sum(-1, keepdim=True)
    rewards[:, :, 6] = rewards[2 * ROWS :, :, 5] = 0
    return scores, rewards, torch.arange(PARTS * ROWS) % OPENERS


@pytest.fixture(scope="module")
def store(rollouts, tmp_path_factory):
    scores, rewards, opener = rollouts
    store = ShardStore(tmp_path_factory.mktemp("halves"), {"made": "up"}, PARTS)
    for part in range(PARTS):
        rows = slice(part * ROWS, (part + 1) * ROWS)
        both = {"latents": rewards[rows], "resid": scores[rows]}
        store.write(part, ScoreSums.of(scores[rows], both, scores[rows, 0], opener[rows], OPENERS).tensors())
    return store


def map_by_loops(rollouts, rows):
    """(G, F) of some rollouts, float64."""
    scores, rewards, opener = (t.double().numpy() if t.is_floating_point() else t.numpy() for t in rollouts)
    G, F = np.zeros((5, 7)), np.zeros((5, 5))
    for i in rows:
        others = [j for j in rows if opener[j] == opener[i] and j != i]
        G += scores[i].T @ (rewards[i] - rewards[others].mean(axis=0)) / len(rows)
        F += scores[i].T @ scores[i] / len(rows)
    return G, F


@pytest.mark.parametrize("parts", [1, 2])
def test_halves_are_compared_as_by_loops(rollouts, store, parts):
    found = checks.split_halves(store, [1, 2], ridge=0.3)
    found = found[found.rollouts == parts * ROWS].set_index("compared")
    (G, F), (G_other, F_other) = (map_by_loops(rollouts, range(start, start + parts * ROWS)) for start in (0, 2 * ROWS))
    _, F_all = map_by_loops(rollouts, range(PARTS * ROWS))
    natural, natural_other = (
        np.linalg.solve(f + 0.3 * np.diag(f).mean() * np.eye(5), g) for f, g in ((F, G), (F_other, G_other))
    )
    for name, a, b, metric in (
        (checks.PLAIN_GRADIENT, G, G_other, np.eye(5)),
        (checks.NATURAL_GRADIENT, natural, natural_other, np.eye(5)),
        (checks.IN_F_NORM, natural, natural_other, F_all),
    ):
        pairs = [(a[:, j], b[:, j]) for j in range(5)]  # 5 and 6 do not live in both
        cosines = [x @ metric @ y / np.sqrt((x @ metric @ x) * (y @ metric @ y)) for x, y in pairs]
        row = found.loc[name]
        assert row.latents == 5 and row["mean"] == pytest.approx(np.mean(cosines), abs=1e-5)
        wanted = np.quantile(cosines, [0.25, 0.5, 0.75])
        assert [row.lo, row["median"], row.hi] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("sizes", [[], [0, 1], [3]])
def test_sizes_that_leave_no_halves_are_refused(store, sizes):
    with pytest.raises(ValueError, match="halves of 4 parts have from 1 to 2 parts"):
        checks.split_halves(store, sizes, ridge=0.1)


def test_the_spectrum_falls():
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    F = torch.from_numpy(turn @ np.diag([1.0, 9.0, 4.0]) @ turn.T)
    assert checks.spectrum(F) == pytest.approx([9, 4, 1])


def test_vectors_that_steer_are_random_directions_and_rows_of_live_latents():
    W_dec = torch.eye(6)[torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])]
    G = torch.zeros(6, 8)
    G[2, [1, 3, 4]] = torch.tensor([0.5, -1.0, 2.0])
    gradients = GradientMap(G, torch.eye(6), torch.diag(torch.arange(1.0, 7)), torch.eye(6), 2, {})
    assert checks.live_latents(G).tolist() == [1, 3, 4]
    made = {"ridge": 0.1, "seed": 0}
    vectors, kinds = checks.check_vectors(W_dec, gradients, 2, **made)
    assert kinds == [checks.RANDOM] * 2 + [checks.DECODER] * 2 + [checks.NATURAL] * 2
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    rows = vectors[2:4].argmax(dim=1).tolist()
    assert set(rows) < {1, 3, 4} and rows[0] != rows[1] and vectors[2:4].max() == 1
    natural = gradients.natural(gradients.G[:, rows[0]], 0.1)
    torch.testing.assert_close(vectors[4], natural / natural.norm())
    again, other = (checks.check_vectors(W_dec, gradients, 2, ridge=0.1, seed=seed)[0] for seed in (0, 1))
    assert torch.equal(again, vectors) and not torch.equal(other, vectors)
    with pytest.raises(ValueError, match="check_vectors is 4; only 3 latents fired"):
        checks.check_vectors(W_dec, gradients, 4, **made)


def steered_rollouts(lm, delta):
    """(ids (9, pos), log p_delta, log p_0) of all rollouts of two tokens, each among the three likeliest under delta,
    over which both distributions are renormalised."""
    rows, logs = [PROMPT], [(0.0, 0.0)]
    for _ in range(2):
        ids = torch.tensor(rows)
        steered, plain = (edited_logits(lm, ids, LAYER, lambda h: h + c * delta)[:, -1] for c in (1, 0))
        kept = steered.topk(TOP).indices
        logp, logq = ((z.gather(1, kept).double() / HEAT).log_softmax(dim=1) for z in (steered, plain))
        logs = [(a + float(p), b + float(q)) for (a, b), ps, qs in zip(logs, logp, logq) for p, q in zip(ps, qs)]
        rows = [[*row, token] for row, tokens in zip(rows, kept.tolist()) for token in tokens]
    return torch.tensor(rows), *torch.tensor(logs).double().unbind(dim=1)


def measured_kl(lm, ids, delta):
    """Of each rollout, summed over its two tokens."""
    _, plain, steered = checks.read_both_ways(lm, ids, LAYER, delta.expand(len(ids), -1))
    plain, steered = (hidden[:, 2:-1].flatten(0, 1) for hidden in (plain, steered))
    kl = checks.next_token_kl(lm, steered, plain, ids[:, 3:].flatten(), top_k=TOP, temperature=HEAT)
    return kl.view(len(ids), 2).sum(dim=1).double()


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_the_measured_kl_is_that_of_whole_rollouts_on_average(tiny, size):
    delta = size * unit(32, 5)
    ids, logp, logq = steered_rollouts(tiny, delta)
    assert float(logp.exp().sum()) == pytest.approx(1)
    wanted = float((logp.exp() * (logp - logq)).sum())
    assert float((logp.exp() * measured_kl(tiny, ids, delta)).sum()) == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1e-4


def test_a_small_coefficient_costs_the_nats_that_the_map_promises(tiny):
    nothing = torch.zeros(32)
    ids, logp, _ = steered_rollouts(tiny, nothing)
    with frozen_weights(tiny):
        scores = read_rollouts(tiny, ids, 3, LAYER, segments=2, top_k=TOP, temperature=HEAT).scores
    F = torch.einsum("r,rsd,rse->de", logp.exp().float(), scores, scores)
    found = GradientMap(torch.zeros(32, 1), torch.zeros(32, 32), F, torch.eye(32), 2, {})
    for seed in range(3):  # so few nats that the three likeliest tokens stay the same
        costs = []
        for sign in (1, -1):  # terms of the third order go
            delta = sign * found.coefficient(unit(32, seed), 1e-5) * unit(32, seed)
            rows, p, _ = steered_rollouts(tiny, delta)
            costs.append(float((p.exp() * measured_kl(tiny, rows, delta)).sum()) / 2)
        assert np.mean(costs) == pytest.approx(1e-5, rel=0.05)


def test_the_residual_stream_is_read_before_anything_is_added(tiny):
    ids = torch.tensor([[1, 5, 6, 7]])
    resid, plain, steered = checks.read_both_ways(tiny, ids, LAYER, unit(32, 0)[None])
    torch.testing.assert_close(resid[0], next(capture_resid(tiny, ids.tolist(), LAYER)))
    for hidden, size in ((plain, 0), (steered, 1)):
        wanted = edited_logits(tiny, ids, LAYER, lambda h: h + size * unit(32, 0))
        torch.testing.assert_close(tiny.hf.lm_head(hidden), wanted)


SAMPLING = SamplingParams(new_tokens=4, top_k=TOP, temperature=HEAT, batch=8)
STEERED = {"openers": ["", "the", "we love"], "sampling": SAMPLING, "rollouts": 6, "seed": 3}
LEVELS = [0.4, 0.1]  # in any order
VECTORS, KINDS = torch.stack([unit(32, 1), unit(32, 2)]), [checks.RANDOM, checks.DECODER]


def made_up_map():
    G = torch.randn(32, 64, generator=torch.Generator().manual_seed(7))
    return GradientMap(G, torch.zeros(32, 32), 0.008 * torch.eye(32), torch.eye(32), 4, {})


@pytest.fixture(scope="module")
def measured(tiny, tiny_sae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return folder, checks.measure(tiny, tiny_sae, LAYER, VECTORS, KINDS, made_up_map(), LEVELS, folder, **STEERED)


@pytest.fixture(scope="module")
def by_loops(tiny, tiny_sae, measured):
    """(cells, KL a token (cells, rollouts), reward (cells, rollouts, d_sae)) of the same texts, read one at a time."""
    folder, _ = measured
    cells = checks.check_cells(VECTORS, KINDS, made_up_map(), LEVELS)
    rows = checks.check_rows(cells, VECTORS, tiny.encode(STEERED["openers"]), 6, 3)
    tokens = generate_all(tiny, rows, LAYER, SAMPLING, folder / "rollouts")
    kl, rewards = [], []
    for r, new in enumerate(tokens.tolist()):
        prompt = rows.prompts[rows.prompt[r]]
        text, delta = [*prompt, *new], float(rows.coeff[r]) * VECTORS[rows.vector[r]]
        resid = next(capture_resid(tiny, [text], LAYER))
        with torch.no_grad():
            latents = [tiny_sae.encode(h[None])[0] for h in resid[len(prompt) :]]
        rewards.append(sum(latents) / (len(text) - 1))
        logits = [edited_logits(tiny, torch.tensor([text]), LAYER, lambda h: h + c * delta)[0] / HEAT for c in (1, 0)]
        kl.append(0.0)
        for t in range(len(prompt) - 1, len(text) - 1):
            kept = logits[0][t].topk(TOP).indices
            p, q = (z[t][kept].softmax(dim=0) for z in logits)
            kl[-1] += float((p * (p / q).log()).sum()) / 4
    return cells, np.array(kl).reshape(5, 6), torch.stack(rewards).view(5, 6, 64)


def test_cells_are_unsteered_and_every_vector_at_every_level():
    cells = checks.check_cells(VECTORS, KINDS, made_up_map(), LEVELS)
    assert cells.kind.tolist() == ["unsteered", *[checks.RANDOM] * 2, *[checks.DECODER] * 2]
    assert cells.nats.tolist() == [0.0, 0.4, 0.1, 0.4, 0.1] and cells.vector.tolist() == [0, 0, 0, 1, 1]
    assert cells.coeff.tolist() == pytest.approx([0, 20, 10, 20, 10])  # 0.008 c^2 / 2 is 4 tokens of so many nats


def test_all_cells_share_their_openers_and_random_numbers():
    cells = checks.check_cells(VECTORS, KINDS, made_up_map(), LEVELS)
    rows = checks.check_rows(cells, VECTORS, [[1], [1, 4], [1, 5]], 6, seed=3)
    assert rows.prompt.reshape(5, 6).tolist() == [[0, 1, 2, 0, 1, 2]] * 5
    seeds = rows.seed.reshape(5, 6)
    assert (seeds == seeds[0]).all() and len(set(seeds[0].tolist())) == 6
    assert (rows.coeff.reshape(5, 6).T == cells.coeff.to_numpy(dtype=np.float32)).all()
    with pytest.raises(ValueError, match="check_rollouts is 9; 3 openers need a multiple of 6"):
        checks.check_rows(cells, VECTORS, [[1], [1, 4], [1, 5]], 9, seed=3)


def test_the_kl_of_steered_texts_with_its_error(measured, by_loops):
    _, found = measured
    cells, kl, _ = by_loops
    assert (kl[0] == 0).all() and kl[1:].min() > 1e-4
    columns = ["kind", "vector", "nats"]
    pd.testing.assert_frame_equal(found.kl[columns], cells.loc[1:, columns].reset_index(drop=True))
    assert found.kl.measured.to_numpy() == pytest.approx(kl[1:].mean(axis=1), rel=1e-3)
    assert found.kl.error.to_numpy() == pytest.approx(kl[1:].std(axis=1, ddof=1) / 6**0.5, rel=1e-3)


def test_changes_are_those_of_the_reward_at_the_smallest_level(measured, by_loops):
    _, found = measured
    _, _, rewards = by_loops
    for vector, cell in ((0, 2), (1, 4)):
        changes = found.changes[found.changes.vector == vector]
        assert changes.latent.tolist() == list(range(64)) and set(changes.kind) == {KINDS[vector]}
        wanted = rewards[cell].mean(dim=0) - rewards[0].mean(dim=0)
        assert changes.measured.to_numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
        assert wanted.abs().max() > 1e-2
        assert changes.predicted.to_numpy() == pytest.approx((10 * VECTORS[vector] @ made_up_map().G).numpy(), rel=1e-4)


def test_agreement_over_latents_and_its_ceiling(measured, by_loops):
    _, found = measured
    cells, _, rewards = by_loops
    for i, cell in enumerate(range(1, 5)):
        halves = [(rewards[cell, k] - rewards[0, k]).mean(dim=0).numpy() for k in (slice(0, 3), slice(3, 6))]
        change = (halves[0] + halves[1]) / 2
        predicted = float(cells.coeff[cell]) * (VECTORS[cells.vector[cell]] @ made_up_map().G).numpy()
        row = found.agreement.loc[i]
        assert row.correlation == pytest.approx(np.corrcoef(predicted, change)[0, 1], abs=1e-4)
        assert row.slope == pytest.approx(np.polyfit(predicted, change, 1)[0], abs=1e-5)
        r = max(0, np.corrcoef(halves[0], halves[1])[0, 1])
        assert row.ceiling == pytest.approx(np.sqrt(2 * r / (1 + r)), abs=1e-3)


def test_a_prediction_of_half_the_size_has_slope_two():
    cells = pd.DataFrame({"kind": ["unsteered", "a"], "vector": [0, 0], "nats": [0.0, 1.0], "coeff": [0.0, 2.0]})
    vectors, G = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0, -3.0], [9.0, 9.0, 9.0]])
    start = torch.tensor([5.0, 6.0, 7.0])
    rewards = torch.stack([start.expand(2, 3), (start + 4 * G[0]).expand(2, 3)])
    found = checks.compare(cells, torch.tensor([[0.0, 0.0], [1.0, 3.0]]), rewards, vectors, G)
    assert found.agreement.loc[0, ["correlation", "ceiling", "slope"]].tolist() == pytest.approx([1, 1, 2])
    assert found.kl.loc[0, ["measured", "error"]].tolist() == pytest.approx([2, 1])


def test_texts_are_read_back_not_made_again(tiny, tiny_sae, measured, monkeypatch):
    folder, found = measured
    monkeypatch.setattr(generation, "generate_batch", None)
    again = checks.measure(tiny, tiny_sae, LAYER, VECTORS, KINDS, made_up_map(), LEVELS, folder, **STEERED)
    pd.testing.assert_frame_equal(again.kl, found.kl)
    pd.testing.assert_frame_equal(again.changes, found.changes)


def test_rollouts_of_another_length_than_the_maps_are_refused(tiny, tiny_sae, tmp_path):
    longer = STEERED | {"sampling": SamplingParams(new_tokens=5, top_k=TOP, temperature=HEAT, batch=8)}
    with pytest.raises(ValueError, match="new_tokens is 5; the map is of rollouts of 4"):
        checks.measure(tiny, tiny_sae, LAYER, VECTORS, KINDS, made_up_map(), LEVELS, tmp_path, **longer)


@pytest.mark.parametrize(
    ("ratios", "highest"),
    [
        ([1.0, 1.2, 0.9], 4.0),
        ([1.0, 0.8, 0.7], 2.0),
        ([1.1, 1.3, 1.0], 1.0),  # what holds again after it failed does not count
        ([1.3, 1.0, 1.0], None),
    ],
)
def test_the_quadratic_form_holds_up_to_where_the_median_leaves_the_range(ratios, highest):
    levels = [1.0, 2.0, 4.0]
    rows = [("far", v, n, n * r * luck) for v, luck in enumerate((0.5, 1, 3)) for n, r in zip(levels, ratios)]
    rows += [("near", 3, n, n * (1 + (r - 1) / 2)) for n, r in zip(levels, ratios)]  # the kind furthest off counts
    kl = pd.DataFrame(rows, columns=["kind", "vector", "nats", "measured"])
    assert checks.kl_ratios(kl).tolist() == pytest.approx(ratios)
    assert checks.quadratic_range(kl) == highest
