"""Steered generation by this package, every row with a vector of its own: python ours.py MODEL VECTORS DTYPE ROWS"""

import sys

import numpy as np
import torch
from answer import COEFF, LAYER, NEW_TOKENS, PROMPT, TOP_K, answer, check

from fgaa_utils.model.generate import SamplingParams, generate_batch
from fgaa_utils.model.lm import load_model
from fgaa_utils.model.steer import edited_logits

path, vectors, dtype, rows = sys.argv[1:]
lm = load_model(path, layer=LAYER, dtype=dtype, device="cpu")
directions, count = COEFF * torch.from_numpy(np.load(vectors)), int(rows)
delta = directions[torch.arange(count) % len(directions)]
ids = torch.tensor(lm.encode([PROMPT])).expand(count, -1)
sampling = SamplingParams(new_tokens=NEW_TOKENS, top_k=TOP_K, temperature=1.0, batch=count)
plain, steered = (edited_logits(lm, ids[:1], LAYER, edit) for edit in (lambda h: h, lambda h: h + delta[0].to(h.dtype)))
check(plain[0, -1].float().numpy(), steered[0, -1].float().numpy())
answer(lambda: generate_batch(lm, ids, delta, np.arange(count), LAYER, sampling).numel())
