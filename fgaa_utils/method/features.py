"""SAE latents of behaviours: densities, BOS latents, the contrastive difference and its filters (paper, Eq. 1-4)."""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.project import unknown
from fgaa_utils.sae.load import encode
from fgaa_utils.shards import ShardStore, check_identity, digest, identity, load_tensors, save_tensors
from fgaa_utils.workers import Tick, fill

DEVIATION_ROWS = 256  # background rows on which the spread of the residual stream is measured
ROWS_PER_SHARD = 512  # of background rows: what a killed run loses at most
SIDES = ("pos", "neg")  # X+ and X-, as names of tensors spell them
NORMS = {"l1": 1, "l2": 2, "none": None}  # of a target, by the values of recipe.target_norm


@dataclass(frozen=True)
class LatentStats:
    """What the background text says of every latent, each (d_sae,): `density`, the share of non-BOS tokens on
    which it fires; `max_bos` and `max_other`, its highest activation on BOS and on any other token; and
    `top_value`, `top_row`, `top_pos` (d_sae, k), its k highest activations, at most one a row, and their places."""

    density: Tensor
    max_bos: Tensor
    max_other: Tensor
    top_value: Tensor
    top_row: Tensor
    top_pos: Tensor

    @property
    def bos_latents(self) -> Tensor:
        """Latents (d_sae,) bool whose highest activation is on BOS (paper, section 3.2)."""
        return self.max_bos > self.max_other


def latent_stats(
    lm: LanguageModel, sae: SAE, rows: np.ndarray, layer: int, folder: Path, *, top: int, progress: str | None = None
) -> LatentStats:
    """LatentStats on token rows (rows, context) that begin with BOS, streamed, in resumable shards under `folder`."""
    shaping = {"layer": layer, "top": top, "rows": digest(torch.from_numpy(rows)), "shard": ROWS_PER_SHARD}
    store = ShardStore(folder, identity(lm, sae, **shaping), -(-len(rows) // ROWS_PER_SHARD))
    fixed = {"sae": sae, "rows": rows, "layer": layer, "top": top, "size": ROWS_PER_SHARD}
    with tqdm(total=len(rows), desc=progress, disable=progress is None, mininterval=10) as bar:
        bar.update(len(rows) - sum(len(rows[_part(index, ROWS_PER_SHARD)]) for index in store.missing()))
        fill(_stats_of_part, store.missing(), store.write, using=lm, tick=bar.update, **fixed)
    stats = reduce(_merge, store)
    tokens = rows.shape[0] * (rows.shape[1] - 1)
    return LatentStats(density=stats.pop("fires") / tokens, **stats)


def _part(index: int, size: int) -> slice:
    """The rows of one shard."""
    return slice(index * size, (index + 1) * size)


def _stats_of_part(
    lm: LanguageModel, index: int, tick: Tick, *, sae: SAE, rows: np.ndarray, layer: int, top: int, size: int
) -> dict[str, Tensor]:
    """The fields of LatentStats on the rows of one shard, numbered as in all of them, with counts (`fires`) for
    densities."""
    d_sae, part = sae.cfg.d_sae, _part(index, size)
    fires, bos, other = torch.zeros(d_sae), torch.zeros(d_sae), torch.zeros(d_sae)
    value, row, pos = torch.zeros(d_sae, top), torch.zeros(d_sae, top).long(), torch.zeros(d_sae, top).long()
    for i, resid in enumerate(capture_resid(lm, rows[part].tolist(), layer), start=part.start):
        acts = encode(sae, resid)
        bos = torch.maximum(bos, acts[0])
        fires += (acts[1:] > 0).sum(dim=0)
        peak, place = acts[1:].max(dim=0)
        other = torch.maximum(other, peak)
        better = (peak > value[:, -1]).nonzero().squeeze(1)  # few latents improve on a row
        for new, kept in ((peak, value), (torch.full((d_sae,), i), row), (place + 1, pos)):
            kept[better, -1] = new[better]
        order = value[better].argsort(dim=1, descending=True, stable=True)
        for kept in (value, row, pos):
            kept[better] = kept[better].gather(1, order)
        tick(1)
    return {"fires": fires, "max_bos": bos, "max_other": other, "top_value": value, "top_row": row, "top_pos": pos}


def _merge(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """What _stats_of_part gives of the rows of both."""
    merged = {"fires": one["fires"] + other["fires"]}
    merged |= {name: torch.maximum(one[name], other[name]) for name in ("max_bos", "max_other")}
    both = {name: torch.cat([one[name], other[name]], dim=1) for name in ("top_value", "top_row", "top_pos")}
    order = both["top_value"].argsort(dim=1, descending=True, stable=True)[:, : one["top_value"].shape[1]]
    return merged | {name: values.gather(1, order) for name, values in both.items()}


class TextMeans(NamedTuple):
    """Means over the tokens of each text: `latents` (texts, d_sae), and `resid` (texts, d_model), float32, of which
    CAA is made."""

    latents: Tensor
    resid: Tensor


def text_means(
    lm: LanguageModel, sae: SAE, texts: list[str], layer: int, *, include_bos: tuple[bool, ...] = (True, False)
) -> dict[bool, TextMeans]:
    """{whether BOS is one of the tokens: TextMeans}; the texts go through the model once."""
    rows = {bos: [] for bos in include_bos}
    for resid in capture_resid(lm, lm.encode(texts), layer):
        for bos in include_bos:
            tokens = resid if bos else resid[1:]
            rows[bos].append((encode(sae, tokens).mean(dim=0), tokens.float().mean(dim=0)))
    return {bos: TextMeans(*map(torch.stack, zip(*pairs))) for bos, pairs in rows.items()}


def contrastive_means(
    lm: LanguageModel, sae: SAE, behaviours: list[Behaviour], layer: int
) -> dict[str, dict[str, dict[bool, TextMeans]]]:
    """The text_means of X+ and X-: {behaviour: {side: {include_bos: means}}}, sides as SIDES has them."""
    return {
        b.key: {side: text_means(lm, sae, list(t), layer) for side, t in zip(SIDES, (b.positive, b.negative))}
        for b in behaviours
    }


def mean_deviation(lm: LanguageModel, rows: np.ndarray, layer: int) -> float:
    """The mean norm of the residual stream minus its mean, over the tokens of rows that begin with BOS, BOS left out:
    a scale of 1 where design.scale_unit is resid_std."""
    sample = torch.cat([resid[1:].float() for resid in capture_resid(lm, rows.tolist(), layer)])
    return float((sample - sample.mean(dim=0)).norm(dim=1).mean())


def means_name(what: str, include_bos: bool, behaviour: str, side: str) -> str:
    """The name in features.safetensors of `latents` or `resid` means of a behaviour's texts: `latents.on.love.pos`."""
    return f"{what}.{'on' if include_bos else 'off'}.{behaviour}.{side}"


def save_features(
    path: Path,
    stats: LatentStats,
    means: dict[str, dict[str, dict[bool, TextMeans]]],
    *,
    identity: dict,
    resid_std: float,
) -> None:
    """Write densities, BOS latents and means[behaviour][side][include_bos] of the texts of each of SIDES."""
    tensors = {"density": stats.density, "bos_latents": stats.bos_latents}
    for behaviour, sides in means.items():
        for side, found in sides.items():
            for bos, text in found.items():
                tensors[means_name("latents", bos, behaviour, side)] = text.latents
                tensors[means_name("resid", bos, behaviour, side)] = text.resid
    save_tensors(path, tensors, **identity, resid_std=repr(resid_std))


def load_features(path: Path, *, identity: dict) -> tuple[dict[str, Tensor], float]:
    """(tensors, resid_std) that save_features wrote.

    Raises: ValueError if they were made with another model, SAE or layer than `identity` says.
    """
    tensors, metadata = load_tensors(path)
    check_identity(path, metadata, identity, fix="run `dvc repro features`")
    return tensors, float(metadata["resid_std"])


def contrastive_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """v_diff (d_sae,): mean over X+ minus mean over X- of latents (texts, d_sae) (Eq. 1)."""
    return positive.mean(dim=0) - negative.mean(dim=0)


def density_filter(v: Tensor, density: Tensor, theta: float) -> Tensor:
    """v with the entries of latents denser than theta at zero (Eq. 2)."""
    return torch.where(density > theta, 0.0, v)


def bos_filter(v: Tensor, bos_latents: Tensor) -> Tensor:
    """v with the entries of BOS latents at zero (Eq. 3)."""
    return torch.where(bos_latents, 0.0, v)


def top_k_filter(v: Tensor, n1: int, n2: int) -> Tensor:
    """v with all but its n1 largest positive and n2 most negative entries at zero, signs kept (Eq. 4).

    Raises: ValueError if n1 or n2 is out of range, or nothing is left.
    """
    for name, n in (("n1", n1), ("n2", n2)):
        if not 0 <= n <= len(v):
            raise ValueError(f"{name} is {n}; it must be from 0 to d_sae = {len(v)}")
    kept = torch.zeros_like(v)
    for sign, n in ((1, n1), (-1, n2)):
        values, places = (sign * v).topk(n)
        places = places[values > 0]
        kept[places] = v[places]
    if not kept.any():
        raise ValueError(f"no latent is left with n1={n1}, n2={n2}: the filters removed every entry of this sign")
    return kept


def target(v: Tensor, n1: int, n2: int, *, norm: str = "l1") -> Tensor:
    """v_target (d_sae,): the top-k entries of a filtered v_diff, divided by their norm (`l1`, `l2` or `none`).

    Raises: ValueError for an unknown norm, or as top_k_filter does.
    """
    check_norm(norm)
    kept = top_k_filter(v, n1, n2)
    return kept if norm == "none" else kept / kept.norm(p=NORMS[norm])


def check_norm(norm: str) -> None:
    """Raises: ValueError for a norm of the target that does not exist."""
    if norm not in NORMS:
        raise unknown("target_norm", norm, list(NORMS))


@torch.no_grad()
def promoted_tokens(lm: LanguageModel, directions: Tensor, count: int) -> list[list[str]]:
    """The tokens that each direction (n, d_model) of the residual stream promotes most through the final norm and
    the unembedding, `count` for each."""
    around = lm.hf.get_submodule(lm.blocks.rpartition(".")[0])  # what holds the blocks holds the final norm
    final_norm = [module for name, module in around.named_children() if "norm" in name or "ln_f" in name][-1]
    logits = lm.hf.get_output_embeddings()(final_norm(directions.to(lm.device, lm.dtype)))
    return [[lm.tokenizer.decode([t]) for t in row] for row in logits.topk(count).indices.tolist()]
