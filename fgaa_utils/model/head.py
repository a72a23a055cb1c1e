"""The head of the language model, from the hidden states that enter it to the logits of a few tokens.

Of a vocabulary of 262,144 only the tokens that a sampler draws among matter, and a backward pass through the whole head
would be most of the work.
"""

from functools import reduce

import torch
from torch import Tensor

from fgaa_utils.model.generate import exact_top_k
from fgaa_utils.model.lm import LanguageModel

ROWS = 1024  # positions whose whole row of logits is in memory at once


def head_envoy(lm: LanguageModel):
    """nnsight's envoy of the output embedding; its input are the hidden states (batch, pos, d_model)."""
    head = lm.hf.get_output_embeddings()
    path = next(name for name, module in lm.hf.named_modules() if module is head)
    return reduce(getattr, path.split("."), lm.nn)


def _softcap(lm: LanguageModel, logits: Tensor) -> Tensor:
    cap = getattr(lm.hf.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def token_logits(lm: LanguageModel, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits (n, k), float32, of some tokens (n, k) after hidden states (n, d_model) that enter the head."""
    head = lm.hf.get_output_embeddings()
    logits = torch.einsum("nd,nkd->nk", hidden, head.weight[tokens]).float()
    bias = getattr(head, "bias", None)
    return _softcap(lm, logits if bias is None else logits + bias[tokens])


@torch.no_grad()
def kept_tokens(lm: LanguageModel, hidden: Tensor, drawn: Tensor, top_k: int) -> Tensor:
    """The tokens that are drawn among after each hidden state (n, d_model), (n, top_k); the one drawn (n,) is the first.

    Where rounding left it out of the top_k on this reading, it takes the place of the least likely.
    """
    head = lm.hf.get_output_embeddings()
    kept = torch.cat([exact_top_k(_softcap(lm, head(part)), top_k)[1] for part in hidden.split(ROWS)])
    place = (kept == drawn[:, None]).float()
    place[:, -1] += 0.5  # argmax: where it is, else the last
    kept.scatter_(1, place.argmax(dim=1, keepdim=True), kept[:, :1].clone())
    kept[:, 0] = drawn
    return kept
