"""Residual streams of texts at one layer, streamed; the forward pass stops there."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import LanguageModel


def pad_right(texts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask) of token lists, pads on the right; both (batch, pos), int64.

    Under causal attention no token sees a pad to its right, so a text's residual stream does not depend on
    its neighbours.
    """
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad_id] * (width - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return ids, mask


@torch.no_grad()
def resid_batch(lm: LanguageModel, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """Residual stream after block `layer`, (batch, pos, d_model) in the model's dtype, pads included."""
    block = lm.block(layer)
    inputs = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device)}
    with lm.nn.trace() as tracer:
        with tracer.invoke(inputs):
            resid = block.output.save()  # (batch, pos, d_model)
            tracer.stop()
    return resid.cpu()


def capture_resid(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    layer: int,
    *,
    batch_tokens: int | None = None,
    progress: str | None = None,
) -> Iterator[Tensor]:
    """The residual stream after block `layer` of each text in turn, (pos, d_model), without pads.

    `texts` are token ids, BOS included if it is wanted. At most `batch_tokens` padded tokens (default: as the device
    takes, lm.batch_tokens) go through the model at once, fewer if they do not fit. `progress` labels a bar.

    Raises: ValueError for an empty text.
    """
    if empty := [i for i, text in enumerate(texts) if len(text) == 0]:
        raise ValueError(f"text {empty[0]} has no tokens; leave it out or keep its BOS")
    bar = tqdm(total=len(texts), desc=progress, disable=progress is None, mininterval=10)
    in_parts = Halving(batch_tokens or lm.batch_tokens)
    start = 0
    while start < len(texts):
        stop, width = start, 0
        while stop < len(texts):
            width = max(width, len(texts[stop]))
            if stop > start and width * (stop + 1 - start) > in_parts.size:
                break
            stop += 1
        ids, mask = pad_right(texts[start:stop], lm.tokenizer.pad_token_id)
        resid = in_parts(lambda part: resid_batch(lm, ids[part], mask[part], layer), len(ids), each=ids.shape[1])
        for i, text in enumerate(texts[start:stop]):
            yield resid[i, : len(text)]
        bar.update(stop - start)
        start = stop
    bar.close()
