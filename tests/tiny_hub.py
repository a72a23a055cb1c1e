"""A local hub cache with random stand-ins of the paper's repositories: a shallow Gemma 2, an SAE as Gemma Scope saves
it and an effect map as SAE-TS saves it, all of the real widths, so that the loading code cannot tell."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

REVISION = "0123456789abcdef0123456789abcdef01234567"
D_SAE = 16384
BOS_LATENTS = 8
SIZES = {
    "2b": (2304, "layer_12/width_16k/average_l0_82"),
    "9b": (3584, "layer_12/width_16k/average_l0_130"),
}


def snapshot(cache: Path, kind: str, repository: str) -> Path:
    """The folder of a repository's files in a hub cache, made."""
    folder = cache / f"{kind}--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "snapshots" / REVISION).mkdir(parents=True, exist_ok=True)
    return folder / "snapshots" / REVISION


def byte_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with 600 tokens, learned from the texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


@torch.no_grad()
def bos_direction(model: Gemma2ForCausalLM) -> np.ndarray:
    """(d_model,): its dot product with the residual stream of BOS after block 12 is 1."""
    h = model(torch.tensor([[2]]), output_hidden_states=True).hidden_states[13][0, 0]
    return (h / h.pow(2).sum()).numpy()


def build(cache: Path, size: str, texts: list[str]) -> None:
    """Lay out the stand-ins of the size `2b` or `9b` in `cache`; the model has 14 shallow blocks, so layer 12 is one."""
    d_model, sae_id = SIZES[size]
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=640,
        hidden_size=d_model,
        intermediate_size=64,
        num_hidden_layers=14,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=64,
        max_position_embeddings=256,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    folder = snapshot(cache, "models", f"google/gemma-2-{size}")
    model = Gemma2ForCausalLM(config)
    model.save_pretrained(folder)
    byte_tokenizer(texts).save_pretrained(folder)
    rng = np.random.default_rng(0)
    W_dec = rng.normal(size=(D_SAE, d_model)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    W_enc, threshold = W_dec.T.copy(), np.ones(D_SAE, dtype=np.float32)
    W_enc[:, :BOS_LATENTS] = (
        1000 * bos_direction(model)[:, None]
    )  # latents that are strong on BOS and fire nowhere else
    threshold[:BOS_LATENTS] = 900
    folder = snapshot(cache, "models", f"google/gemma-scope-{size}-pt-res") / sae_id
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "params.npz",
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=rng.normal(scale=0.1, size=D_SAE).astype(np.float32),
        b_dec=rng.normal(scale=0.1, size=d_model).astype(np.float32),
        threshold=threshold,
    )
    effects = {"W": torch.randn(d_model, D_SAE), "b": torch.randn(D_SAE)}
    torch.save(effects, snapshot(cache, "datasets", "schalnev/sae-ts-effects") / f"adapter_{size}_layer_12.pt")
