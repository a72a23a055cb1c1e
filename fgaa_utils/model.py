"""The language model: made once from the fetched GGUF, loaded with nnsight around it.

`load_model` is the one way in; it checks the layer before anything heavy starts.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from fgaa_utils.fetch import sha256
from fgaa_utils.project import MODEL, RAW, load_params, need_space, unknown
from fgaa_utils.shards import digest

disable_progress_bar()  # loading takes seconds; the stages have bars of their own
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of `auto`, `float32` or `bfloat16`.

    `auto` is bfloat16 where the processor multiplies it in hardware, else float32.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


@dataclass
class LanguageModel:
    """A causal LM with its tokenizer and nnsight's view of both.

    `identity` names weights and dtype; whatever is computed with the model carries it.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    nn: TransformersModel
    identity: str

    @property
    def d_model(self) -> int:
        return self.hf.config.hidden_size

    @property
    def n_layers(self) -> int:
        return self.hf.config.num_hidden_layers

    @property
    def context(self) -> int:
        return self.hf.config.max_position_embeddings

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    def block(self, layer: int):
        """nnsight's envoy of block `layer` (0-based); its output is the residual stream (batch, pos, d_model).

        Raises: ValueError if there is no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer {layer} is out of range: the model has blocks 0..{self.n_layers - 1}")
        return self.nn.model.layers[layer]

    def encode(self, texts: list[str], *, bos: bool = True, max_tokens: int | None = None) -> list[list[int]]:
        """Token ids of each text, with BOS in front unless `bos` is false.

        Raises: ValueError for a text longer than `max_tokens` (default: the model's context).
        """
        limit = max_tokens or self.context
        start = [self.tokenizer.bos_token_id] if bos else []
        ids = [start + row for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
        for text, row in zip(texts, ids, strict=True):
            if len(row) > limit:
                raise ValueError(f"text of {len(row)} tokens is longer than {limit}: {text[:60]!r}...; shorten it")
        return ids

    def decode(self, ids: torch.Tensor) -> list[str]:
        """Texts of token rows (batch, pos), special tokens left out."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


def wrap(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identity: str) -> LanguageModel:
    """The LanguageModel of a loaded transformers model: evaluation mode, no end of text while generating."""
    hf.eval()
    hf.generation_config.eos_token_id = None  # rows never stop early: every rollout has the same length
    return LanguageModel(hf, tokenizer, TransformersModel(hf, tokenizer=tokenizer, task="text-generation"), identity)


def load_model(path: str | Path, *, layer: int, dtype: str = "auto") -> LanguageModel:
    """The model saved at `path` (relative to data/model/ or absolute), ready to be traced at `layer`.

    Raises: FileNotFoundError if it is not there; ValueError if it has no such layer.
    """
    folder = MODEL / path
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no model at {folder}; run `dvc repro model`, or give the path of a saved model")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=resolve_dtype(dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    record = folder / "source.json"
    weights = json.loads(record.read_text())["weights_sha256"] if record.exists() else digest(str(folder.resolve()))
    lm = wrap(hf, tokenizer, f"{Path(path).name}:{weights[:16]}:{str(hf.dtype).removeprefix('torch.')}")
    check_block(lm, layer)
    return lm


def check_block(lm: LanguageModel, layer: int) -> None:
    """Run one token through the model and look at what block `layer` gives.

    Raises: ValueError if that is not a tensor of width d_model, or if there is no such layer.
    """
    block = lm.block(layer)
    ids = torch.tensor([[lm.tokenizer.bos_token_id]])
    with torch.no_grad(), lm.nn.trace() as tracer:
        with tracer.invoke({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            output = block.output.save()
            tracer.stop()
    if not isinstance(output, torch.Tensor) or output.shape[-1] != lm.d_model:
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"block {layer} of {lm.identity} gives {found}, expected (batch, pos, {lm.d_model})")


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as safetensors (bfloat16) and tokenizer files.

    Done once: reading a GGUF takes over a minute, the result loads in seconds. The quantised weights have
    at most 6 bits, so bfloat16 loses nothing of note.
    """
    need_space(folder.parent, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # non-writable numpy views inside gguf
        hf = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    hf.hf_quantizer = None  # save_pretrained refuses a GGUF model while it says that it is quantised
    del hf.config.quantization_config
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"gguf_sha256": sha256(gguf), "weights_sha256": sha256(folder / "model.safetensors")}
    (folder / "source.json").write_text(json.dumps(record, indent=1) + "\n")


def join_parts(parts: list[Path], target: Path, expected_sha256: str) -> None:
    """Concatenate files and check the whole. Raises: ValueError if its hash is wrong."""
    whole = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            data = part.read_bytes()
            whole.update(data)
            out.write(data)
    if whole.hexdigest() != expected_sha256:
        raise ValueError(f"{target.name}: sha256 is {whole.hexdigest()[:16]}..., expected {expected_sha256[:16]}...")


def main() -> None:
    params = load_params()["base"]
    parts = sorted((RAW / "gemma").glob("part*"))
    gguf = RAW / "gemma" / "joined.gguf"
    join_parts(parts, gguf, (RAW / "gemma" / "SHA256SUMS").read_text().split()[0])
    convert_gguf(gguf, MODEL / params["model"])
    gguf.unlink()
    convert_gguf(RAW / "smollm2" / "smollm2-135m-instruct.gguf", MODEL / params["reference"])
    print(f"made {params['model']} and {params['reference']} in data/model/")


if __name__ == "__main__":
    main()
