"""Background text: cleaned, de-duplicated, split by document, tokenised and packed.

The paper measures densities and trains effects on open web text; here the text comes from data/raw/corpus/.
"""

import bz2
import csv
import gzip
import hashlib
import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fgaa_utils.project import unknown

NGRAM = 13  # words; the usual length for contamination checks
SPLITS = ("heldout", "density", "sae_train")  # in the order in which a repeated text is kept

csv.field_size_limit(2**24)


def _jsonl(key: str) -> Callable[[Path], Iterator[str]]:
    def read(path: Path) -> Iterator[str]:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                yield record.get("doc", record)[key]

    return read


def _hellaswag(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            doc = json.loads(line)["doc"]
            text = f"{doc['query']} {doc['choices'][doc['gold']]}"
            yield re.sub(r"\[(header|title|step|substeps)\]\s*", "", text)


def _news(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive, archive.open("NewsArticles.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", errors="replace")):
            if "\ufffd" not in row["text"] and '"?' not in row["text"]:  # articles with lost characters
                yield row["text"]


def _wiki(path: Path) -> Iterator[str]:
    for entry in json.loads(path.read_text(encoding="utf-8")).values():
        yield entry["extract"]


def _kjv(path: Path) -> Iterator[str]:
    """One document per chapter, without the verse numbers."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        query = "select BookID, ChapterID, Passage1 from Bible order by BookID, ChapterID, VerseID"
        rows = pd.read_sql(query, database)
    verses = rows.Passage1.str.replace(r"^\d+:\d+\s*", "", regex=True)
    yield from verses.groupby([rows.BookID, rows.ChapterID], sort=False).agg(" ".join)


def _reviews(path: Path) -> Iterator[str]:
    with bz2.open(path, "rt", encoding="utf-8", errors="replace") as file:
        yield from (row["text"] for row in csv.DictReader(file))


def _rated(path: Path) -> Iterator[str]:
    """Sentences in groups of ten lines: an editorial or a review goes on over several of them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    texts = [line.split("\t")[2] for line in lines if line.count("\t") == 2]
    for i in range(0, len(texts), 10):
        yield "\n".join(texts[i : i + 10])


def _dialogue(path: Path) -> Iterator[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for i in range(0, len(lines), 40):
        yield "\n".join(lines[i : i + 40])


# name: (file under data/raw/corpus/, reader)
READERS: dict[str, tuple[str, Callable[[Path], Iterator[str]]]] = {
    "coqa": ("coqa.jsonl.gz", _jsonl("story")),
    "xsum": ("xsum.jsonl", _jsonl("document")),
    "lambada": ("lambada.jsonl.gz", _jsonl("query")),
    "news": ("news.zip", _news),
    "boolq": ("boolq.jsonl", _jsonl("passage")),
    "quac": ("quac.jsonl", _jsonl("passage")),
    "multilexsum": ("multilexsum.jsonl", _jsonl("document")),
    "narrativeqa": ("narrativeqa.jsonl", _jsonl("passage")),
    "wiki_en": ("wiki_en.json", _wiki),
    "wiki_fr": ("wiki_fr.json", _wiki),
    "squad": (
        "squad.jsonl.gz",
        lambda p: (q.split("Background: ")[1].split("\nQuestion:")[0] for q in _jsonl("query")(p)),
    ),
    "drop": ("drop.jsonl.gz", _jsonl("passage")),
    "hellaswag": ("hellaswag.jsonl.gz", _hellaswag),
    "kjv": ("kjv.db", _kjv),
    "reviews": ("reviews.csv.bz2", _reviews),
    "tweets": ("tweets.txt", _rated),
    "products": ("products.txt", _rated),
    "editorials": ("editorials.txt", _rated),
    "dialogue": ("dialogue.txt", _dialogue),
}


def clean(text: str) -> str:
    """The text with white space folded (line breaks kept single), markup entities and control characters gone."""
    text = text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]|<[^<>]{1,60}>", " ", text)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def read_source(name: str, folder: Path, *, max_chars: int | None = None) -> list[str]:
    """The distinct cleaned documents of one source, in file order, until they hold `max_chars` characters.

    Raises: ValueError for an unknown source.
    """
    if name not in READERS:
        raise unknown("corpus source", name, list(READERS))
    file, reader = READERS[name]
    documents = dict.fromkeys(text for raw in reader(folder / file) if (text := clean(raw)))
    kept, chars = [], 0
    for text in documents:
        if max_chars is not None and chars >= max_chars:
            break
        kept.append(text)
        chars += len(text)
    return kept


def load_documents(folder: Path, *, heldout: list[str], caps: dict[str, int], density_share: float) -> pd.DataFrame:
    """All documents with columns source, split, text.

    `heldout` sources form the held-out split; of every other source the documents whose hash falls under
    `density_share` form the density split and the rest trains the SAE, so the split of a document never
    depends on what else is loaded. `caps` ends sources at the document that reaches so many characters; 0 leaves one out.
    """
    for name in (*heldout, *caps):
        if name not in READERS:
            raise unknown("corpus source", name, list(READERS))
    rows = []
    for name in READERS:
        for text in read_source(name, folder, max_chars=caps.get(name)):
            point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
            split = "heldout" if name in heldout else "density" if point < density_share else "sae_train"
            rows.append((name, split, text))
    documents = pd.DataFrame(rows, columns=["source", "split", "text"])
    documents["split"] = pd.Categorical(documents.split, categories=SPLITS, ordered=True)
    return documents.sort_values("split", kind="stable").reset_index(drop=True)


def ngram_hashes(text: str) -> np.ndarray:
    """64-bit hashes of the 13-word windows of a text, letters and digits only; shape (windows,), uint64."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < NGRAM:
        words = words + [""] * (NGRAM - len(words))  # a short text is one window
    ids = pd.util.hash_array(np.array(words, dtype=object))
    windows = np.lib.stride_tricks.sliding_window_view(ids, NGRAM)
    weights = np.cumprod(np.full(NGRAM, 6364136223846793005, dtype=np.uint64), dtype=np.uint64)
    return (windows * weights).sum(axis=1, dtype=np.uint64)


def overlap_with_earlier(texts: list[str]) -> np.ndarray:
    """Share of each text's 13-grams that an earlier text of the list has; shape (texts,), 0..1."""
    grams = [np.unique(ngram_hashes(text)) for text in texts]
    lengths = np.array([len(g) for g in grams])
    owner = np.repeat(np.arange(len(texts)), lengths)
    flat = np.concatenate(grams)
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    repeated = owner[first][inverse] < owner
    return np.bincount(owner, weights=repeated, minlength=len(texts)) / lengths


def deduplicate(documents: pd.DataFrame, *, max_overlap: float) -> pd.DataFrame:
    """The documents of which at most `max_overlap` of the 13-grams stand in an earlier one.

    The order held-out, density, SAE training makes the larger split give way. The column `overlap` holds
    what is left.
    """
    overlap = overlap_with_earlier(documents.text.tolist())
    return documents.assign(overlap=overlap)[overlap <= max_overlap].reset_index(drop=True)


def pack(texts: list[str], tokenizer, *, context: int, rows: int | None, seed: int) -> np.ndarray:
    """Token rows of the texts, each a BOS and then `context` - 1 tokens; shape (rows, context), int32.

    Texts are shuffled with the seed, joined by a blank line and cut; no padding. `rows` limits the result.

    Raises: ValueError if the texts are too few for `rows`.
    """
    order = np.random.default_rng(seed).permutation(len(texts))
    width = context - 1
    needed = None if rows is None else rows * width
    separator = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    tokens: list[int] = []
    for i in range(0, len(order), 1000):
        batch = [texts[j] for j in order[i : i + 1000]]
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            tokens += ids + separator
        if needed is not None and len(tokens) >= needed:
            break
    count = len(tokens) // width if rows is None else rows
    if count * width > len(tokens):
        raise ValueError(f"{rows} rows of {context} tokens asked for, the text gives {len(tokens) // width}")
    body = np.array(tokens[: count * width], dtype=np.int32).reshape(count, width)
    bos = np.full((count, 1), tokenizer.bos_token_id, dtype=np.int32)
    return np.concatenate([bos, body], axis=1)


def pack_splits(
    documents: pd.DataFrame, tokenizer, *, context: int, rows: dict[str, int], seed: int
) -> dict[str, np.ndarray]:
    """The packed rows of every split (see pack), `rows` of each. Raises: ValueError if the texts are too few."""
    return {
        split: pack(
            documents[documents.split == split].text.tolist(), tokenizer, context=context, rows=rows[split], seed=seed
        )
        for split in SPLITS
    }
