"""Whether the gradient map holds: half of its rollouts against the other half, and what it promises against steering.

Not in the paper; the map itself is made by `gradients`. Steered rollouts test both parts of it. F promises what c times
a unit vector v costs, a KL of c^2 v^T F v / 2 for a rollout; G promises how it moves the mean latents, by c v^T G.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.gradients import gradient_map, sums_of
from fgaa_utils.model.generate import Rows, SamplingParams, generate, row_seeds
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.head import head_envoy, kept_tokens, token_logits
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import check_delta
from fgaa_utils.sae.load import encode
from fgaa_utils.shards import ShardStore

# What is compared of halves.
PLAIN_GRADIENT, NATURAL_GRADIENT, IN_F_NORM = "gradient", "natural gradient", "natural gradient, F norm"
RANDOM, DECODER, NATURAL = "random direction", "decoder row", "natural gradient"  # kinds of vectors that steer
NEAR = (0.8, 1.25)  # measured KL over nominal: within this the quadratic form counts as right
CHECKS = 22  # what the steered rollouts add to the run's seed


def live_latents(G: Tensor) -> Tensor:
    """Numbers of the latents that fired in the rollouts of G (d_model, d_sae), whose columns are not zero."""
    return G.norm(dim=0).nonzero().squeeze(1)


def column_cosines(a: Tensor, b: Tensor, metric: Tensor | None = None) -> Tensor:
    """Cosine of each column of a with that of b (d_model, n), as (n,); under a metric (d_model, d_model) if given."""

    def product(x: Tensor, y: Tensor) -> Tensor:
        return (x * (y if metric is None else metric @ y)).sum(dim=0)

    return product(a, b) / (product(a, a).sqrt() * product(b, b).sqrt())


def split_halves(store: ShardStore, sizes: Iterable[int], ridge: float) -> pd.DataFrame:
    """Agreement of two maps that share no rollouts, from k parts of either half of the store, for each k in `sizes`.

    Columns rollouts (of each map), compared, latents (that fired for both), and over these latents mean, median, lo and
    hi (quartiles) of a cosine: of the columns of G; of the latents' natural gradients, each with its own half's F; and
    of these under the F of all rollouts, which weighs a direction by what it does to the text.
    Raises: ValueError for a k that leaves no two halves.
    """
    middle, sizes = store.count // 2, list(sizes)
    if not sizes or min(sizes) < 1 or max(sizes) > middle:
        raise ValueError(f"sizes are {sizes}; halves of {store.count} parts have from 1 to {middle} parts")
    F = sums_of(store).fisher_information()
    rows = []
    for k in sizes:
        (count, G, natural), (_, G_other, natural_other) = (_half(store, at, k, ridge) for at in (0, middle))
        live = (G.norm(dim=0) > 0) & (G_other.norm(dim=0) > 0)
        cosines = {
            PLAIN_GRADIENT: column_cosines(G[:, live], G_other[:, live]),
            NATURAL_GRADIENT: column_cosines(natural[:, live], natural_other[:, live]),
            IN_F_NORM: column_cosines(natural[:, live], natural_other[:, live], F),
        }
        about = {"rollouts": count, "latents": int(live.sum())}
        rows += [about | {"compared": name} | _summary(values) for name, values in cosines.items()]
    return pd.DataFrame(rows)


def _half(store: ShardStore, start: int, parts: int, ridge: float) -> tuple[int, Tensor, Tensor]:
    """(rollouts, G, natural gradients of all latents) of some parts that follow one another."""
    sums = sums_of(store, list(range(start, start + parts)))
    found = gradient_map(sums, 0, {})  # neither the tokens nor the identity are part of a cosine
    return int(sums.count.sum()), found.G, found.natural(found.G, ridge)


def _summary(values: Tensor) -> dict[str, float]:
    lo, median, hi = np.quantile(values.numpy(), [0.25, 0.5, 0.75])
    return {"mean": float(values.mean()), "median": float(median), "lo": float(lo), "hi": float(hi)}


def spectrum(F: Tensor) -> NDArray:
    """Eigenvalues (d_model,) of F in falling order."""
    return np.linalg.eigvalsh(F.double().numpy())[::-1]


def check_vectors(
    W_dec: Tensor, gradients: GradientMap, count: int, *, ridge: float, seed: int
) -> tuple[Tensor, list[str]]:
    """(unit vectors (3 * count, d_model), kind of each): random directions, then decoder rows of random latents that
    fired, then the natural gradients of these latents.

    The last were made with the inverse of F and lie where it is small, by nature and by the luck of its estimate: if the
    quadratic form says too little of any vector, it says so of these.

    Raises: ValueError if there are fewer than `count`.
    """
    live = live_latents(gradients.G)
    if count > len(live):
        raise ValueError(f"check_vectors is {count}; only {len(live)} latents fired, take as many or fewer")
    rng = np.random.default_rng([seed, CHECKS])
    directions = torch.from_numpy(rng.standard_normal((count, W_dec.shape[1]))).float()
    latents = live[rng.choice(len(live), size=count, replace=False)]
    natural = gradients.natural(gradients.G[:, latents], ridge).T
    vectors = torch.nn.functional.normalize(torch.cat([directions, W_dec[latents], natural]), dim=1)
    return vectors, [kind for kind in (RANDOM, DECODER, NATURAL) for _ in range(count)]


def check_cells(vectors: Tensor, kinds: list[str], gradients: GradientMap, nats_levels: list[float]) -> pd.DataFrame:
    """What steers: kind, vector (number), nats (a token, nominal) and coeff; the first row is unsteered."""
    cells = [
        (kind, number, nats, gradients.coefficient(vectors[number], nats))
        for number, kind in enumerate(kinds)
        for nats in nats_levels
    ]
    return pd.DataFrame([("unsteered", 0, 0.0, 0.0), *cells], columns=["kind", "vector", "nats", "coeff"])


def check_rows(cells: pd.DataFrame, vectors: Tensor, openers: list[list[int]], rollouts: int, seed: int) -> Rows:
    """`rollouts` rows of every cell, the openers taking turns.

    All cells draw the same random numbers, so that their differences from unsteered text hold less luck.
    Raises: ValueError unless both halves of a cell's rollouts have each opener equally often.
    """
    if rollouts % (2 * len(openers)) or rollouts < 1:
        raise ValueError(f"check_rollouts is {rollouts}; {len(openers)} openers need a multiple of {2 * len(openers)}")
    return Rows(
        prompts=openers,
        vectors=vectors,
        prompt=np.tile(np.arange(rollouts) % len(openers), len(cells)),
        vector=np.repeat(cells.vector.to_numpy(), rollouts),
        coeff=np.repeat(cells.coeff.to_numpy(dtype=np.float32), rollouts),
        seed=np.tile(row_seeds(seed, CHECKS, count=rollouts), len(cells)),
    )


@torch.no_grad()
def read_both_ways(lm: LanguageModel, ids: Tensor, layer: int, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(resid, plain, steered) of rollouts `ids` (rows, pos), each (rows, pos, d_model), on the model's device.

    resid is the residual stream after block `layer` before anything is added; plain and steered enter the head, without
    and with `delta` (rows, d_model) added there.
    """
    block, head = lm.block(layer), head_envoy(lm)
    added = check_delta(lm, delta, len(ids))
    entering = []
    for vector in (torch.zeros_like(added), added):
        with lm.nn.trace() as tracer:
            with tracer.invoke({"input_ids": ids.to(lm.device), "attention_mask": torch.ones_like(ids).to(lm.device)}):
                resid = block.output.save()
                block.output = resid + vector
                hidden = head.input.save()
                tracer.stop()
        entering.append(hidden)
    return resid, *entering


@torch.no_grad()
def next_token_kl(
    lm: LanguageModel, steered: Tensor, plain: Tensor, drawn: Tensor, *, top_k: int, temperature: float
) -> Tensor:
    """KL(steered || unsteered) of the next token in nats, (n,), float32, on the processor.

    `steered` and `plain` (n, d_model) enter the head with and without steering; drawn (n,) are the tokens that followed
    under steering. Summed over the tokens of steered rollouts, the mean is the KL of whole rollouts. So is that of
    log p_delta - log p_0 at the drawn tokens; here each term is the exact expectation given the tokens before it, so
    that few rollouts suffice.

    Both distributions are renormalised over the top k of the *steered* reading, among which the text was drawn. With
    the top k of each, a drawn token outside the unsteered ones would make the KL infinite. The logarithms over the
    whole vocabulary, at tokens drawn from its top alone, do not average to a KL at all: a term linear in delta stays.
    F fixes the set too, at the unsteered top k; what a change of the set costs is in neither. In bfloat16 the logits
    come in steps, as when the text was drawn, which adds about step^2 / 12 nats: 0.001 where they are from 16 to 32.
    """
    kept = kept_tokens(lm, steered, drawn, top_k)
    logp, logq = ((token_logits(lm, hidden, kept) / temperature).log_softmax(dim=1) for hidden in (steered, plain))
    return (logp.exp() * (logp - logq)).sum(dim=1).cpu()


def read_checks(
    lm: LanguageModel, sae: SAE, rows: Rows, layer: int, sampling: SamplingParams, folder: Path
) -> Iterator[tuple[NDArray, Tensor, Tensor]]:
    """(row numbers, KL in nats a token (n,), reward (n, d_sae)) of each batch of steered rollouts.

    Texts are generated or read back. The reward is the one that G is of: the latents of the new tokens in an unsteered
    reading, summed and divided by all positions of the rollout but BOS.
    """
    in_parts = Halving(lm.batch_tokens)
    for members, new in generate(lm, rows, layer, sampling, folder / "rollouts", progress="checks"):
        prompts = torch.tensor([rows.prompts[p] for p in rows.prompt[members]])
        ids, width, delta = torch.cat([prompts, new.long()], dim=1), prompts.shape[1], rows.delta(members)

        def read(part: slice) -> Tensor:
            """KL beside the reward, so that Halving can join them: (rows, 1 + d_sae)."""
            resid, plain, steered = read_both_ways(lm, ids[part], layer, delta[part])
            plain, steered = (hidden[:, width - 1 : -1].flatten(0, 1) for hidden in (plain, steered))
            drawn = ids[part, width:].flatten().to(lm.device)
            kl = next_token_kl(lm, steered, plain, drawn, top_k=sampling.top_k, temperature=sampling.temperature)
            reward = encode(sae, resid[:, width:]).sum(dim=1).cpu() / (resid.shape[1] - 1)
            return torch.cat([kl.view(len(reward), -1).mean(dim=1, keepdim=True), reward], dim=1)

        both = in_parts(read, len(ids), each=ids.shape[1])
        yield members, both[:, 0], both[:, 1:]


@dataclass(frozen=True)
class Measured:
    """What steering did, in tidy frames that all begin with kind and vector (its number).

    kl: nats (a token, nominal), measured (mean over rollouts) and error (its standard error).
    agreement: nats; over all latents, correlation and slope of the measured change of their means against c v^T G, and
    ceiling, the correlation that a perfect prediction would reach, given the noise of what is measured. Latents that
    change much weigh most.
    changes: of the smallest level alone latent, predicted and measured, as activations.
    """

    kl: pd.DataFrame
    agreement: pd.DataFrame
    changes: pd.DataFrame


def measure(
    lm: LanguageModel,
    sae: SAE,
    layer: int,
    vectors: Tensor,
    kinds: list[str],
    gradients: GradientMap,
    nats_levels: list[float],
    folder: Path,
    *,
    openers: list[str],
    sampling: SamplingParams,
    rollouts: int,
    seed: int,
) -> Measured:
    """Steer with each unit vector (n, d_model), so that it is to cost each level of nats a token, and compare.

    Each is used `rollouts` times, and so is no vector at all. Resumable in what is generated (see generate).

    Raises: ValueError if rollouts have not as many tokens as those of the map, whose F and G are of a whole rollout.
    """
    if sampling.new_tokens != gradients.tokens:
        raise ValueError(f"new_tokens is {sampling.new_tokens}; the map is of rollouts of {gradients.tokens}")
    cells = check_cells(vectors, kinds, gradients, nats_levels)
    rows = check_rows(cells, vectors, lm.encode(openers), rollouts, seed)
    half = np.arange(len(rows)) % rollouts // len(openers) % 2
    kl = torch.empty(len(cells) * rollouts)
    rewards = torch.zeros(len(cells) * 2, sae.cfg.d_sae)
    for members, nats, reward in read_checks(lm, sae, rows, layer, sampling, folder):
        kl[members] = nats
        rewards.index_add_(0, torch.from_numpy(members // rollouts * 2 + half[members]), reward)
    halves = rewards.view(len(cells), 2, -1) / (rollouts / 2)
    return compare(cells, kl.view(len(cells), rollouts), halves, vectors, gradients.G)


def compare(cells: pd.DataFrame, kl: Tensor, rewards: Tensor, vectors: Tensor, G: Tensor) -> Measured:
    """What was measured in the cells (see check_cells) beside what the map promises.

    kl (cells, rollouts): nats a token of each rollout. rewards (cells, 2, d_sae): means of either half of the rollouts.
    """
    steered = cells[1:].reset_index(drop=True)
    about = steered[["kind", "vector", "nats"]]
    measured = {"measured": kl[1:].mean(dim=1).numpy(), "error": kl[1:].std(dim=1).numpy() / kl.shape[1] ** 0.5}
    changes = (rewards[1:] - rewards[0]).numpy()
    predicted = steered.coeff.to_numpy()[:, None] * (vectors @ G).numpy()[steered.vector]
    agreement = [_agreement(p, c) for p, c in zip(predicted, changes, strict=True)]
    smallest = np.flatnonzero(steered.nats == steered.nats.min())
    latents = {
        "latent": np.tile(np.arange(G.shape[1]), len(smallest)),
        "predicted": predicted[smallest].ravel(),
        "measured": changes[smallest].mean(axis=1).ravel(),
    }
    return Measured(
        kl=about.assign(**measured),
        agreement=pd.concat([about, pd.DataFrame(agreement)], axis=1),
        changes=about.loc[np.repeat(smallest, G.shape[1]), ["kind", "vector"]].reset_index(drop=True).assign(**latents),
    )


def _agreement(predicted: NDArray, halves: NDArray) -> dict[str, float]:
    """Of the predicted changes (d_sae,) and those measured on two halves of the rollouts (2, d_sae).

    The halves' correlation r gives that of their mean with a repetition, 2r / (1 + r) (Spearman and Brown); its root is
    the correlation with the truth.
    """
    measured = halves.mean(axis=0)
    covariance = np.cov(predicted, measured)
    r = max(0.0, float(np.corrcoef(halves)[0, 1]))
    return {
        "correlation": float(np.corrcoef(predicted, measured)[0, 1]),
        "ceiling": (2 * r / (1 + r)) ** 0.5,
        "slope": float(covariance[0, 1] / covariance[0, 0]),
    }


def kl_ratios(kl: pd.DataFrame) -> pd.Series:
    """Measured over nominal KL by nats: the median over vectors of the kind that is furthest off there."""
    ratios = (kl.measured / kl.nats).groupby([kl.nats, kl.kind]).median().unstack()
    worst = np.log(ratios).abs().idxmax(axis=1)
    return pd.Series({nats: ratios.loc[nats, kind] for nats, kind in worst.items()}).rename_axis("nats")


def quadratic_range(kl: pd.DataFrame) -> float | None:
    """The level of nats a token up to which, from the smallest on, the median of measured over nominal KL is NEAR 1.

    None if it is off at the smallest already.
    """
    ratios = kl_ratios(kl)
    off = ~ratios.between(*NEAR)
    good = ratios.index[~off.cummax()]
    return float(good[-1]) if len(good) else None
