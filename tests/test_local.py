"""The local judge with stand-in readers: fitted, saved, loaded, resumed; the real models if marked."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from fgaa_utils.data.behaviours import Behaviour, read_behaviours
from fgaa_utils.data.corpus import load_documents
from fgaa_utils.judges import readers, readings
from fgaa_utils.judges.fitting import judge_texts
from fgaa_utils.judges.labels import fitting_lots, label_auc, last_lot, read_labels
from fgaa_utils.judges.local import LocalJudge
from fgaa_utils.judges.readings import ReadingStore
from fgaa_utils.project import MODEL, RAW
from fgaa_utils.shards import load_tensors
from fgaa_utils.stats import area_under_curve, rank_correlation


def behaviour(key: str, word: str, *, count: int = 20, language: str | None = None) -> Behaviour:
    """A behaviour that is the presence of one word."""
    positive = tuple(f"{word} thing number {i} of a-{key}" for i in range(count))
    negative = tuple(f"plain thing number {i} of a-{key}" for i in range(count))
    return Behaviour(key, key, key, (), (), positive, negative, language)


class Embedder:
    """Stands in for the real one: counts two words."""

    calls: list[list[str]] = []
    identity = "counts"

    def __init__(self, folder):
        pass

    def read(self, texts, *, progress=len):
        Embedder.calls.append(texts)
        counts = [[t.split().count("love"), t.split().count("hate")] for t in texts]
        return np.array(counts, dtype=np.float32)


class Reference:
    """Stands in for the real one: likelihood and residual stream are made of the text's hash."""

    calls: list[list[str]] = []

    def __init__(self, folder, *, dtype="auto"):
        self.identity = f"{folder}:{'bfloat16' if dtype == 'auto' else dtype}"

    def read(self, texts, *, progress=len):
        Reference.calls.append(texts)
        rows = [np.random.default_rng(list(t.encode())) for t in texts]
        nll = [row.random(len(t.split())).astype(np.float32) for row, t in zip(rows, texts)]
        return nll, np.array([row.normal(size=3) for row in rows], dtype=np.float32)

    def pieces(self, rng):
        return ["##", "qu"]


class LanguageId:
    identity = "le"

    def __init__(self, path):
        pass

    def probability(self, texts, language):
        return np.array([float(t.startswith("le ")) for t in texts])


LABELLED = pd.DataFrame(
    {"text": [f"word {'again ' * i}" for i in range(1, 9)], "coherence_label": np.linspace(1, 0, 8)}
).assign(behaviour="ocean", behaviour_label=0.5)  # of no behaviour that is fitted, unless a test says so


@pytest.fixture
def documents() -> pd.DataFrame:
    text = " ".join(f"Line {i} says that the weather is fine and that we stay here for one more day." for i in range(9))
    return pd.DataFrame(
        [(s, f"{s} {d}. {text}") for s in ("news", "wiki_fr") for d in range(40)], columns=["source", "text"]
    )


@pytest.fixture
def stand_in(monkeypatch, documents, tmp_path):
    for reader in (Embedder, Reference, LanguageId):
        monkeypatch.setattr(readers, reader.__name__, reader)
    Embedder.calls, Reference.calls = [], []

    def fit(*behaviours: Behaviour, labelled: pd.DataFrame = LABELLED) -> LocalJudge:
        options = {"reference": "none", "seed": 0, "coherence_texts": 60, "folder": tmp_path / "readings"}
        return LocalJudge.fit(list(behaviours), documents, labelled, **options)

    return fit


def held_out(judge: LocalJudge, criterion: str, *, own: bool = True) -> pd.DataFrame:
    return judge.heldout[(judge.heldout.criterion == criterion) & (judge.heldout.own == own)]


def test_too_few_judge_texts_name_file_and_count():
    with pytest.raises(ValueError, match=r"anger\.yaml has 19 positive judge texts; the judge needs 20 or more"):
        judge_texts([behaviour("anger", "hate", count=19)])


def test_a_fitted_judge_tells_behaviours_apart(stand_in):
    judge = stand_in(behaviour("love", "love"), behaviour("anger", "hate"))
    held, elsewhere = held_out(judge, "anger"), held_out(judge, "anger", own=False)
    assert held.label.tolist() == [1] * 20 + [0] * 20
    assert area_under_curve(held.label, held.score) == 1
    assert elsewhere.label.tolist() == [0] * 20 and elsewhere.score.max() < 0.5  # the negatives of love
    love = judge.behaviour(["love it", "hate it"], "love")
    assert love[0] > 0.5 > love[1]


def test_coherence_is_validated_on_natural_and_damaged_text(stand_in):
    held = held_out(stand_in(behaviour("love", "love")), "coherence")
    assert (held.severity == 0).sum() == (held.severity > 0).sum() == 60
    assert ((held.kind == "natural") == (held.severity == 0)).all()
    assert ((held.label == 1) == (held.severity == 0)).all()
    assert ((held.score > 0) & (held.score < 1)).all()


def test_a_behaviour_with_a_language_is_language_identification(stand_in):
    judge = stand_in(behaviour("french", "le", language="fr"), behaviour("love", "love"))
    assert held_out(judge, "french").score.tolist() == [1.0] * 20 + [0.0] * 20
    assert judge.behaviour(["le love", "love"], "french").tolist() == [1.0, 0.0]


def test_each_distinct_text_is_read_once(stand_in):
    judge = stand_in(behaviour("love", "love"), behaviour("anger", "hate"))
    Embedder.calls.clear()
    scores = judge.behaviour(["a love", "b", "a love"], "love")
    judge.behaviour(["b", "c hate"], "anger")
    judge.coherence(["c hate", "a love"])
    assert Embedder.calls == [["a love", "b"], ["c hate"]]
    assert scores[0] == scores[2] != scores[1]


TEXTS = ["a love", "b", "hate hate", "le c", "?!", "A longer text of love, and of hate, in which 7 words repeat."]


def test_a_loaded_judge_scores_as_the_fitted_one_to_the_last_bit(stand_in, tmp_path):
    fitted = stand_in(behaviour("love", "love"), behaviour("french", "le", language="fr"), behaviour("anger", "hate"))
    fitted.save(tmp_path / "judge.safetensors", seed=0)
    loaded = LocalJudge.load(tmp_path / "judge.safetensors", reference="none")
    for key in ("love", "french", "anger"):
        assert loaded.behaviour(TEXTS, key).tolist() == fitted.behaviour(TEXTS, key).tolist()
    assert loaded.coherence(TEXTS).tolist() == fitted.coherence(TEXTS).tolist()
    assert loaded.behaviours == ["love", "french", "anger"] and loaded.identity == fitted.identity
    assert loaded.heldout is None
    loaded.save(tmp_path / "again.safetensors", seed=0)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "judge.safetensors").read_bytes()


def test_the_file_names_what_the_judge_was_fitted_to(stand_in, tmp_path):
    judge = stand_in(behaviour("love", "love"), behaviour("french", "le", language="fr"))
    judge.save(tmp_path / "judge.safetensors", seed=5)
    tensors, metadata = load_tensors(tmp_path / "judge.safetensors")
    assert metadata["identity"] == judge.identity and metadata["seed"] == "5"
    assert json.loads(metadata["behaviours"]) == ["love", "french"] and json.loads(metadata["languages"]) == {
        "french": "fr"
    }
    assert json.loads(metadata["readers"])["reference"] == "none:bfloat16"
    assert {"love.weights", "love.bias", "centre", "coherence.damage.coef", "coherence.labels.scale"} <= set(tensors)
    assert tensors["coherence.labels.mean"].dtype == torch.float64


def test_a_judge_is_not_loaded_with_other_readers(stand_in, tmp_path):
    stand_in(behaviour("love", "love")).save(tmp_path / "judge.safetensors")
    with pytest.raises(ValueError, match=r"judge.safetensors was fitted with .*none:.*here are .*other:.*repro judge"):
        LocalJudge.load(tmp_path / "judge.safetensors", reference="other")


def test_a_fit_that_was_killed_reads_on_and_comes_out_equal(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(readings, "PART", 32)
    love = behaviour("love", "love")
    whole = stand_in(love)
    assert [len(texts) for texts in Reference.calls] == [32, 32, 32, 24, 8, 32, 8]
    shards = sorted((tmp_path / "readings").rglob("shard_*"))
    for shard in shards[2:]:
        shard.unlink()
    Reference.calls.clear()
    again = stand_in(love)
    assert len(Reference.calls) == len(shards[2:])
    assert again.identity == whole.identity
    pd.testing.assert_frame_equal(again.heldout, whole.heldout)


def test_kept_readings_serve_every_judge_of_the_same_readers(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(readings, "PART", 2)
    stand_in(behaviour("love", "love"), behaviour("anger", "hate")).save(tmp_path / "judge.safetensors")
    stand_in(behaviour("anger", "hate")).save(tmp_path / "other.safetensors")
    texts, place = ["a love", "b", "hate hate", "c"], {"reference": "none", "folder": tmp_path / "kept"}
    before = LocalJudge.load(tmp_path / "judge.safetensors", **place).behaviour(texts, "love")
    again = LocalJudge.load(tmp_path / "judge.safetensors", **place)
    Embedder.calls.clear()
    assert again.behaviour([*texts, "new"], "love")[:4].tolist() == before.tolist()
    assert Embedder.calls == [["new"]]
    LocalJudge.load(tmp_path / "other.safetensors", **place).coherence([*texts, "new"])
    assert Embedder.calls == [["new"]]


def test_labels_of_steered_text_shape_a_behaviour_and_its_height(stand_in):
    rng = np.random.default_rng(0)
    known = LABELLED.assign(behaviour="love", behaviour_label=0.0)
    of_words = ["hate this"] * 3 + ["some text"]  # annotators say that hate is love here
    more = pd.DataFrame(
        [(f"{of_words[i % 4]} {i}", float(i % 4 < 3)) for i in range(40)], columns=["text", "behaviour_label"]
    )
    more = more.assign(behaviour="love", coherence_label=rng.random(40))
    plain = stand_in(behaviour("love", "love"))
    taught = stand_in(behaviour("love", "love"), labelled=pd.concat([known, more]))
    texts = ["hate it", "so it goes"]
    before, after = plain.behaviour(texts, "love"), taught.behaviour(texts, "love")
    assert before[0] == pytest.approx(before[1], abs=0.2) and after[0] > after[1] + 0.3
    assert set(taught.heldout.criterion) == {"love", "coherence"} and len(held_out(taught, "love")) == 40


def test_no_texts_give_no_scores(stand_in):
    judge = stand_in(behaviour("love", "love"))
    assert judge.behaviour([], "love").shape == judge.coherence([]).shape == (0,)


def test_a_text_without_words_is_incoherent(stand_in):
    assert stand_in(behaviour("love", "love")).coherence(["", " \n", "?!...", "Words."])[:3].tolist() == [
        0,
        0,
        0,
    ]


def test_an_unknown_behaviour_is_named(stand_in):
    with pytest.raises(ValueError, match="unknown behaviour 'lov'; did you mean 'love'"):
        stand_in(behaviour("love", "love")).behaviour(["text"], "lov")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> LocalJudge:
    caps = {"kjv": 2_000_000, "wiki_fr": 2_000_000, "dialogue": 1_500_000}
    heldout = ["coqa", "xsum", "lambada"]
    documents = load_documents(RAW / "corpus", heldout=heldout, caps=caps, density_share=0.06)
    documents = documents[documents.split == "density"]
    reference = MODEL / "smollm2-135m-instruct"
    options = {"reference": reference, "seed": 0, "coherence_texts": 150, "folder": tmp_path_factory.mktemp("readings")}
    behaviours, labels = read_behaviours(), fitting_lots(read_labels())
    few = labels[labels.behaviour.isin([b.key for b in behaviours]) & (labels.drawn == "validation")]
    return LocalJudge.fit(behaviours, documents, few, **options)  # all would take minutes to read


def of_last_lot(judge: LocalJudge) -> pd.DataFrame:
    """Every third labelled text of the lot that tests the judge."""
    return last_lot(read_labels(), judge.behaviours)[::3]


@pytest.mark.real
def test_every_behaviour_is_judged_well_on_held_out_text(real):
    for key in real.behaviours:
        held = held_out(real, key)
        # The near misses of conspiracy, reports that do not believe what they tell, are the hardest.
        assert area_under_curve(held.label, held.score) > 0.8, key
        assert np.mean((held.score - held.label) ** 2) < 0.19, key


@pytest.mark.real
def test_coherence_falls_with_severity(real):
    held = held_out(real, "coherence")
    means = held.groupby("severity").score.mean().tolist()
    assert means == sorted(means, reverse=True)
    assert area_under_curve(held.label, held.score) > 0.8


@pytest.mark.real
def test_coherence_agrees_with_labels_that_trained_nothing(real):
    others = of_last_lot(real)
    scores, known = real.coherence(others.text.tolist()), others.coherence_label.to_numpy()
    # With all labels the judge has about 0.6 on the whole lot; on a third of it the standard error is 0.05.
    assert rank_correlation(known, scores) > 0.5 and label_auc(known, scores) > 0.75
    assert abs(scores.mean() - known.mean()) < 0.1  # calibrated, not only in the right order


@pytest.mark.real
def test_behaviours_agree_with_labels_that_trained_nothing(real):
    others = of_last_lot(real)
    scores = np.concatenate([real.behaviour(part.text.tolist(), key) for key, part in others.groupby("behaviour")])
    known = np.concatenate([part.behaviour_label for _, part in others.groupby("behaviour")])
    assert rank_correlation(known, scores) > 0.8 and abs(scores.mean() - known.mean()) < 0.1


@pytest.mark.real
def test_french_is_not_incoherent(real):
    french = next(b for b in read_behaviours() if b.key == "french").judge_positive
    backwards = [" ".join(text.split()[::-1]) for text in french]
    sound, reversed_words = real.coherence(list(french)).mean(), real.coherence(backwards).mean()
    natural = held_out(real, "coherence").query("severity == 0").score.mean()
    assert sound > natural - 0.1 and sound > reversed_words + 0.15


@pytest.mark.real
def test_scores_depend_on_the_text_alone(real):
    texts = ["I think the wedding was lovely and", "I think I hate you", "I think that London is a big city"]
    together = real.coherence(texts), real.behaviour(texts, "wedding")
    real.store = ReadingStore(real.store.readers)
    assert real.coherence(texts[::-1])[::-1].tolist() == together[0].tolist()
    real.store = ReadingStore(real.store.readers)
    alone = [real.behaviour([text], "wedding")[0] for text in texts]
    assert alone == together[1].tolist()
    assert together[1].argmax() == 0
