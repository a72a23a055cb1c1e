"""Who makes what is missing: this process, or workers of Ray on this machine or on a cluster.

Every long computation is a list of jobs that know nothing of one another. `fill` does them and hands each result to whoever
keeps it. A result does not depend on who made it, so that the choice is no parameter of a run but a variable of the
environment, FGAA_WORKERS: `local` (default), `ray` (workers on this machine), `auto` (the cluster that was started here with
`ray start`) or a cluster's address (`ray://host:10001`). A worker takes FGAA_THREADS processors (default 1), or, where the
model is on a GPU, one GPU.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

from fgaa_utils.shards import processor

WORKERS, THREADS = "FGAA_WORKERS", "FGAA_THREADS"
HERE = "local"
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
    there. A worker that dies is started anew and does its job again.

    Raises: ValueError if `using` cannot be loaded elsewhere, a node has another model or kind of processor, or Ray is not installed or
    not there; what a job raises.
    """
    jobs = list(jobs)
    place = os.environ.get(WORKERS, HERE)
    if place == HERE or not jobs:
        for job in jobs:
            keep(job, task(using, job, tick, **fixed))
        return
    if using.loader is None:
        raise ValueError(
            f"{using.identity} was not loaded from files, so that no worker of Ray can load it; {WORKERS}=local"
        )
    _on_ray(place, task, jobs, keep, using, tick, fixed)


def _threads() -> int:
    text = os.environ.get(THREADS, "1")
    if not text.isdigit() or not int(text):
        raise ValueError(f"{THREADS} is {text!r}; it must be a number of processors, 1 or more")
    return int(text)


class Worker:
    """Runs on Ray: loads what the jobs are done with, once, and does one job after another."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def do(
        self, task: Callable[..., Any], job: Any, fixed: dict[str, Any], loader: Loader, identity: object, kind: dict
    ) -> tuple[Any, int]:
        """(the job's result, how much was done). Raises: ValueError if another model than `identity` is here, or another
        kind of processor, which rounds otherwise."""
        load, how = loader
        if (here := processor(how.get("device", "cpu"))) != kind:
            raise ValueError(f"a node has {here}, the run has {kind}: it would give other texts; leave it out")
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
        variables = {WORKERS: HERE, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        offline = {name: os.environ[name] for name in ("HF_HUB_OFFLINE",) if name in os.environ}
        cluster = {} if place == "ray" else {"address": place}
        try:
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            ray.init(runtime_env={"env_vars": variables | offline}, **quiet, **cluster)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"{WORKERS} is {place!r}, and no cluster answers there ({error})") from error
    return ray


@cache
def _crew(place: str, threads: int, *, gpu: bool) -> list[Any]:
    """Workers, as many as the cluster has room for; they live as long as this process."""
    ray = _connect(place, threads)
    has = ray.cluster_resources()
    count = int(has.get("GPU", 0)) if gpu else int(has.get("CPU", 0)) // threads
    if not count:
        wanted = "GPU" if gpu else f"room for a worker of {threads} processors ({THREADS})"
        raise ValueError(f"the cluster of Ray has no {wanted}; it has {has}")
    room = {"num_gpus": 1, "num_cpus": 1} if gpu else {"num_cpus": threads}
    kind = ray.remote(max_restarts=-1, max_task_retries=-1, **room)(Worker)
    return [kind.remote() for _ in range(count)]


def _on_ray(
    place: str,
    task: Callable[..., Any],
    jobs: list[Any],
    keep: Callable[[Any, Any], object],
    using: Using,
    tick: Tick,
    fixed: dict[str, Any],
) -> None:
    assert using.loader is not None
    device = using.loader[1].get("device", "cpu")
    idle = deque(_crew(place, _threads(), gpu=device == "cuda"))
    import ray

    same = using.loader, using.identity, processor(device)

    shared, todo, running = ray.put(fixed), deque(jobs), {}
    try:
        while todo or running:
            while todo and idle:
                worker, job = idle.popleft(), todo.popleft()
                running[worker.do.remote(task, job, shared, *same)] = worker, job
            [ready], _ = ray.wait(list(running), num_returns=1)
            worker, job = running.pop(ready)
            result, done = ray.get(ready)
            keep(job, result)
            tick(done)
            idle.append(worker)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
