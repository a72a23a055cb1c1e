"""Windows of natural documents, and copies with graded damage of nine kinds: what coherence is fitted to and tested on."""

import re

import numpy as np
import pandas as pd
from numpy.random import Generator

from fgaa_utils.project import unknown

SEVERITIES = (0.1, 0.25, 0.5, 0.75, 1.0)  # share of a window's words that is damaged
WORDS = (12, 40)  # of a natural window; a sample of 33 tokens has about 25
LEFT_OUT = ("dialogue", "multilexsum")  # a source in lower case throughout, and one of legal boilerplate
FRENCH = "wiki_fr"  # the source of French
FRENCH_SHARE = 3  # its windows to one of every other source: French has features of its own
SCRIPTS = (
    (0x430, 0x44F),
    (0x3B1, 0x3C9),
    (0x5D0, 0x5EA),
    (0x627, 0x64A),
    (0x905, 0x939),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
)
FUNCTION_WORDS = frozenset(
    "a an the of to in on at for with from by and or but that which who is are was were be been has have had do does "
    "did will would can could not he she it they we you i his her its their my your this these as if than "
    "le la les un une des de du d au aux et ou mais que qui est sont était a ont dans sur pour avec par ne pas il elle "
    "ils elles on nous vous je son sa ses leur ce cette ces en se".split()
)


def cut_window(text: str, rng: Generator) -> str | None:
    """12 to 40 words of the text from the start of a sentence, mostly ending within one; None if it is too short."""
    words = text.split()
    ends = [i + 1 for i, word in enumerate(words) if re.search(r"[.!?…][\"'”»’)]*$", word)]
    starts = [start for start in (0, *ends) if len(words) - start >= WORDS[0]]
    if not starts:
        return None
    start = starts[rng.integers(len(starts))]
    return " ".join(words[start : start + rng.integers(WORDS[0], WORDS[1] + 1)])


def windows(documents: pd.DataFrame, count: int, rng: Generator) -> pd.DataFrame:
    """`count` distinct windows of natural text, columns source, document (its index) and text, in random order.

    Sources take turns, and so do the documents of each.

    Raises: ValueError if the documents are too few.
    """
    pools = documents[~documents.source.isin(LEFT_OUT)].groupby("source", observed=True).groups
    order = {source: rng.permutation(np.asarray(index)) for source, index in pools.items()}
    turns = [source for source in order for _ in range(FRENCH_SHARE if source == FRENCH else 1)]
    found: dict[str, tuple] = {}
    drawn = dict.fromkeys(order, 0)
    for turn in range(20 * count):
        if len(found) == count or not turns:
            break
        source = turns[turn % len(turns)]
        document = order[source][drawn[source] % len(order[source])]
        drawn[source] += 1
        if text := cut_window(documents.text[document], rng):
            found[text] = (source, document, text)
    if len(found) < count:
        raise ValueError(f"{count} windows asked for, the documents give {len(found)}; lower coherence_texts")
    rows = pd.DataFrame(found.values(), columns=["source", "document", "text"])
    return rows.iloc[rng.permutation(count)].reset_index(drop=True)


def _shuffle(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Move `count` words, at least two, to one another's places."""
    places = rng.choice(len(words), size=min(max(count, 2), len(words)), replace=False)
    moved = list(words)
    for place, other in zip(places, np.roll(places, 1)):
        moved[place] = words[other]
    return moved


def _replace(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Put words of the pool in `count` places."""
    single = [word for text in pool for word in text.split()]
    replaced = list(words)
    for place in rng.choice(len(words), size=count, replace=False):
        replaced[place] = single[rng.integers(len(single))]
    return replaced


def _repeat(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Overwrite `count` words in a row by repeating the one to four words before them (or the first ones)."""
    first = int(rng.integers(1, len(words) - count + 1)) if count < len(words) else 0
    length = int(rng.integers(1, 5))
    phrase = words[max(0, first - length) : first] or words[:length]
    return words[:first] + [phrase[i % len(phrase)] for i in range(count)] + words[first + count :]


def _grammar(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Delete or double a function word, or break agreement by a final s, at `count` words."""
    places = set(rng.choice(len(words), size=count, replace=False).tolist())
    damaged = []
    for place, word in enumerate(words):
        if place not in places:
            damaged.append(word)
        elif word.lower() in FUNCTION_WORDS:
            damaged += [word, word] if rng.random() < 0.5 else []
        else:
            core = re.match(r".*\w", word)
            stem, marks = (core[0], word[core.end() :]) if core else (word, "")
            damaged.append((stem[:-1] if stem.endswith("s") and len(stem) > 1 else stem + "s") + marks)
    return damaged


def _splice(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Overwrite `count` words by fragments of three to six words, each from another text of the pool."""
    blocks, start = [], 0
    while start < len(words):
        blocks.append((start, min(start + int(rng.integers(3, 7)), len(words))))
        start = blocks[-1][1]
    spliced = list(words)
    for number in rng.permutation(len(blocks)):
        start, end = blocks[number]
        size = min(end - start, count)
        donor = pool[rng.integers(len(pool))].split()
        at = rng.integers(max(1, len(donor) - size + 1))
        spliced[start : start + size] = donor[at : at + size]
        count -= size
    return spliced


def _glue(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Put two to six entries of the pool, run together, in `count` places."""
    glued = list(words)
    for place in rng.choice(len(words), size=count, replace=False):
        glued[place] = "".join(pool[i] for i in rng.integers(len(pool), size=rng.integers(2, 7)))
    return glued


def _script(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Put two to eight random letters of other scripts in `count` places."""
    foreign = list(words)
    for place in rng.choice(len(words), size=count, replace=False):
        first, last = SCRIPTS[rng.integers(len(SCRIPTS))]
        foreign[place] = "".join(map(chr, rng.integers(first, last + 1, size=rng.integers(2, 9))))
    return foreign


def _numbers(words: list[str], count: int, pool: list[str], rng: Generator) -> list[str]:
    """Overwrite `count` words in a row by numbers and marks between them."""
    first = int(rng.integers(len(words) - count + 1))
    numbers = [f"{rng.integers(10 ** rng.integers(1, 5))}{rng.choice(list(',.-/:;'))}" for _ in range(count)]
    return words[:first] + numbers + words[first + count :]


# Kinds of damage; `pieces` and `glue` take tokens of the reference model's vocabulary: what oversteering emits.
KINDS = {
    "shuffle": _shuffle,
    "replace": _replace,
    "pieces": _replace,
    "repeat": _repeat,
    "grammar": _grammar,
    "splice": _splice,
    "glue": _glue,
    "script": _script,
    "numbers": _numbers,
}
FROM_VOCABULARY = ("pieces", "glue")


def corrupt(text: str, kind: str, severity: float, pool: list[str], rng: Generator) -> str:
    """The text with a share `severity` of its words (at least one) damaged; 0 leaves it as it is.

    `pool`: other texts, from which words and fragments come.

    Raises: ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of damage", kind, list(KINDS))
    words = text.split()
    if severity == 0 or not words:
        return text
    return " ".join(KINDS[kind](words, max(1, round(severity * len(words))), pool, rng))


def damaged_windows(natural: pd.DataFrame, pieces: list[str], rng: Generator) -> pd.DataFrame:
    """One damaged copy of every window, with columns document, text, kind and severity.

    Words and fragments come from windows of the same language, so that a foreign word alone gives nothing away.
    """
    rows = []
    for number, window in enumerate(natural.itertuples()):
        kind = list(KINDS)[number % len(KINDS)]
        severity = SEVERITIES[number // len(KINDS) % len(SEVERITIES)]
        same_language = (natural.source == FRENCH) == (window.source == FRENCH)
        others = natural.text[same_language & (natural.document != window.document)].tolist()
        text = corrupt(window.text, kind, severity, pieces if kind in FROM_VOCABULARY else others, rng)
        rows.append((window.document, text, kind, severity))
    return pd.DataFrame(rows, columns=["document", "text", "kind", "severity"])
