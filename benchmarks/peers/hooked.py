"""Steered generation by transformers' generate: python hooked.py MODEL VECTORS DTYPE HOW CALLS

HOW: `one` (a forward hook adds one vector to all rows of a call), a number (so many rows, each with a vector of its own, in
the hook), `steering-vectors` or `repeng` (one vector a call, applied by that library). CALLS of generate are one piece of work.
"""

import sys
from contextlib import contextmanager

import numpy as np
import torch
from answer import COEFF, LAYER, NEW_TOKENS, PROMPT, ROWS, TOP_K, answer, check
from transformers import AutoModelForCausalLM, AutoTokenizer

path, vectors, dtype, how, calls = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
directions = COEFF * torch.from_numpy(np.load(vectors)).to(model.dtype)
rows = int(how) if how.isdigit() else ROWS
ids = torch.tensor(AutoTokenizer.from_pretrained(path)(PROMPT).input_ids).expand(rows, -1)
block = model.model.layers[LAYER]


@contextmanager
def by_hook(number: int):
    """`one` vector, or one for each row."""
    added = directions[number] if how == "one" else directions[torch.arange(rows) % len(directions)][:, None]
    handle = block.register_forward_hook(
        lambda module, args, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
    )
    try:
        yield model
    finally:
        handle.remove()


@contextmanager
def by_steering_vectors(number: int):
    with SteeringVector({LAYER: directions[number]}, "decoder_block").apply(model, multiplier=1.0):
        yield model


@contextmanager
def by_repeng(number: int):
    control.set_control(ControlVector("gemma3_text", {LAYER: directions[number].float().numpy()}), 1.0)
    try:
        yield control
    finally:
        control.reset()


steered = by_hook
if how == "steering-vectors":
    from steering_vectors import SteeringVector

    steered = by_steering_vectors
if how == "repeng":
    from repeng import ControlModel, ControlVector

    control, steered = ControlModel(model, [LAYER]), by_repeng


def logits(call) -> np.ndarray:
    return call(ids).logits[0, -1].float().numpy()


def generate(number: int) -> int:
    sampling = {"do_sample": True, "top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    with steered(number) as call:
        out = call.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **sampling)
    return out[:, ids.shape[1] :].numel()


with torch.no_grad():
    plain = logits(model)
    with steered(0) as call:
        check(plain, logits(call))
    answer(lambda: sum(generate(number) for number in range(int(calls))))
