from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch

from fgaa_utils.data.questions import Question
from fgaa_utils.evaluation.capability import (
    accuracy,
    measure_cells,
    option_logprobs,
    option_logprobs_after,
    pick_texts,
    steered_text_ce,
    text_ce_after,
)
from fgaa_utils.model.steer import steered_ce

LONG = "the cat sat on the mat and the dog ran in the sun and we love the red rain"  # beyond the sliding window of 16
QUESTIONS = [
    Question("sciq", "", "0", "the cat sat on", ("the mat", "a dog", "rain"), 0),
    Question("sciq", "", "1", "we love", ("hate", "one"), 1),
    Question("sciq", "", "2", LONG, ("blue green and two", "red", "the sun in the rain and one", "a a"), 2),
    Question("sciq", "", "3", "the dog ran in", ("the sun", "sun"), 1),
]
IDS = torch.tensor([[1, 5, 6, 7, 20], [1, 9, 8, 30, 4], [1, 3, 3, 12, 40]])


def make_deltas(lm, count=4, scale=1.0):
    return scale * torch.randn(count, lm.d_model, generator=torch.Generator().manual_seed(8))


def naive_logprob(lm, prefix, option, layer, delta, *, steered=None):
    """The oracle: the whole text in one pass with a plain hook, no cache; `steered` limits the positions."""
    (start,), (rest,) = lm.encode([prefix]), lm.encode([option], bos=False)

    def hook(module, inputs, out):
        out = out.clone()
        out[:, : None if steered is None else len(start)] += delta
        return out

    handle = lm.hf.model.layers[layer].register_forward_hook(hook)
    with torch.no_grad():
        logprobs = lm.hf(torch.tensor([start + rest])).logits[0].double().log_softmax(dim=1)
    handle.remove()
    return sum(float(logprobs[len(start) + i - 1, token]) for i, token in enumerate(rest))


def naive_options(lm, layer, deltas, **limits):
    rows = [
        [naive_logprob(lm, q.prefix, option, layer, delta, **limits) for q in QUESTIONS for option in q.options]
        for delta in deltas
    ]
    return torch.tensor(rows)


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_options_equal_whole_passes_with_plain_hooks(tiny, layer):
    deltas = make_deltas(tiny)
    ours = option_logprobs(tiny, QUESTIONS, deltas, layer)
    assert ours.dtype == torch.float32
    assert_close(ours, naive_options(tiny, layer, deltas))


@pytest.mark.parametrize(("count", "batch_tokens"), [(1, 2048), (3, 2048), (3, 1), (7, 50)])
def test_options_do_not_depend_on_the_batch(tiny, count, batch_tokens):
    deltas = make_deltas(tiny, 7)[:count]
    ours = option_logprobs(tiny, QUESTIONS, deltas, 1, batch_tokens=batch_tokens)
    assert_close(ours, naive_options(tiny, 1, deltas))


def test_options_are_steered_too(tiny):
    deltas = make_deltas(tiny, scale=5.0)
    ours = option_logprobs(tiny, QUESTIONS, deltas, 1)
    assert (ours - naive_options(tiny, 1, deltas, steered="prefix")).abs().max() > 0.1
    assert_close(ours, naive_options(tiny, 1, deltas))


def test_zero_is_unsteered(tiny):
    zero = torch.zeros(2, tiny.d_model)
    unsteered = naive_options(tiny, 1, zero)
    assert_close(option_logprobs(tiny, QUESTIONS, zero, 1), unsteered)
    assert_close(option_logprobs(tiny, QUESTIONS, zero, 3), unsteered)


def test_the_prefix_is_computed_once_and_logits_only_where_needed(tiny):
    """Tokens that enter the model and positions that enter the head, over all passes of one question."""
    question, seen, scored = QUESTIONS[2], [], []
    hooks = [
        tiny.hf.model.layers[0].register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[:2]))),
        tiny.hf.lm_head.register_forward_hook(lambda m, i, out: scored.append(tuple(out.shape[:2]))),
    ]
    option_logprobs(tiny, [question], make_deltas(tiny, 3), 1)
    for hook in hooks:
        hook.remove()
    assert seen == [(1, 20), (1, 3), (1, 6), (1, 1)]  # one row up to the steered layer, whatever the deltas
    assert scored == [(3, 1), (3, 3), (3, 6), (3, 1)]


def test_the_model_is_restored(tiny):
    with torch.no_grad():
        before = tiny.hf(IDS).logits
        option_logprobs(tiny, QUESTIONS[:1], make_deltas(tiny, scale=10.0), 1)
        assert torch.equal(tiny.hf(IDS).logits, before)


def test_accuracy_by_hand():
    questions = [
        Question("sciq", "", "0", "x", ("ab", "abcd"), 1),  # a character of the longer one is likelier
        Question("sciq", "", "1", "x", ("a", "b", "c"), 2),
        Question("sciq", "", "2", "x", ("a", "b"), 1),  # a tie
    ]
    logprobs = torch.tensor([[-2.0, -3.0, -5.0, -4.0, -1.0, -7.0, -7.0], [-2.0, -5.0, -1.0, -4.0, -3.0, -1.0, -2.0]])
    assert accuracy(questions, logprobs).tolist() == [[1, 1, 0.5], [0, 0, 0]]
    assert accuracy(questions, logprobs, score="sum").tolist() == [[0, 1, 0.5], [0, 0, 0]]
    assert accuracy(questions, logprobs[0]).tolist() == [1, 1, 0.5]


def test_text_ce_equals_row_by_row_steering(tiny):
    deltas = make_deltas(tiny)
    ours = steered_text_ce(tiny, IDS, deltas, 2, batch_tokens=11)
    assert ours.shape == (4, 3)
    for delta, row in zip(deltas, ours, strict=True):
        assert_close(row, steered_ce(tiny, IDS, 2, delta.expand(3, -1)))
    assert_close(steered_text_ce(tiny, IDS, torch.zeros(1, tiny.d_model), 2)[0], steered_ce(tiny, IDS, 2, None))


@pytest.mark.parametrize(("measure", "asked"), [(option_logprobs, QUESTIONS), (steered_text_ce, IDS)])
def test_a_broken_run_goes_on_and_finished_cells_are_not_measured_again(tiny, tmp_path, measure, asked):
    deltas = make_deltas(tiny, 5)
    whole = measure_cells(measure, tiny, asked, deltas, 2, tmp_path, cells=2)
    assert_close(whole, measure(tiny, asked, deltas, 2))
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 3
    (folder / "shard_00001.safetensors").unlink()
    measured = []

    @wraps(measure)
    def noted(*args):
        measured.append(args[2])
        return measure(*args)

    assert torch.equal(measure_cells(noted, tiny, asked, deltas, 2, tmp_path, cells=2), whole)
    assert len(measured) == 1 and torch.equal(measured[0], deltas[2:4])


def test_other_questions_deltas_layers_or_measures_are_other_stores(tiny, tmp_path):
    deltas = make_deltas(tiny, 2)
    measure_cells(option_logprobs, tiny, QUESTIONS[:2], deltas, 2, tmp_path)
    measure_cells(option_logprobs, tiny, QUESTIONS[1:2], deltas, 2, tmp_path)
    measure_cells(option_logprobs, tiny, QUESTIONS[:2], deltas, 1, tmp_path)
    measure_cells(option_logprobs, tiny, QUESTIONS[:2], 2 * deltas, 2, tmp_path)
    measure_cells(steered_text_ce, tiny, IDS, deltas, 2, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_bad_input(tiny, tmp_path):
    deltas = make_deltas(tiny)
    with pytest.raises(ValueError, match=r"shape \(4, 31\)"):
        option_logprobs(tiny, QUESTIONS, deltas[:, 1:], 1)
    with pytest.raises(ValueError, match="row 3 has NaN"):
        steered_text_ce(tiny, IDS, torch.cat([deltas[:3], deltas[3:] * torch.nan]), 1)
    with pytest.raises(ValueError, match="unknown score 'per_chars'; did you mean 'per_char'"):
        accuracy(QUESTIONS, torch.zeros(11), score="per_chars")
    with pytest.raises(ValueError, match="10 options, the questions have 11"):
        accuracy(QUESTIONS, torch.zeros(10))
    with pytest.raises(ValueError, match="no deltas"):
        measure_cells(steered_text_ce, tiny, IDS, deltas[:0], 1, tmp_path)


def test_a_prefix_is_read_and_not_counted(tiny):
    zero = torch.zeros(1, tiny.d_model)
    prefix = torch.tensor([1, 8, 3])  # BOS and two tokens
    whole = torch.cat([prefix.expand(len(IDS), -1), IDS[:, 1:]], dim=1)
    found = steered_text_ce(tiny, whole, zero, 1, skip=2)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            tiny.hf(whole).logits[:, :-1].transpose(1, 2), whole[:, 1:], reduction="none"
        )
    torch.testing.assert_close(found[0], losses[:, 2:].mean(dim=1), atol=1e-4, rtol=1e-4)


def test_texts_are_picked_at_random_and_a_larger_count_goes_on():
    rows = np.arange(40).reshape(8, 5)
    few, more = (pick_texts(rows, count, 3, seeds=(0, 21)) for count in (2, 5))
    assert few.shape == (2, 3) and few.dtype == torch.int64 and torch.equal(more[:2], few)
    assert few[0].tolist() == rows[np.random.default_rng([0, 21]).permutation(8)[0], :3].tolist()
    for count, tokens in ((9, 3), (0, 3), (2, 6), (2, 1)):
        with pytest.raises(ValueError, match="change costs"):
            pick_texts(rows, count, tokens, seeds=(0, 21))


def test_texts_behind_prefixes_are_unsteered_texts_with_the_prefix_read(tiny):
    found = text_ce_after(tiny, IDS, [[8, 3], [4]], 1)
    assert found.shape == (2, 3)
    whole = torch.cat([torch.tensor([[1, 4]]).expand(3, -1), IDS[:, 1:]], dim=1)
    assert_close(found[1:], steered_text_ce(tiny, whole, torch.zeros(1, tiny.d_model), 1, skip=1))


def test_options_behind_prefixes_are_those_of_the_longer_questions(tiny, tmp_path):
    (ids,) = tiny.encode(["we love"], bos=False)
    found = option_logprobs_after(tiny, QUESTIONS[:2], [ids, ids[:1]], 1, tmp_path)
    assert found.shape == (2, 5)
    longer = [replace(q, prefix=tiny.tokenizer.decode(ids) + q.prefix) for q in QUESTIONS[:2]]
    assert_close(found[:1], option_logprobs(tiny, longer, torch.zeros(1, tiny.d_model), 1))
