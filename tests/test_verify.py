"""A run against the committed one: what counts as reproduced, on made-up metrics and on the committed ones."""

import copy
import json
import subprocess

import pytest

from fgaa_utils.pipeline import verify
from fgaa_utils.pipeline.verify import Row, compare, decision, headlines, leaves, table


def entry(value: float, lo: float, hi: float, **more) -> dict:
    return {"value": value, "lo": lo, "hi": hi, **more}


RUN = {
    "sae": {"explained_variance": 0.95, "l0": 41.2, "model": "m:1"},
    "evaluation": {
        "bcs": {
            "caa": {"love": entry(0.4, 0.2, 0.6), "average": entry(0.3, 0.2, 0.4)},
            "fgaa": {"average": entry(0.5, 0.4, 0.6)},
        },
        "paired": {"caa": entry(0.2, 0.1, 0.3, p=0.01)},
        "claims": {"FGAA is best: alone": "holds"},
        "choices": {"caa": {"love": {"scale": 0.5}}},
    },
    "judge": {"judge_on_steered": {"behaviour": {"spearman": entry(0.87, 0.85, 0.89), "annotators": 0.97}}},
}


def changed(path: list[str], value) -> dict:
    run = copy.deepcopy(RUN)
    place = run
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return run


def test_leaves_keep_an_estimate_together():
    found = dict(leaves(RUN["evaluation"]))
    assert found["bcs", "caa", "average"] == entry(0.3, 0.2, 0.4) and found["choices", "caa", "love", "scale"] == 0.5


def test_a_run_is_itself():
    rows = compare(RUN, RUN)
    assert all(row.equal and row.kept for row in rows)
    assert verify.verdict(rows, headlines(rows), []) == "Reproduced: every value is equal."


@pytest.mark.parametrize(
    "path, value, kept",
    [
        (["evaluation", "bcs", "caa", "average"], entry(0.39, 0.3, 0.5), True),
        (["evaluation", "bcs", "caa", "average"], entry(0.41, 0.3, 0.5), False),
        (["evaluation", "paired", "caa"], entry(0.15, 0.01, 0.3, p=0.2), False),  # inside, but another decision
        (["evaluation", "claims", "FGAA is best: alone"], "undecided", False),
        (["sae", "explained_variance"], 0.951, True),
        (["sae", "explained_variance"], 0.9, False),
        (["judge", "judge_on_steered", "behaviour", "spearman"], entry(0.86, 0.8, 0.9), True),
    ],
)
def test_what_is_promised_of_another_processor(path, value, kept):
    rows = compare(RUN, changed(path, value))
    chosen = headlines(rows)
    assert not all(row.equal for row in chosen)
    assert all(row.kept for row in chosen) == kept
    assert verify.verdict(rows, chosen, []).startswith("Reproduced: " if kept else "NOT reproduced: ")


def test_what_decides_is_shown_with_both_runs_and_the_difference():
    rows = headlines(compare(RUN, changed(["evaluation", "bcs", "caa", "average"], entry(0.41, 0.3, 0.5))))
    shown = table(rows)
    assert (
        "BCS of CAA" in shown
        and "0.300 [0.200, 0.400]" in shown
        and "+0.1100 NOT AS PROMISED" in " ".join(shown.split())
    )
    assert "FGAA against CAA" in shown and "claim: FGAA is best" in shown and "judge behaviour" in shown
    assert "love" not in shown and "choices" not in shown


def test_what_your_run_lacks_is_no_reproduction():
    run = copy.deepcopy(RUN)
    del run["evaluation"]["bcs"]["fgaa"]
    rows = compare(RUN, run)
    assert verify.verdict(rows, headlines(rows), []).startswith("NOT reproduced: BCS of FGAA (")
    assert "missing" in table(headlines(rows))


def test_a_partial_run_is_compared_as_far_as_it_went():
    yours = {"sae": RUN["sae"]}
    rows = compare(RUN, yours)
    said = verify.verdict(rows, headlines(rows), ["evaluation", "judge"])
    assert said == "Reproduced: every value is equal; not run: evaluation, judge."
    assert verify.verdict([], [], ["sae"]) == "Nothing to compare: no stage that decides was run; not run: sae."


def test_a_difference_is_decided_by_its_corrected_p():
    assert decision(entry(0.2, 0.1, 0.3, p=0.04)) == "above" and decision(entry(-0.2, -0.3, -0.1, p=0.01)) == "below"
    assert decision(entry(0.2, 0.1, 0.3, p=0.05)) == "undecided" and decision(entry(0.2, 0.1, 0.3)) is None


def test_the_committed_run_is_read_from_the_last_commit(tmp_path, monkeypatch, capsys):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words], cwd=tmp_path, check=True)

    folder = tmp_path / "reports" / "metrics"
    folder.mkdir(parents=True)
    for stage, found in RUN.items():
        (folder / f"{stage}.json").write_text(json.dumps(found))
    made = {"judge": {"seconds": 1, "processor": "AMD EPYC, AVX2"}}
    (tmp_path / "reports" / "resources.json").write_text(json.dumps(made))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    worse = changed(["evaluation", "bcs", "caa", "average"], entry(0.1, 0.0, 0.2))
    (folder / "evaluation.json").write_text(json.dumps(worse["evaluation"]))
    for notebook in ("04_evaluation", "judge"):  # the SAE was not trained here
        (tmp_path / "reports" / f"{notebook}.ipynb").write_text("{}")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["verify"])
    with pytest.raises(SystemExit) as stopped:
        verify.main()
    assert stopped.value.code is True
    said = capsys.readouterr().out
    assert "made on AMD EPYC, AVX2" in said and "NOT reproduced: BCS of CAA (" in said and "not run: sae" in said


def test_a_quick_run_is_recorded_and_compared_with_the_record(tmp_path, monkeypatch, capsys):
    here = tmp_path / ".settings" / "quick" / "reports"
    (here / "metrics").mkdir(parents=True)
    for stage, found in RUN.items():
        (here / "metrics" / f"{stage}.json").write_text(json.dumps(found))
        (here / f"{verify.STAGES[stage]}.ipynb").write_text("{}")
    (here / "resources.json").write_text("{}")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setattr(verify, "WORKSPACES", tmp_path / ".settings")
    monkeypatch.setattr("sys.argv", ["verify", "quick", "--record"])
    (tmp_path / "tests" / "quick" / "metrics").mkdir(parents=True)
    (tmp_path / "tests" / "quick" / "metrics" / "of_a_stage_that_was.json").write_text("{}")
    verify.main()
    assert "tests/quick has the numbers of this run" in capsys.readouterr().out
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "tests/quick/metrics").iterdir()}
    assert kept == RUN
    monkeypatch.setattr(
        verify, "git_show", lambda path: (tmp_path / path).read_text() if (tmp_path / path).exists() else ""
    )
    monkeypatch.setattr("sys.argv", ["verify", "quick"])
    with pytest.raises(SystemExit) as stopped:
        verify.main()
    assert stopped.value.code is False and "Reproduced: every one of " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["verify", "--record"])
    with pytest.raises(SystemExit, match="--record is for quick"):
        verify.main()


def test_without_a_repository_or_a_report_it_says_so(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setattr(verify, "WORKSPACES", tmp_path / ".settings")
    monkeypatch.setattr("sys.argv", ["verify"])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit, match="verify needs a clone of the repository"):
        verify.main()
    monkeypatch.setattr("sys.argv", ["verify", "unseen"])
    with pytest.raises(SystemExit, match=r"run `make repro SETTING=unseen` first"):
        verify.main()


def test_a_clone_that_ran_nothing_has_nothing_to_compare(tmp_path):
    assert verify.read_run(tmp_path) == {}


def test_a_committed_number_that_changes_is_found():
    committed = verify.committed_run("reports/metrics")
    yours = copy.deepcopy(committed)
    yours["evaluation"]["bcs"]["caa"]["average"]["value"] += 1
    off = [row for row in headlines(compare(committed, yours)) if not row.kept]
    assert [row.key for row in off] == [("evaluation", "bcs", "caa", "average")] and isinstance(off[0], Row)


def test_a_small_run_is_equal_on_the_processor_of_its_record_and_promises_nothing_on_another():
    same, other = verify.Row(("sae", "l0"), 1.0, 1.0, True), verify.Row(("sae", "l0"), 1.0, 1.001, True)
    assert verify.of_record([same], [], alike=True) == ("Reproduced: every one of 1 values is equal.", False)
    said, failed = verify.of_record([same, other], [], alike=True)
    assert failed and "1 of 2 values are equal" in said and "1.001" in said and "--record" in said
    assert verify.of_record([same], ["judge"], alike=True) == ("NOT reproduced: judge did not run.", True)
    assert not verify.of_record([other], ["judge"], alike=False)[1]
