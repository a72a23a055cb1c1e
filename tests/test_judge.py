"""The judge: folds, weights, calibration and errors with stand-in readers; the real models if marked."""

import numpy as np
import pandas as pd
import pytest

from fgaa_utils.data.behaviours import Behaviour, read_behaviours
from fgaa_utils.data.corpus import load_documents
from fgaa_utils.judges import local as module
from fgaa_utils.judges.labels import FIRST, label_auc, read_labels, spearman
from fgaa_utils.judges.local import FOLDS, LocalJudge, auc, class_weights, fit_calibrated, grouped_folds, judge_texts
from fgaa_utils.project import MODEL, RAW


def behaviour(key: str, word: str, *, count: int = 20, language: str | None = None) -> Behaviour:
    """A behaviour that is the presence of one word."""
    positive = tuple(f"{word} thing number {i} of a-{key}" for i in range(count))
    negative = tuple(f"plain thing number {i} of a-{key}" for i in range(count))
    return Behaviour(key, key, key, (), (), positive, negative, language)


class Embedder:
    """Stands in for the real one: counts two words."""

    calls: list[list[str]] = []

    def __init__(self, folder):
        pass

    def read(self, texts):
        Embedder.calls.append(texts)
        return np.array([[t.split().count("love"), t.split().count("hate")] for t in texts], dtype=float)


class Reference:
    """Stands in for the real one: likelihood and residual stream are made of the text's hash."""

    def __init__(self, folder):
        pass

    def read(self, texts):
        rows = [np.random.default_rng(list(t.encode())) for t in texts]
        return [row.random(len(t.split())) for row, t in zip(rows, texts)], np.array(
            [row.normal(size=3) for row in rows]
        )

    def pieces(self, rng):
        return ["##", "qu"]


class LanguageId:
    def __init__(self, path):
        pass

    def probability(self, texts, language):
        return np.array([float(t.startswith("le ")) for t in texts])


LABELLED = pd.DataFrame(
    {"text": [f"word {'again ' * i}" for i in range(1, 9)], "coherence_label": np.linspace(1, 0, 8)}
)


@pytest.fixture
def documents() -> pd.DataFrame:
    text = " ".join(f"Line {i} says that the weather is fine and that we stay here for one more day." for i in range(9))
    return pd.DataFrame(
        [(s, f"{s} {d}. {text}") for s in ("news", "wiki_fr") for d in range(40)], columns=["source", "text"]
    )


@pytest.fixture
def stand_in(monkeypatch, documents):
    for reader in (Embedder, Reference, LanguageId):
        monkeypatch.setattr(module, reader.__name__, reader)
    Embedder.calls = []

    def fit(*behaviours: Behaviour) -> LocalJudge:
        return LocalJudge.fit(list(behaviours), documents, LABELLED, reference="none", seed=0, coherence_texts=60)

    return fit


def test_a_pair_never_straddles_and_folds_are_even():
    groups = np.tile(np.arange(60), 18)
    for seed in range(10):
        folds = grouped_folds(groups, np.random.default_rng(seed))
        for group in range(60):
            assert len(set(folds[groups == group])) == 1
        assert np.bincount(folds).tolist() == [len(groups) // FOLDS] * FOLDS
    assert not np.array_equal(folds, grouped_folds(groups, np.random.default_rng(0)))


def test_too_few_groups_for_the_folds():
    with pytest.raises(ValueError, match="4 groups of texts cannot make 5 folds"):
        grouped_folds(np.array([0, 1, 2, 3, 3]), np.random.default_rng(0))


def test_weights_are_even_between_classes_and_between_near_and_far_negatives():
    labels = np.array([1] * 10 + [0] * 20 + [0] * 400)
    own = np.array([True] * 30 + [False] * 400)
    weights = class_weights(labels, own)
    assert weights[labels == 1].tolist() == [1.0] * 10
    assert weights[10:30].sum() == pytest.approx(5)
    assert weights[30:].sum() == pytest.approx(5)
    assert class_weights(labels[:30], own[:30])[10:].sum() == pytest.approx(10)  # no other behaviours


def test_held_out_scores_know_nothing_of_their_text():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 400))  # more dimensions than texts: training texts are told apart perfectly
    labels = np.tile([1, 0], 120)
    groups = np.arange(240) // 2
    features[1::2] = features[::2] + 0.01 * rng.normal(size=(120, 400))  # a pair across folds would be misled
    weights, bias, held_out = fit_calibrated(features, labels, np.full(240, True), groups, np.random.default_rng(0))
    assert auc(labels, features @ weights + bias) > 0.95
    assert 0.35 < auc(labels, held_out) < 0.65
    assert np.mean((held_out - labels) ** 2) < 0.27  # not confident in noise


def test_calibrated_scores_are_probabilities():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=4000)
    features = rng.normal(size=(4000, 3)) + np.outer(labels, [1.5, 0, 0])
    truth = 1 / (1 + np.exp(-(1.5 * features[:, 0] - 1.125)))  # Bayes at the prior 1/2
    weights, bias, held_out = fit_calibrated(features, labels, np.full(4000, True), np.arange(4000), rng)
    np.testing.assert_allclose(held_out, truth, atol=0.08)
    np.testing.assert_allclose(1 / (1 + np.exp(-(features @ weights + bias))), truth, atol=0.08)


def test_auc_by_counting_pairs():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert auc(labels, scores) == pytest.approx(np.mean(pairs))


def test_too_few_judge_texts_name_file_and_count():
    with pytest.raises(ValueError, match=r"anger\.yaml has 19 positive judge texts; the judge needs 20 or more"):
        judge_texts([behaviour("anger", "hate", count=19)])


def test_a_fitted_judge_tells_behaviours_apart(stand_in):
    judge = stand_in(behaviour("love", "love"), behaviour("anger", "hate"))
    held = judge.validation.behaviours["anger"]
    assert held.labels.tolist() == [1] * 20 + [0] * 20
    assert auc(held.labels, held.scores) == 1
    assert len(held.elsewhere) == 20 and held.elsewhere.max() < 0.5  # the negatives of love
    love = judge.behaviour(["love it", "hate it"], "love")
    assert love[0] > 0.5 > love[1]


def test_coherence_is_validated_on_natural_and_damaged_text(stand_in):
    held = stand_in(behaviour("love", "love")).validation.coherence
    assert (held.severity == 0).sum() == (held.severity > 0).sum() == 60
    assert ((held.kind == "natural") == (held.severity == 0)).all()
    assert ((held.scores > 0) & (held.scores < 1)).all()


def test_a_behaviour_with_a_language_is_language_identification(stand_in):
    judge = stand_in(behaviour("french", "le", language="fr"), behaviour("love", "love"))
    held = judge.validation.behaviours["french"]
    assert held.scores.tolist() == [1.0] * 20 + [0.0] * 20
    assert judge.behaviour(["le love", "love"], "french").tolist() == [1.0, 0.0]


def test_each_distinct_text_is_read_once(stand_in):
    judge = stand_in(behaviour("love", "love"), behaviour("anger", "hate"))
    Embedder.calls.clear()
    scores = judge.behaviour(["a love", "b", "a love"], "love")
    judge.behaviour(["b", "c hate"], "anger")
    judge.coherence(["c hate", "a love"])
    assert Embedder.calls == [["a love", "b"], ["c hate"]]
    assert scores[0] == scores[2] != scores[1]


def test_kept_scores_are_taken_up_by_an_equal_judge_alone(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    love, anger = behaviour("love", "love"), behaviour("anger", "hate")
    texts = ["a love", "b", "hate hate", "c"]
    before = stand_in(love, anger).keep(tmp_path).behaviour(texts, "love")
    Embedder.calls.clear()
    again = stand_in(love, anger).keep(tmp_path)
    Embedder.calls.clear()
    assert again.behaviour([*texts, "new"], "love")[:4].tolist() == before.tolist()
    assert Embedder.calls == [["new"]]
    other = stand_in(anger, love).keep(tmp_path)
    Embedder.calls.clear()
    other.coherence(texts)
    assert Embedder.calls == [texts[:2], texts[2:]]
    assert len(list(tmp_path.iterdir())) == 2


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
def real() -> LocalJudge:
    caps = {"kjv": 2_000_000, "wiki_fr": 2_000_000, "dialogue": 1_500_000}
    heldout = ["coqa", "xsum", "lambada"]
    documents = load_documents(RAW / "corpus", heldout=heldout, caps=caps, density_share=0.06)
    documents = documents[documents.split == "density"]
    reference = MODEL / "smollm2-135m-instruct"
    labels = read_labels()
    first = labels[labels.drawn == FIRST]
    return LocalJudge.fit(read_behaviours(), documents, first, reference=reference, seed=0, coherence_texts=200)


@pytest.mark.real
def test_every_behaviour_is_judged_well_on_held_out_text(real):
    for key, held in real.validation.behaviours.items():
        # The near misses of conspiracy, reports that do not believe what they tell, are the hardest.
        assert auc(held.labels, held.scores) > 0.8, key
        assert np.mean((held.scores - held.labels) ** 2) < 0.19, key


@pytest.mark.real
def test_coherence_falls_with_severity(real):
    held = real.validation.coherence
    means = [held.scores[held.severity == s].mean() for s in sorted(set(held.severity))]
    assert means == sorted(means, reverse=True)
    assert auc(held.severity == 0, held.scores) > 0.8


@pytest.mark.real
def test_coherence_agrees_with_labels_that_trained_nothing(real):
    labels = read_labels()
    others = labels[labels.drawn != FIRST]
    scores, known = real.coherence(others.text.tolist()), others.coherence_label.to_numpy()
    assert spearman(known, scores) > 0.55 and label_auc(known, scores) > 0.75
    assert abs(scores.mean() - known.mean()) < 0.1  # calibrated, not only in the right order


@pytest.mark.real
def test_french_is_not_incoherent(real):
    french = next(b for b in read_behaviours() if b.key == "french").judge_positive
    backwards = [" ".join(text.split()[::-1]) for text in french]
    sound, reversed_words = real.coherence(list(french)).mean(), real.coherence(backwards).mean()
    held = real.validation.coherence
    natural = held.scores[held.severity == 0].mean()
    assert sound > natural - 0.1 and sound > reversed_words + 0.15


@pytest.mark.real
def test_scores_depend_on_the_text_alone(real):
    texts = ["I think the wedding was lovely and", "I think I hate you", "I think that London is a big city"]
    together = real.coherence(texts), real.behaviour(texts, "wedding")
    real._scores.clear()
    assert real.coherence(texts[::-1])[::-1].tolist() == together[0].tolist()
    real._scores.clear()
    assert [real.behaviour([text], "wedding")[0] for text in texts] == together[1].tolist()
    assert together[1].argmax() == 0
