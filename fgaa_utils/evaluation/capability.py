"""What steering costs: multiple choice and next-token cross-entropy under many deltas (paper, section 4, figures 4, 5).

Every text is read once up to the steered layer, whatever the number of deltas: what comes before it is the same for
all of them, and the batch is widened to one row per delta where the delta is added. So a batch is one text under
many deltas, its rows are equally long, and no pads are needed. A delta is (d_model,), a vector times its
coefficient in the absolute norm of the residual stream; all zero is unsteered.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from fgaa_utils.data.questions import Question
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import check_delta, edited_logits, next_token_ce
from fgaa_utils.project import unknown
from fgaa_utils.shards import ShardStore, digest, identity
from fgaa_utils.workers import Tick, fill

SCORES = ("per_char", "sum")
HELDOUT_TEXTS = 21  # what the choice of texts adds to the run's seed; see cells.VALIDATION


@torch.no_grad()
def _steered_logits(
    lm: LanguageModel, ids: list[int], added: Tensor, layer: int, cache: DynamicCache, *, keep: int
) -> Tensor:
    """Logits (deltas, keep, vocabulary) at the last `keep` tokens of one text that goes on from the cache.

    `added` (deltas, 1, d_model) is added at every position. The cache takes the text up: one row for blocks up
    to `layer`, one per delta for those after it.
    """
    block = lm.block(layer)
    inputs = {
        "input_ids": torch.tensor([ids], device=lm.device),
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": keep,
    }
    with lm.nn.trace() as tracer:
        with tracer.invoke(inputs):
            block.output = block.output + added  # (1, pos, d_model) -> (deltas, pos, d_model)
            logits = lm.nn.output.logits.save()
    return logits


def _branch(cache: DynamicCache) -> DynamicCache:
    """A cache that goes on from this one and leaves it as it is: growing replaces keys and values, so they are shared."""
    branch = copy(cache)
    branch.layers = [copy(layer) for layer in cache.layers]
    return branch


def _one_question(lm: LanguageModel, prefix: list[int], options: list[list[int]], layer: int, added: Tensor) -> Tensor:
    """Log-probability of each option after the prefix, (deltas, options), float32."""
    cache = DynamicCache(config=lm.hf.config)
    first = _steered_logits(lm, prefix, added, layer, cache, keep=1)[:, 0].float().log_softmax(dim=1)
    columns = []
    for option in options:
        logprob = first[:, option[0]]
        if len(option) > 1:
            logits = _steered_logits(lm, option[:-1], added, layer, _branch(cache), keep=len(option) - 1)
            later = torch.tensor(option[1:], device=lm.device)
            rows = [torch.nn.functional.cross_entropy(row.float(), later, reduction="sum") for row in logits]
            logprob = logprob - torch.stack(rows)
        columns.append(logprob)
    return torch.stack(columns, dim=1).cpu()


def option_logprobs(
    lm: LanguageModel, questions: list[Question], deltas: Tensor, layer: int, *, batch_tokens: int | None = None
) -> Tensor:
    """Summed log-probability of every option after its question's prefix, (deltas, options), float32, nats.

    Options of all questions stand in one axis, in order; see accuracy. Every delta (deltas, d_model) steers every
    position, BOS included. The prefix is computed once; its keys and values are shared by the options.
    At most `batch_tokens` (default: lm.batch_tokens) go through the upper blocks at once, or one delta's; fewer if
    they do not fit.

    Raises: ValueError for a wrong shape of the deltas, or a value that is not finite.
    """
    added = check_delta(lm, deltas, len(deltas))
    prefixes = lm.encode([question.prefix for question in questions])
    in_parts = Halving(batch_tokens or lm.batch_tokens)
    columns = []
    for question, prefix in zip(questions, prefixes, strict=True):
        options = lm.encode([f" {option}" for option in question.options], bos=False)
        tokens = len(prefix) + max(map(len, options))
        columns.append(
            in_parts(lambda part: _one_question(lm, prefix, options, layer, added[part]), len(added), each=tokens)
        )
    return torch.cat(columns, dim=1)


def accuracy(questions: list[Question], logprobs: Tensor, *, score: str = "per_char") -> Tensor:
    """Whether the right option of each question has the highest score, (..., questions), float32, 0 or 1.

    `logprobs` (..., options) as option_logprobs gives them. The score is the log-probability per character of the
    option, acc_norm of the LM evaluation harness, which does not favour short options; `sum` is the plain
    log-probability. Options that tie share the point: in bfloat16 they do, and SciQ lists the right one last.

    Raises: ValueError for an unknown score, or logprobs that do not fit the questions.
    """
    if score not in SCORES:
        raise unknown("score", score, list(SCORES))
    counts = [len(question.options) for question in questions]
    if logprobs.shape[-1] != sum(counts):
        raise ValueError(f"logprobs of {logprobs.shape[-1]} options, the questions have {sum(counts)}")
    columns = []
    for question, values in zip(questions, logprobs.split(counts, dim=-1), strict=True):
        if score == "per_char":
            values = values / torch.tensor([len(option) for option in question.options])
        best = values == values.amax(dim=-1, keepdim=True)
        columns.append(best[..., question.answer] / best.sum(dim=-1))
    return torch.stack(columns, dim=-1)


def steered_text_ce(
    lm: LanguageModel, ids: Tensor, deltas: Tensor, layer: int, *, skip: int = 0, batch_tokens: int | None = None
) -> Tensor:
    """Mean next-token cross-entropy of each text under each delta, (deltas, texts), float32, nats per token.

    `ids` (texts, pos) start with BOS and have no pads; BOS is not predicted, and the `skip` tokens after it, a prefix
    of the text, do not count. The ratio of perplexities to unsteered is the exponential of a difference of these
    (paper, figure 4).

    Raises: ValueError for a wrong shape of the deltas, or a value that is not finite.
    """
    added = check_delta(lm, deltas, len(deltas))

    def one_text(row: Tensor, group: Tensor) -> Tensor:
        logits = edited_logits(lm, row[None], layer, lambda h: h + group)  # (deltas, pos, vocabulary)
        return next_token_ce(logits, row.expand(len(group), -1))[:, skip:].mean(dim=1)

    in_parts = Halving(batch_tokens or lm.batch_tokens)
    columns = [in_parts(lambda part: one_text(row, added[part]), len(added), each=len(row)) for row in ids]
    return torch.stack(columns, dim=1)


def pick_texts(rows: NDArray, count: int, tokens: int, *, seeds: tuple[int, ...]) -> Tensor:
    """`count` random rows of token ids (rows, pos), cut to `tokens`; a larger count goes on where a smaller ends.

    Raises: ValueError for a count below 1 or beyond the rows, or tokens below 2 or beyond their length.
    """
    if not (1 <= count <= len(rows) and 2 <= tokens <= rows.shape[1]):
        there = f"there are {len(rows)} of {rows.shape[1]}; change costs.texts or costs.text_tokens"
        raise ValueError(f"{count} texts of {tokens} tokens asked for, {there}")
    order = np.random.default_rng(seeds).permutation(len(rows))
    return torch.from_numpy(rows).long()[order[:count], :tokens]


def text_ce_after(lm: LanguageModel, ids: Tensor, prefixes: list[list[int]], layer: int) -> Tensor:
    """Cross-entropy of each unsteered text behind each prefix of token ids, (prefixes, texts); see steered_text_ce."""
    plain, found = torch.zeros(1, lm.d_model), []
    for prefix in prefixes:
        behind = torch.cat([ids[:, :1], torch.tensor([prefix]).expand(len(ids), -1), ids[:, 1:]], dim=1)
        found.append(steered_text_ce(lm, behind, plain, layer, skip=len(prefix)))
    return torch.cat(found)


def option_logprobs_after(
    lm: LanguageModel, questions: list[Question], prefixes: list[list[int]], layer: int, folder: Path
) -> Tensor:
    """Unsteered log-probabilities of the options with each prefix of token ids before every question, (prefixes, options).

    See option_logprobs. Each prefix is a shard under `folder`.
    """
    plain, found = torch.zeros(1, lm.d_model), []
    for prefix in tqdm(prefixes, desc="multiple choice after examples", mininterval=15):
        behind = [replace(question, prefix=lm.tokenizer.decode(prefix) + question.prefix) for question in questions]
        found.append(measure_cells(option_logprobs, lm, behind, plain, layer, folder))
    return torch.cat(found)


def _measure_part(
    lm: LanguageModel, index: int, tick: Tick, *, measure: Callable, asked: Any, deltas: Tensor, cells: int, layer: int
) -> dict[str, Tensor]:
    part = deltas[index * cells : (index + 1) * cells]
    values = measure(lm, asked, part, layer)
    tick(len(part))
    return {"values": values}


def measure_cells(
    measure: Callable[..., Tensor],
    lm: LanguageModel,
    asked: list[Question] | Tensor,
    deltas: Tensor,
    layer: int,
    folder: Path,
    *,
    cells: int = 32,
    progress: str | None = None,
) -> Tensor:
    """measure(lm, asked, deltas, layer) for `cells` deltas at a time, each a shard under `folder`; see ShardStore.

    `measure` is option_logprobs, of questions, or steered_text_ce, of token rows. Raises: ValueError for no deltas.
    """
    if not len(deltas):
        raise ValueError("no deltas to measure; give at least one, all zero for unsteered")
    parts = deltas.split(cells)
    texts = asked if isinstance(asked, Tensor) else [[question.prefix, *question.options] for question in asked]
    shaping = {"measure": measure.__name__, "layer": layer, "asked": digest(texts), "deltas": digest(deltas)}
    store = ShardStore(folder, identity(lm, cells=cells, **shaping), len(parts))
    missing = store.missing()
    fixed = {"measure": measure, "asked": asked, "deltas": deltas, "cells": cells, "layer": layer}
    with tqdm(total=len(deltas), desc=progress, unit="cell", disable=progress is None, mininterval=15) as bar:
        bar.update(len(deltas) - sum(len(parts[index]) for index in missing))
        fill(_measure_part, missing, store.write, using=lm, tick=bar.update, **fixed)
    return torch.cat([shard["values"] for shard in store])
