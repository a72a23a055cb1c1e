"""What the paper's settings should take on a card and on a cluster that were not at hand, and what the seam of workers costs.

    python benchmarks/elsewhere.py [--jobs 100000] [--ray-jobs 5000]

Prints Markdown. Rates of models are read from gpu.md, where they were measured; what is computed from them says how. The
bookkeeping of jobs that do nothing is measured here, on Ray too where it is installed (`tests/environments.py ray`).
"""

import argparse
import heapq
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from gpu import gradients_seconds, params_of, sample_rows, samples_seconds, table_head, table_row

from fgaa_utils.shards import ShardStore, record_processor
from fgaa_utils.workers import WORKERS, Tick, fill

MEASURED = Path(__file__).with_name("gpu.md")
CARD = ("RTX 4090, 24 GB", 165.2e12)  # bfloat16 products a second with sums in float32, by its data sheet
ANSWER = 1.0  # seconds of a server's answer: assumed
LOAD = 60.0  # seconds in which a worker loads the model: assumed
VECTORS, CHUNK, BATCH, D_SAE = 50_000, 7168, 128, 16384  # of an effect map of the paper's larger model
GPUS = (1, 8, 64, 512)


def measured(model: str) -> tuple[float, dict[str, float]]:
    """(matrix products a second, units a second by what was measured) of a model's section of gpu.md."""
    text = MEASURED.read_text()
    matrix = float(re.search(r"matrices: ([\d.]+) Tflop", text)[1]) * 1e12  # type: ignore[index]
    section = text.split(f"## {model}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d,]+) (?:tokens|rollouts) \|", section, re.MULTILINE)
    return matrix, {name: float(rate.replace(",", "")) for name, rate in rows}


def on_a_card(model: str, setting: str) -> None:
    """Minutes of a setting between two bounds: the measured ones, and those by the ratio of matrix rates."""
    (name, products), params = CARD, params_of(setting)
    matrix, rates = measured(model)
    slower = matrix / products
    print(f"\n## SETTING={setting} on one {name}\n")
    print(
        f"The card multiplies matrices {slower:.1f} times more slowly than the one of gpu.md. Generation there reaches a small "
        "part of the matrix rate, being held up by launches of kernels, so that it need not be slower by as much: the "
        "minutes lie between those measured and those times the ratio."
    )
    section = params["data"]
    tokens = (section["density_rows"] + section["heldout_rows"]) * section["context"]
    stages = {
        "features": (tokens / rates["capture"], f"{tokens:,} tokens / capture"),
        "gradients": gradients_seconds(params, rates),
        "samples": samples_seconds(params, rates),
    }
    table_head(["stage", "minutes, at least", "at most", "formula"])
    for stage, (seconds, formula) in stages.items():
        table_row([stage, f"{seconds / 60:,.1f}", f"{seconds * slower / 60:,.1f}", formula])
    requests, at_once = 2 * sum(sample_rows(params)), params["judge"]["server"]["concurrency"]
    hours = requests * ANSWER / at_once / 3600
    print(
        f"\nThe judge of the setting is a server: at most {requests:,} requests (two for each text; equal texts are asked "
        f"once), {hours:.0f} hours at {ANSWER:g} s an answer and {at_once} at once. That, not the card, is the time of this "
        "setting; `judge.judge: local` needs no server. `costs` is left out."
    )


def nothing(using: object, job: int, tick: Tick, size: int = 1) -> dict[str, torch.Tensor]:
    """A job without work, whose result has `size` numbers."""
    tick(1)
    return {"x": torch.zeros(size, dtype=torch.float16)}


def no_model() -> SimpleNamespace:
    return SimpleNamespace(identity="none", loader=(no_model, {}))


def each(run: Callable[[], object], count: int) -> float:
    """Seconds of one job."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / count


def bookkeeping(jobs: int, ray_jobs: int) -> tuple[float, float]:
    """Seconds of the asking process for one job that generates (an empty shard) and one that reads (a batch's activations,
    kept in memory); prints the table. Of jobs done here, where Ray is not installed."""
    print(f"\n## Bookkeeping\n\nJobs that do nothing, on {record_processor()}.")
    table_head(["what", "jobs", "ms a job"])
    with tempfile.TemporaryDirectory() as place:
        store = ShardStore(Path(place), {"of": "nothing"}, jobs)

        def told(what: str, seconds: float, count: int) -> float:
            table_row([what, f"{count:,}", f"{1000 * seconds:.3f}"])
            return seconds

        here = lambda: fill(nothing, range(jobs), lambda job, result: None, using=no_model())  # noqa: E731
        told("done here, result thrown away", each(here, jobs), jobs)
        told("done here, each an empty shard", each(lambda: fill(nothing, range(jobs), store.write, using=no_model()), jobs), jobs)  # fmt: skip
        told("looked for again by a resumed run", each(store.missing, jobs), jobs)
        seconds = told("read again", each(lambda: [None for _ in store], jobs), jobs)
    result = torch.empty(BATCH * D_SAE, dtype=torch.float16)
    copy = lambda job, made: result.copy_(made["x"])  # noqa: E731
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        print("\nRay is not installed here.")
        return seconds, seconds
    with tempfile.TemporaryDirectory() as place:
        store, os.environ[WORKERS] = ShardStore(Path(place), {"of": "nothing"}, ray_jobs), "ray"
        fill(nothing, range(2), lambda job, result: None, using=no_model())  # workers start
        run = lambda: fill(nothing, range(ray_jobs), store.write, using=no_model())  # noqa: E731
        generating = told("done by workers of Ray, each an empty shard", each(run, ray_jobs), ray_jobs)
        few = ray_jobs // 10
        run = lambda: fill(nothing, range(few), copy, using=no_model(), size=len(result))  # noqa: E731
        what = f"done by workers of Ray, {2 * len(result) / 1e6:.1f} MB each, kept in memory"
        return generating, told(what, each(run, few), few)


def fill_seconds(jobs: int, of_job: float, of_driver: float, workers: int) -> float:
    """Seconds of `fill` by workers that are there: the asking process hands jobs out and keeps results one at a time."""
    free, driver, end = [0.0] * workers, 0.0, 0.0
    heapq.heapify(free)
    for _ in range(jobs):
        done = max(heapq.heappop(free), driver) + of_job
        heapq.heappush(free, done)
        driver += of_driver
        end = max(end, done)
    return max(end, driver) + of_driver


def on_a_cluster(of_driver: tuple[float, float]) -> None:
    """Minutes of an effect map of the paper's larger model on many GPUs."""
    _, rates = measured("Gemma 2 9B")
    new = params_of("gemma-2-9b")["effects"]["new_tokens"]
    of_job = BATCH * new / rates["generation"], BATCH * (1 + new) / rates["effects, latents"]
    kinds = list(zip(of_job, of_driver))
    print(f"\n## An effect map of Gemma 2 9B from {VECTORS:,} vectors\n")
    print(
        f"Simulated: `fill` by workers with the rates of gpu.md, in chunks of {CHUNK:,} vectors, each two calls (generate, "
        f"then read) of {CHUNK // BATCH} jobs of {BATCH} rollouts ({of_job[0]:.2f} and {of_job[1]:.2f} s), "
        f"{1000 * of_driver[0]:.1f} and {1000 * of_driver[1]:.1f} ms of the asking process for each, and {LOAD:g} s once in which every worker loads the model. Busy: the share of "
        "the workers' time after loading."
    )
    sizes = [min(CHUNK, VECTORS - start) for start in range(0, VECTORS, CHUNK)]
    work = sum(math.ceil(size / BATCH) for size in sizes) * sum(of_job)
    table_head(["GPUs", "chunks as they are", "busy", "one chunk of all", "busy", "with loading"])
    for gpus in GPUS:
        cells = [str(gpus)]
        for parts in (sizes, [VECTORS]):
            jobs = [math.ceil(n / BATCH) for n in parts]
            seconds = sum(fill_seconds(count, *kind, gpus) for count in jobs for kind in kinds)
            cells += [f"{seconds:,.0f} s", f"{work / gpus / seconds:.0%}"]
        table_row([*cells, f"{seconds + LOAD:,.0f} s"])
    limits = [f"{job / driver:,.0f}" for job, driver in kinds]
    print(
        f"\nBookkeeping alone holds up {limits[0]} GPUs that generate and {limits[1]} that read. Before that the jobs of a "
        f"chunk run out: {CHUNK // BATCH} of them keep no more GPUs busy (`effects.chunk_size`), and loading takes longer than "
        f"the work. The asking process alone writes, under `data/effects/`: the tokens of each job ({BATCH * new * 4 / 1e3:.0f} "
        f"kB) and each chunk's activations ({CHUNK * D_SAE * 2 / 1e6:.0f} MB, of which every job sends "
        f"{BATCH * D_SAE * 2 / 1e6:.1f} MB over the network): {VECTORS * D_SAE * 2 / 1e9:.1f} GB in all. The scales of the "
        "vectors (the CE rule) and the fit are left out."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, help="empty jobs done here")
    parser.add_argument("--ray-jobs", type=int, default=5_000, help="empty jobs done by workers of Ray")
    options = parser.parse_args()
    on_a_card("Gemma 2 2B", "gemma-2-2b")
    on_a_cluster(bookkeeping(options.jobs, options.ray_jobs))


if __name__ == "__main__":
    main()
