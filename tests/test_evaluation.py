from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.evaluation import cells as ev
from fgaa_utils.judges.server import ServerJudge
from fgaa_utils.model.generate import SamplingParams, generate_batch
from fgaa_utils.stats import interval

KEYS = ["anger", "love"]
SCALES = [0.1, 0.2, 0.4]
PROMPTS = ["I think", "We"]
OWN = [(key, method, variant) for key in KEYS for method, variant in (("caa", 0), ("fgaa", 1), ("fgaa", 2))]
SHARED = [(ev.SHARED, "random", 1), (ev.SHARED, "random", 2)]


def scored(seed, *, samples=3, step=0.0):
    """Samples of all cells with random scores, in shuffled order; `step` rounds them, so that cells tie."""
    rng = np.random.default_rng(seed)
    frame = ev.expand_samples(ev.cell_grid(OWN + SHARED, SCALES, unit=100.0), PROMPTS, samples, seeds=(0, 1))
    for column in ("coherence", *(f"B_{key}" for key in KEYS)):
        values = rng.random(len(frame))
        frame[column] = np.round(values / step) * step if step else values
    return frame.sample(frac=1, random_state=seed).reset_index(drop=True)


def samples_of(frame, target, method, variant, scale):
    """[(B, coherence, prompt)] of one cell for one target, by a plain loop."""
    return [
        (row[f"B_{target}"], row["coherence"], row["prompt"])
        for row in frame.to_dict("records")
        if row["behaviour"] in (target, "shared")
        and (row["method"], row["variant"], row["scale"]) == (method, variant, scale)
    ]


def score_of(cell):
    return float(np.mean([b for b, _, _ in cell]) * np.mean([c for _, c, _ in cell]))


def test_cell_grid_has_every_vector_at_every_scale_and_unsteered_once():
    cells = ev.cell_grid(OWN + SHARED, SCALES, unit=150.0)
    found = {(r.behaviour, r.method, r.variant, r.scale): r.coeff for r in cells.itertuples()}
    expected = {(*name, scale): scale * 150.0 for name, scale in product(OWN + SHARED, SCALES)}
    assert found == expected | {("shared", "unsteered", 0, 0.0): 0.0}
    assert len(cells) == len(found)


def test_all_cells_get_the_same_seeds():
    samples = ev.expand_samples(ev.cell_grid(OWN, SCALES, unit=1.0), PROMPTS, 5, seeds=(0, 11))
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
    cells = ev.cell_grid(OWN, SCALES, unit=1.0)
    validation, test, again, other = (
        set(ev.expand_samples(cells, PROMPTS, 5, seeds=seeds).seed) for seeds in ((0, 11), (0, 12), (0, 11), (1, 11))
    )
    assert validation == again
    assert not validation & test and not validation & other


@pytest.mark.parametrize(("prompts", "samples"), [(PROMPTS, 0), (PROMPTS, -1), ([], 2)])
def test_nothing_to_sample_is_refused(prompts, samples):
    with pytest.raises(ValueError, match=f"{samples} samples of {len(prompts)} prompts"):
        ev.expand_samples(ev.cell_grid(OWN, SCALES, unit=1.0), prompts, samples, seeds=(0,))


class Counter:
    """A judge by arithmetic: B is how often the behaviour's name stands in the text, C its length."""

    def behaviour(self, texts, name):
        return np.array([float(text.count(name)) for text in texts])

    def coherence(self, texts):
        return np.array([float(len(text)) for text in texts])


def test_a_sample_is_scored_for_its_own_behaviour_and_a_shared_one_for_all():
    texts = ["love", "anger and anger, love", "love and anger", ""]
    samples = pd.DataFrame({"text": texts, "behaviour": ["love", "anger", "shared", "shared"]}, index=[4, 2, 7, 1])
    judged = ev.score_samples(samples, Counter(), KEYS)
    np.testing.assert_array_equal(judged.B_anger, [np.nan, 2, 1, 0])
    np.testing.assert_array_equal(judged.B_love, [1, np.nan, 1, 0])
    assert judged.coherence.tolist() == [4, 21, 14, 0]
    assert judged[["text", "behaviour"]].equals(samples)
    assert ev.missing_scores(judged, KEYS) == 0
    judged.loc[[4, 7], "B_love"] = np.nan
    assert ev.missing_scores(judged.assign(coherence=[1, np.nan, 1, 1]), KEYS) == 3


def test_only_a_judge_that_is_asked_is_announced(capsys, tmp_path, monkeypatch):
    samples = pd.DataFrame({"text": ["aa", "bb", "aa"], "behaviour": ["love", "anger", "shared"]})
    ev.announce(Counter(), samples, KEYS)
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
    ev.announce(judge, samples, KEYS)
    assert "'requests': 5" in capsys.readouterr().out  # anger of bb and aa, love of aa once, coherence of aa and bb


def test_cell_scores_are_products_of_means_and_shared_vectors_count_for_every_behaviour():
    frame = scored(0)
    scores = ev.cell_scores(frame, KEYS)
    own = [(b, m, v, s) for (b, m, v), s in product(OWN, SCALES)]
    shared = [(key, m, v, s) for key, (_, m, v), s in product(KEYS, SHARED, SCALES)]
    unsteered = [(key, "unsteered", 0, 0.0) for key in KEYS]
    rows = {(r.target, r.method, r.variant, r.scale): r for r in scores.itertuples()}
    assert len(rows) == len(scores)
    assert set(rows) == {*own, *shared, *unsteered}
    for name, row in rows.items():
        cell = samples_of(frame, *name)
        assert row.n == len(cell) == 6
        assert row.BCS == pytest.approx(score_of(cell))
        assert row.B * row.C == pytest.approx(row.BCS)
        assert row.coeff == pytest.approx(100 * row.scale)


@pytest.mark.parametrize("seed", range(8))
def test_choose_cells_takes_the_maximum_then_the_smaller_scale_then_the_smaller_variant(seed):
    frame = scored(seed, samples=1, step=0.5 if seed % 2 else 0.0)  # coarse scores tie often
    scores = ev.cell_scores(frame, KEYS)
    best = {}
    for row in scores.itertuples():
        key, rank = (row.target, row.method), (-row.BCS, row.scale, row.variant)
        best[key] = min(best.get(key, rank), rank)
    choices = ev.choose_cells(scores)
    found = {(c.target, c.method): (-c.BCS, c.scale, c.variant) for c in choices.itertuples()}
    assert found == best
    assert len(choices) == len(best) == len(KEYS) * 4


def test_ties_go_to_the_smaller_scale_before_the_smaller_variant():
    rows = [
        ("love", "fgaa", 1, 0.4, 0.5),
        ("love", "fgaa", 4, 0.2, 0.5),
        ("love", "fgaa", 2, 0.2, 0.5),
        ("love", "fgaa", 1, 0.1, 0.4),
    ]
    choice = ev.choose_cells(pd.DataFrame(rows, columns=["target", "method", "variant", "scale", "BCS"])).iloc[0]
    assert (choice.scale, choice.variant) == (0.2, 2)


def test_chosen_samples_are_those_of_the_cell():
    frame = scored(1)
    choice = pd.Series({"target": "love", "method": "fgaa", "variant": 2, "scale": 0.1 + 1e-12})
    found = ev.chosen_samples(frame, choice)
    expected = samples_of(frame, "love", "fgaa", 2, 0.1)
    assert sorted(zip(found.B, found.coherence, found.prompt)) == sorted(expected)
    with pytest.raises(ValueError, match=r"no samples of fgaa variant 2 at scale 0.3 for love"):
        ev.chosen_samples(frame, choice.replace({choice.scale: 0.3}))


def test_bcs_table_reports_the_chosen_cell_on_the_test_samples():
    validation, test = scored(2), scored(3)
    choices = ev.choose_cells(ev.cell_scores(validation, KEYS))
    table, draws = ev.bcs_table(test, choices, draws=200, seed=0)
    assert set(table) == set(draws) == {"caa", "fgaa", "random", "unsteered"}
    elsewhere = 0
    for choice in choices.itertuples():
        cell = samples_of(test, choice.target, choice.method, choice.variant, choice.scale)
        entry = table[choice.method][choice.target]
        assert entry["value"] == round(score_of(cell), 4)
        assert entry["lo"] < entry["value"] < entry["hi"]
        assert entry["n"] == 6
        candidates = [c for c in ev.cell_scores(test, [choice.target]).itertuples() if c.method == choice.method]
        elsewhere += max(c.BCS for c in candidates) > entry["value"] + 1e-4
    assert elsewhere >= 3  # the best cell of the test samples is another one: it must not be reported
    for method, entries in table.items():
        values = [entries[key]["value"] for key in KEYS]
        assert entries["average"]["value"] == pytest.approx(sum(values) / len(KEYS), abs=1e-4)
        assert entries["average"]["n"] == 12
        assert draws[method].shape == (len(KEYS), 200)


def test_bcs_table_intervals_are_those_of_its_draws():
    frame = scored(4)
    table, draws = ev.bcs_table(frame, ev.choose_cells(ev.cell_scores(frame, KEYS)), draws=400, seed=0)
    for method, rows in draws.items():
        for key, row in zip(KEYS, rows):
            entry = table[method][key]
            assert [entry["lo"], entry["hi"]] == pytest.approx(interval(row, units=len(PROMPTS)), abs=1e-4)


def test_the_average_of_one_behaviour_is_its_score():
    frame = scored(4)
    choices = ev.choose_cells(ev.cell_scores(frame, KEYS[:1]))
    table, _ = ev.bcs_table(frame, choices, draws=400, seed=0)
    assert all(entries["average"] == entries[KEYS[0]] for entries in table.values())


def test_scale_curves_follow_the_chosen_variant():
    validation, test = scored(5), scored(6)
    choices = ev.choose_cells(ev.cell_scores(validation, KEYS))
    curves = {(r.target, r.method, r.scale): r for r in ev.scale_curves(test, choices, draws=50, seed=0).itertuples()}
    expected = {}
    for c in choices.itertuples():
        for scale in [0.0] if c.method == "unsteered" else SCALES:
            expected[c.target, c.method, scale] = score_of(samples_of(test, c.target, c.method, c.variant, scale))
    assert set(curves) == set(expected)
    for name, row in curves.items():
        assert row.value == pytest.approx(expected[name], abs=1e-4)
        assert row.B * row.C == pytest.approx(row.value, abs=1e-4)
        assert row.lo <= row.value <= row.hi and row.n == 6


@pytest.mark.parametrize("seed", range(4))
def test_the_papers_protocol_is_the_maximum_over_scales_on_one_prompt(seed):
    validation, test = scored(seed), scored(seed + 100)
    choices = ev.choose_cells(ev.cell_scores(validation, KEYS))
    protocol = ev.best_over_scales(ev.scale_curves(test[test.prompt == "We"], choices, draws=50, seed=0))
    assert sum(map(len, protocol.values())) == len(choices)
    for c in choices.itertuples():
        by_scale = {}
        for scale in [0.0] if c.method == "unsteered" else SCALES:
            cell = samples_of(test, c.target, c.method, c.variant, scale)
            by_scale[scale] = score_of([entry for entry in cell if entry[2] == "We"])
        entry = protocol[c.method][c.target]
        assert entry["value"] == round(max(by_scale.values()), 4)
        assert entry["value"] >= round(by_scale[c.scale], 4)
        assert entry["n"] == 3
        assert entry["lo"] <= entry["value"] <= entry["hi"]


def test_off_target_is_the_chosen_cell_less_unsteered_text():
    validation, test = scored(7), scored(8)
    choices = ev.choose_cells(ev.cell_scores(validation, KEYS))
    test = test.assign(text=[" ".join(KEYS[i % 3 : i % 3 + i % 5]) for i in range(len(test))])
    matrix = ev.off_target(test, choices, "fgaa", Counter(), KEYS)
    for c in choices[choices.method == "fgaa"].itertuples():
        for other in KEYS:
            own = [r for r in test.to_dict("records") if r["behaviour"] == c.target and r["method"] == "fgaa"]
            cell = [r["text"].count(other) for r in own if (r["variant"], r["scale"]) == (c.variant, c.scale)]
            base = [r["text"].count(other) for r in test.to_dict("records") if r["method"] == "unsteered"]
            assert matrix.loc[c.target, other] == pytest.approx(np.mean(cell) - np.mean(base))


def test_samples_are_those_of_plain_generation_with_the_prefix_in_front(tiny, tmp_path):
    """Row by row: what generate_batch gives for the row alone, its prefix read and left out of the text."""
    sampling = SamplingParams(new_tokens=5, top_k=20, temperature=1.0, batch=4)
    vectors = {("love", "fgaa", 1): torch.nn.functional.normalize(torch.ones(tiny.d_model), dim=0)}
    prefixes = {("love", "prompting", 1): tiny.encode(["we love the"], bos=False)[0]}
    cells = ev.cell_grid(list(vectors), [0.5], unit=20.0, plain=prefixes)
    assert len(cells) == 3
    samples = ev.expand_samples(cells, ["the", "we love"], 2, seeds=(0, 1))
    made = ev.generate_samples(tiny, samples, vectors, 1, sampling, tmp_path, progress="t", prefixes=prefixes)
    for row in made.itertuples():
        opener = tiny.encode([row.prompt], bos=False)[0]
        prefix = prefixes.get((row.behaviour, row.method, row.variant), [])
        ids = torch.tensor([[tiny.tokenizer.bos_token_id, *prefix, *opener]] * 4)
        delta = vectors["love", "fgaa", 1] * (10.0 if row.method == "fgaa" else 0.0)
        new = generate_batch(tiny, ids, delta.expand(4, -1), np.array([row.seed] * 4), 1, sampling)[0].tolist()
        assert row.text == tiny.tokenizer.decode(opener + new, skip_special_tokens=True)


DESIGN = {
    "scales": SCALES,
    "validation_prompts": ["The", "Today"],
    "test_prompts": ["I think", "We"],
    "paper_prompt": "I think",
    "validation_samples": 1,
    "test_samples": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": [0.2, 0.1]}, r"scales are \[0.2, 0.1\]"),
        ({"validation_prompts": ["The", "We"]}, r"\['We'\].*validation_prompts.*test_prompts"),
        ({"paper_prompt": "I thnik"}, "unknown paper_prompt 'I thnik'; did you mean 'I think'"),
        ({"paper_prompt": "The"}, "unknown paper_prompt 'The'"),
        ({"validation_samples": 0}, "validation_samples is 0"),
        ({"test_samples": -1}, "test_samples is -1"),
        # else one prompt has twice the samples, and `resample` refuses them after all texts are made
        ({"test_prompts": ["I think", "We", "We"]}, "We"),
    ],
)
def test_a_bad_design_is_refused_before_anything_is_generated(change, message):
    ev.check_design(**DESIGN)
    with pytest.raises(ValueError, match=message):
        ev.check_design(**DESIGN | change)
