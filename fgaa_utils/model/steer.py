"""Steering: h <- h + coeff * v at one layer's residual stream, one vector per row (paper, Eq. 6).

Everything goes through nnsight traces, so nothing of the model is left changed. Deltas are (batch, d_model),
already multiplied by their coefficient, in absolute units of the residual stream.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fgaa_utils.model.lm import LanguageModel


def check_delta(lm: LanguageModel, delta: Tensor, batch: int) -> Tensor:
    """The delta as (batch, 1, d_model) in the model's dtype, to be added at every position.

    Raises: ValueError for a wrong shape or a value that is not finite.
    """
    if delta.shape != (batch, lm.d_model):
        raise ValueError(f"delta has shape {tuple(delta.shape)}, expected one vector a row: ({batch}, {lm.d_model})")
    if not delta.isfinite().all():
        row = int((~delta.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"the steering vector of row {row} has NaN or infinite entries")
    return delta.to(lm.device, lm.dtype)[:, None, :]


@torch.no_grad()
def edited_logits(lm: LanguageModel, ids: Tensor, layer: int, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (batch, pos, vocabulary) with block `layer`'s output h (batch, pos, d_model) replaced by edit(h).

    `ids` has no pads.
    """
    block = lm.block(layer)
    ids = ids.to(lm.device)
    with lm.nn.trace() as tracer:
        with tracer.invoke({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            block.output = edit(block.output)
            logits = lm.nn.output.logits.save()
    return logits


def next_token_ce(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of every next token in nats, (batch, pos - 1), float32."""
    losses = [
        torch.nn.functional.cross_entropy(row[:-1].float(), target[1:], reduction="none")
        for row, target in zip(logits, ids.to(logits.device), strict=True)
    ]  # row by row: the vocabulary is large
    return torch.stack(losses).cpu()


def steered_ce(lm: LanguageModel, ids: Tensor, layer: int, delta: Tensor | None) -> Tensor:
    """Mean next-token cross-entropy of each row under its own steering, (batch,), nats; None is unsteered."""
    if delta is None:
        return next_token_ce(edited_logits(lm, ids, layer, lambda h: h), ids).mean(dim=1)
    added = check_delta(lm, delta, len(ids))
    return next_token_ce(edited_logits(lm, ids, layer, lambda h: h + added), ids).mean(dim=1)
