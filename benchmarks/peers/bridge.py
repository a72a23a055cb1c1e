"""Steered generation by TransformerLens, as SAE-TS does it: python bridge.py MODEL VECTORS DTYPE CALLS"""

import sys

import numpy as np
import torch
from answer import COEFF, LAYER, NEW_TOKENS, PROMPT, ROWS, TOP_K, answer, check
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

path, vectors, dtype, calls = sys.argv[1:]
hf = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
tokenizer = AutoTokenizer.from_pretrained(path)
model = TransformerBridge.boot_transformers(path, hf_model=hf, tokenizer=tokenizer, dtype=hf.dtype)
directions = COEFF * torch.from_numpy(np.load(vectors)).to(hf.dtype)
ids = torch.tensor(tokenizer(PROMPT).input_ids).expand(ROWS, -1)


def hooks(number: int):
    return model.hooks(fwd_hooks=[(f"blocks.{LAYER}.hook_out", lambda value, hook: value + directions[number])])


def logits() -> np.ndarray:
    return model(ids, return_type="logits")[0, -1].float().numpy()


def steered(number: int) -> int:
    with hooks(number):
        sampling = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": TOP_K, "stop_at_eos": False}
        out = model.generate(ids, **sampling, return_type="tokens", verbose=False)
    return out[:, ids.shape[1] :].numel()


with torch.no_grad():
    plain = logits()
    with hooks(0):
        check(plain, logits())
    answer(lambda: sum(steered(number) for number in range(int(calls))))
