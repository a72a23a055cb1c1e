"""What more rollouts do for the gradient map, and whether a GPU agrees with the processor: on the real model.

    python benchmarks/rollouts.py --rollouts 65536 --parts 16 --batch 2048 --to data/gradients-65536

Prints Markdown: the agreement of two maps that share no rollouts, for each size, with the minutes that one of them took (not
of a run that resumed); and, on a GPU, how far tokens and scores of a few rollouts are from the processor's, in float32. The
map goes to the folder.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from fgaa_utils.figures import markdown_table
from fgaa_utils.method import gradient_checks
from fgaa_utils.method.gradients import frozen_weights, gradient_map, gradient_shards, read_rollouts, sums_of
from fgaa_utils.model.generate import SamplingParams, generate_batch, row_seeds
from fgaa_utils.params import load_params
from fgaa_utils.sae.load import load_model_and_sae
from fgaa_utils.shards import record_processor

COMPARED = 64  # rollouts that are made on both devices


def learning_curve(args: argparse.Namespace, params: dict) -> None:
    base, section = params["base"], params["gradients"]
    made = {key: base[key] for key in ("layer", "dtype", "device", "blocks")}
    lm, sae, identity = load_model_and_sae(base["model"], base["sae_source"], **made)
    print(f"{lm.identity} on {record_processor(lm.dtype, str(lm.device))}\n")
    sampling = SamplingParams(section["new_tokens"], section["top_k"], section["temperature"], args.batch)
    sizes: dict = {
        "rollouts": args.rollouts,
        "parts": args.parts,
        "segments": section["segments"],
        "seed": base["seed"],
    }
    start = time.perf_counter()
    sizes |= {"openers": section["openers"], "sampling": sampling}
    store = gradient_shards(lm, sae, base["layer"], args.to / "shards", **sizes)
    seconds = time.perf_counter() - start
    found = gradient_map(sums_of(store), section["new_tokens"], identity)
    found.save(args.to / "gradients.safetensors")
    halves = 2 ** torch.arange(args.parts.bit_length() - 1)
    table = gradient_checks.split_halves(store, halves.tolist(), params["recipe"]["natural_ridge"])
    table["minutes of one"] = (table.rollouts / args.rollouts * seconds / 60).round(2)
    print(f"{args.rollouts:,} rollouts in {seconds:.0f} s\n\n{markdown_table(table.round(3), index=False)}")


def against_processor(params: dict) -> None:
    base, section = params["base"], params["gradients"]
    read = {"segments": section["segments"], "top_k": section["top_k"], "temperature": section["temperature"]}
    sampling = SamplingParams(section["new_tokens"], section["top_k"], section["temperature"], COMPARED)
    found = {}
    for device in ("cpu", "cuda"):
        lm, _, _ = load_model_and_sae(
            base["model"],
            base["sae_source"],
            layer=base["layer"],
            dtype="float32",
            device=device,
            blocks=base["blocks"],
        )
        prompt = lm.encode(["The"])[0]
        delta = torch.zeros(COMPARED, lm.d_model)
        prompts, seeds = torch.tensor([prompt] * COMPARED), row_seeds(0, count=COMPARED)
        new = generate_batch(lm, prompts, delta, seeds, base["layer"], sampling)
        first = found["cpu"][0] if "cpu" in found else new  # both read the same rollouts
        ids = torch.cat([prompts, first.long()], dim=1)
        with frozen_weights(lm):
            found[device] = (new, read_rollouts(lm, ids, len(prompt), base["layer"], **read).scores)
    (tokens, scores), (theirs, other) = found["cpu"], found["cuda"]
    error = float((scores - other).norm() / scores.norm())
    rows = {
        "rollouts with every token equal": f"{int((tokens == theirs).all(dim=1).sum())} of {COMPARED}",
        "tokens equal": f"{float((tokens == theirs).float().mean()):.4f}",
        "relative difference of scores": f"{error:.1e}",
        "least cosine of a score": f"{float(torch.cosine_similarity(scores, other, dim=-1).min()):.6f}",
    }
    print(
        f"\nGPU against processor, float32:\n\n{markdown_table(pd.Series(rows, name='found').to_frame().rename_axis('of'))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=65536)
    parser.add_argument("--parts", type=int, default=16, help="shards; halves of 1, 2, 4, ... parts are compared")
    parser.add_argument("--batch", type=int, default=2048, help="rows of one pass of generation")
    parser.add_argument("--to", type=Path, default=Path("data/gradients-more"))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    params = load_params()
    learning_curve(args, params)
    if torch.cuda.is_available():
        against_processor(params)


if __name__ == "__main__":
    main()
