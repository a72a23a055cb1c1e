"""Tables and sentences of the data page: behaviours, sources, what is left of overlap, tokens."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fgaa_utils.data.behaviours import Behaviour


def behaviour_table(behaviours: list[Behaviour], tokenizer) -> pd.DataFrame:
    """Numbers of texts of each behaviour and their mean lengths in tokens, a row each."""

    def length(texts: tuple[str, ...]) -> float:
        return float(np.mean([len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]))

    rows = {
        b.name: {
            "positive": len(b.positive),
            "negative": len(b.negative),
            "tokens +": length(b.positive),
            "tokens -": length(b.negative),
            "judge +": len(b.judge_positive),
            "judge -": len(b.judge_negative),
        }
        for b in behaviours
    }
    counts = dict.fromkeys(("positive", "negative", "judge +", "judge -"), int)
    return pd.DataFrame.from_dict(rows, orient="index").astype(counts).rename_axis("behaviour")


def contrast_table(behaviour: Behaviour, *, first: int = 3, count: int = 4) -> pd.DataFrame:
    """`count` pairs of contrastive texts from number `first` on, columns positive and negative."""
    pairs = list(zip(behaviour.positive, behaviour.negative))
    return pd.DataFrame(pairs[first : first + count], columns=["positive", "negative"])


def source_table(documents: pd.DataFrame) -> pd.DataFrame:
    """Million characters of each source in each split, the largest in training first; sources that are left out are not
    listed."""
    sized = documents.assign(characters=documents.text.str.len())
    counts = sized.pivot_table(
        index="source", columns="split", values="characters", aggfunc="sum", observed=False, fill_value=0
    )
    counts = counts[counts.sum(axis=1) > 0] / 1e6
    return counts.sort_values("sae_train", ascending=False)


def overlap_table(documents: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Of each split: documents kept, how many were dropped, and the mean and largest share of a kept document's
    13-grams that stand in an earlier one."""
    overlap = kept.groupby("split", observed=True).overlap
    found = pd.DataFrame(
        {"documents": overlap.size(), "mean overlap": overlap.mean(), "largest overlap": overlap.max()}
    )
    found["dropped"] = documents.groupby("split", observed=True).size() - found.documents
    return found


def token_table(rows: dict[str, NDArray]) -> pd.DataFrame:
    """Rows and tokens without BOS of each split."""
    counts = {split: {"rows": len(r), "tokens without BOS": r.size - len(r)} for split, r in rows.items()}
    return pd.DataFrame.from_dict(counts, orient="index").rename_axis("split")


def data_metrics(behaviours: list[Behaviour], overlap: pd.DataFrame, rows: dict[str, NDArray]) -> dict:
    """The metrics of the data stage, of an overlap_table and the packed rows of each split."""
    return {
        "behaviours": len(behaviours),
        "documents": {split: int(n) for split, n in overlap.documents.items()},
        "tokens": {split: int(r.size - len(r)) for split, r in rows.items()},
        "overlap": {split: round(float(v), 5) for split, v in overlap["mean overlap"].items()},
        "overlap_max": {split: round(float(v), 5) for split, v in overlap["largest overlap"].items()},
    }


def verdict(behaviours: list[Behaviour], overlap: pd.DataFrame, rows: dict[str, NDArray]) -> str:
    """What the models are steered towards and measured on, in two sentences."""
    kept, dropped = overlap.documents.sum(), overlap.dropped.sum()
    tokens = sum(r.size - len(r) for r in rows.values())
    return (
        f"{len(behaviours)} behaviours, and {tokens:,} tokens of background text from {kept:,} documents of {kept + dropped:,}. "
        f"A document shares {overlap['mean overlap'].max():.3%} of its 13-grams with earlier ones on average, in the split "
        f"where it is most, and {overlap['largest overlap'].max():.1%} at most."
    )
