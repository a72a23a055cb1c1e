"""Training the sparse autoencoder, with sae-lens, on one layer's residual stream.

BatchTopK in training, JumpReLU when saved (as Gemma Scope). Decoder rows have unit norm, so a latent's
activation is in units of the residual stream.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.topk_sae import act_times_W_dec
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from fgaa_utils.digests import sha256
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.lm import LanguageModel, resolve_dtype
from fgaa_utils.project import need_space
from fgaa_utils.shards import ShardStore, digest, identity, record_processor
from fgaa_utils.workers import Tick, fill

ROWS_PER_SHARD = 512  # of the token rows; with 127 tokens each a shard is about 83 MB in bfloat16


def capture_training_acts(lm: LanguageModel, rows: np.ndarray, layer: int, folder: Path) -> ShardStore:
    """Residual streams of token rows (rows, context), BOS left out, in resumable shards.

    Each shard holds `resid` (tokens, d_model) in the model's dtype.
    """
    count = -(-len(rows) // ROWS_PER_SHARD)
    store = ShardStore(folder, identity(lm, layer=layer, rows=digest(torch.from_numpy(rows))), count)
    missing = store.missing()
    fixed = {"rows": rows, "layer": layer, "size": ROWS_PER_SHARD}
    with tqdm(total=len(missing), desc="captured", unit="shard", mininterval=15) as bar:
        fill(_capture_part, missing, store.write, using=lm, tick=bar.update, **fixed)
    return store


def _capture_part(
    lm: LanguageModel, index: int, tick: Tick, *, rows: np.ndarray, layer: int, size: int
) -> dict[str, Tensor]:
    part = rows[index * size : (index + 1) * size].tolist()
    resid = torch.cat([row[1:] for row in capture_resid(lm, part, layer)])
    tick(1)
    return {"resid": resid}


def hook_names(model: str, layer: int) -> dict[str, str]:
    """What sae-lens's readers are told of the stream that the SAE reads: the output of block `layer` of `model`."""
    return {
        "model_name": model,
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "hf_hook_name": f"model.layers.{layer}.output",
    }


class TrainingBatches:
    """Batches (batch, d_model) of standardised residual streams, float32, in a seeded order.

    Tokens are mixed within groups of shards, so memory holds one group. Standardised is (h - mean) / scale;
    `mean` and `scale` come from the first shard. `skip` batches are passed over, for a resumed training.
    """

    def __init__(self, store: ShardStore, *, batch: int, seed: int, skip: int = 0, group: int = 4):
        self.store, self.batch, self.seed, self.skip, self.group = store, batch, seed, skip, group
        first = store.read(0)["resid"].float()
        self._full = len(first)  # tokens of every shard but the last
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
        last = self.store.count - 1
        return sum(len(self.store.read(int(i))["resid"]) if i == last else self._full for i in chosen)


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
    device: torch.device | str = "cpu",
) -> None:
    """Train an SAE on captured residual streams, on `device`, and save it at `folder` in sae-lens's format (float16).

    Goes on from the newest checkpoint under folder/checkpoints/, which is removed at the end.
    """
    torch.manual_seed(seed)
    path = folder / "checkpoints" / store.folder.name
    done = sorted(path.glob("*/complete"), key=lambda p: int(p.parent.name.split("_")[-1]))
    shape = {"d_in": d_in, "d_sae": d_sae, "k": l0, "dtype": "float32", "device": "cpu"}  # the same start on any device
    sae = ResidualSAE(BatchTopKTrainingSAEConfig(**shape)).to(device)
    steps = tokens // batch
    config = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=lr,
        lr_end=lr,  # asked for by sae-lens, read only by schedules that are not used here
        lr_warm_up_steps=min(100, steps // 10),
        lr_decay_steps=int(steps * lr_decay_share),
        device=str(device),
        autocast=resolve_dtype("auto", torch.device(device)) == torch.bfloat16,
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


def made_of(lm: LanguageModel, rows: np.ndarray, layer: int, **how: object) -> dict:
    """What decides a trained SAE, beside the processor: the model, the layer, the token rows, shape and course."""
    return {"model": lm.identity, "layer": layer, "rows": digest(torch.from_numpy(rows))} | how


def train_once(
    lm: LanguageModel, rows: np.ndarray, layer: int, folder: Path, *, metadata: dict, **how: Any
) -> dict[str, Any]:
    """The record of the SAE at `folder`, record.json: {"made_of", "weights": sha256, "seconds", "processor"}; seconds are None
    of a training that went on from an earlier one.

    Unless a record there is of the SAE asked for and of the weights beside it, the residual stream of the token rows
    (rows, context) is captured and the SAE trained, as train_sae does with `how`. Raises: OSError if the disk is too small.
    """
    path, weights = folder / "record.json", folder / "sae_weights.safetensors"
    wanted = made_of(lm, rows, layer, **how)
    if path.exists() and weights.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["made_of"] == wanted and record["weights"] == sha256(weights):
            return record
    need_space(folder, rows.size * lm.d_model * 2 / 2**30 + 1)
    began, resumed = time.monotonic(), any((folder / name).exists() for name in ("activations", "checkpoints"))
    store = capture_training_acts(lm, rows, layer, folder / "activations")
    train_sae(store, folder, d_in=lm.d_model, device=lm.device, metadata=metadata, **how)
    seconds = None if resumed else round(time.monotonic() - began)
    record = {"made_of": wanted, "weights": sha256(weights), "seconds": seconds, "processor": record_processor()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def record_sentence(record: dict[str, Any]) -> str:
    """On how many tokens, where and how long the SAE of a record was trained."""
    tokens = record["made_of"]["tokens"] // record["made_of"]["batch"] * record["made_of"]["batch"]
    took = f" in {record['seconds'] / 60:.0f} minutes" if record["seconds"] is not None else ""
    return f"Trained on {tokens:,} tokens{took}, on {record['processor']}."


def _mark_complete(checkpoint_path: Path | None) -> None:
    """Name a checkpoint as whole and drop the ones before it."""
    assert checkpoint_path is not None, "the trainer has a folder for checkpoints"
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
    config = json.loads(config_path.read_text()) | {"dtype": "float16", "device": "cpu"}
    config_path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
