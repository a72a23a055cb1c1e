"""Steered texts, each made once: kept by what shapes it, so that a change of one method makes no other's texts again."""

from pathlib import Path

import pandas as pd
from pyarrow import ArrowInvalid
from torch import Tensor

from fgaa_utils.model.generate import Rows, SamplingParams, batches_of, fill_batches, sampling_identity
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.shards import ShardStore, digest, save_frame


class TextStore:
    """Texts by key, in Parquet files of one batch each under folder/<what shapes all of them>/.

    A text depends on its own row alone (see model.generate), so it does not matter in which batch, or run, it was made.
    Raises: ValueError for a damaged file.
    """

    def __init__(self, folder: Path, identity: dict):
        self.folder = ShardStore(folder, identity, 0).folder
        self._texts: dict[str, str] = {}
        for path in sorted(self.folder.glob("shard_*.parquet")):
            try:
                part = pd.read_parquet(path)
            except (OSError, ArrowInvalid) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it and run its stage again") from error
            self._texts |= zip(part.key, part.text)

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def add(self, keys: list[str], texts: list[str], *, together: int) -> None:
        """Keep texts that were made in batches of `together` rows."""
        frame = pd.DataFrame({"key": keys, "text": texts, "together": together})
        save_frame(self.folder / f"shard_{digest(keys)}.parquet", frame)
        self._texts |= zip(keys, texts)


def row_keys(rows: Rows, starts: list[list[int]]) -> list[str]:
    """What names the text of each row: its prompt, the part of that which is shown, its vector, coefficient and seed."""
    vectors = [digest(vector) for vector in rows.vectors]
    parts = zip(rows.prompt.tolist(), starts, rows.vector.tolist(), rows.coeff.tolist(), rows.seed.tolist())
    return [digest([rows.prompts[p], start, vectors[v] if c else "", c, seed]) for p, start, v, c, seed in parts]


def kept_texts(
    lm: LanguageModel,
    rows: Rows,
    starts: list[list[int]],
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    *,
    progress: str,
) -> list[str]:
    """The text of every row: the tokens of its start and the sampled ones, those that are not kept yet made batch by batch.

    Resumable. Raises: as generate_batch.
    """
    store, keys = TextStore(folder, sampling_identity(lm, layer, sampling)), row_keys(rows, starts)
    first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in store}
    new = sorted(first.values())
    if not new:
        return [store[key] for key in keys]

    def keep(batch: list[int], made: dict[str, Tensor]) -> None:
        full = [starts[row] + tokens for row, tokens in zip(batch, made["tokens"].tolist(), strict=True)]
        texts = lm.tokenizer.batch_decode(full, skip_special_tokens=True)
        store.add([keys[row] for row in batch], texts, together=int(made["together"]))

    batches = [[new[i] for i in batch] for batch in batches_of(rows.only(new), sampling.batch)]
    fill_batches(lm, rows, batches, layer, sampling, keep, progress=progress)
    return [store[key] for key in keys]
