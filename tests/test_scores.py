from itertools import product

import numpy as np
import pandas as pd
import pytest
from made_samples import KEYS, OWN, PROMPTS, SCALES, SHARED, samples_of, score_of, scored

from fgaa_utils.evaluation.scores import (
    Choices,
    bcs_table,
    best_over_scales,
    cell_scores,
    choices_by_method,
    choose_cells,
    chosen_cells,
    chosen_samples,
    counts_sentence,
    first_samples,
    leading_cells,
    missing_scores,
    off_target,
    only_chosen,
    read_choices,
    samples_metrics,
    scale_curves,
    side_effect,
    smoothed,
)
from fgaa_utils.stats import student_interval


def test_cell_scores_are_products_of_means_and_shared_vectors_count_for_every_behaviour():
    frame = scored(0)
    scores = cell_scores(frame, KEYS)
    own = [(b, m, v, s) for (b, m, v), s in product(OWN, SCALES)]
    shared = [(key, m, v, s) for key, (_, m, v), s in product(KEYS, SHARED, SCALES)]
    unsteered = [(key, "unsteered", "", 0.0) for key in KEYS]
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
    scores = cell_scores(frame, KEYS)
    best = {}
    for row in scores.itertuples():
        number = [int(part.split("=")[1]) for part in row.variant.split(",") if part]
        key, rank = (row.target, row.method), (-row.BCS, row.scale, number, row.variant)
        best[key] = min(best.get(key, rank), rank)
    choices = choose_cells(scores)
    found = {(c.target, c.method): (-c.BCS, c.scale, c.variant) for c in choices.itertuples()}
    assert found == {key: (*rank[:2], rank[3]) for key, rank in best.items()}
    assert len(choices) == len(best) == len(KEYS) * 4


def test_ties_go_to_the_smaller_scale_before_the_smaller_variant():
    rows = [
        ("love", "fgaa", "n1=1,n2=0", 0.4, 0.5),
        ("love", "fgaa", "n1=16,n2=0", 0.2, 0.5),
        ("love", "fgaa", "n1=2,n2=0", 0.2, 0.5),
        ("love", "fgaa", "n1=1,n2=0", 0.1, 0.4),
    ]
    cells = pd.DataFrame(rows, columns=["target", "method", "variant", "scale", "BCS"])
    choice = choose_cells(cells.assign(n=6)).iloc[0]
    assert (choice.scale, choice.variant) == (0.2, "n1=2,n2=0"), "by number: 2 before 16"


def test_chosen_samples_are_those_of_the_cell():
    frame = scored(1)
    choice = pd.Series({"target": "love", "method": "fgaa", "variant": "n1=2,n2=0", "scale": 0.1 + 1e-12})
    found = chosen_samples(frame, choice)
    expected = samples_of(frame, "love", "fgaa", "n1=2,n2=0", 0.1)
    assert sorted(zip(found.B, found.coherence, found.prompt)) == sorted(expected)
    with pytest.raises(ValueError, match=r"no samples of fgaa n1=2,n2=0 at scale 0.3 for love"):
        chosen_samples(frame, choice.replace({choice.scale: 0.3}))


def test_bcs_table_reports_the_chosen_cell_on_the_test_samples():
    validation, test = scored(2), scored(3)
    choices = choose_cells(cell_scores(validation, KEYS))
    table, draws = bcs_table(test, choices, draws=200, seed=0)
    assert set(table) == set(draws) == {"caa", "fgaa", "random", "unsteered"}
    elsewhere = 0
    for choice in choices.itertuples():
        cell = samples_of(test, choice.target, choice.method, choice.variant, choice.scale)
        entry = table[choice.method][choice.target]
        assert entry["value"] == round(score_of(cell), 4)
        assert entry["lo"] < entry["value"] < entry["hi"]
        assert entry["n"] == 6
        candidates = [c for c in cell_scores(test, [choice.target]).itertuples() if c.method == choice.method]
        elsewhere += max(c.BCS for c in candidates) > entry["value"] + 1e-4
    assert elsewhere >= 3  # the best cell of the test samples is another one: it must not be reported
    for method, entries in table.items():
        values = [entries[key]["value"] for key in KEYS]
        assert entries["average"]["value"] == pytest.approx(sum(values) / len(KEYS), abs=1e-4)
        assert entries["average"]["n"] == 12
        assert draws[method].shape == (len(KEYS), 200)


def test_bcs_table_intervals_are_those_of_its_draws():
    frame = scored(4)
    table, draws = bcs_table(frame, choose_cells(cell_scores(frame, KEYS)), draws=400, seed=0)
    for method, rows in draws.items():
        for key, row in zip(KEYS, rows):
            entry = table[method][key]
            wanted = np.clip(student_interval(entry["value"], row, len(PROMPTS)), 0, 1)
            assert [entry["lo"], entry["hi"]] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_the_average_of_one_behaviour_is_its_score():
    frame = scored(4)
    choices = choose_cells(cell_scores(frame, KEYS[:1]))
    table, _ = bcs_table(frame, choices, draws=400, seed=0)
    assert all(entries["average"] == entries[KEYS[0]] for entries in table.values())


def test_scale_curves_follow_the_chosen_variant():
    validation, test = scored(5), scored(6)
    choices = choose_cells(cell_scores(validation, KEYS))
    curves = {(r.target, r.method, r.scale): r for r in scale_curves(test, choices, draws=50, seed=0).itertuples()}
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
    choices = choose_cells(cell_scores(validation, KEYS))
    protocol = best_over_scales(scale_curves(test[test.prompt == "We"], choices, draws=50, seed=0))
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
    side = pd.DataFrame(
        [
            ("anger", "unsteered", 0.1, 0.2),
            ("love", "unsteered", 0.1, 0.2),
            ("anger", "unsteered", 0.3, 0.0),
            ("love", "unsteered", 0.3, 0.0),
            ("anger", "fgaa", 0.9, 0.4),
            ("anger", "fgaa", 0.7, np.nan),
            ("love", "fgaa", 0.2, 0.6),
            ("love", "caa", 1.0, 1.0),
        ],
        columns=["target", "method", "B_anger", "B_love"],
    )
    matrix = off_target(side, "fgaa", KEYS)
    np.testing.assert_allclose(matrix.to_numpy(), [[0.8 - 0.2, 0.4 - 0.1], [0.2 - 0.2, 0.6 - 0.1]])
    assert side_effect(matrix) == pytest.approx({"on_target": 0.55, "elsewhere": 0.15})
    assert side_effect(matrix.iloc[:1, :1]) == pytest.approx({"on_target": 0.6, "elsewhere": 0.0})


def test_choices_come_back_as_they_were_written_and_as_validation_chose_them(tmp_path):
    table = choose_cells(cell_scores(scored(1), KEYS))
    made = Choices({"anger": "Anger", "love": "Love"}, 1500.0, 100.0, "m:1", "s", 9, choices_by_method(table), {})
    made.write(tmp_path / "choices.json")
    again = read_choices(tmp_path / "choices.json")
    assert again == made and again.methods == ["fgaa", "caa", "random", "unsteered"]
    columns = ["target", "method", "variant", "scale"]
    pd.testing.assert_frame_equal(again.table[columns], table[columns])
    (tmp_path / "choices.json").write_text('{"unit": 1}')
    with pytest.raises(ValueError, match="holds no choices"):
        read_choices(tmp_path / "choices.json")


def test_the_cells_that_were_chosen_for_any_behaviour_are_run_again():
    choices = pd.DataFrame(
        [("love", "fgaa", "n1=2,n2=0"), ("love", "random", "draw=2")], columns=["target", "method", "variant"]
    )
    names = [*OWN, *SHARED]
    assert chosen_cells(names, choices) == [("love", "fgaa", "n1=2,n2=0"), ("shared", "random", "draw=2")]


def test_the_chosen_scales_alone_are_run_again():
    choices = pd.DataFrame(
        [("love", "fgaa", "n1=2,n2=0", 0.5), ("love", "random", "draw=2", 1.0)],
        columns=["target", "method", "variant", "scale"],
    )
    names = [*OWN, *SHARED]
    grid = pd.DataFrame(
        [(*n, s) for n in names for s in (0.5, 1.0)], columns=["behaviour", "method", "variant", "scale"]
    )
    kept = only_chosen(grid, choices).itertuples(index=False, name=None)
    assert list(kept) == [("love", "fgaa", "n1=2,n2=0", 0.5), ("shared", "random", "draw=2", 1.0)]


def test_choices_are_smoothed_over_neighbouring_scales():
    scores = pd.DataFrame(
        [
            ("love", "caa", v, s, b)
            for v, row in (("bos=0", (0.1, 0.9, 0.0)), ("bos=1", (0.6, 0.7, 0.6)))
            for s, b in zip((1.0, 2.0, 4.0), row)
        ],
        columns=["target", "method", "variant", "scale", "BCS"],
    )
    scores = scores.assign(n=6).sample(frac=1, random_state=0)
    found = smoothed(scores, 0.5)
    by_hand = {("bos=0", 1.0): (0.1 + 0.45) / 1.5, ("bos=0", 2.0): (0.9 + 0.05) / 2, ("bos=1", 4.0): (0.6 + 0.35) / 1.5}
    for (variant, scale), value in by_hand.items():
        row = scores[(scores.variant == variant) & (scores.scale == scale)].index[0]
        assert found[row] == pytest.approx(value)
    assert choose_cells(scores).iloc[0].variant == "bos=0"
    assert choose_cells(scores, smoothing=0.5).iloc[0].variant == "bos=1"
    assert "smooth" not in choose_cells(scores)


def test_samples_and_distinct_texts_are_counted():
    parts = {"validation": pd.DataFrame({"text": ["a", "a", "b"]}), "test": pd.DataFrame({"text": ["c"] * 1200})}
    assert counts_sentence(parts, "local") == (
        "3 validation samples (2 distinct texts), 1,200 test samples (1 distinct texts), scored by the judge `local`."
    )


def test_missing_scores_counts_what_a_judge_left_out():
    frame = scored(0, samples=1)
    assert missing_scores(frame.assign(**{f"B_{k}": 1.0 for k in KEYS}), KEYS) == 0
    own = frame.index[frame.behaviour == "love"][0]
    frame.loc[own, "B_love"] = np.nan
    frame.loc[own, "coherence"] = np.nan
    frame.loc[frame.behaviour == "anger", "B_love"] = np.nan
    assert missing_scores(frame, KEYS) == 2


def test_leaders_are_the_first_of_each_method_as_choices_rank_them():
    scores = cell_scores(scored(4), KEYS)
    leading = leading_cells(scores, 3, smoothing=0.5)
    sizes = scores.groupby(["target", "method"]).size().clip(upper=3)
    assert leading.groupby(["target", "method"]).size().equals(sizes)
    first = leading_cells(scores, 1, smoothing=0.5).sort_values(["target", "method"], ignore_index=True)
    pd.testing.assert_frame_equal(first, choose_cells(scores, smoothing=0.5))
    rest = scores.drop(leading.index).assign(smooth=smoothed(scores, 0.5))
    least = leading.assign(smooth=smoothed(scores, 0.5)).groupby(["target", "method"]).smooth.min()
    for (target, method), group in rest.groupby(["target", "method"]):
        assert (group.smooth <= least[target, method]).all()


def test_only_cells_with_the_most_samples_are_chosen():
    rows = [("fgaa", "n1=1,n2=0", 0.1, 0.9, 6), ("fgaa", "n1=1,n2=0", 0.2, 0.5, 12), ("caa", "", 0.1, 0.3, 6)]
    scores = pd.DataFrame(rows, columns=["method", "variant", "scale", "BCS", "n"]).assign(target="love")
    found = choose_cells(scores)
    assert found.scale.tolist() == [0.1, 0.2] and found.method.tolist() == ["caa", "fgaa"]


def test_the_counts_of_a_run():
    frame = scored(0, samples=1).assign(text="a")
    frame.loc[0, "coherence"] = np.nan
    found = samples_metrics({"validation": frame, "test": frame[:4]}, KEYS)
    assert found["samples"] == {"validation": len(frame), "test": 4}
    assert found["distinct_texts"] == {"validation": 1, "test": 1}
    assert found["missing_scores"] == missing_scores(frame, KEYS) + missing_scores(frame[:4], KEYS)


def test_first_samples_of_the_behaviours_asked_for(tmp_path):
    frame = pd.DataFrame({"behaviour": ["love", "love", "anger"], "sample": [0, 1, 0]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_parquet(tmp_path / "b.parquet")
    found = first_samples([tmp_path / "a.parquet", tmp_path / "b.parquet"], ["love"])
    assert found.behaviour.tolist() == ["love"] * 2 and found["sample"].tolist() == [0, 0]
