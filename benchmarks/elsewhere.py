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

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.names import METHODS
from fgaa_utils.shards import ShardStore, record_processor
from fgaa_utils.workers import WORKERS, Tick, fill

MEASURED = Path(__file__).with_name("gpu.md")
HERE, CARD = (989e12, 4.8e12), (165.2e12, 1.008e12)  # bfloat16 operations and bytes of memory a second, by data sheets
NAMES = "H200", "RTX 4090, 24 GB"  # of the card of gpu.md, and of the other
ANSWER = 1.0  # seconds of a server's answer: assumed
LOAD = 60.0  # seconds in which a worker loads the model: assumed
VECTORS, BATCH, D_SAE = (
    50_000,
    128,
    16384,
)  # of an effect map of the paper's larger model; the batch that gpu.md measured
GPUS = (1, 8, 64, 512)


def measured(model: str) -> dict[str, float]:
    """Units a second by what was measured, of a model's section of gpu.md."""
    section = MEASURED.read_text().split(f"## {model}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d,]+) (?:tokens|rollouts) \|", section, re.MULTILINE)
    return {name: float(rate.replace(",", "")) for name, rate in rows}


def requests_of(params: dict) -> int:
    """Questions to a judge on a server, about: an own text is asked about its behaviour and its coherence, a shared one (of
    controls, or unsteered) about every behaviour, and a reported one about all others too."""
    behaviours = len(read_behaviours(params["base"]["behaviours"]))
    design, controls = params["design"], params["vectors"]["controls"]
    shared = (1 + 3 * controls) * len(design["scales"]) + 1
    tests = len(design["test_prompts"]) * design["test_samples"]
    of_shared = shared * len(design["validation_prompts"]) + (1 + 3) * behaviours * len(design["scales"]) * tests
    reported = (len(METHODS) + 2) * behaviours * tests
    return 2 * (sum(sample_rows(params)) - of_shared) + (1 + behaviours) * of_shared + (behaviours - 1) * reported


def on_a_card(model: str, setting: str) -> None:
    """Minutes of a setting as measured, and by the ratio of the cards."""
    params, rates = params_of(setting), measured(model)
    slower = max(here / there for here, there in zip(HERE, CARD))
    print(f"\n## SETTING={setting} on one {NAMES[1]}\n")
    print(
        f"By their data sheets the card is up to {slower:.1f} times as slow as the {NAMES[0]} of gpu.md, in products of matrices "
        "or in reading memory. Generation there reaches a small part of either, being held up by launches of kernels, so "
        "that it should lose less. Estimates, between the minutes measured and those times the ratio:"
    )
    tokens = params["data"]["density_rows"] * params["data"]["context"]
    stages = {
        "features": (tokens / rates["capture"], f"{tokens:,} tokens / capture"),
        "gradients": gradients_seconds(params, rates),
        "samples": samples_seconds(params, rates),
    }
    table_head(["stage", f"minutes, {NAMES[0]}", f"{NAMES[1]}, up to", "formula"])
    for stage, (seconds, formula) in stages.items():
        table_row([stage, f"{seconds / 60:,.1f}", f"{seconds * slower / 60:,.1f}", formula])
    requests, at_once = requests_of(params), params["judge"]["server"]["concurrency"]
    hours = requests * ANSWER / at_once / 3600
    print(
        f"\nThe judge of the setting is a server, asked about {requests:,} times (equal questions once), and about the labelled "
        f"texts: {hours:.0f} hours at {ANSWER:g} s an answer and {at_once} at once. That, not the card, is the time of this "
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
    kept in memory), at most: by the wall, with all workers that this machine has room for. Prints the table. Of jobs done
    here, where Ray is not installed."""
    print(f"\n## Bookkeeping\n\nJobs that do nothing, on {record_processor()}.")
    table_head(["what", "jobs", "ms a job"])
    with tempfile.TemporaryDirectory() as place:
        store = ShardStore(Path(place), {"of": "nothing"}, jobs)

        def told(what: str, seconds: float, count: int) -> float:
            table_row([what, f"{count:,}", f"{1000 * seconds:.3f}"])
            return seconds

        here = lambda: fill(nothing, range(jobs), lambda job, result: None, using=no_model())  # noqa: E731
        told("done here, result thrown away", each(here, jobs), jobs)
        run = lambda: fill(nothing, range(jobs), store.write, using=no_model())  # noqa: E731
        seconds = told("done here, each an empty shard", each(run, jobs), jobs)
        told("looked for again by a resumed run", each(store.missing, jobs), jobs)
        told("read again", each(lambda: [None for _ in store], jobs), jobs)
    result = torch.empty(BATCH * D_SAE, dtype=torch.float16)
    copy = lambda job, made: result.copy_(made["x"])  # noqa: E731
    try:
        import ray
    except ModuleNotFoundError:
        print("\nRay is not installed here.")
        return seconds, seconds
    with tempfile.TemporaryDirectory() as place:
        store, os.environ[WORKERS] = ShardStore(Path(place), {"of": "nothing"}, ray_jobs), "ray"
        fill(nothing, range(2), lambda job, result: None, using=no_model())  # workers start
        workers = int(ray.cluster_resources()["CPU"]) // torch.get_num_threads()
        run = lambda: fill(nothing, range(ray_jobs), store.write, using=no_model())  # noqa: E731
        generating = told(f"done by {workers} workers of Ray, each an empty shard", each(run, ray_jobs), ray_jobs)
        few = ray_jobs // 10
        run = lambda: fill(nothing, range(few), copy, using=no_model(), size=len(result))  # noqa: E731
        what = f"done by {workers} workers of Ray, {2 * len(result) / 1e6:.1f} MB each, kept in memory"
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
    """Seconds of an effect map of the paper's larger model on many GPUs."""
    rates, section = measured("Gemma 2 9B"), params_of("gemma-2-9b")["effects"]
    new, chunk = section["new_tokens"], section["chunk_size"]
    of_job = BATCH * new / rates["generation"], BATCH * (1 + new) / rates["effects, latents"]
    kinds = list(zip(of_job, of_driver))
    print(f"\n## An effect map of Gemma 2 9B from {VECTORS:,} vectors\n")
    print(
        f"Simulated: `fill` by workers with the rates of gpu.md, in chunks of {chunk:,} vectors (`effects.chunk_size`), each two "
        f"calls (generate, then read) of {chunk // BATCH} jobs of {BATCH} rollouts (`effects.batch: {BATCH}`; {of_job[0]:.2f} and "
        f"{of_job[1]:.2f} s), with {1000 * of_driver[0]:.1f} and {1000 * of_driver[1]:.1f} ms of the asking process for each. "
        f"Before that every worker loads the model, say {LOAD:g} s. Busy: the share of the workers' time after loading."
    )
    sizes = [min(chunk, VECTORS - start) for start in range(0, VECTORS, chunk)]
    work = sum(math.ceil(size / BATCH) for size in sizes) * sum(of_job)
    table_head(["GPUs", "in chunks", "busy", "as one chunk", "busy"])
    for gpus in GPUS:
        cells = [str(gpus)]
        for parts in (sizes, [VECTORS]):
            jobs = [math.ceil(n / BATCH) for n in parts]
            seconds = sum(fill_seconds(count, *kind, gpus) for count in jobs for kind in kinds)
            cells += [f"{seconds:,.0f} s", f"{work / gpus / seconds:.0%}"]
        table_row(cells)
    limits = [f"{job / driver:,.0f}" for job, driver in kinds]
    print(
        f"\nThe asking process keeps up with {limits[0]} GPUs that generate and {limits[1]} that read, at least; a chunk "
        f"has {chunk // BATCH} jobs, which keep no more GPUs busy. It alone writes, under `data/effects/`: the tokens "
        f"of each job ({BATCH * new * 4 / 1e3:.0f} kB) and each chunk's activations ({chunk * D_SAE * 2 / 1e6:.0f} MB, of which "
        f"every job sends {BATCH * D_SAE * 2 / 1e6:.1f} MB over the network): {VECTORS * D_SAE * 2 / 1e9:.1f} GB in all. The "
        "scales of the vectors (the CE rule) and the fit are left out."
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
