import numpy as np
import pandas as pd
import pytest

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges import choose
from fgaa_utils.judges.choose import Judges, announce, check_kinds, judge_rows, open_judge
from fgaa_utils.judges.labels import rank_correlations

SERVER = {"concurrency": 2, "timeout": 1.0, "attempts": 1}
LOVE = Behaviour("love", "Love", "The text expresses love.", (), (), (), ())


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


@pytest.fixture
def asked(tmp_path) -> dict:
    """What open_judge is told besides kind, behaviours, model and device."""
    return {"fitted": tmp_path / "judge.safetensors", "reference": "r", "folder": tmp_path, "server": SERVER}


class Loaded(Lengths):
    """Stands in for a local judge that was fitted to love."""

    behaviours = ["love"]

    @classmethod
    def load(cls, path, *, reference, folder):
        judge = cls()
        judge.opened = path.name, reference, folder
        return judge


def test_the_local_judge_is_the_fitted_one_and_keeps_its_readings(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(choose, "LocalJudge", Loaded)
    judge = open_judge("local", [LOVE], model="", **asked)
    assert judge.opened == ("judge.safetensors", "r", tmp_path / "readings")


def test_a_behaviour_that_was_not_fitted_is_named(asked, monkeypatch):
    monkeypatch.setattr(choose, "LocalJudge", Loaded)
    ocean = Behaviour("ocean", "Ocean", "", (), (), (), ())
    with pytest.raises(ValueError, match=r"judge.safetensors was not fitted to ocean; run `dvc repro judge`"):
        open_judge("local", [LOVE, ocean], model="", **asked)


def test_a_judge_that_was_not_fitted_yet_is_missed(asked):
    with pytest.raises(FileNotFoundError, match=r"judge.safetensors is missing"):
        open_judge("local", [LOVE], model="", **asked)


def test_a_server_without_its_environment_is_refused(asked, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "FGAA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL is not set"):
        open_judge("openai", [], model="", **asked)


def test_hf_is_asked_for_its_model_on_the_device(asked, monkeypatch):
    monkeypatch.setattr(choose, "ModelJudge", lambda model, behaviours, *, device: (model, device))
    assert open_judge("hf", [], model="small", device="cuda:1", **asked) == ("small", "cuda:1")
    assert open_judge("hf", [], model="org/name", **asked) == ("org/name", "auto")


def test_the_judges_of_a_run_are_kept_and_opened_by_kind(monkeypatch, tmp_path):
    judges = Judges("local", ["hf"], "small", SERVER, "smollm2")
    judges.write(tmp_path / "judges.json")
    assert Judges.read(tmp_path / "judges.json") == judges
    monkeypatch.setattr(choose, "LocalJudge", Loaded)
    monkeypatch.setattr(choose, "ModelJudge", lambda model, behaviours, *, device: (model, device))
    place = {"fitted": tmp_path / "judge.safetensors", "folder": tmp_path, "device": "cpu"}
    opened = judges.open_judge("local", [LOVE], **place).opened
    assert opened == ("judge.safetensors", choose.MODEL / "smollm2", tmp_path / "readings")
    assert judges.open_judge("hf", [LOVE], **place) == ("small", "cpu")


def test_judges_that_do_not_exist_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown judge 'fh'; did you mean 'hf'"):
        Judges("local", ["fh"], "small", SERVER, "smollm2")
    (tmp_path / "judges.json").write_text('{"kind": 1}')
    with pytest.raises(ValueError, match=r"judges.json names no judges .*; run `dvc repro judge`"):
        Judges.read(tmp_path / "judges.json")


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


def test_only_a_judge_that_has_to_be_asked_is_announced(capsys, monkeypatch):
    announce(Lengths(), {"coherence": ["a"]})
    assert capsys.readouterr().out == ""

    class Asked(Lengths):
        def estimate(self, texts_by_criterion, *, timed):
            return {"requests": sum(map(len, texts_by_criterion.values()))}

    monkeypatch.setattr(choose, "ServerJudge", Asked)
    announce(Asked(), {"coherence": ["a", "b"], "love": ["a"]})
    assert capsys.readouterr().out == "to be asked: {'requests': 3}\n"
