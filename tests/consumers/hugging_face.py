"""What the consumers on Hugging Face models share: the model, the prompts, and last-token logits."""

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def load(path: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def logits(call, reference: str) -> np.ndarray:
    """(prompts, vocabulary) after the last token of every prompt; call(ids (1, pos)) gives logits, or what holds them."""
    prompts = [row[row >= 0].tolist() for row in np.load(reference)["ids"]]
    found = (call(torch.tensor([ids])) for ids in prompts)
    return np.stack([getattr(out, "logits", out)[0, -1].float().numpy() for out in found])


def run(consume) -> None:
    """consume(model path, vector path, reference path) gives (plain, steered); they are written to the fourth argument."""
    plain, steered = consume(*sys.argv[1:4])
    np.savez(sys.argv[4], plain=plain, steered=steered)
