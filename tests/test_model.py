import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fgaa_utils.data.convert import join_parts
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.lm import check_block, find_blocks, load_model, resolve_device, resolve_dtype, wrap
from fgaa_utils.params import load_params
from fgaa_utils.project import MODEL

BASE = load_params()["base"]


def test_layer_out_of_range(tiny):
    for layer in (-1, 4):
        with pytest.raises(ValueError, match=rf"layer {layer} is out of range: the model has blocks 0\.\.3"):
            check_block(tiny, layer)


def test_encode_puts_bos_first_and_refuses_long_texts(tiny):
    assert tiny.encode(["the cat", ""]) == [[1, 3, 5], [1]]
    assert tiny.encode(["the cat"], bos=False) == [[3, 5]]
    with pytest.raises(ValueError, match=r"text of 66 tokens is longer than 64: 'the the"):
        tiny.encode(["the " * 65])


def test_dtypes():
    assert resolve_dtype("float32") is torch.float32
    assert resolve_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        resolve_dtype("bfloat")


def test_a_missing_model_names_the_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro model"):
        load_model(tmp_path, layer=0)


def test_a_saved_model_loads_by_path(tiny, tmp_path):
    tiny.hf.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    lm = load_model(tmp_path, layer=3, dtype="float32")
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        assert torch.equal(lm.hf(ids).logits, tiny.hf(ids).logits)
    with pytest.raises(ValueError, match="layer 9 is out of range"):
        load_model(tmp_path, layer=9, dtype="float32")


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"base.device is '{name}'.*use auto, cpu or cuda"):
            resolve_device(name)


SHAPES = {"vocab_size": 1100, "bos_token_id": 1, "eos_token_id": None}


@pytest.mark.parametrize(
    ("hf", "path"),
    [
        (LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, **SHAPES)), "model.layers"),
        (GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=2, n_positions=64, **SHAPES)), "transformer.h"),
    ],
)  # fmt: skip
def test_other_architectures_have_their_blocks_found_and_read(tiny, hf, path):
    lm = wrap(hf, tiny.tokenizer, "other")
    assert lm.blocks == path and (lm.n_layers, lm.d_model) == (3, 32)
    check_block(lm, 2)
    ids = [1, 5, 6, 7]
    (resid,) = capture_resid(lm, [ids], 1)
    with torch.no_grad():
        assert torch.allclose(
            resid, lm.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0], atol=1e-5
        )


def test_blocks_by_their_path(tiny):
    assert find_blocks(tiny.hf, "model.layers") == "model.layers"
    with pytest.raises(ValueError, match=r"unknown base\.blocks 'model\.layer'; did you mean 'model\.layers'"):
        find_blocks(tiny.hf, "model.layer")
    with pytest.raises(ValueError, match=r"auto, and no list has 7 modules; name one of \['model\.layers'\]"):
        tiny.hf.config.num_hidden_layers = 7
        try:
            find_blocks(tiny.hf)
        finally:
            tiny.hf.config.num_hidden_layers = 4


def test_a_model_of_the_hub_that_cannot_be_had_is_named_with_the_ways_out(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = r"base\.model wants config\.json.*nobody/nothing.*hf auth login.*path of a local copy"
    with pytest.raises(OSError, match=wanted):
        load_model("nobody/nothing", layer=0)


def test_parts_are_joined_and_checked(tmp_path):
    parts = [tmp_path / "a", tmp_path / "b"]
    for part, data in zip(parts, (b"one", b"two")):
        part.write_bytes(data)
    good = "25b6746d5172ed6352966a013d93ac846e1110d5a25e8f183b5931f4688842a1"
    join_parts(parts, tmp_path / "whole", good)
    assert (tmp_path / "whole").read_bytes() == b"onetwo"
    with pytest.raises(ValueError, match="whole: sha256 is 25b6746d"):
        join_parts(parts, tmp_path / "whole", "0" * 64)


@pytest.fixture(scope="module")
def gemma():
    return load_model(BASE["model"], layer=BASE["layer"], dtype=BASE["dtype"])


@pytest.mark.real
def test_the_real_model_speaks_english(gemma):
    ids = torch.tensor(gemma.encode(["Once upon a time, there was a little girl who lived in a small"]))
    with torch.no_grad():
        top = gemma.hf(ids).logits[0, -1].topk(20).indices
    assert {"village", "house", "town"} & {word.strip() for word in gemma.decode(top[:, None])}


@pytest.mark.real
def test_the_real_model_is_the_converted_gguf(gemma):
    record = json.loads((MODEL / BASE["model"] / "source.json").read_text())
    assert record["weights_sha256"][:16] in gemma.identity
    assert (gemma.d_model, gemma.n_layers) == (640, 18)


@pytest.mark.real
def test_steering_the_real_model_changes_decoded_text_and_leaves_it_as_it_was(gemma):
    import numpy as np

    from fgaa_utils.model.generate import SamplingParams, generate_batch

    ids = torch.tensor(gemma.encode(["I think"] * 4))
    sampling = SamplingParams(new_tokens=6, top_k=50, temperature=1.0, batch=4)
    vector = torch.nn.functional.normalize(
        torch.randn(gemma.d_model, generator=torch.Generator().manual_seed(0)), dim=0
    )
    seeds = np.arange(4)
    plain = generate_batch(gemma, ids, torch.zeros(4, gemma.d_model), seeds, 9, sampling)
    steered = generate_batch(gemma, ids, 3000 * vector.expand(4, -1), seeds, 9, sampling)
    again = generate_batch(gemma, ids, torch.zeros(4, gemma.d_model), seeds, 9, sampling)
    assert torch.equal(plain, again)
    assert (plain != steered).any(dim=0)[1:].any()
