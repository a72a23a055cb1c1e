from hashlib import sha256
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from made_samples import KEYS, OWN, PROMPTS, SCALES, SHARED, scored

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.evaluation import cells
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.evaluation.scores import cell_scores, choose_cells, leading_cells, only_chosen
from fgaa_utils.judges.server import ServerJudge
from fgaa_utils.model.generate import SamplingParams, generate_batch

ONE = torch.ones(1)


def test_cell_grid_has_every_vector_at_every_scale_and_unsteered_once():
    grid = cells.cell_grid(dict.fromkeys(OWN + SHARED, ONE), SCALES, Strength("resid_std", 150.0))
    found = {(r.behaviour, r.method, r.variant, r.scale): r.coeff for r in grid.itertuples()}
    expected = {(*name, scale): scale * 150.0 for name, scale in product(OWN + SHARED, SCALES)}
    assert found == expected | {("shared", "unsteered", "", 0.0): 0.0}
    assert len(grid) == len(found)


def test_all_cells_get_the_same_seeds():
    samples = cells.expand_samples(
        cells.cell_grid(dict.fromkeys(OWN, ONE), SCALES, Strength("absolute", 1.0)), PROMPTS, 5, seeds=(0, 11)
    )
    by_cell = {}
    for row in samples.itertuples():
        cell = by_cell.setdefault((row.behaviour, row.method, row.variant, row.scale), {})
        assert (row.prompt, row.sample) not in cell
        cell[row.prompt, row.sample] = row.seed
    first, *rest = by_cell.values()
    assert len(by_cell) == len(OWN) * len(SCALES) + 1
    assert set(first) == set(product(PROMPTS, range(5)))
    assert all(cell == first for cell in rest)
    assert len(set(first.values())) == len(first)  # prompts and samples differ in luck


def test_splits_differ_in_luck():
    grid = cells.cell_grid(dict.fromkeys(OWN, ONE), SCALES, Strength("absolute", 1.0))
    validation, test, again, other = (
        set(cells.expand_samples(grid, PROMPTS, 5, seeds=seeds).seed) for seeds in ((0, 11), (0, 12), (0, 11), (1, 11))
    )
    assert validation == again
    assert not validation & test and not validation & other


@pytest.mark.parametrize(("prompts", "samples"), [(PROMPTS, 0), (PROMPTS, -1), ([], 2)])
def test_nothing_to_sample_is_refused(prompts, samples):
    with pytest.raises(ValueError, match=f"{samples} samples of {len(prompts)} prompts"):
        cells.expand_samples(
            cells.cell_grid(dict.fromkeys(OWN, ONE), SCALES, Strength("absolute", 1.0)), prompts, samples, seeds=(0,)
        )


class Counter:
    """A judge by arithmetic: B is how often the behaviour's name stands in the text, C its length."""

    def behaviour(self, texts, name):
        return np.array([float(text.count(name)) for text in texts])

    def coherence(self, texts):
        return np.array([float(len(text)) for text in texts])


def test_a_sample_is_scored_for_its_own_behaviour_and_a_shared_one_for_all():
    texts = ["love", "anger and anger, love", "love and anger", ""]
    samples = pd.DataFrame({"text": texts, "behaviour": ["love", "anger", "shared", "shared"]}, index=[4, 2, 7, 1])
    judged = cells.score_samples(samples, Counter(), KEYS)
    np.testing.assert_array_equal(judged.B_anger, [np.nan, 2, 1, 0])
    np.testing.assert_array_equal(judged.B_love, [1, np.nan, 1, 0])
    assert judged.coherence.tolist() == [4, 21, 14, 0]
    assert judged[["text", "behaviour"]].equals(samples)


def test_only_a_judge_that_is_asked_is_announced(capsys, tmp_path, monkeypatch):
    samples = pd.DataFrame({"text": ["aa", "bb", "aa"], "behaviour": ["love", "anger", "shared"]})
    cells.announce(Counter(), samples, KEYS)
    assert capsys.readouterr().out == ""
    for name, value in (
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
        ("OPENAI_API_KEY", "k"),
        ("FGAA_JUDGE_MODEL", "m"),
    ):
        monkeypatch.setenv(name, value)
    judge = ServerJudge.from_environment(
        read_behaviours(KEYS), tmp_path / "answers.jsonl", concurrency=1, timeout=1, attempts=1
    )
    monkeypatch.setattr(ServerJudge, "_score", lambda self, criterion, texts: None)  # the one question it is timed by
    cells.announce(judge, samples, KEYS)
    assert "'requests': 5" in capsys.readouterr().out  # anger of bb and aa, love of aa once, coherence of aa and bb


def test_samples_are_those_of_plain_generation_with_the_prefix_in_front(tiny, tmp_path):
    """Row by row: what generate_batch gives for the row alone, its prefix read and left out of the text."""
    sampling = SamplingParams(new_tokens=5, top_k=20, temperature=1.0, batch=4)
    vectors = {("love", "fgaa", "n1=1,n2=0"): torch.nn.functional.normalize(torch.ones(tiny.d_model), dim=0)}
    prefixes = {("love", "prompting", "draw=1"): tiny.encode(["we love the"], bos=False)[0]}
    grid = cells.cell_grid(vectors, [0.5], Strength("resid_std", 20.0), plain=prefixes)
    assert len(grid) == 3
    samples = cells.expand_samples(grid, ["the", "we love"], 2, seeds=(0, 1))
    made = cells.generate_samples(tiny, samples, vectors, 1, sampling, tmp_path, progress="t", prefixes=prefixes)
    for row in made.itertuples():
        opener = tiny.encode([row.prompt], bos=False)[0]
        prefix = prefixes.get((row.behaviour, row.method, row.variant), [])
        ids = torch.tensor([[tiny.tokenizer.bos_token_id, *prefix, *opener]] * 4)
        delta = vectors["love", "fgaa", "n1=1,n2=0"] * (10.0 if row.method == "fgaa" else 0.0)
        new = generate_batch(tiny, ids, delta.expand(4, -1), np.array([row.seed] * 4), 1, sampling)[0].tolist()
        assert row.text == tiny.tokenizer.decode(opener + new, skip_special_tokens=True)


def test_equal_vectors_share_their_texts_and_are_generated_once(tiny, tmp_path):
    one = torch.nn.functional.normalize(torch.arange(float(tiny.d_model)), dim=0)
    names = [("love", "sae_ts", "rank=1"), ("love", "fgaa", "n1=1,n2=0"), ("anger", "fgaa", "n1=1,n2=0")]
    vectors = dict.fromkeys(names, one) | {("love", "caa", ""): -one}
    rows = cells.expand_samples(
        cells.cell_grid(vectors, [0.5], Strength("resid_std", 20.0)), ["the", "we"], 2, seeds=(0, 1)
    )
    sampling = SamplingParams(new_tokens=4, top_k=20, temperature=1.0, batch=4)
    texts = cells.generate_samples(tiny, rows, vectors, 1, sampling, tmp_path, progress="t")
    by_cell = {name: part.text.tolist() for name, part in texts.groupby(["behaviour", "method", "variant"])}
    assert by_cell[names[0]] == by_cell[names[1]] == by_cell[names[2]] != by_cell["love", "caa", ""]
    kept = pd.concat([pd.read_parquet(path) for path in tmp_path.rglob("shard_*.parquet")])
    assert len(kept) == kept.key.nunique() == 3 * 4, "three names have one vector; CAA and unsteered text are two more"


def test_another_method_makes_its_own_texts_alone_and_they_are_what_a_run_from_nothing_gives(tiny, tmp_path):
    directions = torch.nn.functional.normalize(torch.randn(3, tiny.d_model, generator=torch.manual_seed(0)), dim=1)
    names = [("love", "caa", ""), ("love", "fgaa", "n1=1,n2=0"), ("love", "ng", "white=1")]
    sampling = SamplingParams(new_tokens=6, top_k=20, temperature=1.0, batch=4)

    def make(count: int, folder) -> pd.DataFrame:
        vectors = dict(zip(names[:count], directions))
        grid = cells.cell_grid(vectors, [0.5, 1.0], Strength("resid_std", 20.0))
        rows = cells.expand_samples(grid, ["the", "we love", "dog"], 2, seeds=(0, 1))
        return cells.generate_samples(tiny, rows, vectors, 1, sampling, folder, progress="t")

    make(2, tmp_path / "kept")
    before = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("shard_*")}
    grown = make(3, tmp_path / "kept")
    after = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("shard_*")}
    assert all(after[path] == content for path, content in before.items())
    made = pd.concat([pd.read_parquet(path) for path in after if path not in before])
    assert len(made) == 2 * 3 * 2, "two strengths of the new vector, three prompts, two samples"
    pd.testing.assert_frame_equal(grown, make(3, tmp_path / "nothing"))
    next(iter(after)).unlink()  # a run that was killed before this batch
    pd.testing.assert_frame_equal(grown, make(3, tmp_path / "kept"))


def test_side_effects_score_the_chosen_cells_for_every_behaviour():
    frame = scored(0, samples=1).assign(text=lambda d: d.behaviour + " " + d.method)
    choices = pd.DataFrame(
        [("love", "fgaa", "n1=2,n2=0", 0.2), ("anger", "unsteered", "", 0.0)],
        columns=["target", "method", "variant", "scale"],
    )
    side = cells.side_effects(frame, choices, Counter(), KEYS)
    assert side.target.tolist() == ["love"] * 2 + ["anger"] * 2
    assert side.B_love.tolist() == [1, 1, 0, 0] and side.B_anger.tolist() == [0, 0, 0, 0]


def test_other_judges_stand_beside_the_judge_of_the_run():
    rows = pd.DataFrame({"target": ["love", "anger"], "text": ["love love", "x"], "B": [0.1, 0.2], "coherence": [1, 1]})
    scored_by = cells.other_judges(rows, {"counter": Counter()}, KEYS)
    assert scored_by.counter_B.tolist() == [2, 0] and scored_by.counter_C.tolist() == [9, 1]
    assert scored_by[["B", "coherence"]].equals(rows[["B", "coherence"]])


def test_cosines_are_those_of_the_chosen_variants():
    vectors = {
        ("love", m, v): torch.tensor(x)
        for m, v, x in [
            ("fgaa", "n1=2,n2=0", [1.0, 0.0]),
            ("caa", "", [0.0, 1.0]),
            ("sae", "rank=1", [1.0, 0.0]),
            ("sae_ts", "rank=2", [0.6, 0.8]),
        ]
    }
    choices = pd.DataFrame([(b, m, v) for b, m, v in vectors], columns=["target", "method", "variant"])
    found = cells.cosines_with_fgaa(vectors, choices)
    assert found == {"caa": {"love": 0.0}, "sae": {"love": 1.0}, "sae_ts": {"love": pytest.approx(0.6)}}


DESIGN = (["The", "Today"], ["I think", "We"], 1, 2)


def test_the_splits_of_a_design_differ_in_prompts_and_seeds():
    validation, test = cells.make_splits(*DESIGN)
    assert (validation.prompts, validation.samples) == (["The", "Today"], 1)
    assert (test.name, test.samples) == ("test", 2) and test.number != validation.number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: ["The", "We"]}, r"\['We'\].*validation_prompts.*test_prompts"),
        ({2: 0}, "validation_samples is 0"),
        ({3: -1}, "test_samples is -1"),
        # else one prompt has twice the samples, and `resample` refuses them after all texts are made
        ({1: ["I think", "We", "We"]}, "test_prompts names a prompt twice"),
    ],
)
def test_a_bad_design_is_refused_before_anything_is_generated(change, message):
    with pytest.raises(ValueError, match=message):
        cells.make_splits(*(change.get(i, value) for i, value in enumerate(DESIGN)))


class Hashed:
    """Scores that depend on the text alone and differ from text to text."""

    def behaviour(self, texts, name):
        return np.array([int(sha256(f"{name}{text}".encode()).hexdigest()[:8], 16) / 2**32 for text in texts])

    def coherence(self, texts):
        return self.behaviour(texts, "coherence")


@pytest.fixture
def trial(tiny, tmp_path):
    """(bench, vectors, grid): a few vectors on the tiny model, at every scale, and a judge that tells texts apart."""
    directions = torch.nn.functional.normalize(torch.randn(5, tiny.d_model, generator=torch.manual_seed(0)), dim=1)
    vectors = dict(zip([*OWN[:3], *OWN[3:4], SHARED[0]], directions))
    sampling = SamplingParams(new_tokens=4, top_k=20, temperature=1.0, batch=16)
    bench = cells.Bench(tiny, 1, sampling, tmp_path, Hashed(), KEYS, 0)
    return bench, vectors, cells.cell_grid(vectors, SCALES, Strength("resid_std", 20.0))


@pytest.mark.parametrize("finalists", [0, 1, 2, 100])
def test_a_race_is_the_part_of_all_samples_that_the_leaders_by_the_first_ones_have(trial, finalists):
    bench, vectors, grid = trial
    split = cells.Split("validation", ["the", "we love"], 3, 11)
    every = bench.samples(grid, vectors, split)
    raced = bench.raced(grid, vectors, split, finalists=finalists, smoothing=0.5)
    pd.testing.assert_frame_equal(raced, every.loc[raced.index])
    first = every[every["sample"] == 0]
    pd.testing.assert_frame_equal(bench.first_samples(grid, vectors, split), first)
    assert set(first.index) <= set(raced.index)
    cell = ["behaviour", "method", "variant", "scale"]
    counts = raced.groupby(cell).size()
    assert set(counts) <= {2, 6}
    leading = leading_cells(cell_scores(first, KEYS), finalists or 100, smoothing=0.5)
    lead = {(b, *rest) for t, *rest in leading[["target", *cell[1:]]].to_numpy() for b in (t, "shared")}
    assert {name for name, n in counts.items() if n == 6} == lead & set(counts.index)
    assert len(raced) == len(every) if finalists in (0, 100) else len(raced) < len(every)


@pytest.mark.parametrize("scales", ["all", "once", "chosen"])
def test_the_chosen_cells_are_tested_with_all_samples_and_the_others_as_asked(trial, scales):
    bench, vectors, grid = trial
    split = cells.Split("test", ["the", "we love"], 3, 11)
    every = bench.samples(grid, vectors, split)
    choices = choose_cells(cell_scores(every, KEYS))
    tested = bench.tested(grid, vectors, split, choices=choices, scales=scales)
    pd.testing.assert_frame_equal(tested, every.loc[tested.index])
    chosen = only_chosen(every, choices)
    others = tested.drop(index=chosen.index)
    assert set(chosen.index) <= set(tested.index) and len(chosen) < len(every)
    assert set(others["sample"]) == {"all": {0, 1, 2}, "once": {0}, "chosen": set()}[scales]
    assert len(others) == {"all": 3, "once": 1, "chosen": 0}[scales] * (len(every) - len(chosen)) / 3
