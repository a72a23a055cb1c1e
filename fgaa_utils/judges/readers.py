"""The frozen models through which the local judge reads texts: embedder, reference model, language identification.

All are of other families than the model that is steered, so that they do not share its errors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fasttext
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from fgaa_utils.digests import sha256
from fgaa_utils.judges.surface import coherence_features
from fgaa_utils.model.lm import resolve_dtype
from fgaa_utils.project import RAW, unknown
from fgaa_utils.shards import digest
from fgaa_utils.workers import Loader, Tick, silent

MAX_TOKENS = 256  # what lies beyond is not read; the embedder was trained on no more
EMBEDDER, LANGUAGE_ID = RAW / "minilm", RAW / "lid" / "lid.176.ftz"
LANES, STEP = 16, 8  # rows of one pass; padded lengths are multiples of STEP. Logits take as many rows as both at once


Progress = Tick  # told how many more texts were read


def fold(text: str) -> str:
    """The text with every run of white space made one blank: line breaks are not what is judged."""
    return " ".join(text.split())


def padded_batches(rows: list[list[int]], pad: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(numbers, ids, mask) of batches that cover all rows once; ids and mask are (LANES, width), padded right.

    The shape depends on a row's own length alone (the last batch of a width is filled up with copies), so that
    rounding, and with it every score, is the same whatever other texts are judged in the same call.
    """
    widths = [-(-len(row) // STEP) * STEP for row in rows]
    for width in sorted(set(widths)):
        members = [i for i, w in enumerate(widths) if w == width]
        for start in range(0, len(members), LANES):
            numbers = members[start : start + LANES]
            filled = [rows[i] for i in np.resize(numbers, LANES)]
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in filled])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in filled])
            yield numbers, ids, mask


def _check(path: Path, stage: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; run `dvc repro {stage}`")
    return path


def _identity(path: Path, pattern: str = "*.safetensors") -> str:
    """name:digest of the files of a folder."""
    return f"{path.name}:{digest([sha256(file) for file in sorted(path.glob(pattern))])}"


class Embedder:
    """A sentence embedder: the last layer averaged over the tokens, of length 1 (all-MiniLM-L6-v2, float32).

    Raises: FileNotFoundError if `folder` has no model.
    """

    def __init__(self, folder: Path):
        _check(folder / "model.safetensors", "fetch")
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.identity = _identity(folder)

    @torch.inference_mode()
    def read(self, texts: list[str], *, progress: Progress = silent) -> NDArray:
        """Embeddings (texts, 384), float32, each of length 1."""
        rows = self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        found = np.zeros((len(rows), self.model.config.hidden_size), dtype=np.float32)
        for numbers, ids, mask in padded_batches(rows, self.tokenizer.pad_token_id):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (batch, pos, 384)
            for lane, number in enumerate(numbers):
                mean = hidden[lane, : len(rows[number])].mean(dim=0)
                found[number] = (mean / mean.norm()).numpy()
            progress(len(numbers))
        return found


class Reference:
    """A causal language model that reads texts on the processor, in bfloat16 where that has it, unless told otherwise.

    Raises: FileNotFoundError if `folder` has no model.
    """

    def __init__(self, folder: Path, *, dtype: str = "auto"):
        _check(folder / "config.json", "model")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=resolve_dtype(dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.middle = self.model.config.num_hidden_layers // 2 + 1  # in hidden_states, after the embedding
        self.identity = f"{_identity(folder)}:{str(self.model.dtype).removeprefix('torch.')}"

    @torch.inference_mode()
    def read(self, texts: list[str], *, progress: Progress = silent) -> tuple[list[NDArray], NDArray]:
        """(nll, resid) of the texts, their white space folded.

        nll: negative log-likelihood of each token in nats, one array (tokens,) a text; the first token is read
        after BOS. resid: the residual stream of the middle layer averaged over the text's tokens, (texts, d_model).
        """
        start = self.tokenizer.bos_token_id
        encoded = self.tokenizer([fold(text) for text in texts], add_special_tokens=False)["input_ids"]
        rows = [[start, *ids[:MAX_TOKENS]] for ids in encoded]
        nll: list[NDArray] = [np.empty(0)] * len(rows)
        resid = np.zeros((len(rows), self.model.config.hidden_size), dtype=np.float32)
        for numbers, ids, mask in padded_batches(rows, start):
            out = self.model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            follow = ids.roll(-1, dims=1).flatten()  # the last of a row is never read
            states = out.last_hidden_state.flatten(0, 1)
            read = [
                F.cross_entropy(self.model.lm_head(part).float(), ids_part, reduction="none")
                for part, ids_part in zip(states.split(LANES * STEP), follow.split(LANES * STEP))
            ]
            by_lane = torch.cat(read).view_as(ids)
            for lane, number in enumerate(numbers):
                end = len(rows[number])
                nll[number] = by_lane[lane, : end - 1].numpy().copy()
                if end > 1:
                    resid[number] = out.hidden_states[self.middle][lane, 1:end].float().mean(dim=0).numpy()
            progress(len(numbers))
        return nll, resid

    def pieces(self, rng: np.random.Generator) -> list[str]:
        """2,000 random tokens of the vocabulary as text, those left out that are no text."""
        drawn = rng.choice(self.model.config.vocab_size, size=2000, replace=False)
        pieces = self.tokenizer.batch_decode(drawn[:, None].tolist(), skip_special_tokens=True)
        return [piece.strip() for piece in pieces if piece.strip() and "\ufffd" not in piece]


class LanguageId:
    """fastText's language identification (lid.176).

    Raises: FileNotFoundError if `path` is not there.
    """

    def __init__(self, path: Path):
        self.model = fasttext.load_model(str(_check(path, "fetch")))
        labels, _ = self.model.predict("", k=-1)
        self.languages = sorted(label.removeprefix("__label__") for label in labels)
        self.identity = _identity(path.parent, path.name)

    def probability(self, texts: list[str], language: str) -> NDArray:
        """Probability (texts,) that a text, its white space folded, is in `language`, a code such as 'fr'.

        Raises: ValueError for a language that the model does not know.
        """
        if language not in self.languages:
            raise unknown("language", language, self.languages)
        found = (zip(*self.model.predict(fold(text), k=-1)) for text in texts)
        return np.array([dict(pairs).get(f"__label__{language}", 0.0) for pairs in found])


class Readers(NamedTuple):
    """The three models through which the local judge reads."""

    embedder: Embedder
    reference: Reference
    language_id: LanguageId
    loader: Loader | None = None

    @classmethod
    def load(
        cls, reference: Path, *, embedder: Path = EMBEDDER, language_id: Path = LANGUAGE_ID, dtype: str = "auto"
    ) -> "Readers":
        """dtype: of the reference model. Raises: FileNotFoundError for a model that is not there."""
        places = {"reference": reference, "embedder": embedder, "language_id": language_id}
        same = places | {"dtype": str(resolve_dtype(dtype)).removeprefix("torch.")}
        models = Embedder(embedder), Reference(reference, dtype=dtype), LanguageId(language_id)
        return cls(*models, loader=(cls.load, same))

    @property
    def identity(self) -> dict[str, str]:
        """{"embedder", "reference", "language_id"}: name and digest of each, and the reference's dtype."""
        return {name: getattr(self, name).identity for name in ("embedder", "reference", "language_id")}

    def read(self, texts: list[str], *, progress: Progress = silent) -> tuple[NDArray, NDArray]:
        """(coherence features (texts, 13), resid (texts, d_model)) by the reference model."""
        nll, resid = self.reference.read(texts, progress=progress)
        return coherence_features(texts, nll, self.language_id.probability(texts, "fr")), resid
