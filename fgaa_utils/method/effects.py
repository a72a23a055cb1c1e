"""Effect data: what steering with a vector does to the mean SAE activations of the text that follows.

SAE-TS (arXiv 2411.02193): a unit decoder row, at a scale that costs a given cross-entropy, steers short rollouts;
its effect is their mean activation, re-read by the unsteered model, minus that of unsteered rollouts. Here the
unsteered mean is that of the rollout's own opener: over balanced openers the expectation is the same, the noise less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import Rows, SamplingParams, generate, row_seeds
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.model.steer import steered_ce
from fgaa_utils.sae.load import decoder_rows, encode
from fgaa_utils.shards import ShardStore, digest, identity
from fgaa_utils.workers import Tick, fill


def ce_scales(
    lm: LanguageModel,
    vectors: Tensor,
    layer: int,
    ids: Tensor,
    folder: Path,
    *,
    rise: float,
    probes: list[float],
    batch: int = 64,
) -> Tensor:
    """Coefficient of each unit vector (n, d_model) at which cross-entropy rises by `rise` nats, (n,), float32.

    The rise is measured on token rows `ids` (texts, pos) at the coefficients `probes` (absolute norm) and
    interpolated on log-log axes, where it is nearly a straight line; beyond the probes by at most a factor 2.
    Resumable in shards of `batch` vectors times 32.
    """
    shaping = {"layer": layer, "ids": digest(ids), "probes": probes, "vectors": digest(vectors)}
    size = batch * 32
    store = ShardStore(folder, identity(lm, **shaping), -(-len(vectors) // size))
    base = torch.stack([steered_ce(lm, row[None], layer, None)[0] for row in ids])
    fixed = {
        "vectors": vectors,
        "size": size,
        "ids": ids,
        "base": base,
        "layer": layer,
        "probes": probes,
        "batch": batch,
    }
    missing = store.missing()
    with tqdm(total=len(vectors), desc="CE rule", unit="vector", mininterval=15) as bar:
        bar.update(len(vectors) - sum(len(vectors[index * size : (index + 1) * size]) for index in missing))
        fill(_rises_of_part, missing, store.write, using=lm, tick=bar.update, in_parts=Halving(batch), **fixed)
    return interpolate_scale(torch.cat([shard["rises"] for shard in store]), probes, rise)


def _rises_of_part(
    lm: LanguageModel,
    index: int,
    tick: Tick,
    *,
    vectors: Tensor,
    size: int,
    ids: Tensor,
    base: Tensor,
    layer: int,
    probes: list[float],
    batch: int,
    in_parts: Halving,
) -> dict[str, Tensor]:
    part = vectors[index * size : (index + 1) * size]
    rises = torch.zeros(len(part), len(probes))
    for start in range(0, len(part), batch):
        group = part[start : start + batch]
        for p, probe in enumerate(probes):
            delta = probe * group
            ce = [
                in_parts(lambda k: steered_ce(lm, row.expand(len(delta[k]), -1), layer, delta[k]), len(delta))
                for row in ids
            ]
            rises[start : start + batch, p] = (torch.stack(ce) - base[:, None]).mean(dim=0)
        tick(len(group))
    return {"rises": rises}


def interpolate_scale(rises: Tensor, probes: list[float], rise: float) -> Tensor:
    """Coefficient (n,) at which a rise measured at the probes (n, probes) would be `rise`, log-log through the
    first and the last probe. Raises: ValueError if the probes do not grow."""
    if sorted(set(probes)) != list(probes) or probes[0] <= 0:
        raise ValueError(f"probes are {probes}; they must be positive and grow")
    logs = rises.clamp(min=1e-3).log()
    x0, x1 = np.log(probes[0]), np.log(probes[-1])
    slope = ((logs[:, -1] - logs[:, 0]) / (x1 - x0)).clamp(min=0.5)
    wanted = x0 + (np.log(rise) - logs[:, 0]) / slope
    return wanted.clamp(x0 - np.log(2), x1 + np.log(2)).exp().float()


@dataclass(frozen=True)
class EffectVectors:
    """The vectors of one chunk: x (n, d_model) unit norm, scale (n,) absolute, parents (n, 2) latent numbers."""

    x: Tensor
    scale: Tensor
    parents: np.ndarray


def chunk_vectors(
    W_dec: Tensor, scales: Tensor, allowed: np.ndarray, *, chunk: int, size: int, seed: int
) -> EffectVectors:
    """`size` vectors of chunk number `chunk`: decoder rows in chunk 0, random mixtures of two rows in all others.

    A mixture is cos(a) d_i + sin(a) d_j, normalised. If the rise in cross-entropy is a quadratic form, its
    scale follows from those of its parents: 1/s^2 = cos^2(a)/s_i^2 + sin^2(a)/s_j^2. Only latents in `allowed`
    take part.
    """
    rng = np.random.default_rng([seed, chunk])
    if chunk == 0:
        rows = np.resize(rng.permutation(allowed), size)
        return EffectVectors(W_dec[rows], scales[rows], np.stack([rows, rows], axis=1))
    parents = rng.choice(allowed, size=(size, 2))
    angle = torch.from_numpy(rng.uniform(0, np.pi / 2, size)).float()
    first, second = torch.from_numpy(parents).unbind(dim=1)
    mix = angle.cos()[:, None] * W_dec[first] + angle.sin()[:, None] * W_dec[second]
    norm = mix.norm(dim=1)
    inverse = (angle.cos() / scales[first]) ** 2 + (angle.sin() / scales[second]) ** 2
    return EffectVectors(mix / norm[:, None], inverse.rsqrt(), parents)


def rises_at_scale(
    lm: LanguageModel, W_dec: Tensor, scales: Tensor, layer: int, ids: Tensor, *, count: int = 64, seed: int
) -> dict[str, Tensor]:
    """Rise of cross-entropy in nats under `count` decoder rows, and under as many mixtures, each at its scale: what the
    rule promises, measured on token rows `ids` (texts, pos); each (count,)."""
    base = [steered_ce(lm, row[None], layer, None)[0] for row in ids]
    rises = {}
    for name, chunk in (("decoder rows", 0), ("mixtures", 1)):
        vectors = chunk_vectors(W_dec, scales, np.arange(len(W_dec)), chunk=chunk, size=count, seed=seed)
        delta = vectors.x * vectors.scale[:, None]
        steered = [steered_ce(lm, row.expand(count, -1), layer, delta) - b for row, b in zip(ids, base, strict=True)]
        rises[name] = torch.stack(steered).mean(dim=0)
    return rises


def mean_activations(lm: LanguageModel, sae: SAE, texts: list[list[int]], layer: int) -> Tensor:
    """Mean latent activation of each text over its positions, BOS left out, (texts, d_sae), float32."""
    means = torch.empty(len(texts), sae.cfg.d_sae)
    for i, resid in enumerate(capture_resid(lm, texts, layer)):
        means[i] = encode(sae, resid[1:]).mean(dim=0)
    return means


def rollout_activations(
    lm: LanguageModel,
    sae: SAE,
    rows: Rows,
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    *,
    progress: str | None = None,
) -> Tensor:
    """Mean latent activations of steered rollouts, (rows, d_sae), float16; prompt and new tokens, without BOS."""
    result = torch.empty(len(rows), sae.cfg.d_sae, dtype=torch.float16)
    made = list(generate(lm, rows, layer, sampling, folder / "rollouts", progress=progress))

    def keep(job: tuple[np.ndarray, Tensor], activations: Tensor) -> None:
        result[job[0]] = activations

    fixed = {"sae": sae, "rows": rows, "layer": layer}
    name = progress and f"{progress}, read"
    with tqdm(total=len(rows), desc=name, unit="rollout", disable=progress is None, mininterval=15) as bar:
        fill(_read_batch, made, keep, using=lm, tick=bar.update, **fixed)
    return result


def _read_batch(
    lm: LanguageModel, job: tuple[np.ndarray, Tensor], tick: Tick, *, sae: SAE, rows: Rows, layer: int
) -> Tensor:
    members, tokens = job
    texts = [rows.prompts[rows.prompt[r]] + new for r, new in zip(members, tokens.tolist(), strict=True)]
    activations = mean_activations(lm, sae, texts, layer).half()
    tick(len(members))
    return activations


def opener_rows(openers: list[list[int]], x: Tensor, scale: Tensor, *, repeats: int, seeds: tuple[int, ...]) -> Rows:
    """Rows that steer with each vector `repeats` times, the openers taking turns."""
    count = len(x) * repeats
    return Rows(
        prompts=openers,
        vectors=x,
        prompt=np.arange(count) % len(openers),
        vector=np.repeat(np.arange(len(x)), repeats),
        coeff=np.repeat(scale.numpy(), repeats),
        seed=row_seeds(*seeds, count=count),
    )


class EffectData:
    """Effect data of a model, an SAE and a sampling: training chunks, unsteered means, the held-out set.

    All of it is made on first use, in shards under `folder`, and read back afterwards.
    Raises: ValueError if some opener would have no unsteered rollout.
    """

    def __init__(
        self,
        lm: LanguageModel,
        sae: SAE,
        scales: Tensor,
        layer: int,
        folder: Path,
        *,
        openers: list[str],
        sampling: SamplingParams,
        chunk_size: int,
        heldout_vectors: int,
        heldout_rollouts: int,
        unsteered_rollouts: int,
        seed: int,
    ):
        if unsteered_rollouts < len(openers):
            raise ValueError(
                f"unsteered_rollouts is {unsteered_rollouts}; each of the {len(openers)} openers needs at least one"
            )
        self.lm, self.sae, self.scales, self.layer, self.folder = lm, sae, scales, layer, folder
        self.openers, self.sampling, self.seed = lm.encode(openers), sampling, seed
        self.chunk_size = chunk_size
        self.heldout_rollouts, self.unsteered_rollouts = heldout_rollouts, unsteered_rollouts
        order = np.random.default_rng([seed, 7]).permutation(sae.cfg.d_sae)
        self.heldout, self.allowed = np.sort(order[:heldout_vectors]), np.sort(order[heldout_vectors:])
        shaping = vars(sampling) | {"openers": self.openers, "seed": seed, "heldout": heldout_vectors}
        self.identity = identity(lm, sae, scales=digest(scales), layer=layer, **shaping)

    def _store(self, name: str, size: int) -> ShardStore:
        return ShardStore(self.folder / name, self.identity | {"part": name, "size": size}, 1)

    def _activations(self, name: str, rows: Rows) -> Tensor:
        store = self._store(name, len(rows))
        if store.missing():
            acts = rollout_activations(self.lm, self.sae, rows, self.layer, self.sampling, self.folder, progress=name)
            store.write(0, {"y": acts})
        return store.read(0)["y"]

    def unsteered(self) -> Tensor:
        """Mean activations of unsteered rollouts, (rollouts, d_sae), float16."""
        zero = torch.zeros(1, self.lm.d_model)
        rows = opener_rows(self.openers, zero, torch.zeros(1), repeats=self.unsteered_rollouts, seeds=(self.seed, 1))
        return self._activations("unsteered", rows)

    @cached_property
    def _baseline(self) -> Tensor:
        """Mean activations of each opener's unsteered rollouts, (openers, d_sae), float32."""
        unsteered, count = self.unsteered().float(), len(self.openers)
        return torch.stack([unsteered[k::count].mean(dim=0) for k in range(count)])

    def _effects(self, activations: Tensor) -> Tensor:
        """Activations (rows, d_sae) of rows made by opener_rows, less the unsteered mean of each row's opener."""
        return activations.float() - self._baseline[torch.arange(len(activations)) % len(self.openers)]

    def vectors(self, number: int) -> EffectVectors:
        """The vectors of one training chunk."""
        W_dec = decoder_rows(self.sae)
        return chunk_vectors(W_dec, self.scales, self.allowed, chunk=number, size=self.chunk_size, seed=self.seed)

    def chunk(self, number: int) -> tuple[EffectVectors, Tensor]:
        """(vectors, mean activations (chunk_size, d_sae) float16) of one training chunk, one rollout a vector."""
        vectors = self.vectors(number)
        rows = opener_rows(self.openers, vectors.x, vectors.scale, repeats=1, seeds=(self.seed, 2, number))
        return vectors, self._activations(f"chunk_{number:03d}", rows)

    def chunks(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x (chunk_size, d_model), effects (chunk_size, d_sae)) of the first `count` chunks, float32."""
        for number in range(count):
            vectors, activations = self.chunk(number)
            yield vectors.x, self._effects(activations)

    def heldout_effects(self) -> tuple[Tensor, Tensor]:
        """(x (n, d_model), effects (n, rollouts, d_sae)): every rollout of the held-out decoder rows."""
        x = decoder_rows(self.sae)[self.heldout]
        rows = opener_rows(
            self.openers, x, self.scales[self.heldout], repeats=self.heldout_rollouts, seeds=(self.seed, 3)
        )
        effects = self._effects(self._activations("heldout", rows))
        return x, effects.unflatten(0, (len(x), self.heldout_rollouts))
