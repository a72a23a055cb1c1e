import pytest
import torch

from fgaa_utils.model import capture
from fgaa_utils.model.capture import capture_resid, pad_right, resid_batch

TEXTS = [[1, 5], [1, 4, 7, 9, 12, 3], [1, 8, 8], [1, 20, 21, 22, 23, 24, 25, 26, 27]]


def test_equals_the_hidden_states_of_transformers(tiny):
    for layer in range(tiny.n_layers - 1):  # transformers puts the final norm on the last hidden state
        for text, resid in zip(TEXTS, capture_resid(tiny, TEXTS, layer)):
            with torch.no_grad():
                states = tiny.hf(torch.tensor([text]), output_hidden_states=True).hidden_states
            torch.testing.assert_close(resid, states[layer + 1][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 6, 12, 1000])
def test_batch_size_and_padding_do_not_matter(tiny, batch_tokens):
    alone = [next(capture_resid(tiny, [text], 2)) for text in TEXTS]
    together = list(capture_resid(tiny, TEXTS, 2, batch_tokens=batch_tokens))
    for a, b in zip(alone, together, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_wider_text_to_come_does_not_cut_the_batch_before_it(tiny, monkeypatch):
    read, real = [], capture.resid_batch

    def counted(lm, ids, mask, layer):
        read.append(tuple(ids.shape))
        return real(lm, ids, mask, layer)

    monkeypatch.setattr(capture, "resid_batch", counted)
    list(capture_resid(tiny, [[1, 5, 6]] * 4 + [[1, *range(2, 11)]], 1, batch_tokens=12))
    assert read == [(4, 3), (1, 10)]


def test_stops_at_the_layer(tiny):
    begun = []
    hooks = [
        block.register_forward_pre_hook(lambda *_, i=i: begun.append(i)) for i, block in enumerate(tiny.hf.model.layers)
    ]
    list(capture_resid(tiny, TEXTS[:1], 1))
    for hook in hooks:
        hook.remove()
    assert begun == [0, 1]


def test_pads_are_masked(tiny):
    ids, mask = pad_right(TEXTS, tiny.tokenizer.pad_token_id)
    assert mask.sum(dim=1).tolist() == [len(t) for t in TEXTS]
    assert resid_batch(tiny, ids, mask, 0).shape == (4, 9, tiny.d_model)


def test_empty_text_is_refused(tiny):
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        list(capture_resid(tiny, [[1], []], 0))


def test_layer_out_of_range(tiny):
    with pytest.raises(ValueError, match=r"layer 4 is out of range: the model has blocks 0\.\.3"):
        next(capture_resid(tiny, TEXTS, 4))
