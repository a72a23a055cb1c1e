"""Cards of latents: the evidence for what a latent means, in place of labels (paper, tables A.1, B.1 and B.2)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from fgaa_utils.figures import escape_markdown
from fgaa_utils.method.features import LatentStats, promoted_tokens
from fgaa_utils.model.lm import LanguageModel

CARDS = 8  # highest filtered entries of a behaviour that are described


def contexts(
    stats: LatentStats, latent: int, rows: NDArray, lm: LanguageModel, *, before: int = 7, after: int = 3
) -> Iterator[dict[str, str | float]]:
    """The excerpts of background rows in which a latent fires most, highest first: text before, the token, text
    after, and the activation."""
    for value, row, pos in zip(stats.top_value[latent], stats.top_row[latent], stats.top_pos[latent]):
        tokens, pos = rows[int(row)], int(pos)
        parts = tokens[max(1, pos - before) : pos], tokens[pos : pos + 1], tokens[pos + 1 : pos + 1 + after]
        text = dict(zip(("before", "token", "after"), map(lm.tokenizer.decode, parts)))
        if value > 0:
            yield text | {"value": round(float(value), 2)}


def latent_cards(
    v_filtered: dict[str, Tensor],
    stats: LatentStats,
    rows: NDArray,
    lm: LanguageModel,
    W_dec: Tensor,
    *,
    promoted: int = 6,
) -> list[dict]:
    """One card for each latent among the CARDS highest of a behaviour, by number: its density, the tokens that its
    decoder row promotes, its contexts, and `wanted_by`, {behaviour: value} of the behaviours that it is so high
    for."""
    wanted: dict[int, dict[str, float]] = {}
    for key, v in v_filtered.items():
        values, latents = v.clamp(min=0).topk(CARDS)
        for value, latent in zip(values.tolist(), latents.tolist()):
            if value > 0:
                wanted.setdefault(latent, {})[key] = round(value, 3)
    latents = sorted(wanted)
    return [
        {
            "latent": latent,
            "density": round(float(stats.density[latent]), 6),
            "promotes": tokens,
            "contexts": list(contexts(stats, latent, rows, lm)),
            "wanted_by": wanted[latent],
        }
        for latent, tokens in zip(latents, promoted_tokens(lm, W_dec[latents], promoted))
    ]


def write_cards(path: Path, cards: list[dict]) -> None:
    """Write cards as JSON."""
    path.write_text(json.dumps(cards, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cards_table(cards: list[dict], behaviour: str, *, latents: int = 5, shown: int = 3) -> pd.DataFrame:
    """The highest latents of a behaviour, as Markdown cells: value, density, promoted tokens, contexts with the token
    marked."""
    own = sorted((c for c in cards if behaviour in c["wanted_by"]), key=lambda c: -c["wanted_by"][behaviour])[:latents]
    rows = [
        {
            "latent": card["latent"],
            "value": f"{card['wanted_by'][behaviour]:.1f}",
            "density": f"{card['density']:.4f}",
            "promotes": escape_markdown(", ".join(map(repr, card["promotes"]))),
            "contexts": "<br>".join(map(_marked, card["contexts"][:shown])),
        }
        for card in own
    ]
    return pd.DataFrame(rows, columns=["latent", "value", "density", "promotes", "contexts"]).set_index("latent")


def _marked(context: dict) -> str:
    before, token, after = (escape_markdown(context[part]) for part in ("before", "token", "after"))
    return f"{before}<b>[{token}]</b>{after}"
