"""What of a text's surface, and of its likelihood, tells whether it is coherent."""

import re
import zlib
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

LATIN = 0x17F  # the last code point of Latin Extended-A


def surface(text: str) -> NDArray:
    """(8,): share of distinct words, share of distinct word pairs, log of the longest run of a repeated word or
    mark, zlib compression ratio, share of characters that are neither letter, digit nor blank, log word count, share
    of digits, share of letters beyond the Latin ones of English and French."""
    text = " ".join(text.split())
    units = re.findall(r"\w+|[^\w\s]", text.lower())  # words and single marks
    words = re.findall(r"\w+", text.lower())
    pairs = list(pairwise(words))
    data = text.encode()
    return np.array(
        [
            len(set(words)) / max(1, len(words)),
            len(set(pairs)) / len(pairs) if pairs else 1.0,
            np.log(max(1, longest_run(units))),
            len(zlib.compress(data)) / max(1, len(data)),
            sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text)),
            np.log(max(1, len(words))),
            sum(c.isdigit() for c in text) / max(1, len(text)),
            sum(c.isalpha() and ord(c) > LATIN for c in text) / max(1, len(text)),
        ]
    )


def longest_run(units: list[str]) -> int:
    """Length of the longest run of one repeated unit; 0 for no units."""
    return max((len(list(run)) for _, run in groupby(units)), default=0)


def coherence_features(texts: list[str], nll: list[NDArray], french: NDArray) -> NDArray:
    """(texts, 13) from the texts, the NLL of their tokens and their probability of French (texts,).

    Mean and 90th percentile of the NLL, both times the probability of French, that probability, the surface:
    the reference model reads French worse, and French must not count as damage.
    """
    of_nll = np.array([[row.mean(), np.quantile(row, 0.9)] if len(row) else [0.0, 0.0] for row in nll])
    share = french[:, None]
    return np.hstack([of_nll, of_nll * share, share, np.stack([surface(text) for text in texts])])
