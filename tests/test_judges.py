import numpy as np
import pandas as pd
import pytest

from fgaa_utils.judges import choose as judges
from fgaa_utils.judges.choose import check_kinds, judge_rows, make_judge, rank_correlations

SERVER = {"concurrency": 2, "timeout": 1.0, "attempts": 1}


class Lengths:
    """A judge by arithmetic: B is the length of the text times that of the name, C the length."""

    def behaviour(self, texts, behaviour):
        return np.array([len(text) * len(behaviour) for text in texts], dtype=float)

    def coherence(self, texts):
        return np.array([len(text) for text in texts], dtype=float)


def test_an_unknown_judge_is_refused():
    check_kinds(["local", "hf", "openai"])
    with pytest.raises(ValueError, match="unknown judge 'opneai'; did you mean 'openai'"):
        check_kinds(["opneai"])


def test_the_local_judge_is_the_fitted_one(tmp_path):
    local = Lengths()
    assert make_judge("local", [], local, folder=tmp_path, model="", server=SERVER) is local


def test_a_server_without_its_environment_is_refused(tmp_path, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "FGAA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL is not set"):
        make_judge("openai", [], None, folder=tmp_path, model="", server=SERVER)


def test_hf_is_asked_for_its_model_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "ModelJudge", lambda model, behaviours, *, device: (model, device))
    asked = {"folder": tmp_path, "server": SERVER}
    assert make_judge("hf", [], None, model="small", device="cuda:1", **asked) == ("small", "cuda:1")
    assert make_judge("hf", [], None, model="org/name", **asked) == ("org/name", "auto")


def test_rows_are_judged_for_their_own_target_in_their_own_order():
    samples = pd.DataFrame({"target": ["love", "anger", "love"], "text": ["aa", "b", "cccc"]}, index=[7, 3, 5])
    found = judge_rows(samples, Lengths())
    assert found.index.tolist() == [7, 3, 5]
    assert found.B.tolist() == [8, 5, 16] and found.C.tolist() == [2, 1, 4]


def test_no_rows_give_no_scores_and_no_correlation():
    none = judge_rows(pd.DataFrame({"target": [], "text": []}), Lengths())
    assert none.empty and list(none) == ["B", "C"]
    table = rank_correlations({"local": none, "other": none}, "local")
    assert table.loc["other"].isna().tolist() == [True, True, False]


def test_rank_correlations_leave_out_what_a_judge_missed():
    base = pd.DataFrame({"B": [1.0, 2, 3, 4], "C": [1.0, 2, 3, 4]})
    other = pd.DataFrame({"B": [10.0, np.nan, 30, 40], "C": [4.0, 3, 2, 1]})
    table = rank_correlations({"local": base, "other": other}, "local")
    assert table.loc["other"].tolist() == [1.0, -1.0, 3]
