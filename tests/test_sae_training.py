import numpy as np
import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.batchtopk_sae import BatchTopK

from fgaa_utils.sae import training as sae_training
from fgaa_utils.sae.load import load_sae, sae_identity
from fgaa_utils.sae.training import (
    CandidateBatchTopK,
    ResidualSAE,
    TrainingBatches,
    capture_training_acts,
    train_sae,
)

TRAINING = {
    "d_in": 32,
    "d_sae": 64,
    "l0": 6,
    "tokens": 1600,
    "batch": 32,
    "lr": 1e-3,
    "lr_decay_share": 0.3,
    "checkpoints": 4,
    "seed": 0,
}
METADATA = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}


@pytest.fixture
def store(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sae_training, "ROWS_PER_SHARD", 8)
    rows = np.random.default_rng(0).integers(3, 1000, size=(44, 12)).astype(np.int32)
    rows[:, 0] = tiny.tokenizer.bos_token_id
    return capture_training_acts(tiny, rows, 1, tmp_path / "activations")


def test_candidate_selection_equals_sae_lens():
    ours, theirs = CandidateBatchTopK(5), BatchTopK(5)
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 3.0, 0.1):  # the floor of one batch is too high for the last
        x = scale * torch.randn(40, 100, generator=generator)
        assert torch.equal(ours(x), theirs(x))


def test_auxiliary_loss_equals_sae_lens():
    torch.manual_seed(0)
    config = BatchTopKTrainingSAEConfig(k=4, d_in=16, d_sae=50, dtype="float32", device="cpu")
    ours = ResidualSAE(config)
    x, out, pre = torch.randn(20, 16), torch.randn(20, 16), torch.randn(20, 50)
    for dead in (torch.zeros(50).bool(), torch.arange(50) % 7 == 0, torch.ones(50).bool()):
        expected = BatchTopKTrainingSAE.calculate_topk_aux_loss(ours, x, out, pre, dead)
        torch.testing.assert_close(ours.calculate_topk_aux_loss(x, out, pre, dead), expected)


def test_training_acts_leave_out_bos(tiny, store):
    assert sum(len(shard["resid"]) for shard in store) == 44 * 11
    assert store.count == 6


def test_batches_are_standardised_seeded_and_cover_an_epoch_once(store):
    batches = TrainingBatches(store, batch=11, seed=3)
    every = torch.cat([b for b, _ in zip(batches, range(44))])
    raw = torch.cat([shard["resid"] for shard in store])
    back = every * batches.scale + batches.mean
    torch.testing.assert_close(back.sum(dim=1).sort().values, raw.sum(dim=1).sort().values, atol=1e-3, rtol=1e-4)
    again = torch.cat([b for b, _ in zip(TrainingBatches(store, batch=11, seed=3), range(44))])
    other = torch.cat([b for b, _ in zip(TrainingBatches(store, batch=11, seed=4), range(44))])
    assert torch.equal(every, again) and not torch.equal(every, other)


@pytest.mark.parametrize("skip", [1, 17, 30, 60])
def test_skipping_goes_on_where_an_unbroken_run_would(store, skip):
    unbroken = [b for b, _ in zip(TrainingBatches(store, batch=11, seed=0), range(skip + 3))]
    resumed = [b for b, _ in zip(TrainingBatches(store, batch=11, seed=0, skip=skip), range(3))]
    for a, b in zip(unbroken[skip:], resumed, strict=True):
        assert torch.equal(a, b)


def test_saved_sae_reads_the_raw_stream(tiny, store, tmp_path):
    """Loading gives back, on h, what the trained SAE gives on (h - mean) / scale, in the units of h."""
    train_sae(store, tmp_path, **TRAINING | {"tokens": 16000, "lr": 3e-3}, metadata=METADATA)
    sae = load_sae(tmp_path, tiny, 1)
    norms = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-3, rtol=0)
    resid = torch.cat([shard["resid"] for shard in store])
    with torch.no_grad():
        error = (resid - sae(resid)).pow(2).sum()
    assert error < 0.6 * (resid - resid.mean(dim=0)).pow(2).sum()
    assert sae.cfg.architecture() == "jumprelu"
    assert isinstance(SAE.load_from_disk(tmp_path, device="cpu"), SAE)


def test_an_sae_is_trained_once_and_again_if_another_is_asked_for_or_its_weights_are_not_its_own(
    tiny, tmp_path, monkeypatch
):
    rows = np.random.default_rng(0).integers(3, 1000, size=(44, 12)).astype(np.int32)
    how = {key: value for key, value in TRAINING.items() if key != "d_in"}
    trained = []
    monkeypatch.setattr(sae_training, "train_sae", lambda *a, **k: (trained.append(1), train_sae(*a, **k)))

    def record(**changes):
        return sae_training.train_once(tiny, rows, 1, tmp_path, metadata=METADATA, **(how | changes))

    first = record()
    before = (tmp_path / "sae_weights.safetensors").read_bytes()
    assert record() == first and len(trained) == 1 and first["made_of"]["model"] == tiny.identity
    assert sae_training.record_sentence(first) == f"Trained on 1,600 tokens in 0 minutes, on {first['processor']}."
    assert record(seed=5)["weights"] != first["weights"] and len(trained) == 2
    assert sae_training.record_sentence(record(seed=5)).startswith("Trained on 1,600 tokens, on "), (
        "from kept activations"
    )
    assert record()["weights"] == first["weights"] and len(trained) == 3
    (tmp_path / "sae_weights.safetensors").write_bytes(before[:-1])
    assert record()["weights"] == first["weights"] and len(trained) == 4, "what lay there was not what it recorded"


def test_resumed_training_equals_an_unbroken_one(tiny, store, tmp_path, monkeypatch):
    train_sae(store, tmp_path / "whole", **TRAINING, metadata=METADATA)
    step = ResidualSAE.training_forward_pass
    steps = []

    def killed(self, step_input):
        steps.append(1)
        if len(steps) == 30:
            raise KeyboardInterrupt
        return step(self, step_input)

    monkeypatch.setattr(ResidualSAE, "training_forward_pass", killed)
    with pytest.raises(KeyboardInterrupt):
        train_sae(store, tmp_path / "broken", **TRAINING, metadata=METADATA)
    monkeypatch.undo()
    monkeypatch.setattr(sae_training, "ROWS_PER_SHARD", 8)
    steps.clear()
    train_sae(store, tmp_path / "broken", **TRAINING, metadata=METADATA)
    assert sae_identity(load_sae(tmp_path / "broken", tiny, 1)) == sae_identity(load_sae(tmp_path / "whole", tiny, 1))
