"""Seconds of one SAE training step: ours against sae-lens's own BatchTopK, same weights, same batch, in turn.

python benchmarks/sae_step.py
"""

import statistics
import time

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

from fgaa_utils.sae.training import ResidualSAE

BATCH, D_IN, D_SAE, L0, ROUNDS = 2048, 640, 8192, 40, 5


def step_seconds(sae: BatchTopKTrainingSAE, x: torch.Tensor, dead: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sae.training_forward_pass(
            TrainStepInput(sae_in=x, dead_neuron_mask=dead, coefficients={}, n_training_steps=0, is_logging_step=False)
        )
    out.loss.backward()
    sae.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    config = {"k": L0, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.1):
        dead = torch.rand(D_SAE, generator=torch.Generator().manual_seed(1)) < share
        saes = []
        for cls in (ResidualSAE, BatchTopKTrainingSAE):
            torch.manual_seed(0)
            saes.append(cls(BatchTopKTrainingSAEConfig(**config)))
            step_seconds(saes[-1], x, dead)
        pairs = [[step_seconds(sae, x, dead) for sae in saes] for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{share:.0%} dead: ours {ours:.2f} s, sae-lens {theirs:.2f} s, ratio {ratio:.2f} (median of {ROUNDS} pairs)"
        )


if __name__ == "__main__":
    main()
