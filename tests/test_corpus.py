import bz2
import csv
import gzip
import io
import json
import random
import re
import sqlite3
import zipfile

import numpy as np
import pandas as pd
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fgaa_utils.data.corpus import (
    READERS,
    SPLITS,
    clean,
    deduplicate,
    load_documents,
    overlap_with_earlier,
    pack,
    pack_splits,
    read_source,
)

WORDS = [f"w{i}" for i in range(60)]


# What the file of each source looks like: text in, file content out.


def jsonl(key, wrap=False):
    def lines(texts):
        records = [{key: text, "other": "x"} for text in texts]
        return "".join(json.dumps({"doc": r} if wrap else r) + "\n" for r in records).encode()

    return lines


def squad(texts):
    return jsonl("query", wrap=True)([f"Title: T\nBackground: {text}\nQuestion: who?\nAnswer:" for text in texts])


def hellaswag(texts):
    docs = [{"query": t.split(" ", 1)[0], "choices": ["wrong", t.split(" ", 1)[1]], "gold": 1} for t in texts]
    return "".join(json.dumps({"doc": doc}) + "\n" for doc in docs).encode()


def table(texts):
    out = io.StringIO()
    csv.writer(out).writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
    return out.getvalue().encode()


def zipped(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("NewsArticles.csv", content)
    return out.getvalue()


def wiki(texts):
    return json.dumps({f"page {i}": {"extract": text} for i, text in enumerate(texts)}).encode()


def bible(texts):
    """One chapter a text, a verse for each half; written in reverse, to be read in order."""
    database = sqlite3.connect(":memory:")
    database.execute("create table Bible (BookID int, ChapterID int, VerseID int, Passage1 text)")
    for chapter, text in reversed(list(enumerate(texts, 1))):
        words = text.split(" ")
        halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
        for verse in (2, 1):
            row = (1, chapter, verse, f"{chapter}:{verse} {halves[verse - 1]}")
            database.execute("insert into Bible values (?, ?, ?, ?)", row)
    database.commit()
    return database.serialize()


def rated(texts):
    """Ten lines form a document; here the text and nine lines that say which document it is."""
    lines = [line for text in texts for line in (text, *[f"{text} again {i}" for i in range(9)])]
    return ("header\n" + "".join(f"{i}\t0.5\t{line}\n" for i, line in enumerate(lines))).encode()


def dialogue(texts):
    return "".join(f"{text}\n" + f"{text} indeed\n" * 39 for text in texts).encode()


FORMATS = {
    "coqa": jsonl("story"),
    "xsum": jsonl("document"),
    "lambada": jsonl("query", wrap=True),
    "news": lambda texts: zipped(table(texts)),
    "boolq": jsonl("passage"),
    "quac": jsonl("passage"),
    "multilexsum": jsonl("document"),
    "narrativeqa": jsonl("passage"),
    "wiki_en": wiki,
    "wiki_fr": wiki,
    "squad": squad,
    "drop": jsonl("passage", wrap=True),
    "hellaswag": hellaswag,
    "kjv": bible,
    "reviews": lambda texts: bz2.compress(table(texts)),
    "tweets": rated,
    "products": rated,
    "editorials": rated,
    "dialogue": dialogue,
}


def sentences(source, count, seed=0):
    """`count` distinct documents of a source, which no other source has."""
    rng = random.Random(f"{source} {seed}")
    return [f"{source} {i} " + " ".join(rng.choices(WORDS, k=20)) for i in range(count)]


def write_corpus(folder, texts):
    """All source files; `texts` by source, one document for the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, (file, _) in READERS.items():
        content = FORMATS[source](texts.get(source, sentences(source, 1)))
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    return folder


def words_of(text):
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a \t b\u00a0c ", "a b c"),
        ("a\n\n \n b\r\nc", "a\nb\nc"),
        ("Tom &amp; Jerry &quot;&lt;3&quot;", 'Tom & Jerry "<3"'),
        ("a<br />b <i>c</i>", "a b c"),
        ("bell\x07 and\x00null", "bell and null"),
        (" \n\t", ""),
        ("l'été, où?\n« Oui »", "l'été, où?\n« Oui »"),
    ],
)
def test_clean(raw, expected):
    assert clean(raw) == expected
    assert clean(expected) == expected


@pytest.mark.parametrize("source", READERS)
def test_every_format_is_read_in_file_order(source, tmp_path):
    texts = sentences(source, 12)
    write_corpus(tmp_path, {source: texts})
    found = read_source(source, tmp_path)
    assert [text.split("\n")[0] for text in found] == texts
    lines = {"tweets": 10, "products": 10, "editorials": 10, "dialogue": 40}.get(source, 1)
    assert [text.count("\n") + 1 for text in found] == [lines] * 12


def test_articles_with_lost_characters_are_left_out(tmp_path):
    good, bad, odd = sentences("news", 3)
    content = table([good, bad, f'{odd} "?s']).replace(b"news 1", b"news\xff1")
    (tmp_path / "news.zip").write_bytes(zipped(content))
    assert read_source("news", tmp_path) == [good]


def test_repeated_and_empty_documents_of_a_source_are_read_once_or_not(tmp_path):
    a, b = sentences("quac", 2)
    write_corpus(tmp_path, {"quac": [a, f" {a}\n", "  ", b, a]})
    assert read_source("quac", tmp_path) == [a, b]


def test_heldout_sources_are_held_out_whole(tmp_path):
    texts = {source: sentences(source, 30) for source in ("coqa", "quac", "drop")}
    documents = load_documents(write_corpus(tmp_path, texts), heldout=["coqa", "xsum"], caps={}, density_share=0.5)
    by_source = documents.groupby("source").split.agg(set)
    assert set(by_source.index) == set(READERS)
    assert by_source["coqa"] == by_source["xsum"] == {"heldout"}
    assert by_source["quac"] == by_source["drop"] == {"density", "sae_train"}
    assert not any("heldout" in by_source[source] for source in READERS if source not in ("coqa", "xsum"))
    assert documents.split.map(SPLITS.index).is_monotonic_increasing  # the order in which duplicates are kept


def test_the_split_of_a_document_does_not_depend_on_the_others(tmp_path):
    shared = sentences("quac", 150)
    few = write_corpus(tmp_path / "few", {"quac": shared[::2]})
    many = write_corpus(
        tmp_path / "many", {"quac": sentences("boolq", 40) + shared[::-1], "news": sentences("news", 9)}
    )
    one, other = (
        load_documents(folder, heldout=["coqa"], caps=caps, density_share=0.3).set_index("text").split.to_dict()
        for folder, caps in ((few, {}), (many, {"kjv": 0}))
    )
    assert {text: one[text] for text in shared[::2]} == {text: other[text] for text in shared[::2]}


def test_density_share_is_a_share_and_grows_by_adding(tmp_path):
    folder = write_corpus(tmp_path, {"quac": sentences("quac", 1000)})

    def density(share):
        documents = load_documents(folder, heldout=[], caps={}, density_share=share)
        return set(documents.text[documents.split == "density"])

    small, large = density(0.1), density(0.3)
    assert not density(0) and len(density(1)) == 1000 + len(READERS) - 1
    assert abs(len(small) / 1000 - 0.1) < 0.05 and abs(len(large) / 1000 - 0.3) < 0.07
    assert small < large


def test_caps_stop_a_source(tmp_path):
    folder = write_corpus(tmp_path, {source: sentences(source, 40) for source in ("kjv", "quac", "drop")})
    documents = load_documents(folder, heldout=["drop"], caps={"kjv": 500, "drop": 300, "quac": 0}, density_share=0.5)
    for source, cap in (("kjv", 500), ("drop", 300)):
        kept = documents.text[documents.source == source]
        ordered = [text for text in sentences(source, 40) if text in set(kept)]
        assert ordered == sentences(source, 40)[: len(kept)]  # the first ones
        total = sum(map(len, ordered))
        assert total - len(ordered[-1]) < cap <= total  # whole documents until the cap is reached
    assert "quac" not in set(documents.source)


@pytest.mark.parametrize("arguments", [{"heldout": ["coka"], "caps": {}}, {"heldout": [], "caps": {"coka": 5}}])
def test_unknown_sources_get_the_nearest_name(arguments, tmp_path):
    with pytest.raises(ValueError, match="unknown corpus source 'coka'; did you mean 'coqa'"):
        load_documents(tmp_path, density_share=0.5, **arguments)
    with pytest.raises(ValueError, match="'coqa'"):
        read_source("coka", tmp_path)


def shares_by_sets(texts):
    """The oracle: sets of 13-tuples of words."""
    earlier, shares = set(), []
    for text in texts:
        words = words_of(text)
        grams = {tuple(words[i : i + 13]) for i in range(len(words) - 12)} or {tuple(words)}
        shares.append(len(grams & earlier) / len(grams))
        earlier |= grams
    return shares


def test_overlap_is_that_of_sets_of_13_grams():
    rng = random.Random(0)
    passages = [" ".join(rng.choices(WORDS, k=rng.randint(10, 30))) for _ in range(12)]
    texts = [", ".join(rng.choices(passages, k=rng.randint(1, 4))) for _ in range(60)]
    texts += ["short one", "Short ONE!", "short two", texts[0].upper(), "w1 " * 40]
    expected = shares_by_sets(texts)
    assert {0.0, 1.0} < set(expected) and len(set(expected)) > 8  # the texts put the question
    np.testing.assert_allclose(overlap_with_earlier(texts), expected)


def test_deduplicate_drops_the_later_one():
    rng = random.Random(1)
    long = [" ".join(rng.choices(WORDS, k=100)) for _ in range(5)]
    quote = " ".join(long[0].split()[:16]) + " " + long[3]  # 4 of its 104 13-grams stand in the first text
    texts = [long[0], long[1], long[0].upper(), long[2], quote, " ".join(long[1].split()[:50])]
    splits = ["heldout", "heldout", "density", "density", "sae_train", "sae_train"]
    documents = pd.DataFrame({"split": splits, "text": texts}, index=[7, 3, 9, 1, 0, 5])
    kept = deduplicate(documents, max_overlap=0.05)
    assert kept.text.tolist() == [long[0], long[1], long[2], quote]
    assert kept.split.tolist() == ["heldout", "heldout", "density", "sae_train"]
    assert kept.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(kept.overlap, [0, 0, 0, 4 / 104])
    assert deduplicate(documents, max_overlap=0.03).text.tolist() == [long[0], long[1], long[2]]


@pytest.fixture(scope="module")
def tokenizer():
    """One token a word, and one for the blank line between texts."""
    names = ["<pad>", "<bos>", "<unk>", "\n\n", *WORDS]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"\n\n"), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>")


def make_texts(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]


def test_rows_are_bos_and_the_texts_in_a_new_order_without_padding(tokenizer):
    texts = make_texts(100)
    rows = pack(texts, tokenizer, context=16, rows=None, seed=0)
    assert rows.dtype == np.int32 and rows.shape[1] == 16
    assert set(rows[:, 0].tolist()) == {tokenizer.bos_token_id}
    body = rows[:, 1:].ravel().tolist()
    assert not {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} & set(body)
    total = sum(len(text.split()) + 1 for text in texts)
    assert len(body) == total // 15 * 15  # all but the remainder
    read = [piece.strip() for piece in " ".join(tokenizer.convert_ids_to_tokens(body)).split("\n\n")]
    *whole, cut = read
    assert len(whole) >= 98 and whole != texts[: len(whole)]
    left = list(texts)
    for text in whole:
        left.remove(text)  # each text once, untouched
    assert any(text.startswith(cut) for text in [*left, ""])


def test_packing_depends_on_the_seed_alone(tokenizer):
    texts = make_texts(100)
    first, again, other = (pack(texts, tokenizer, context=16, rows=20, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_limit_of_rows_only_cuts(tokenizer):
    texts = make_texts(2500)  # more than the tokenizer is given at once
    everything = pack(texts, tokenizer, context=16, rows=None, seed=0)
    for rows in (1, 30, 1200, len(everything)):
        assert np.array_equal(pack(texts, tokenizer, context=16, rows=rows, seed=0), everything[:rows])


def test_too_few_texts_are_refused_with_what_they_give(tokenizer):
    texts = make_texts(40)
    possible = len(pack(texts, tokenizer, context=16, rows=None, seed=0))
    with pytest.raises(ValueError, match=f"{possible + 1} rows of 16 tokens.*gives {possible}$"):
        pack(texts, tokenizer, context=16, rows=possible + 1, seed=0)


def test_every_split_is_packed_from_its_own_documents(tokenizer):
    texts = {split: make_texts(40, seed=i) for i, split in enumerate(SPLITS)}
    documents = pd.DataFrame([(split, text) for split, own in texts.items() for text in own], columns=["split", "text"])
    wanted = {"heldout": 3, "density": 5, "sae_train": 7}
    rows = pack_splits(documents, tokenizer, context=16, rows=wanted, seed=4)
    assert list(rows) == list(SPLITS)
    for split, own in texts.items():
        assert np.array_equal(rows[split], pack(own, tokenizer, context=16, rows=wanted[split], seed=4))
