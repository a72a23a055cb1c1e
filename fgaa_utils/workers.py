"""Who makes what is missing: this process, or workers of Ray on this machine or on a cluster.

Every long computation is a list of jobs that know nothing of one another. `fill` does them and hands each result to whoever
keeps it. A result should not depend on who made it (`make check-ray` compares), so that the choice is no parameter of a
run but a variable of the environment, FGAA_WORKERS: `local` (default), `ray` (workers on this machine), `auto` (the
cluster that was started here with `ray start`) or the address of a cluster that this machine belongs to. A worker has as
many threads as this process (OMP_NUM_THREADS), because their number decides in which order some sums are taken, and takes
as many processors, or, where the model is on a GPU, one GPU.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from fgaa_utils.project import ROOT
from fgaa_utils.shards import rounding

WORKERS = "FGAA_WORKERS"
HERE = "local"
TRIES = 3  # workers that may die at one job
PATIENCE = 15  # seconds without news, after which a line says what is waited for
Loader = tuple[Callable[..., Any], dict[str, Any]]  # a function of a module, and what to call it with
Tick = Callable[[int], object]  # told how much more is done


class Using(Protocol):
    """What jobs are done with: a model that workers can load themselves, `loader`, and know again, `identity`."""

    @property
    def loader(self) -> Loader | None: ...
    @property
    def identity(self) -> object: ...


def silent(_: int) -> None:
    """Progress that nobody looks at."""


def fill(
    task: Callable[..., Any],
    jobs: Iterable[Any],
    keep: Callable[[Any, Any], object],
    *,
    using: Using,
    tick: Tick = silent,
    **fixed: Any,
) -> None:
    """keep(job, task(using, job, tick, **fixed)) for every job: in order here, as they are done on workers of Ray.

    task is a function of a module, which tells `tick` how much is done. fixed goes to every worker once, `using` is loaded
    there. A worker that dies is replaced, and its job done again.

    Raises: ValueError if `using` cannot be loaded elsewhere, a node has another model, torch or kind of processor, workers
    cannot start or die at one job TRIES times, or Ray is not installed or not there; what a job raises.
    """
    jobs = list(jobs)
    place = os.environ.get(WORKERS) or HERE
    if place == HERE or not jobs:
        for job in jobs:
            keep(job, task(using, job, tick, **fixed))
        return
    if using.loader is None:
        raise ValueError(
            f"{using.identity} was not loaded from files, so that no worker of Ray can load it; {WORKERS}=local"
        )
    device = using.loader[1].get("device", "cpu")
    crew = _crew(place, torch.get_num_threads(), gpu=device == "cuda")
    crew.do(task, jobs, keep, tick, crew.ray.put(fixed), using.loader, using.identity, rounding(device))


class WorkerDied(Exception):
    """A process that did a job is gone, with the job."""


class Worker:
    """Runs on Ray: loads what the jobs are done with, once, and does one job after another."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def ready(self) -> None:
        """Answers once the worker is there."""

    def do(
        self, task: Callable[..., Any], job: Any, fixed: dict[str, Any], loader: Loader, identity: object, rounds: dict
    ) -> tuple[Any, int]:
        """(the job's result, how much was done).

        Raises: ValueError if another model than `identity` is here, or what decides how sums round differs from `rounds`.
        """
        load, how = loader
        if (here := rounding(how.get("device", "cpu"))) != rounds:
            raise ValueError(f"a node has {here}, the run has {rounds}: it would give other texts; leave it out")
        key = repr((load.__qualname__, how))
        if key not in self.loaded:
            self.loaded[key] = load(**how)
        using, done = self.loaded[key], []
        if using.identity != identity:
            raise ValueError(f"a node has {using.identity}, the run has {identity}; run `dvc repro model` there")
        result = task(using, job, done.append, **fixed)
        return result, sum(done)


def _connect(place: str, threads: int) -> Any:
    """The module ray, with a cluster behind it."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError(f"{WORKERS} is {place!r}, but Ray is not installed; .venv/bin/pip install ray") from error
    if not ray.is_initialized():
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {
            WORKERS: HERE,
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": path,
        }
        offline = {name: os.environ[name] for name in ("HF_HUB_OFFLINE",) if name in os.environ}
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            address = "local" if place == "ray" else place
            ray.init(address=address, runtime_env={"env_vars": variables | offline}, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"{WORKERS} is {place!r}, and no cluster answers there ({error})") from error
    return ray


class Crew:
    """Workers of one kind on a cluster, as many as it has room for; one that dies is replaced."""

    def __init__(self, place: str, threads: int, *, gpu: bool):
        self.ray = ray = _connect(place, threads)
        has = ray.cluster_resources()
        self.size = int(has.get("GPU", 0)) if gpu else int(has.get("CPU", 0)) // threads
        if not self.size:
            wanted = "GPU" if gpu else f"room for a worker of {threads} threads (OMP_NUM_THREADS)"
            raise ValueError(f"the cluster of Ray has no {wanted}; it has {has}")
        self.kind = ray.remote(**({"num_gpus": 1} if gpu else {"num_cpus": threads}))(Worker)
        self.coming: dict[Any, Any] = {}  # workers by what answers when they are there
        self.idle: list[Any] = []
        for _ in range(self.size):
            self.hire()

    def hire(self) -> None:
        worker = self.kind.remote()
        self.coming[worker.ready.remote()] = worker

    def dismiss(self) -> None:
        """End all workers, so that others find room."""
        for worker in (*self.coming.values(), *self.idle):
            self.ray.kill(worker)

    def do(
        self, task: Callable[..., Any], jobs: list[Any], keep: Callable[[Any, Any], object], tick: Tick, *fixed: Any
    ) -> None:
        """All jobs, each by the first worker that is free."""
        todo, running = deque((job, TRIES) for job in jobs), {}
        try:
            while todo or running:
                while todo and self.idle:
                    worker, (job, tries) = self.idle.pop(), todo.popleft()
                    running[worker.do.remote(task, job, *fixed)] = worker, job, tries
                done, _ = self.ray.wait([*running, *self.coming], num_returns=1, timeout=PATIENCE)
                if not done:
                    said = f"{len(running)} jobs are being done, {len(self.coming)} workers wait for room"
                    print(said, file=sys.stderr, flush=True)
                for ready in done:
                    if worker := self.coming.pop(ready, None):
                        self.answer(ready, "a worker could not start")
                        self.idle.append(worker)
                        continue
                    worker, job, tries = running.pop(ready)
                    try:
                        result, count = self.answer(ready, f"{TRIES} workers died at one job; have they memory enough?")
                    except WorkerDied:
                        self.hire()
                        if tries == 1:
                            raise
                        todo.append((job, tries - 1))
                        continue
                    except Exception:
                        self.idle.append(worker)
                        raise
                    self.idle.append(worker)
                    keep(job, result)
                    tick(count)
        except WorkerDied as error:
            raise ValueError(str(error)) from None
        finally:
            for worker, _, _ in running.values():  # of a run that failed
                self.ray.kill(worker)
                self.hire()

    def answer(self, ready: Any, died: str) -> Any:
        """What came back. Raises: WorkerDied, saying `died`; what a job raised, as it was raised there."""
        try:
            return self.ray.get(ready)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except self.ray.exceptions.RayActorError as error:
            raise WorkerDied(f"{died} ({error})") from None


_crews: dict[tuple[str, int, bool], Crew] = {}  # the last one alone


def _crew(place: str, threads: int, *, gpu: bool) -> Crew:
    """The crew of the last call, if it is of this kind."""
    key = place, threads, gpu
    if key not in _crews:
        for other in _crews.values():
            other.dismiss()
        _crews.clear()
        _crews[key] = Crew(place, threads, gpu=gpu)
    return _crews[key]
