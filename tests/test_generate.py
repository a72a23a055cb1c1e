from functools import wraps

import numpy as np
import pytest
import torch

from fgaa_utils.model.generate import (
    Rows,
    SamplingParams,
    batches_of,
    draw,
    exact_top_k,
    generate_all,
    generate_batch,
    row_seeds,
    steered_text,
)
from fgaa_utils.shards import load_tensors

SAMPLING = SamplingParams(new_tokens=5, top_k=20, temperature=1.0, batch=4)


def make_rows(lm, count=11, coeff=3.0):
    generator = torch.Generator().manual_seed(5)
    vectors = torch.nn.functional.normalize(torch.randn(3, lm.d_model, generator=generator), dim=1)
    number = np.arange(count)
    return Rows(
        prompts=[[1], [1, 5, 6], [1, 9]],
        vectors=vectors,
        prompt=number % 3,
        vector=number // 3 % 3,
        coeff=np.full(count, coeff, dtype=np.float32),
        seed=row_seeds(0, count=count),
    )


def naive_tokens(lm, rows, row, layer, sampling, *, decoded=True):
    """The oracle: one row, no cache, a plain hook, sorting the whole vocabulary."""
    delta = rows.coeff[row] * rows.vectors[rows.vector[row]]
    ids = list(rows.prompts[rows.prompt[row]])
    prompt = len(ids)
    uniforms = np.random.Generator(np.random.Philox(int(rows.seed[row]))).random(sampling.new_tokens)

    def hook(module, inputs, out):
        out = out.clone()
        out[:, : None if decoded else prompt] += delta
        return out

    handle = lm.hf.model.layers[layer].register_forward_hook(hook)
    for u in uniforms:
        with torch.no_grad():
            logits = lm.hf(torch.tensor([ids])).logits[0, -1].double()
        order = logits.argsort(descending=True)[: sampling.top_k]
        cumulative = (logits[order] / sampling.temperature).softmax(0).cumsum(0)
        ids.append(int(order[int((cumulative <= u).sum())]))
    handle.remove()
    return ids[prompt:]


def test_equals_naive_generation_with_plain_hooks(tiny, tmp_path):
    rows = make_rows(tiny)
    tokens = generate_all(tiny, rows, 2, SAMPLING, tmp_path)
    assert tokens.tolist() == [naive_tokens(tiny, rows, r, 2, SAMPLING) for r in range(len(rows))]


def test_decoded_tokens_are_steered_too(tiny, tmp_path):
    rows = make_rows(tiny, coeff=30.0)
    tokens = generate_all(tiny, rows, 2, SAMPLING, tmp_path).tolist()
    prompt_only = [naive_tokens(tiny, rows, r, 2, SAMPLING, decoded=False) for r in range(len(rows))]
    assert [t[0] for t in tokens] == [t[0] for t in prompt_only]
    assert tokens != prompt_only


def test_zero_coefficient_is_unsteered_whatever_the_vector(tiny, tmp_path):
    rows = make_rows(tiny, coeff=0.0)
    other = Rows(rows.prompts, rows.vectors.roll(1, 0), rows.prompt, rows.vector, rows.coeff, rows.seed)
    first = generate_all(tiny, rows, 2, SAMPLING, tmp_path / "a")
    assert torch.equal(first, generate_all(tiny, other, 2, SAMPLING, tmp_path / "b"))
    assert first.tolist() == [naive_tokens(tiny, rows, r, 2, SAMPLING) for r in range(len(rows))]


def test_a_row_does_not_depend_on_its_neighbours(tiny, tmp_path):
    rows = make_rows(tiny, count=12)
    order = np.random.default_rng(0).permutation(12)
    shuffled = Rows(rows.prompts, rows.vectors, *(a[order] for a in (rows.prompt, rows.vector, rows.coeff, rows.seed)))
    straight = generate_all(tiny, rows, 2, SAMPLING, tmp_path / "a")
    assert torch.equal(straight[order], generate_all(tiny, shuffled, 2, SAMPLING, tmp_path / "b"))


def test_resumed_run_equals_an_unbroken_one(tiny, tmp_path, monkeypatch):
    rows = make_rows(tiny)
    whole = generate_all(tiny, rows, 2, SAMPLING, tmp_path / "whole")
    made = []

    def killed(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(generate_batch(*args))
        return made[-1]

    with monkeypatch.context() as patched:
        patched.setattr("fgaa_utils.model.generate.generate_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            generate_all(tiny, rows, 2, SAMPLING, tmp_path / "broken")
    (folder,) = (tmp_path / "broken").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 2
    (folder / "shard_00002.partial").write_bytes(b"half a shard")
    assert torch.equal(generate_all(tiny, rows, 2, SAMPLING, tmp_path / "broken"), whole)


def test_finished_shards_are_not_made_again(tiny, tmp_path, monkeypatch):
    rows = make_rows(tiny)
    first = generate_all(tiny, rows, 2, SAMPLING, tmp_path)
    monkeypatch.setattr("fgaa_utils.model.generate.generate_batch", lambda *_: pytest.fail("generated again"))
    assert torch.equal(generate_all(tiny, rows, 2, SAMPLING, tmp_path), first)


def test_another_seed_layer_or_sampling_is_another_store(tiny, tmp_path):
    rows = make_rows(tiny)
    generate_all(tiny, rows, 2, SAMPLING, tmp_path)
    generate_all(tiny, rows, 1, SAMPLING, tmp_path)
    generate_all(tiny, rows, 2, SamplingParams(new_tokens=5, top_k=20, temperature=0.7, batch=4), tmp_path)
    generate_all(
        tiny,
        Rows(rows.prompts, rows.vectors, rows.prompt, rows.vector, rows.coeff, rows.seed + 1),
        2,
        SAMPLING,
        tmp_path,
    )
    assert len(list(tmp_path.iterdir())) == 4


def test_the_model_is_restored(tiny):
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        before = tiny.hf(ids).logits
        generate_batch(tiny, ids, torch.ones(1, tiny.d_model), np.array([0]), 1, SAMPLING)
        assert torch.equal(tiny.hf(ids).logits, before)


@pytest.mark.parametrize("vocabulary", [40, 512, 1100, 5000])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_exact_top_k_equals_a_full_sort(vocabulary, k):
    logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(k))
    values, indices = exact_top_k(logits, k)
    expected = logits.sort(dim=1, descending=True)
    assert torch.equal(values, expected.values[:, :k])
    assert torch.equal(logits.gather(1, indices), values)
    assert all(len(set(row)) == min(k, vocabulary) for row in indices.tolist())


def test_draw_inverts_the_distribution():
    """Over a fine grid of uniforms each token comes up as often as its probability says."""
    logits = torch.randn(1, 700, generator=torch.Generator().manual_seed(2)) * 3
    grid = (torch.arange(20000, dtype=torch.double) + 0.5) / 20000
    tokens = draw(logits.expand(len(grid), -1), grid, top_k=10, temperature=0.8)
    top = logits[0].topk(10)
    for token, p in zip(top.indices, (top.values.double() / 0.8).softmax(0)):
        assert abs(float((tokens == token).double().mean()) - float(p)) < 1e-4


def test_same_distribution_as_the_stock_loop(tiny):
    """First-token frequencies of transformers' own sampling, within five standard errors."""
    count = 4000
    ids = torch.tensor([[1, 5, 6]]).expand(count, -1)
    sampling = SamplingParams(new_tokens=1, top_k=5, temperature=1.0, batch=count)
    ours = generate_batch(tiny, ids, torch.zeros(count, tiny.d_model), np.arange(count), 1, sampling)[:, 0]
    torch.manual_seed(0)
    stock = tiny.hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=5, max_new_tokens=1)[:, -1]
    for token in set(stock.tolist()) | set(ours.tolist()):
        p, q = (float((t == token).double().mean()) for t in (ours, stock))
        assert abs(p - q) < 5 * (2 * max(p, q) / count) ** 0.5


def test_batches_share_a_prompt_length_and_cover_all_rows(tiny):
    rows = make_rows(tiny, count=30)
    batches = batches_of(rows, 4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(30))
    for batch in batches:
        assert len(batch) <= 4 and len({len(rows.prompts[rows.prompt[r]]) for r in batch}) == 1


def test_seeds_depend_on_parts_and_place_only():
    assert row_seeds(1, 2, count=5).tolist() == row_seeds(1, 2, count=9)[:5].tolist()
    assert row_seeds(1, 2, count=5).tolist() != row_seeds(1, 3, count=5).tolist()


def test_bad_input(tiny):
    rows = make_rows(tiny)
    with pytest.raises(ValueError, match="vector 1 has NaN"):
        vectors = rows.vectors.clone()
        vectors[1, 0] = torch.nan
        Rows(rows.prompts, vectors, rows.prompt, rows.vector, rows.coeff, rows.seed)
    with pytest.raises(ValueError, match="no rows"):
        make_rows(tiny, count=0)
    with pytest.raises(ValueError, match="disagree in number"):
        Rows(rows.prompts, rows.vectors, rows.prompt[1:], rows.vector, rows.coeff, rows.seed)
    with pytest.raises(ValueError, match="new_tokens is -1"):
        SamplingParams(new_tokens=-1, top_k=5, temperature=1.0, batch=4)
    with pytest.raises(ValueError, match="temperature is 0"):
        SamplingParams(new_tokens=1, top_k=5, temperature=0, batch=4)


def test_a_batch_that_does_not_fit_is_halved_and_no_row_is_lost(tiny, tmp_path, monkeypatch):
    rows, sampling = make_rows(tiny), SamplingParams(new_tokens=4, top_k=20, temperature=1.0, batch=8)
    whole = generate_all(tiny, rows, 2, sampling, tmp_path / "whole")
    sizes, real = [], tiny.hf.forward

    @wraps(real)
    def small_memory(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(tiny.hf, "forward", small_memory)
    halved = generate_all(tiny, rows, 2, sampling, tmp_path / "halved")
    assert torch.equal(whole, halved)
    assert sizes[:3] == [8, 4, 2] and max(sizes[3:]) == 2, "the size that fits is kept"
    shard = load_tensors(next((tmp_path / "halved").glob("*/shard_00000.safetensors")))[0]
    assert int(shard["together"]) == 2


@pytest.fixture
def at_block_2(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "layer", 2)
    return tiny


def test_a_steered_text_is_what_a_batch_of_one_gives(at_block_2):
    vector = torch.nn.functional.normalize(
        torch.randn(at_block_2.d_model, generator=torch.Generator().manual_seed(2)), dim=0
    )
    ids, sampling = torch.tensor(at_block_2.encode(["we love"])), SamplingParams(33, 50, 1.0, batch=1)
    tokens = generate_batch(at_block_2, ids, 30 * vector[None], np.array([7]), 2, sampling)
    text = steered_text(at_block_2, "we love", vector, 30, seed=7)
    assert text == at_block_2.decode(tokens)[0] and len(text.split()) == 33
    assert text != steered_text(at_block_2, "we love", vector, 30, seed=8)
    assert text != steered_text(at_block_2, "we love", vector, 30, seed=7, layer=1)


def test_a_steered_text_of_coefficient_zero_is_unsteered(at_block_2):
    ones = torch.ones(at_block_2.d_model)
    options = {"new_tokens": 5, "top_k": 20, "temperature": 0.8, "seed": 3}
    sampling = SamplingParams(5, 20, 0.8, batch=1)
    none = generate_batch(at_block_2, torch.tensor([[1, 3]]), torch.zeros(1, 32), np.array([3]), 2, sampling)
    assert steered_text(at_block_2, "the", ones, 0, **options) == at_block_2.decode(none)[0]
    assert steered_text(at_block_2, "the", ones, 40, **options) != at_block_2.decode(none)[0]


def test_a_steered_text_wants_a_layer_that_was_named_somewhere(tiny):
    assert tiny.layer is None
    with pytest.raises(ValueError, match="tiny was loaded without a layer; give steered_text layer="):
        steered_text(tiny, "the", torch.ones(tiny.d_model), 1)
