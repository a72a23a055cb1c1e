"""Steered sampling: every row has its own prompt, steering vector and seed, and its text depends on these alone.

Rows of one prompt length form batches of one fixed size (the last one filled up with copies), because the size
of a matrix product changes its rounding; no row is padded. A batch is a shard on disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import check_delta
from fgaa_utils.shards import ShardStore, digest, identity
from fgaa_utils.workers import Tick, fill

BLOCK = 512  # vocabulary entries that share one maximum in exact_top_k


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn: `new_tokens` a row, from the `top_k` most likely at `temperature`; no end of text.

    `batch` rows go through the model together; it is part of every result's identity.
    """

    new_tokens: int
    top_k: int
    temperature: float
    batch: int

    def __post_init__(self):
        for name in ("new_tokens", "top_k", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")


@dataclass(frozen=True)
class Rows:
    """Rows to generate: `prompts[prompt[r]]` steered by `coeff[r] * vectors[vector[r]]`, drawn with `seed[r]`.

    prompts: token ids, BOS included. vectors: (n, d_model), unit norm by convention. prompt, vector, seed:
    (rows,) integers. coeff: (rows,) float, in the absolute norm of the residual stream; 0 is unsteered.
    """

    prompts: list[list[int]]
    vectors: Tensor
    prompt: np.ndarray
    vector: np.ndarray
    coeff: np.ndarray
    seed: np.ndarray

    def __post_init__(self):
        lengths = {name: len(getattr(self, name)) for name in ("prompt", "vector", "coeff", "seed")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"rows disagree in number: {lengths}")
        if not len(self.prompt):
            raise ValueError("no rows to generate: are the numbers of prompts and samples positive?")
        if not self.vectors.isfinite().all():
            bad = int((~self.vectors.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(f"vector {bad} has NaN or infinite entries")

    def __len__(self) -> int:
        return len(self.prompt)

    def only(self, rows: list[int]) -> "Rows":
        """Some of the rows, in the order given."""
        kept = {name: getattr(self, name)[rows] for name in ("prompt", "vector", "coeff", "seed")}
        return replace(self, **kept)

    def delta(self, rows: np.ndarray) -> Tensor:
        """(len(rows), d_model): what is added to the residual stream."""
        return self.vectors[self.vector[rows]] * torch.from_numpy(self.coeff[rows])[:, None].to(self.vectors.dtype)

    def identity(self) -> dict:
        arrays = {name: digest(torch.tensor(getattr(self, name))) for name in ("prompt", "vector", "coeff", "seed")}
        return arrays | {"prompts": self.prompts, "vectors": digest(self.vectors)}


def row_seeds(*parts: int, count: int) -> np.ndarray:
    """`count` seeds (int64) that depend on the integers given and the place in the sequence only."""
    return np.random.default_rng(list(parts)).integers(0, 2**62, size=count)


def exact_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest logits of each row, (batch, k), in falling order.

    Only the k blocks of the vocabulary with the largest maxima are searched: they hold the k largest entries.
    """
    vocabulary = logits.shape[1]
    whole = vocabulary // BLOCK * BLOCK
    k = min(k, vocabulary)
    if whole // BLOCK <= k:
        return logits.topk(k)
    blocks = logits[:, :whole].unflatten(1, (-1, BLOCK)).amax(dim=2).topk(k).indices  # (batch, k)
    within = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(whole, vocabulary, device=logits.device).expand(len(logits), -1)
    candidates = torch.cat([within, rest], dim=1)
    top = logits.gather(1, candidates).topk(k)
    return top.values, candidates.gather(1, top.indices)


def draw(logits: Tensor, uniform: Tensor, *, top_k: int, temperature: float) -> Tensor:
    """One token a row, (batch,): the top-k distribution at `temperature`, inverted at `uniform` (batch,) in [0, 1)."""
    values, indices = exact_top_k(logits, top_k)
    cumulative = torch.softmax(values.double() / temperature, dim=1).cumsum(dim=1)
    place = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return indices.gather(1, place.clamp(max=values.shape[1] - 1)).squeeze(1)


def _decode_loop(uniforms: Tensor, sampling: SamplingParams):
    """A generation loop for transformers' `custom_generate`: no logits processors over the whole vocabulary."""

    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        cache = DynamicCache(config=model.config)
        tokens, last = [], input_ids
        for step in range(sampling.new_tokens):
            out = model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = draw(out.logits[:, -1], uniforms[:, step], top_k=sampling.top_k, temperature=sampling.temperature)
            tokens.append(token)
            last = token[:, None]
        return torch.stack(tokens, dim=1)

    return loop


@torch.no_grad()
def generate_batch(
    lm: LanguageModel, ids: Tensor, delta: Tensor, seeds: np.ndarray, layer: int, sampling: SamplingParams
) -> Tensor:
    """Sampled tokens (batch, new_tokens) of prompts (batch, pos) of one length, steered on every pass.

    The delta (batch, d_model) is added at every position of the prompt pass, BOS included, and at every
    decoded token (paper, Eq. 6).
    """
    added = check_delta(lm, delta, len(ids))
    uniforms = torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(int(s))).random(sampling.new_tokens) for s in seeds])
    ).to(lm.device)
    block = lm.block(layer)
    ids = ids.to(lm.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loop = _decode_loop(uniforms, sampling)
    with lm.nn.generate(max_new_tokens=sampling.new_tokens, custom_generate=loop) as tracer:
        with tracer.invoke(inputs):
            for _ in tracer.iter[: sampling.new_tokens]:
                block.output = block.output + added
        with tracer.invoke():
            tokens = tracer.result.save()
    return tokens.cpu()


def batches_of(rows: Rows, batch: int) -> list[np.ndarray]:
    """Row numbers of each batch: rows of one prompt length, in order, at most `batch` of them."""
    lengths = np.array([len(rows.prompts[p]) for p in rows.prompt])
    batches = []
    for length in sorted(set(lengths.tolist())):
        members = np.flatnonzero(lengths == length)
        batches += [members[i : i + batch] for i in range(0, len(members), batch)]
    return batches


def sampling_identity(lm: LanguageModel, layer: int, sampling: SamplingParams) -> dict:
    """What shapes sampled tokens beside the rows themselves, for the names of shards."""
    return identity(lm, layer=layer, **vars(sampling))


def make_batch(
    lm: LanguageModel,
    members: list[int],
    tick: Tick,
    *,
    rows: Rows,
    layer: int,
    sampling: SamplingParams,
    in_parts: Halving,
) -> dict[str, Tensor]:
    """Of some of the rows, at most a batch of one prompt length: their `tokens` (rows, new_tokens), int32, and how many rows
    went through the model `together`.

    The batch is filled up with copies. One that does not fit into memory is made in smaller parts, which may change the
    rounding.
    """
    filled = np.resize(members, sampling.batch)  # repeats the rows to fill the batch
    ids = torch.tensor([rows.prompts[p] for p in rows.prompt[filled]])
    delta, seeds = rows.delta(filled), rows.seed[filled]
    tokens = in_parts(lambda p: generate_batch(lm, ids[p], delta[p], seeds[p], layer, sampling), len(ids))
    tick(sampling.batch * sampling.new_tokens)
    return {"tokens": tokens[: len(members)].int(), "together": torch.tensor(in_parts.size)}


def fill_batches(
    lm: LanguageModel,
    rows: Rows,
    batches: list[list[int]],
    layer: int,
    sampling: SamplingParams,
    keep: Callable[[list[int], dict[str, Tensor]], object],
    *,
    progress: str | None,
    before: int = 0,
) -> None:
    """keep(row numbers, make_batch's result) of each batch, under a bar of tokens of which `before` batches are done."""
    each = sampling.batch * sampling.new_tokens
    total = (before + len(batches)) * each
    made = {"rows": rows, "layer": layer, "sampling": sampling, "in_parts": Halving(sampling.batch)}
    off = progress is None
    with tqdm(total=total, desc=progress, unit="tok", unit_scale=True, disable=off, mininterval=15) as bar:
        bar.update(before * each)
        fill(make_batch, batches, keep, using=lm, tick=bar.update, **made)


def generate(
    lm: LanguageModel, rows: Rows, layer: int, sampling: SamplingParams, folder: Path, *, progress: str | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(row numbers, tokens (batch, new_tokens) int32) of each batch, made or read back if it is there.

    Batches come in a fixed order and together cover all rows once. Resumable: see ShardStore. A shard says how many rows
    went together (see make_batch).
    """
    batches = batches_of(rows, sampling.batch)
    store = ShardStore(folder, sampling_identity(lm, layer, sampling) | rows.identity(), len(batches))
    places = {index: batches[index].tolist() for index in store.missing()}
    number = {members[0]: index for index, members in places.items()}  # a row is in one batch
    before = len(batches) - len(places)

    def keep(members: list[int], made: dict[str, Tensor]) -> None:
        store.write(number[members[0]], made)

    fill_batches(lm, rows, list(places.values()), layer, sampling, keep, progress=progress, before=before)
    for index, members in enumerate(batches):
        yield members, store.read(index)["tokens"]


def generate_all(
    lm: LanguageModel, rows: Rows, layer: int, sampling: SamplingParams, folder: Path, *, progress: str | None = None
) -> Tensor:
    """Tokens of all rows in their own order, (rows, new_tokens), int32."""
    tokens = torch.empty(len(rows), sampling.new_tokens, dtype=torch.int32)
    for members, part in generate(lm, rows, layer, sampling, folder, progress=progress):
        tokens[members] = part
    return tokens


def steered_text(
    lm: LanguageModel,
    prompt: str,
    vector: Tensor,
    coeff: float,
    *,
    layer: int | None = None,
    new_tokens: int = 33,
    top_k: int = 50,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """The text sampled after `prompt` under `coeff` times the vector (d_model,), which has unit norm by convention.

    `layer` is by default the one that the model was loaded with. Raises: ValueError if it was loaded with none.
    """
    layer = lm.layer if layer is None else layer
    if layer is None:
        raise ValueError(f"{lm.identity} was loaded without a layer; give steered_text layer=, a block to steer after")
    sampling = SamplingParams(new_tokens=new_tokens, top_k=top_k, temperature=temperature, batch=1)
    tokens = generate_batch(
        lm, torch.tensor(lm.encode([prompt])), coeff * vector[None], np.array([seed]), layer, sampling
    )
    return lm.decode(tokens)[0]
