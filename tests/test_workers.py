"""Jobs done here and on workers of Ray: the same results, each kept once, and errors that a person can act on."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_effects import COURSE

from fgaa_utils import workers
from fgaa_utils.data.questions import Question
from fgaa_utils.evaluation.capability import measure_cells, option_logprobs, steered_text_ce
from fgaa_utils.evaluation.texts import kept_texts
from fgaa_utils.judges.readers import Readers
from fgaa_utils.judges.readings import ReadingStore
from fgaa_utils.method.effects import ce_scales
from fgaa_utils.method.features import latent_stats
from fgaa_utils.method.gradients import gradient_shards
from fgaa_utils.model.generate import Rows, SamplingParams, generate_all, row_seeds
from fgaa_utils.model.lm import load_model
from fgaa_utils.project import MODEL
from fgaa_utils.sae import training
from fgaa_utils.shards import digest
from fgaa_utils.workers import fill

HERE = SimpleNamespace(loader=None, identity="this process")
on_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed here")


def double(using, job, tick, *, plus):
    tick(2)
    return 2 * job + plus


def load_number(number):
    """Stands in for a model: what is loaded is a number."""
    return SimpleNamespace(identity=number, number=number)


def add_number(using, job, tick):
    return using.number + job


def process(using, job, tick):
    return os.getpid()


def die(using, job, tick):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(using, job, tick, *, mark):
    if job == 1 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(f"{mark}.{job}").open("a") as file:
        file.write("x")
    return job


def refuse(using, job, tick):
    raise ValueError(f"job {job} cannot be done")


def number(value, identity=None):
    return SimpleNamespace(loader=(load_number, {"number": value}), identity=value if identity is None else identity)


def test_here_jobs_are_done_in_order_and_told_of():
    kept, ticks = [], []
    fill(double, [3, 1], lambda job, result: kept.append((job, result)), using=HERE, tick=ticks.append, plus=1)
    assert kept == [(3, 7), (1, 3)] and ticks == [2, 2]


def test_without_jobs_nobody_is_asked(monkeypatch):
    monkeypatch.setenv(workers.WORKERS, "ray")
    fill(double, [], pytest.fail, using=HERE)


def test_what_was_not_loaded_from_files_stays_here(monkeypatch):
    monkeypatch.setenv(workers.WORKERS, "ray")
    with pytest.raises(ValueError, match=r"this process was not loaded from files, .* FGAA_WORKERS=local"):
        fill(double, [1], pytest.fail, using=HERE, plus=0)


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv(workers.WORKERS, "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(workers, "_crews", {})
    with pytest.raises(ValueError, match="FGAA_WORKERS is 'ray', but Ray is not installed"):
        fill(add_number, [1], pytest.fail, using=number(1))


@pytest.fixture(scope="module")
def ray_here():
    """Two workers of Ray on this machine, for what the block runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent))  # so that workers find the tasks of this file
        patched.setenv(workers.WORKERS, "ray")
        patched.setattr(workers, "_crews", {})
        yield
        import ray

        ray.shutdown()


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """The tiny model as files."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.hf.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def lm(saved):
    return load_model(saved, layer=2, dtype="float32", device="cpu")


def everything(lm, sae, folder):
    """{name: digest} of each long computation, in shards under `folder`."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, lm.d_model, generator=generator), dim=1)
    sampling = SamplingParams(new_tokens=4, top_k=20, temperature=1.0, batch=4)
    data = COURSE.data(lm, sae, torch.full((64,), 3.0), 2, folder / "effects", seed=0)
    rows = rows_of(lm, vectors)
    token_rows = np.random.default_rng(0).integers(3, 40, (40, 12))
    token_rows[:, 0] = lm.tokenizer.bos_token_id
    ids = torch.from_numpy(token_rows[:3]).long()
    questions = [
        Question("t", "", "1", "the cat", ("sat on", "ran"), 0),
        Question("t", "", "2", "we", ("love", "hate it"), 1),
    ]
    starts = [[5]] * len(rows)
    shards = gradient_shards(
        lm, sae, 2, folder, openers=["", "we"], sampling=sampling, rollouts=16, parts=4, segments=2, seed=0
    )
    acts = training.capture_training_acts(lm, token_rows, 2, folder / "acts")
    found = {
        "generate": generate_all(lm, rows, 2, sampling, folder / "generate"),
        "scales": ce_scales(lm, vectors, 2, ids, folder / "scales", rise=0.05, probes=[5.0, 20.0], batch=2),
        "rollouts": data.heldout_effects()[1],
        "options": measure_cells(option_logprobs, lm, questions, vectors, 2, folder / "cells", cells=2),
        "ce": measure_cells(steered_text_ce, lm, ids, vectors, 2, folder / "cells", cells=2),
    }
    found |= {f"gradients {i}.{key}": value for i, shard in enumerate(shards) for key, value in shard.items()}
    found |= {f"acts {i}": shard["resid"] for i, shard in enumerate(acts)}
    found |= vars(latent_stats(lm, sae, token_rows, 2, folder / "stats", top=3))
    texts = kept_texts(lm, rows, starts, 2, sampling, folder / "texts", progress="texts")
    return {name: digest(value) for name, value in found.items()} | {"texts": texts}


def rows_of(lm, vectors):
    count = 14
    return Rows(
        prompts=lm.encode(["the cat", "we love", "a dog sat on"]),
        vectors=vectors,
        prompt=np.arange(count) % 3,
        vector=np.arange(count) % len(vectors),
        coeff=np.full(count, 4.0),
        seed=row_seeds(0, count=count),
    )


@pytest.mark.ray
@on_ray
def test_every_long_computation_is_equal_to_the_bit(lm, tiny_sae, tmp_path, monkeypatch, ray_here):
    monkeypatch.setattr(training, "ROWS_PER_SHARD", 16)
    monkeypatch.setattr("fgaa_utils.method.features.ROWS_PER_SHARD", 16)
    there = everything(lm, tiny_sae, tmp_path / "there")
    monkeypatch.setenv(workers.WORKERS, "local")
    here = everything(lm, tiny_sae, tmp_path / "here")
    assert there == here and len(here) > 20


@pytest.mark.ray
@pytest.mark.real
@on_ray
def test_so_is_what_the_judge_reads(tmp_path, monkeypatch, ray_here):
    monkeypatch.setattr("fgaa_utils.judges.readings.PART", 5)
    texts = [f"The {word} of London was seen {n} times." for n, word in enumerate("river rain king bridge".split() * 4)]
    readers = Readers.load(MODEL / "smollm2-135m-instruct")
    there = ReadingStore(readers, tmp_path / "there").read(texts)
    monkeypatch.setenv(workers.WORKERS, "local")
    here = ReadingStore(readers, tmp_path / "here").read(texts)
    assert all(np.array_equal(getattr(there, name), getattr(here, name)) for name in vars(here))


@pytest.mark.ray
@on_ray
def test_a_worker_that_is_killed_repeats_its_own_job_alone(tmp_path, ray_here):
    kept = []
    mark = str(tmp_path / "mark")
    fill(die_once, range(6), lambda job, result: kept.append((job, result)), using=number(1), mark=mark)
    assert sorted(kept) == [(n, n) for n in range(6)] and Path(mark).exists()
    assert [Path(f"{mark}.{n}").read_text() for n in range(6)] == ["x"] * 6


@pytest.mark.ray
@on_ray
def test_a_job_that_kills_every_worker_is_given_up_and_the_crew_goes_on(ray_here):
    with pytest.raises(ValueError, match="3 workers died at one job; have they memory enough"):
        fill(die, [1], pytest.fail, using=number(1))
    others = []
    fill(process, range(8), lambda job, result: others.append(result), using=number(1))
    assert len(others) == 8 and os.getpid() not in others


@pytest.mark.ray
@on_ray
def test_what_a_job_raises_and_what_a_node_lacks_is_said(tmp_path, lm, saved, ray_here):
    with pytest.raises(ValueError, match=r"^job 3 cannot be done$") as raised:
        fill(refuse, [3], pytest.fail, using=number(1))
    assert raised.type is ValueError, "a runner names errors by their type"
    with pytest.raises(ValueError, match="a node has 1, the run has 2; run `dvc repro model` there"):
        fill(add_number, [3], pytest.fail, using=number(1, identity=2))
    elsewhere = SimpleNamespace(
        loader=(load_model, lm.loader[1] | {"path": str(tmp_path / "none")}), identity=lm.identity
    )
    with pytest.raises(FileNotFoundError, match=r"no model at .*none; run `dvc repro model`"):
        fill(add_number, [3], pytest.fail, using=elsewhere)


def test_a_node_with_another_processor_is_refused(monkeypatch):
    one = number(1)
    same = one.loader, one.identity, workers.rounding("cpu")
    assert workers.Worker().do(add_number, 3, {}, *same) == (4, 0)
    with pytest.raises(ValueError, match=r"the run has .*another.*: it would give other texts"):
        workers.Worker().do(add_number, 3, {}, *same[:2], {"name": "another"})


@pytest.mark.ray
@on_ray
def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    import ray

    def nobody(**_):
        raise ConnectionError("nobody answers")  # which Ray takes a minute to say

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nobody)
    monkeypatch.setattr(workers, "_crews", {})
    monkeypatch.setenv(workers.WORKERS, "192.0.2.7:6379")
    with pytest.raises(ValueError, match=r"FGAA_WORKERS is '192.0.2.7:6379', and no cluster answers there .*nobody"):
        fill(add_number, [1], pytest.fail, using=number(1))
