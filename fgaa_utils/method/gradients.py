"""The gradient of expected effects in the steering vector, and the Fisher information: from unsteered rollouts alone.

Not in the paper. FGAA uses the effect map backwards: M v_target is to be the direction that raises the wanted latents
most, that is the gradient of their expected activation. A rollout regression (see `effects`) estimates it one direction
a rollout; the score function estimates it in all directions at once. With a vector delta added after block `layer` at
every position, p_delta the sampling distribution and y_1..y_T a rollout of the unsteered model:

    s_t = d log p_delta(y_t | y_<t) / d delta at delta = 0                        (d_model,)
    R_t = 1/N sum over u >= t of f(h_u): what follows a token is its reward       (d_sae,)
    G   = mean over rollouts of sum_t s_t (R_t - B)^T                             (d_model, d_sae)
    F   = mean over rollouts of sum_t s_t s_t^T                                   (d_model, d_model)

f are the SAE's latents, N the rollout's positions without BOS, B the mean reward of the opener's other rollouts. F is the
Fisher information of a rollout in delta: KL(steered || unsteered) of a rollout is about delta^T F delta / 2. Tokens go
together in segments, each with one backward pass. (Williams 1992; natural gradient: Kakade 2001.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.method.effects import opener_rows
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.model.generate import Rows, SamplingParams, generate
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.head import head_envoy, kept_tokens, token_logits
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import check_delta
from fgaa_utils.sae.load import encode
from fgaa_utils.shards import ShardStore, identity
from fgaa_utils.workers import Tick, fill

GRADIENTS = 20  # what the rollouts add to the run's seed


@contextmanager
def frozen_weights(lm: LanguageModel) -> Iterator[None]:
    """No gradient reaches the weights inside: a backward pass stops at the vector. Generation must not run under it,
    where PyTorch would copy the head's weight for every row."""
    wanted = [(p, p.requires_grad) for p in lm.hf.parameters()]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, before in wanted:
            parameter.requires_grad_(before)


@dataclass(frozen=True)
class Reading:
    """One reading of rollouts: scores (rows, segments, d_model) and residual stream (rows, pos, d_model), float32."""

    scores: Tensor
    resid: Tensor


def read_rollouts(
    lm: LanguageModel,
    ids: Tensor,
    prompt: int,
    layer: int,
    *,
    delta: Tensor | None = None,
    segments: int,
    top_k: int,
    temperature: float,
) -> Reading:
    """Scores of rollouts `ids` (rows, pos), of which the first `prompt` tokens are given, at `delta` (rows, d_model; None
    is 0), and the residual stream after block `layer` before anything is added.

    Through nnsight, whose trace keeps the graph of what is saved; the weights must be frozen (see frozen_weights).
    """
    block, head = lm.block(layer), head_envoy(lm)
    ids = ids.to(lm.device)
    start = torch.zeros(len(ids), lm.d_model) if delta is None else delta
    leaf = check_delta(lm, start, len(ids)).clone().requires_grad_()
    with torch.enable_grad():
        with lm.nn.trace() as tracer:
            with tracer.invoke({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
                resid = block.output.save()
                block.output = resid + leaf
                hidden = head.input.save()
                tracer.stop()
        hidden, drawn = hidden[:, prompt - 1 : -1], ids[:, prompt:]
        flat = hidden.flatten(0, 1)
        kept = kept_tokens(lm, flat.detach(), drawn.flatten(), top_k)
        logits = token_logits(lm, flat, kept) / temperature
        logp = logits.log_softmax(dim=1)[:, 0].view(drawn.shape)
        parts = segment_slices(drawn.shape[1], segments)
        scores = [
            torch.autograd.grad(logp[:, part].sum(), leaf, retain_graph=part is not parts[-1])[0] for part in parts
        ]
    return Reading(torch.cat(scores, dim=1).float().cpu(), resid.detach().float().cpu())


def segment_slices(tokens: int, segments: int) -> list[slice]:
    """`segments` slices of about equal length that cover a rollout's tokens.

    Raises: ValueError for fewer tokens than segments, or no segment.
    """
    if not 1 <= segments <= tokens:
        raise ValueError(f"segments is {segments}; a rollout of {tokens} tokens has from 1 to {tokens}")
    ends = [round(i * tokens / segments) for i in range(segments + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def tail_sums(values: Tensor, segments: int) -> Tensor:
    """For each segment the sum of values (rows, tokens, ...) from its first token on, (rows, segments, ...)."""
    sums = [values[:, part].sum(dim=1) for part in segment_slices(values.shape[1], segments)]
    return torch.stack(sums, dim=1).flip(1).cumsum(1).flip(1)


@dataclass
class ScoreSums:
    """Sums over rollouts from which G and F follow exactly, for any set of whole shards.

    cross[what] (d_model, width) are sums of s R^T over rows and segments; score (openers, segments, d_model) and
    reward[what] (openers, segments, width) those of s and R alone, which the baseline takes; fisher (d_model, d_model);
    count (openers,). `what` is `latents` or `resid`. moment (d_model, d_model) and mean (d_model,) are of the rollouts'
    mean residual streams.
    """

    count: Tensor
    score: Tensor
    fisher: Tensor
    cross: dict[str, Tensor]
    reward: dict[str, Tensor]
    moment: Tensor
    mean: Tensor

    @classmethod
    def of(cls, scores: Tensor, rewards: dict[str, Tensor], means: Tensor, opener: Tensor, openers: int) -> "ScoreSums":
        """Of scores (rows, segments, d_model), rewards {what: (rows, segments, width)}, mean residual streams (rows,
        d_model) and the opener of each row."""
        flat = scores.flatten(0, 1)
        member = torch.nn.functional.one_hot(opener, openers).float()
        by_opener = {what: torch.einsum("ro,rsw->osw", member, r) for what, r in {"": scores, **rewards}.items()}
        return cls(
            count=member.sum(0),
            score=by_opener.pop(""),
            fisher=flat.T @ flat,
            cross={what: flat.T @ r.flatten(0, 1) for what, r in rewards.items()},
            reward=by_opener,
            moment=means.T @ means,
            mean=means.sum(0),
        )

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        def both(a: dict, b: dict) -> dict:
            return {what: a[what] + b[what] for what in a}

        return ScoreSums(
            self.count + other.count,
            self.score + other.score,
            self.fisher + other.fisher,
            both(self.cross, other.cross),
            both(self.reward, other.reward),
            self.moment + other.moment,
            self.mean + other.mean,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As a shard holds them."""
        named = {f"{kind}.{what}": t for kind in ("cross", "reward") for what, t in getattr(self, kind).items()}
        return named | {name: getattr(self, name) for name in ("count", "score", "fisher", "moment", "mean")}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "ScoreSums":
        of = {
            kind: {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{kind}.")}
            for kind in ("cross", "reward")
        }
        return cls(**of, **{name: tensors[name] for name in ("count", "score", "fisher", "moment", "mean")})

    def gradient(self, what: str) -> Tensor:
        """G of a reward, (d_model, width): each rollout's baseline is the mean of its opener's others, exactly.

        sum_i s_i (R_i - B_i) with B_i = (sum R - R_i) / (n - 1) is (n sum_i s_i R_i - sum s sum R) / (n - 1).
        Raises: ValueError unless every opener has the same number of rollouts, at least two.
        """
        n = float(self.count[0])
        if n < 2 or (self.count != n).any():
            raise ValueError(
                f"openers have {self.count.int().tolist()} rollouts; each needs the same number, two or more"
            )
        product = torch.einsum("osd,osw->dw", self.score, self.reward[what])
        return (n * self.cross[what] - product) / (n - 1) / float(self.count.sum())

    def fisher_information(self) -> Tensor:
        """F of a rollout, (d_model, d_model)."""
        return self.fisher / float(self.count.sum())

    def covariance(self) -> Tensor:
        """Covariance of the rollouts' mean residual streams, (d_model, d_model)."""
        total = float(self.count.sum())
        mean = self.mean / total
        return self.moment / total - torch.outer(mean, mean)


def gradient_map(sums: ScoreSums, tokens: int, identity: dict) -> GradientMap:
    """The map of rollouts of `tokens` new tokens that carries `identity`."""
    G, G_resid = sums.gradient("latents"), sums.gradient("resid")
    return GradientMap(G, G_resid, sums.fisher_information(), sums.covariance(), tokens, identity)


def gradient_shards(
    lm: LanguageModel,
    sae: SAE,
    layer: int,
    folder: Path,
    *,
    openers: list[str],
    sampling: SamplingParams,
    rollouts: int,
    parts: int,
    segments: int,
    seed: int,
    batch_tokens: int | None = None,
) -> ShardStore:
    """The sums of `rollouts` unsteered rollouts in `parts` shards, each of the same number of rollouts of every opener.

    A shard holds ScoreSums.tensors and, so that another reward costs no backward pass, the scores (rows, segments,
    d_model) in float16 and the tokens of its rollouts. Resumable: what is there is not made again.
    Raises: ValueError unless rollouts divide into parts with at least two of every opener.
    """
    each, rest = divmod(rollouts, parts * len(openers))
    if rest or each < 2:
        raise ValueError(
            f"rollouts is {rollouts}; {parts} parts with at least two rollouts of each of {len(openers)} openers "
            f"need a multiple of {parts * len(openers)}, {2 * parts * len(openers)} or more"
        )
    ids = lm.encode(openers)
    shaping = vars(sampling) | {"openers": ids, "rollouts": rollouts, "seed": seed, "segments": segments}
    store = ShardStore(folder / "gradients", identity(lm, sae, layer=layer, **shaping), parts)
    zero, made = torch.zeros(1, lm.d_model), {}
    for part in store.missing():
        rows = opener_rows(ids, zero, torch.zeros(1), repeats=rollouts // parts, seeds=(seed, GRADIENTS, part))
        name = f"rollouts, part {part + 1} of {parts}"
        made[part] = rows, list(generate(lm, rows, layer, sampling, folder / "rollouts", progress=name))
    fixed = {"made": made, "sae": sae, "layer": layer, "sampling": sampling, "segments": segments}
    with tqdm(total=rollouts, desc="scores", unit="rollout", mininterval=10) as bar:
        bar.update((parts - len(made)) * (rollouts // parts))
        tokens = batch_tokens or lm.batch_tokens
        fill(_part, made, store.write, using=lm, tick=bar.update, batch_tokens=tokens, **fixed)
    return store


def _part(
    lm: LanguageModel,
    part: int,
    tick: Tick,
    *,
    made: dict[int, tuple[Rows, list]],
    sae: SAE,
    layer: int,
    sampling: SamplingParams,
    segments: int,
    batch_tokens: int,
) -> dict[str, Tensor]:
    rows, batches = made[part]
    scores = torch.empty(len(rows), segments, lm.d_model, dtype=torch.float16)
    tokens = torch.empty(len(rows), sampling.new_tokens, dtype=torch.int32)
    sums = []
    in_parts = Halving(max(1, batch_tokens // 32))
    drawn: dict[str, Any] = {"segments": segments, "top_k": sampling.top_k, "temperature": sampling.temperature}
    for members, new in batches:
        prompts = torch.tensor([rows.prompts[p] for p in rows.prompt[members]])
        ids = torch.cat([prompts, new.long()], dim=1)
        width = prompts.shape[1]

        def read(part: slice) -> Tensor:
            """Scores beside resid, so that Halving can join them: (rows, segments + pos, d_model)."""
            reading = read_rollouts(lm, ids[part], width, layer, **drawn)
            tick(len(reading.scores))
            return torch.cat([reading.scores, reading.resid], dim=1)

        with frozen_weights(lm):
            both = in_parts(read, len(ids))
        s, resid = both[:, :segments], both[:, segments:]
        opener = torch.from_numpy(rows.prompt[members])
        sums.append(_sums(sae, s, resid, width, opener, len(rows.prompts), segments))
        scores[members], tokens[members] = s.half(), new
    return reduce(add, sums).tensors() | {"scores": scores, "tokens": tokens}


def _sums(
    sae: SAE, scores: Tensor, resid: Tensor, prompt: int, opener: Tensor, openers: int, segments: int, rows: int = 64
) -> ScoreSums:
    """The sums of rows of one prompt length; the latents of `rows` rows are in memory at once."""
    positions = resid.shape[1] - 1  # without BOS

    def of(part: slice) -> ScoreSums:
        new = resid[part, prompt:]
        latents = tail_sums(encode(sae, new), segments) / positions
        rewards = {"latents": latents, "resid": tail_sums(new, segments) / positions}
        return ScoreSums.of(scores[part], rewards, resid[part, 1:].mean(dim=1), opener[part], openers)

    return reduce(add, (of(slice(k, k + rows)) for k in range(0, len(resid), rows)))


def sums_of(store: ShardStore, parts: list[int] | None = None) -> ScoreSums:
    """The sums of some shards (all by default)."""
    wanted = range(store.count) if parts is None else parts
    return reduce(add, (ScoreSums.from_tensors(store.read(part)) for part in wanted))
