import pytest
import torch

from fgaa_utils.model.steer import check_delta, edited_logits, next_token_ce, steered_ce

IDS = torch.tensor([[1, 5, 6, 7], [1, 9, 8, 30]])


@pytest.fixture
def delta(tiny):
    return torch.randn(2, tiny.d_model, generator=torch.Generator().manual_seed(3))


def hooked_logits(lm, ids, layer, delta):
    """The oracle: a plain PyTorch hook."""
    hook = lm.hf.model.layers[layer].register_forward_hook(lambda m, i, out: out + delta[:, None])
    with torch.no_grad():
        logits = lm.hf(ids).logits
    hook.remove()
    return logits


def test_equals_a_plain_hook(tiny, delta):
    ours = edited_logits(tiny, IDS, 2, lambda h: h + delta[:, None])
    torch.testing.assert_close(ours, hooked_logits(tiny, IDS, 2, delta))


def test_rows_carry_their_own_vectors(tiny, delta):
    together = edited_logits(tiny, IDS, 1, lambda h: h + delta[:, None])
    for row in range(2):
        alone = hooked_logits(tiny, IDS[row : row + 1], 1, delta[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_delta_lands_at_the_layer_and_not_before(tiny, delta):
    seen = {}
    hooks = [
        block.register_forward_hook(lambda m, i, out, n=n: seen.setdefault(n, []).append(out.clone()))
        for n, block in enumerate(tiny.hf.model.layers)
    ]
    edited_logits(tiny, IDS, 1, lambda h: h)
    edited_logits(tiny, IDS, 1, lambda h: h + delta[:, None])
    for hook in hooks:
        hook.remove()
    assert torch.equal(*seen[0])
    assert not torch.equal(*seen[2])  # the later block reads the changed stream


def test_zero_is_a_no_op_to_the_bit(tiny):
    with torch.no_grad():
        plain = tiny.hf(IDS).logits
    assert torch.equal(edited_logits(tiny, IDS, 2, lambda h: h + torch.zeros(2, 1, tiny.d_model)), plain)


def test_the_model_is_restored(tiny, delta):
    with torch.no_grad():
        before = tiny.hf(IDS).logits
        edited_logits(tiny, IDS, 2, lambda h: h + 10 * delta[:, None])
        assert torch.equal(tiny.hf(IDS).logits, before)


def test_cross_entropy_by_hand(tiny):
    logits = torch.randn(1, 3, 5)
    ids = torch.tensor([[0, 2, 4]])
    probabilities = logits.double().softmax(dim=2)
    expected = [-probabilities[0, 0, 2].log(), -probabilities[0, 1, 4].log()]
    torch.testing.assert_close(next_token_ce(logits, ids)[0], torch.stack(expected).float())


def test_steered_ce_without_a_delta_is_the_models_own_loss(tiny):
    with torch.no_grad():
        loss = tiny.hf(IDS[:1], labels=IDS[:1]).loss
    torch.testing.assert_close(steered_ce(tiny, IDS, 1, None)[0], loss, atol=1e-4, rtol=1e-4)


def test_bad_deltas(tiny, delta):
    with pytest.raises(ValueError, match=r"shape \(2, 31\)"):
        check_delta(tiny, delta[:, 1:], 2)
    with pytest.raises(ValueError, match="row 1 has NaN"):
        check_delta(tiny, torch.stack([delta[0], delta[1] * torch.nan]), 2)
