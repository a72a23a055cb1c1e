"""Windows and graded damage; no language model."""

import numpy as np
import pandas as pd
import pytest

from fgaa_utils.judges.damage import (
    FRENCH,
    FROM_VOCABULARY,
    KINDS,
    SEVERITIES,
    WORDS,
    corrupt,
    cut_window,
    damaged_windows,
    windows,
)
from fgaa_utils.judges.surface import surface

TEXT = "We walked to the old mill by the river and she told me that her brother had sold it last spring."
OTHERS = [" ".join(f"x{i}_{j}" for j in range(15)) for i in range(6)]  # no word of TEXT


@pytest.fixture
def documents() -> pd.DataFrame:
    sentence = "Document {} says on line {} that the weather was fine and that nothing else happened there at all."
    rows = [
        (source, " ".join(sentence.format(f"{source}{d}", line) for line in range(8)))
        for source in ("news", "reviews", FRENCH, "dialogue")
        for d in range(12)
    ]
    return pd.DataFrame(rows, columns=["source", "text"])


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_leaves_the_text_as_it_is(kind):
    assert corrupt(TEXT, kind, 0.0, OTHERS, np.random.default_rng(0)) == TEXT


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", ["replace", "pieces", "splice", "script", "numbers"])
def test_exactly_the_share_is_replaced(kind, severity):
    before = TEXT.split()
    for seed in range(20):
        after = corrupt(TEXT, kind, severity, OTHERS, np.random.default_rng(seed)).split()
        assert len(after) == len(before)
        assert sum(a != b for a, b in zip(after, before)) == round(severity * len(before))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_exactly_the_share_is_moved(severity):
    before = [f"w{i}" for i in range(20)]
    for seed in range(20):
        after = corrupt(" ".join(before), "shuffle", severity, [], np.random.default_rng(seed)).split()
        assert sorted(after) == sorted(before)
        assert sum(a != b for a, b in zip(after, before)) == round(severity * 20)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_share_repeats_what_stands_before_it(severity):
    before = [f"w{i}" for i in range(20)]
    count = round(severity * 20)
    for seed in range(20):
        after = corrupt(" ".join(before), "repeat", severity, [], np.random.default_rng(seed)).split()
        assert len(after) == 20
        kept = 20 - count if severity < 1 else 0
        assert len(set(after)) == kept or (severity == 1 and len(set(after)) <= 4)
        assert all(word in before for word in after)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_grammar_damage_deletes_or_doubles_function_words_and_breaks_agreement_of_the_rest(severity):
    content = " ".join(["dogs", "run"] * 10)
    after = corrupt(content, "grammar", severity, [], np.random.default_rng(0)).split()
    assert sum(a != b for a, b in zip(after, content.split())) == round(severity * 20)
    assert set(after) <= {"dogs", "dog", "run", "runs"}
    function = " ".join(["the"] * 20)
    lengths = {len(corrupt(function, "grammar", severity, [], np.random.default_rng(s)).split()) for s in range(20)}
    assert min(lengths) < 20 < max(lengths)
    assert max(abs(length - 20) for length in lengths) <= round(severity * 20)


def test_a_mark_stays_behind_the_word_whose_agreement_breaks():
    assert corrupt("cats, dogs.", "grammar", 1.0, [], np.random.default_rng(0)) == "cat, dog."


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_seeded(kind):
    drawn = [corrupt(TEXT, kind, 0.5, OTHERS, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_glued_tokens_have_no_blanks_and_other_scripts_no_latin_letters():
    glued = corrupt(TEXT, "glue", 1.0, ["ab", "cd"], np.random.default_rng(0)).split()
    assert all(4 <= len(word) <= 12 and set(word) <= set("abcd") for word in glued)
    foreign = corrupt(TEXT, "script", 1.0, [], np.random.default_rng(0))
    assert surface(foreign)[7] > 0.6 and not set("etaoin") & set(foreign)
    assert surface(corrupt(TEXT, "numbers", 1.0, [], np.random.default_rng(0)))[6] > 0.4


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="unknown kind of damage 'shufle'; did you mean 'shuffle'"):
        corrupt(TEXT, "shufle", 0.5, OTHERS, np.random.default_rng(0))


def test_a_window_starts_a_sentence_and_has_12_to_40_words():
    text = " ".join(f"Start{i} " + "word " * 9 + 'end."' for i in range(10))
    found = [cut_window(text, np.random.default_rng(seed)).split() for seed in range(200)]
    assert all(window[0].startswith("Start") for window in found)
    assert {len(window) for window in found} <= set(range(WORDS[0], WORDS[1] + 1))
    assert len({window[0] for window in found}) > 5
    assert np.mean([window[-1] != 'end."' for window in found]) > 0.7
    assert cut_window("Too short a text.", np.random.default_rng(0)) is None


def test_windows_are_distinct_seeded_and_from_every_source_but_those_left_out(documents):
    found = windows(documents, 60, np.random.default_rng(0))
    assert found.text.is_unique
    assert found.source.value_counts().to_dict() == {FRENCH: 36, "news": 12, "reviews": 12}
    for row in found.itertuples():
        assert row.text in documents.text[row.document] and documents.source[row.document] == row.source
    assert found.equals(windows(documents, 60, np.random.default_rng(0)))
    assert not found.equals(windows(documents, 60, np.random.default_rng(1)))


def test_too_few_documents_are_named(documents):
    with pytest.raises(ValueError, match=r"60 windows asked for, the documents give \d+"):
        windows(
            documents.iloc[:1].assign(text="One sentence of just twelve words that gives a single window only."),
            60,
            np.random.default_rng(0),
        )


def test_damaged_windows_take_every_kind_at_every_severity_from_their_own_language(documents):
    natural = windows(documents, 45, np.random.default_rng(0))
    damaged = damaged_windows(natural, ["zz"], np.random.default_rng(0))
    assert damaged.groupby(["kind", "severity"]).size().eq(1).all() and damaged.shape[0] == 45
    assert damaged.groupby("kind").size().index.tolist() == sorted(KINDS)
    assert damaged.document.tolist() == natural.document.tolist()
    pieces = damaged[damaged.kind == "pieces"]
    assert [t.split().count("zz") for t in pieces.text] == [
        max(1, round(s * len(n.split()))) for s, n in zip(pieces.severity, natural.text[pieces.index])
    ]
    of_french = damaged.text[(natural.source == FRENCH) & ~damaged.kind.isin(FROM_VOCABULARY)]
    assert not of_french.str.contains("news|reviews").any()
