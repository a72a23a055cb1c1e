"""Steered tokens a second on the real model: our loop against transformers' own sampling, and batch sizes.

    python benchmarks/generation.py

All rows carry their own vector in every variant; `stock` is nnsight around transformers' generate.
"""

import time

import numpy as np
import torch

from fgaa_utils.model.generate import SamplingParams, exact_top_k, generate_batch
from fgaa_utils.model.lm import LanguageModel, load_model
from fgaa_utils.params import load_params
from fgaa_utils.shards import record_processor

NEW_TOKENS = 24


@torch.no_grad()
def stock(lm: LanguageModel, ids: torch.Tensor, delta: torch.Tensor, layer: int) -> torch.Tensor:
    block, added = lm.block(layer), delta.to(lm.dtype)[:, None]
    with lm.nn.generate(max_new_tokens=NEW_TOKENS, do_sample=True, top_k=50) as tracer:
        with tracer.invoke({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            for _ in tracer.iter[:NEW_TOKENS]:
                block.output = block.output + added
        with tracer.invoke():
            tokens = tracer.result.save()
    return tokens


def rate(run, rows: int) -> float:
    run()
    start = time.perf_counter()
    run()
    return rows * NEW_TOKENS / (time.perf_counter() - start)


def main() -> None:
    base = load_params()["base"]
    lm = load_model(base["model"], layer=base["layer"], dtype=base["dtype"])
    print(f"{lm.identity}, {torch.get_num_threads()} threads; {record_processor(lm.dtype, str(lm.device))}")
    rates = {}
    for rows in (8, 64, 128, 256):
        ids = torch.tensor(lm.encode(["I think"])).expand(rows, -1)
        delta = 200 * torch.nn.functional.normalize(torch.randn(rows, lm.d_model), dim=1)
        sampling = SamplingParams(new_tokens=NEW_TOKENS, top_k=50, temperature=1.0, batch=rows)
        rates["ours", rows] = rate(
            lambda: generate_batch(lm, ids, delta, np.arange(rows), base["layer"], sampling), rows
        )
        if rows <= 128:
            rates["stock", rows] = rate(lambda: stock(lm, ids, delta, base["layer"]), rows)
            print(
                f"{rows:4} rows: {rates['ours', rows]:6.0f} tokens/s, stock {rates['stock', rows]:6.0f}, ratio {rates['ours', rows] / rates['stock', rows]:.2f}"
            )
        else:
            print(f"{rows:4} rows: {rates['ours', rows]:6.0f} tokens/s")
    print(f"256 rows against 8: ratio {rates['ours', 256] / rates['ours', 8]:.1f}")
    logits = torch.randn(128, 262144).to(lm.dtype)
    times = []
    for select in (
        lambda: exact_top_k(logits, 50),
        lambda: logits.topk(50),
        lambda: torch.softmax(logits.float(), 1).multinomial(1),
    ):
        select()
        start = time.perf_counter()
        select()
        times.append(time.perf_counter() - start)
    print(
        "selection at 128 rows: exact_top_k {:.0f} ms, topk {:.0f} ms, softmax and multinomial {:.0f} ms".format(
            *(1000 * t for t in times)
        )
    )


if __name__ == "__main__":
    main()
