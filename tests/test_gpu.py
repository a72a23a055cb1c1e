"""The same numbers on a GPU as on the processor, models of real widths, and memory that does run out.

`pytest -m gpu`. In float32 the two round sums differently, by about a millionth: numbers agree within CLOSE. A token
differs where its random number falls between two roundings of a probability, and then all after it may: SAME_TOKENS.
"""

import copy
import gc
from contextlib import contextmanager
from functools import wraps

import numpy as np
import pytest
import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from test_sae_training import METADATA, TRAINING
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3ForCausalLM, Gemma3TextConfig

from fgaa_utils.data.questions import Question
from fgaa_utils.evaluation.capability import option_logprobs
from fgaa_utils.method import gradients
from fgaa_utils.method.approximator import fit_adam
from fgaa_utils.method.effects import EffectData, ce_scales, rises_at_scale
from fgaa_utils.method.features import promoted_tokens
from fgaa_utils.method.gradient_checks import next_token_kl, read_both_ways
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import (
    Rows,
    SamplingParams,
    generate_all,
    generate_batch,
    row_seeds,
    steered_text,
)
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import load_model, resolve_device, resolve_dtype, wrap
from fgaa_utils.model.steer import steered_ce
from fgaa_utils.sae import training
from fgaa_utils.sae.load import decode, decoder_rows, encode, load_sae
from fgaa_utils.sae.quality import evaluate_sae
from fgaa_utils.shards import load_tensors, record_processor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false"),
]
GPU = torch.device("cuda")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SAME_TOKENS = 0.95  # share; far more is usual
LAYER = 1
IDS = torch.tensor([[1, 5, 9, 13, 2, 7], [1, 30, 4, 4, 8, 11]])
SAMPLING = SamplingParams(new_tokens=16, top_k=20, temperature=1.0, batch=32)
DRAWN = {"top_k": 20, "temperature": 1.0}


def close(found, expected, **tolerance):
    """On the processor, and as expected."""
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, **CLOSE | tolerance)


def close_but_for(found, expected, share, **tolerance):
    """At most `share` of the rows (rows, ...) differ in any entry."""
    assert found.device.type == "cpu" and found.isfinite().all()
    same = torch.isclose(found.float(), expected.float(), **CLOSE | tolerance).reshape(len(found), -1).all(dim=1)
    assert float(same.float().mean()) >= 1 - share


def directions(count, d_model, seed=5):
    return normalize(torch.randn(count, d_model, generator=torch.Generator().manual_seed(seed)), dim=1)


def made_rows(lm, count=96, coeff=3.0):
    number = np.arange(count)
    place = {"prompt": number % 3, "vector": number // 3 % 3}
    strength = {"coeff": np.full(count, coeff, dtype=np.float32), "seed": row_seeds(0, count=count)}
    return Rows([[1], [1, 5, 6], [1, 9]], directions(3, lm.d_model), **place, **strength)


def shuffled(rows, order):
    return Rows(rows.prompts, rows.vectors, *(a[order] for a in (rows.prompt, rows.vector, rows.coeff, rows.seed)))


@pytest.fixture(scope="module")
def gpu(tiny):
    """The tiny model's twin on the GPU, float32."""
    twin = type(tiny.hf)(tiny.hf.config)
    twin.load_state_dict(tiny.hf.state_dict())
    return wrap(twin.to(GPU), tiny.tokenizer, "tiny")


@pytest.fixture(scope="module")
def gpu_sae(tiny_sae):
    return copy.deepcopy(tiny_sae).to(GPU)


def test_auto_is_the_gpu_and_bfloat16(tiny, tmp_path):
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_dtype("auto", GPU) is torch.bfloat16
    with pytest.raises(ValueError, match=r"base\.device is 'cuda:99'.*use auto, cpu or cuda"):
        resolve_device("cuda:99")
    tiny.hf.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    lm = load_model(tmp_path, layer=2)
    assert (lm.device.type, lm.dtype, lm.place) == ("cuda", torch.bfloat16, {"device": "cuda"})
    assert {p.device.type for p in lm.hf.parameters()} == {"cuda"}
    assert torch.cuda.get_device_name() in record_processor(lm.dtype, str(lm.device))
    assert next(capture_resid(lm, [[1, 5, 6]], 2)).dtype is torch.bfloat16
    assert isinstance(steered_text(lm, "we love", directions(1, 32)[0], 3.0), str)


def test_the_same_seeds_give_the_same_tokens(tiny, gpu, tmp_path):
    rows = made_rows(tiny)
    expected, found = (generate_all(lm, rows, 2, SAMPLING, tmp_path) for lm in (tiny, gpu))
    assert found.device.type == "cpu" and len(list(tmp_path.iterdir())) == 2, "each device has a store of its own"
    assert float((found == expected).double().mean()) >= SAME_TOKENS
    unsteered = generate_all(gpu, made_rows(tiny, coeff=0.0), 2, SAMPLING, tmp_path)
    assert float((found == unsteered).double().mean()) < SAME_TOKENS


def test_a_row_depends_on_nothing_but_itself(gpu, tmp_path):
    rows, order = made_rows(gpu), np.random.default_rng(0).permutation(96)
    first = generate_all(gpu, rows, 2, SAMPLING, tmp_path / "a")
    assert torch.equal(first, generate_all(gpu, rows, 2, SAMPLING, tmp_path / "b"))
    assert torch.equal(first[order], generate_all(gpu, shuffled(rows, order), 2, SAMPLING, tmp_path / "c"))


def test_streams_and_latents_agree(tiny, gpu, tiny_sae, gpu_sae):
    texts = [[1, *range(3, 4 + i)] for i in range(24)]
    expected, found = (torch.cat(list(capture_resid(lm, texts, 2))) for lm in (tiny, gpu))
    close(found, expected)
    acts = encode(tiny_sae, expected)
    close_but_for(encode(gpu_sae, expected), acts, 0.01)  # a latent may be on the other side of its threshold
    close(decode(gpu_sae, acts), decode(tiny_sae, acts))
    close(decoder_rows(gpu_sae), decoder_rows(tiny_sae), atol=0, rtol=0)
    assert encode(gpu_sae, expected.to(GPU)).device.type == "cuda"


def test_cross_entropy_and_options_agree(tiny, gpu):
    delta = 5 * directions(2, 32)
    for steered in (None, delta):
        close(steered_ce(gpu, IDS, LAYER, steered), steered_ce(tiny, IDS, LAYER, steered))
    asked = [Question("sciq", "", "0", "the cat sat on", ("the mat", "a dog", "rain blue red"), 0)]
    close(option_logprobs(gpu, asked, delta, LAYER), option_logprobs(tiny, asked, delta, LAYER))
    assert promoted_tokens(gpu, delta, 5) == promoted_tokens(tiny, delta, 5)


def test_the_quality_of_an_sae_agrees(tiny, gpu, tiny_sae, gpu_sae):
    rows = np.concatenate([IDS.numpy(), IDS.numpy()[:, [0, 3, 2, 1, 5, 4]]])
    expected = evaluate_sae(tiny_sae, tiny, rows, LAYER)
    assert evaluate_sae(gpu_sae, gpu, rows, LAYER) == pytest.approx(expected, abs=2e-2)


def rollouts(count=64, tokens=9):
    drawn = torch.randint(2, 900, (count, tokens), generator=torch.Generator().manual_seed(1))
    drawn[:, 0] = 1
    return drawn


@pytest.mark.parametrize("coeff", [0.0, 2.0])
def test_scores_agree(tiny, gpu, coeff):
    ids = rollouts()
    delta = coeff * directions(len(ids), 32)
    readings = []
    for lm in (tiny, gpu):
        with gradients.frozen_weights(lm):
            readings.append(gradients.read_rollouts(lm, ids, 3, LAYER, delta=delta, segments=3, **DRAWN))
    expected, found = readings
    close_but_for(found.scores, expected.scores, 0.05)  # where the top k differ by a token
    close(found.resid, expected.resid)


def test_the_kl_of_next_tokens_agrees(tiny, gpu):
    ids, kls = rollouts(), []
    for lm in (tiny, gpu):
        _, plain, steered = (h[:, 2:-1] for h in read_both_ways(lm, ids, LAYER, 3 * directions(len(ids), 32)))
        drawn = ids[:, 3:].flatten().to(lm.device)
        kls.append(next_token_kl(lm, steered.flatten(0, 1), plain.flatten(0, 1), drawn, **DRAWN))
    close_but_for(kls[1][:, None], kls[0][:, None], 0.05)


def test_gradient_shards_hold_what_the_processor_reads_in_their_tokens(tiny, tiny_sae, gpu, gpu_sae, tmp_path):
    sizes = {"openers": ["", "the", "a cat"], "rollouts": 96, "parts": 2, "segments": 3, "seed": 5}
    store = gradients.gradient_shards(gpu, gpu_sae, LAYER, tmp_path, sampling=SAMPLING, batch_tokens=512, **sizes)
    shard, total = store.read(1), None
    for number, opener in enumerate(tiny.encode(sizes["openers"])):
        new = shard["tokens"][number::3].long()
        ids = torch.cat([torch.tensor([opener]).expand(len(new), -1), new], dim=1)
        with gradients.frozen_weights(tiny):
            read = gradients.read_rollouts(tiny, ids, len(opener), LAYER, segments=3, **DRAWN)
        close_but_for(shard["scores"][number::3].float(), read.scores, 0.1, atol=1e-3, rtol=2e-3)  # float16
        of = torch.full((len(new),), number)
        sums = gradients._sums(tiny_sae, read.scores, read.resid, len(opener), of, 3, 3)
        total = sums if total is None else total + sums
    for name, expected in total.tensors().items():
        close(shard[name], expected, atol=1e-2 * float(expected.abs().max()), rtol=0)
    assert gradients.sums_of(store).gradient("latents").abs().sum() > 0


def effect_data(lm, sae, folder):
    sizes = {"chunk_size": 60, "heldout_vectors": 4, "heldout_rollouts": 6, "unsteered_rollouts": 60, "seed": 0}
    scales = torch.full((64,), 5.0)
    return EffectData(lm, sae, scales, LAYER, folder, openers=["", "the", "we love"], sampling=SAMPLING, **sizes)


def test_effect_data_agree(tiny, tiny_sae, gpu, gpu_sae, tmp_path):
    ours, theirs = effect_data(gpu, gpu_sae, tmp_path), effect_data(tiny, tiny_sae, tmp_path)
    (vectors, found), (_, expected) = ours.chunk(1), theirs.chunk(1)
    close_but_for(found, expected, 0.1, atol=5e-3, rtol=5e-3)
    close_but_for(ours.unsteered(), theirs.unsteered(), 0.1, atol=5e-3, rtol=5e-3)
    fits = {"epochs": 2, "lr": 1e-3, "batch": 20, "total": 60, "seed": 0}
    maps = [fit_adam(lambda: [(vectors.x, expected.float())], {}, device=lm.device, **fits) for lm in (tiny, gpu)]
    close(maps[1].M, maps[0].M, atol=1e-3 * float(maps[0].M.abs().max()))


def test_scales_agree(tiny, gpu, tmp_path):
    vectors = directions(40, 32)
    rule = {"rise": 0.5, "probes": [4.0, 8.0], "batch": 16}
    expected, found = (ce_scales(lm, vectors, LAYER, IDS, tmp_path, **rule) for lm in (tiny, gpu))
    close(found, expected, rtol=2e-2)
    expected, found = (rises_at_scale(lm, vectors, found, LAYER, IDS, count=5, seed=0) for lm in (tiny, gpu))
    for name in expected:
        close(found[name], expected[name])


@pytest.fixture
def activations(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ROWS_PER_SHARD", 8)
    rows = np.random.default_rng(0).integers(3, 1000, size=(44, 12)).astype(np.int32)
    rows[:, 0] = 1
    return training.capture_training_acts(gpu, rows, 1, tmp_path / "activations")


def test_an_sae_trains_on_the_gpu(gpu, activations, tmp_path):
    longer = TRAINING | {"tokens": 16000, "lr": 3e-3}
    training.train_sae(activations, tmp_path, **longer, metadata=METADATA, device=gpu.device)
    sae = load_sae(tmp_path, gpu, 1)
    assert sae.device.type == sae.W_dec.device.type == "cuda"
    resid = torch.cat([shard["resid"] for shard in activations])
    error = (resid - decode(sae, encode(sae, resid))).pow(2).sum()
    assert error < 0.6 * (resid - resid.mean(dim=0)).pow(2).sum()


def test_training_that_was_killed_goes_on_on_the_gpu(gpu, activations, tmp_path, monkeypatch):
    how = TRAINING | {"metadata": METADATA, "device": gpu.device}
    training.train_sae(activations, tmp_path / "whole", **how)
    step, steps = training.ResidualSAE.training_forward_pass, []

    @wraps(step)
    def killed(self, step_input):
        steps.append(1)
        if len(steps) == 30:
            raise KeyboardInterrupt
        return step(self, step_input)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.ResidualSAE, "training_forward_pass", killed)
        training.train_sae(activations, tmp_path / "broken", **how)
    training.train_sae(activations, tmp_path / "broken", **how)
    whole, broken = (decoder_rows(load_sae(tmp_path / name, gpu, 1)) for name in ("whole", "broken"))
    close(broken, whole, atol=1e-2)


@pytest.fixture(scope="module")
def wide(tiny):
    """A model whose passes take hundreds of megabytes, float32."""
    shape = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 4}
    ends = {"bos_token_id": 1, "pad_token_id": 0, "eos_token_id": None, "max_position_embeddings": 128}
    config = Gemma3TextConfig(vocab_size=32768, num_key_value_heads=1, head_dim=128, **shape, **ends)
    with GPU:
        hf = Gemma3ForCausalLM(config)
    return wrap(hf, tiny.tokenizer, "wide")


def free():
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


@contextmanager
def scarce_memory(run, share=0.7):
    """What run() gives; inside, the GPU has `share` of the memory that it took beyond what was there before."""
    run()  # loads kernels and their workspaces
    before = free()
    torch.cuda.reset_peak_memory_stats()
    whole = run()
    taken = torch.cuda.max_memory_reserved() - before
    limit = free() + share * taken
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        yield whole
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        free()


def captured(lm):
    return torch.stack(list(capture_resid(lm, [[1, *range(2, 65)]] * 512, 3, batch_tokens=512 * 64)))


def measured(lm):
    ids, delta = rollouts(256, 32), 5 * directions(256, lm.d_model)
    return Halving(256)(lambda part: steered_ce(lm, ids[part], LAYER, delta[part]), len(ids))


def scored(lm):
    ids, how = rollouts(256, 32), {"segments": 2, "top_k": 50, "temperature": 1.0}
    with gradients.frozen_weights(lm):
        return Halving(256)(lambda part: gradients.read_rollouts(lm, ids[part], 2, 0, **how).scores, len(ids))


@pytest.mark.parametrize("run", [captured, measured, scored])
def test_what_does_not_fit_is_made_in_parts(wide, run, capsys):
    with scarce_memory(lambda: run(wide), share=0.5) as whole:
        assert "did not fit" not in capsys.readouterr().out
        halved = run(wide)
    assert "did not fit into memory; going on with" in capsys.readouterr().out
    close_but_for(halved, whole, 0.05, atol=1e-3 * float(whole.abs().max()), rtol=1e-3)


def test_generation_that_does_not_fit_is_made_in_parts(wide, tmp_path, capsys):
    sampling = SamplingParams(new_tokens=6, top_k=20, temperature=1.0, batch=4096)
    count = np.arange(4096)
    rows = Rows([[1, 5, 6]], directions(1, 512), count * 0, count * 0, np.ones(4096, np.float32), count)
    folders = iter(tmp_path / str(i) for i in range(9))
    with scarce_memory(lambda: generate_all(wide, rows, LAYER, sampling, next(folders))) as whole:
        halved = generate_all(wide, rows, LAYER, sampling, tmp_path / "halved")
    assert "did not fit into memory; going on with" in capsys.readouterr().out
    assert float((halved == whole).double().mean()) >= SAME_TOKENS  # other batches round otherwise
    shard = load_tensors(next((tmp_path / "halved").glob("*/shard_00000.safetensors")))[0]
    assert int(shard["together"]) < 4096


def test_one_row_that_does_not_fit_is_an_error_and_leaves_the_gpu_usable(gpu):
    with pytest.raises(torch.OutOfMemoryError):
        Halving(4)(lambda part: torch.empty(2**42, dtype=torch.uint8, device=GPU), 4)
    assert steered_ce(gpu, IDS, LAYER, None).isfinite().all()


@pytest.fixture(scope="module")
def gemma(tiny):
    """A random Gemma 2 of the widths and depth of the 2B, bfloat16; its tokenizer knows 1,100 of its tokens."""
    config = Gemma2Config()
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (2304, 26, 256000)
    with GPU:
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    yield wrap(hf, tiny.tokenizer, "gemma-2-2b")
    free()


@pytest.fixture(scope="module")
def scope(gemma):
    """A random SAE of Gemma Scope's size for it."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(gemma.d_model, 16384, dtype="float32", device=str(gemma.device)))
    sae.W_dec.data = normalize(torch.randn(16384, gemma.d_model, device=gemma.device), dim=1)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    resid = next(capture_resid(gemma, [[1, 5, 6, 7]], 12))[1:].float()
    sae.threshold.data.fill_(2 * float(resid.norm(dim=1).mean()) / gemma.d_model**0.5)  # about one latent in 50 fires
    return sae.eval()


def test_gemma_2_2b_generates_steered_text(gemma):
    sampling, ids = SamplingParams(new_tokens=12, top_k=50, temperature=1.0, batch=16), torch.tensor([[1, 5, 6]] * 16)
    assert (gemma.device.type, gemma.dtype) == ("cuda", torch.bfloat16)
    delta, seeds, order = 300 * directions(16, gemma.d_model), row_seeds(0, count=16), torch.randperm(16)
    steered = generate_batch(gemma, ids, delta, seeds, 12, sampling)
    again = generate_batch(gemma, ids, delta[order], seeds[order.numpy()], 12, sampling)
    plain = generate_batch(gemma, ids, 0 * delta, seeds, 12, sampling)
    assert steered.shape == (16, 12) and 0 <= int(steered.min()) and int(steered.max()) < 256000
    assert torch.equal(again, steered[order]) and not torch.equal(plain, steered)
    assert isinstance(steered_text(gemma, "we love", directions(1, gemma.d_model)[0], 300.0, layer=12), str)


def test_gemma_2_2b_gives_gradients_and_scales(gemma, scope, tmp_path):
    sampling = SamplingParams(new_tokens=12, top_k=50, temperature=1.0, batch=16)
    sizes = {"openers": ["", "the"], "rollouts": 32, "parts": 2, "segments": 4, "seed": 0}
    store = gradients.gradient_shards(gemma, scope, 12, tmp_path, sampling=sampling, **sizes)
    sums = gradients.sums_of(store)
    G, F = sums.gradient("latents"), sums.fisher_information()
    assert G.shape == (2304, 16384) and G.isfinite().all() and F.isfinite().all()
    assert 0 < float((G != 0).any(dim=0).float().mean()) < 1 and float(F.diagonal().min()) >= 0 < float(F.trace())
    rows = decoder_rows(scope)[:8]
    scales = ce_scales(gemma, rows, 12, IDS, tmp_path, rise=0.5, probes=[50.0, 100.0], batch=4)
    assert scales.device.type == "cpu" and (scales >= 25 - 1e-3).all() and (scales <= 200 + 1e-3).all()


def test_gemma_2_2b_gives_effect_data(gemma, scope, tmp_path):
    sampling = SamplingParams(new_tokens=8, top_k=50, temperature=1.0, batch=16)
    sizes = {"chunk_size": 16, "heldout_vectors": 2, "heldout_rollouts": 2, "unsteered_rollouts": 4, "seed": 0}
    scales = torch.full((16384,), 200.0)
    data = EffectData(gemma, scope, scales, 12, tmp_path, openers=["", "the"], sampling=sampling, **sizes)
    (x, effects), *_ = data.chunks(1)
    assert x.shape == (16, 2304) and effects.shape == (16, 16384) and effects.isfinite().all() and effects.any()


def test_a_bfloat16_model_is_read_alike_alone_and_in_a_batch(gemma):
    texts = [[1, *range(3, 20)], [1, 5, 6], [1, *range(40, 90)]]
    together, alone = list(capture_resid(gemma, texts, 12)), [next(capture_resid(gemma, [t], 12)) for t in texts]
    for a, b in zip(together, alone, strict=True):
        assert float((a.float() - b.float()).norm() / b.float().norm()) < 0.02
