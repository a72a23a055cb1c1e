"""The sparse autoencoder: trained with sae-lens on one layer's residual stream, loaded, judged.

BatchTopK in training, JumpReLU when saved (as Gemma Scope). Decoder rows have unit norm, so a latent's
activation is in units of the residual stream.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.topk_sae import act_times_W_dec
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor

from fgaa_utils.capture import capture_resid
from fgaa_utils.hub import hub_access
from fgaa_utils.model import LanguageModel
from fgaa_utils.project import DATA, unknown
from fgaa_utils.shards import ShardStore, digest
from fgaa_utils.steer import edited_logits, next_token_ce

ROWS_PER_SHARD = 512  # of the token rows; with 127 tokens each a shard is about 83 MB in bfloat16


def load_sae(source: str | Path, lm: LanguageModel, layer: int) -> SAE:
    """The SAE that `source` names, in float32 with unit decoder rows, on the model's device.

    source: `own`, the one of the sae stage; a folder in sae-lens's format; or `release:id` of sae-lens's directory of
    pretrained SAEs, from the hub. Raises: OSError if it cannot be had; ValueError if it reads another layer or place
    than the residual stream after block `layer`, its d_in is not the model's d_model, or its decoder rows cannot be
    given unit norm.
    """
    folder = DATA / "sae" if source == "own" else Path(source)
    if (folder / "cfg.json").exists():
        sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    elif ":" in str(source):
        release, _, sae_id = str(source).partition(":")
        known = get_pretrained_saes_directory()
        if release not in known:
            raise unknown("release of pretrained SAEs", release, list(known))
        if sae_id not in known[release].saes_map:
            raise unknown(f"SAE of {release}", sae_id, list(known[release].saes_map)[:50])
        with hub_access(known[release].repo_id, known[release].saes_map[sae_id], "base.sae_source"):
            sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    else:
        raise FileNotFoundError(
            f"no SAE at {folder}; base.sae_source is own (`make again STAGE=sae` trains it), "
            "a folder in sae-lens's format, or release:id of a pretrained one"
        )
    if sae.cfg.d_in != lm.d_model:
        raise ValueError(f"the SAE {source} reads d_in={sae.cfg.d_in}, the model has d_model={lm.d_model}")
    hook = str(sae.cfg.metadata.hook_name)
    if hook not in (f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre"):
        raise ValueError(f"the SAE {source} reads {hook}, base.layer wants blocks.{layer}.hook_resid_post")
    try:
        sae.fold_W_dec_norm()
    except NotImplementedError as error:  # sae-lens's refusal, where it would change which latents are the top k
        raise ValueError(f"the SAE {source} cannot be given unit decoder rows: {error}") from error
    return sae.to(lm.device).eval()


def sae_identity(sae: SAE) -> str:
    """16 hex digits of the weights; whatever is computed with the SAE carries them."""
    return digest("".join(digest(sae.state_dict()[name]) for name in sorted(sae.state_dict())))


@torch.no_grad()
def encode(sae: SAE, resid: Tensor) -> Tensor:
    """Latent activations (..., d_sae) of residual streams (..., d_model), float32, where the streams are."""
    return sae.encode(resid.float().to(sae.device)).to(resid.device)


@torch.no_grad()
def decode(sae: SAE, acts: Tensor) -> Tensor:
    """Residual streams (..., d_model) of latent activations (..., d_sae), where the activations are."""
    return sae.decode(acts.to(sae.device)).to(acts.device)


def decoder_rows(sae: SAE) -> Tensor:
    """W_dec (d_sae, d_model), float32, unit rows."""
    return sae.W_dec.detach().cpu()


def capture_training_acts(lm: LanguageModel, rows: np.ndarray, layer: int, folder: Path) -> ShardStore:
    """Residual streams of token rows (rows, context), BOS left out, in resumable shards.

    Each shard holds `resid` (tokens, d_model) in the model's dtype.
    """
    identity = {"model": lm.identity, "layer": layer, "rows": digest(torch.from_numpy(rows))}
    store = ShardStore(folder, identity, -(-len(rows) // ROWS_PER_SHARD))
    for done, index in enumerate(missing := store.missing(), start=1):
        part = rows[index * ROWS_PER_SHARD : (index + 1) * ROWS_PER_SHARD].tolist()
        resid = torch.cat([row[1:] for row in capture_resid(lm, part, layer)])
        store.write(index, {"resid": resid})
        if done % 10 == 0 or done == len(missing):
            print(f"captured shard {done} of {len(missing)}", flush=True)
    return store


class TrainingBatches:
    """Batches (batch, d_model) of standardised residual streams, float32, in a seeded order.

    Tokens are mixed within groups of shards, so memory holds one group. Standardised is (h - mean) / scale;
    `mean` and `scale` come from the first shard. `skip` batches are passed over, for a resumed training.
    """

    def __init__(self, store: ShardStore, *, batch: int, seed: int, skip: int = 0, group: int = 4):
        self.store, self.batch, self.seed, self.skip, self.group = store, batch, seed, skip, group
        first = store.read(0)["resid"].float()
        self.mean = first.mean(dim=0)  # (d_model,)
        self.scale = float((first - self.mean).norm(dim=1).mean()) / first.shape[1] ** 0.5

    def __iter__(self) -> Iterator[Tensor]:
        step = 0
        epoch = 0
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.store.count)
            for start in range(0, len(order), self.group):
                chosen = order[start : start + self.group]
                generator = torch.Generator().manual_seed(self.seed + 1000 * epoch + start)
                tokens = self._group_tokens(chosen)
                batches = tokens // self.batch
                if step + batches <= self.skip:
                    step += batches
                    continue
                resid = torch.cat([self.store.read(int(i))["resid"] for i in chosen])
                shuffled = torch.randperm(tokens, generator=generator)
                for i in range(batches):
                    if step >= self.skip:
                        rows = resid[shuffled[i * self.batch : (i + 1) * self.batch]]
                        yield (rows.float() - self.mean) / self.scale
                    step += 1
            epoch += 1

    def _group_tokens(self, chosen: np.ndarray) -> int:
        full = len(self.store.read(0)["resid"]) if not hasattr(self, "_full") else self._full
        self._full = full
        last = self.store.count - 1
        return sum(len(self.store.read(int(i))["resid"]) if i == last else full for i in chosen)


class CandidateBatchTopK(BatchTopK):
    """sae-lens's BatchTopK with the same result, twice as fast on a CPU.

    It selects among the entries above a floor taken from the batch before, instead of among all of them.
    """

    floor = 0.0

    def forward(self, x: Tensor) -> Tensor:
        wanted = int(self.k * x.shape[:-1].numel())
        flat = x.flatten()
        candidates = (flat > self.floor).nonzero().squeeze(1)
        if len(candidates) < wanted:
            candidates = (flat > 0).nonzero().squeeze(1)
        top = torch.topk(flat[candidates], min(wanted, len(candidates)), sorted=False)
        self.floor = 0.8 * float(top.values.detach().min())
        return torch.zeros_like(flat).scatter(0, candidates[top.indices], top.values).reshape(x.shape)


class ResidualSAE(BatchTopKTrainingSAE):
    """BatchTopKTrainingSAE with the same results, faster on a CPU: see benchmarks/sae_step.py."""

    def get_activation_fn(self) -> CandidateBatchTopK:
        return CandidateBatchTopK(self.cfg.k)

    def calculate_topk_aux_loss(
        self, sae_in: Tensor, sae_out: Tensor, hidden_pre: Tensor, dead_neuron_mask: Tensor | None
    ) -> Tensor:
        """The auxiliary loss of dead latents, over their columns alone instead of over all latents."""
        dead = torch.empty(0).long() if dead_neuron_mask is None else dead_neuron_mask.nonzero().squeeze(1)
        if not len(dead):
            return sae_out.new_tensor(0.0)
        half = sae_in.shape[-1] // 2
        pre = hidden_pre[:, dead]
        top = pre.topk(min(half, len(dead)), sorted=False)
        acts = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
        recons = act_times_W_dec(acts, self.W_dec[dead], self.cfg.rescale_acts_by_decoder_norm)
        error = (recons - (sae_in - sae_out).detach()).pow(2).sum(dim=-1).mean()
        return self.cfg.aux_loss_coefficient * min(len(dead) / half, 1.0) * error


def train_sae(
    store: ShardStore,
    folder: Path,
    *,
    d_in: int,
    d_sae: int,
    l0: float,
    tokens: int,
    batch: int,
    lr: float,
    lr_decay_share: float,
    checkpoints: int,
    seed: int,
    metadata: dict,
) -> None:
    """Train an SAE on captured residual streams and save it at `folder` in sae-lens's format (float16).

    Goes on from the newest checkpoint under folder/checkpoints/, which is removed at the end.
    """
    torch.manual_seed(seed)
    path = folder / "checkpoints" / store.folder.name
    done = sorted(path.glob("*/complete"), key=lambda p: int(p.parent.name.split("_")[-1]))
    shape = {"d_in": d_in, "d_sae": d_sae, "k": l0, "dtype": "float32", "device": "cpu"}
    sae = ResidualSAE(BatchTopKTrainingSAEConfig(**shape))
    steps = tokens // batch
    config = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=lr,
        lr_end=lr,  # asked for by sae-lens, read only by schedules that are not used here
        lr_warm_up_steps=min(100, steps // 10),
        lr_decay_steps=int(steps * lr_decay_share),
        autocast=torch.cpu._is_avx512_bf16_supported(),
        dead_feature_window=max(50, steps // 10),
        n_checkpoints=checkpoints,
        checkpoint_path=str(path),
    )
    trainer = SAETrainer(config, sae, iter(()), save_checkpoint_fn=_mark_complete)
    if done:
        newest = done[-1].parent
        sae.load_state_dict(load_file(newest / "sae_weights.safetensors"))
        trainer.load_trainer_state(newest)
        trainer.n_training_steps = trainer.n_training_samples // batch  # sae-lens saves it one short
        print(f"resumed at {trainer.n_training_samples:,} tokens")
    batches = TrainingBatches(store, batch=batch, seed=seed, skip=trainer.n_training_steps)
    trainer.data_provider = iter(batches)
    trainer.fit()
    _save_for_inference(sae, folder, batches.mean, batches.scale, metadata)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _mark_complete(checkpoint_path: Path | None) -> None:
    """Name a checkpoint as whole and drop the ones before it."""
    (checkpoint_path / "complete").touch()
    for other in checkpoint_path.parent.iterdir():
        if other != checkpoint_path:
            shutil.rmtree(other)


def _save_for_inference(sae: ResidualSAE, folder: Path, mean: Tensor, scale: float, metadata: dict) -> None:
    """Write cfg.json and sae_weights.safetensors, the standardisation folded in, weights in float16.

    With unit decoder rows, an activation on (h - mean) / scale times `scale` is the activation on h.
    """
    sae.cfg.metadata.hook_name = metadata["hook_name"]
    for key, value in metadata.items():
        sae.cfg.metadata[key] = value
    weights_path, config_path = sae.save_inference_model(folder)
    weights = load_file(weights_path)
    norms = weights["W_dec"].norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-4), "sae-lens folds decoder norms when it saves"
    for name in ("b_enc", "b_dec", "threshold"):
        weights[name] = weights[name] * scale
    weights["b_dec"] = weights["b_dec"] + mean
    save_file({name: t.half().contiguous() for name, t in weights.items()}, weights_path)
    config = json.loads(config_path.read_text()) | {"dtype": "float16"}
    config_path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def evaluate_sae(sae: SAE, lm: LanguageModel, rows: np.ndarray, layer: int, *, batch: int = 4) -> dict[str, float]:
    """Quality on held-out token rows (rows, context), BOS left out of every figure and never replaced.

    explained_variance is of the centred residual stream; ce_recovered is the share of the rise in
    cross-entropy under zero-ablation that the reconstruction avoids, ce_recovered_mean the same for
    mean-ablation; dead_fraction counts latents that never fire on these rows.
    """
    mean = sum(r[1:].float().mean(dim=0) for r in capture_resid(lm, rows.tolist(), layer)) / len(rows)
    error = variance = active = tokens = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for resid in capture_resid(lm, rows.tolist(), layer):
        h = resid[1:].float()
        acts = encode(sae, h)
        error += float((h - decode(sae, acts)).pow(2).sum())
        variance += float((h - mean).pow(2).sum())
        active += float((acts > 0).sum())
        fired |= (acts > 0).any(dim=0)
        tokens += len(h)

    def beyond_bos(replacement):
        return lambda h: torch.cat([h[:, :1], replacement(h[:, 1:]).to(h.dtype)], dim=1)

    edits = {
        "base": lambda h: h,
        "sae": beyond_bos(lambda h: decode(sae, encode(sae, h))),
        "zero": beyond_bos(torch.zeros_like),
        "mean": beyond_bos(lambda h: mean.to(h.device).expand_as(h)),
    }
    ce = dict.fromkeys(edits, 0.0)
    for start in range(0, len(rows), batch):
        ids = torch.from_numpy(rows[start : start + batch]).long()
        for name, edit in edits.items():
            ce[name] += float(next_token_ce(edited_logits(lm, ids, layer, edit), ids)[:, 1:].mean(dim=1).sum())
    ce = {name: total / len(rows) for name, total in ce.items()}
    return {
        "explained_variance": 1 - error / variance,
        "l0": active / tokens,
        "dead_fraction": 1 - float(fired.float().mean()),
        "ce_recovered": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["base"]),
        "ce_recovered_mean": (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["base"]),
        **{f"ce_{name}": value for name, value in ce.items()},
        "heldout_tokens": tokens,
    }
