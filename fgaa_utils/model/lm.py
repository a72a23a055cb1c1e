"""The language model: any causal LM of data/model/, a folder or the hub, with nnsight around it.

`load_model` is the one way in; it checks the layer before anything heavy starts.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from fgaa_utils.digests import sha256
from fgaa_utils.model.hub import hub_access
from fgaa_utils.project import MODEL, unknown
from fgaa_utils.shards import digest
from fgaa_utils.workers import Loader

disable_progress_bar()  # loading takes seconds; the stages have bars of their own
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HUB_FILES = "config.json, *.safetensors and the tokenizer"


def resolve_device(name: str) -> torch.device:
    """The torch device of a name; `auto` is the first CUDA device if there is one, else the processor.

    Raises: ValueError for a device that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"base.device is {name!r}: {str(error).splitlines()[0]}; use auto, cpu or cuda") from error


def resolve_dtype(name: str, device: torch.device | None = None) -> torch.dtype:
    """The torch dtype of `auto`, `float32` or `bfloat16`, for a device; None is the processor.

    `auto` is bfloat16 where the device multiplies it in hardware, else float32.
    """
    if name == "auto":
        if device and device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


@dataclass
class LanguageModel:
    """A causal LM with its tokenizer and nnsight's view of both.

    `identity` names weights and dtype; whatever is computed with the model carries it. `blocks` is the module path
    of the list of its blocks; `layer` the one it was loaded to be steered at, if any; `loader` how a worker elsewhere loads
    the same, if it was loaded from files. Tensors go to the model's device and come back to the processor.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    nn: TransformersModel
    identity: str
    blocks: str
    layer: int | None = None
    loader: Loader | None = None

    @property
    def name(self) -> str:
        """The last part of the path or hub id."""
        return self.identity.split(":")[0]

    @property
    def d_model(self) -> int:
        return self.hf.config.get_text_config().hidden_size

    @property
    def n_layers(self) -> int:
        return len(self.hf.get_submodule(self.blocks))

    @property
    def context(self) -> int:
        return self.hf.config.get_text_config().max_position_embeddings

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def place(self) -> dict[str, str]:
        """What the device adds to the identity of a computation: nothing on the processor."""
        return {} if self.device.type == "cpu" else {"device": self.device.type}

    @property
    def batch_tokens(self) -> int:
        """Tokens of one pass: on the processor as many as its cache holds, on a GPU enough to keep it busy."""
        return 2048 if self.device.type == "cpu" else 16384

    def block(self, layer: int):
        """nnsight's envoy of block `layer` (0-based); its output is the residual stream (batch, pos, d_model).

        Raises: ValueError if there is no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer {layer} is out of range: the model has blocks 0..{self.n_layers - 1}")
        return reduce(getattr, self.blocks.split("."), self.nn)[layer]

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


def find_blocks(hf: PreTrainedModel, path: str = "auto") -> str:
    """Module path of the list of the model's blocks, `path` itself unless it is `auto`.

    Raises: ValueError if `auto` finds no list of num_hidden_layers modules or several, or `path` names no list.
    """
    lists = {name: module for name, module in hf.named_modules() if isinstance(module, torch.nn.ModuleList)}
    if path != "auto":
        if path not in lists:
            raise unknown("base.blocks", path, list(lists))
        return path
    count = hf.config.get_text_config().num_hidden_layers
    fitting = [name for name, module in lists.items() if len(module) == count]
    if len(fitting) != 1:
        raise ValueError(f"base.blocks is auto, and {fitting or 'no list'} has {count} modules; name one of {[*lists]}")
    return fitting[0]


def wrap(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identity: str, *, blocks: str = "auto"
) -> LanguageModel:
    """The LanguageModel of a loaded transformers model: evaluation mode, no end of text while generating.

    Raises: ValueError for a tokenizer without BOS, or blocks that are not found (see find_blocks).
    """
    if tokenizer.bos_token_id is None:
        raise ValueError(f"the tokenizer of {identity} has no BOS token, which starts every text here")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.bos_token  # pads stand to the right, where no token sees them
    hf.eval()
    hf.generation_config.eos_token_id = None  # rows never stop early: every rollout has the same length
    # without a device the pipeline that nnsight makes would move the model to the first GPU there is
    nn = TransformersModel(hf, tokenizer=tokenizer, task="text-generation", device=hf.device)
    return LanguageModel(hf, tokenizer, nn, identity, find_blocks(hf, blocks))


def locate(path: str | Path) -> tuple[str, bool]:
    """(where the model `path` is, whether that is on the hub): a folder under data/model/, any folder, or a hub id.

    Raises: FileNotFoundError for a name that is neither a folder with a model nor of the form owner/name.
    """
    for folder in (MODEL / path, Path(path)):
        if (folder / "config.json").exists():
            return str(folder), False
    if len(Path(path).parts) == 2 and not Path(path).is_absolute() and not Path(path).exists():
        return str(path), True
    raise FileNotFoundError(
        f"no model at {MODEL / path}; run `dvc repro model`, or give the path of a saved model or a hub id"
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `path` (see locate)."""
    source, on_hub = locate(path)
    with hub_access(str(path), "the tokenizer", "base.model") if on_hub else nullcontext():
        return AutoTokenizer.from_pretrained(source)


def load_model(
    path: str | Path, *, layer: int, dtype: str = "auto", device: str = "auto", blocks: str = "auto"
) -> LanguageModel:
    """The model `path` (see locate), ready to be traced at `layer`; only safetensors are read.

    Raises: OSError if it is not there or the hub cannot be had; ValueError if it has no such layer or blocks.
    """
    source, on_hub = locate(path)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    with hub_access(str(path), HUB_FILES, "base.model") if on_hub else nullcontext():
        hf = AutoModelForCausalLM.from_pretrained(source, dtype=kind, use_safetensors=True).to(place)
    identity = f"{Path(path).name}:{weights_identity(path)}:{str(hf.dtype).removeprefix('torch.')}"
    lm = wrap(hf, load_tokenizer(path), identity, blocks=blocks)
    check_block(lm, layer)
    lm.layer = layer
    same = {"layer": layer, "dtype": str(hf.dtype).removeprefix("torch."), "device": place.type, "blocks": lm.blocks}
    lm.loader = load_model, {"path": source if on_hub else str(Path(source).resolve())} | same
    return lm


def weights_identity(path: str | Path) -> str:
    """16 digits that identify the weights of the model `path` (see locate): of the hub the commit, else of the files.

    Raises: FileNotFoundError if the model is not there; OSError if it is on the hub and not in the cache.
    """
    source, on_hub = locate(path)
    record = Path(source) / "source.json"
    if on_hub:
        return Path(cached_file(source, "config.json")).parent.name[:16]  # the commit: snapshots/<commit>/config.json
    if record.exists():
        return json.loads(record.read_text())["weights_sha256"][:16]
    return digest([sha256(file) for file in sorted(Path(source).glob("*.safetensors"))])[:16]


def check_block(lm: LanguageModel, layer: int) -> None:
    """Run one token through the model and look at what block `layer` gives.

    Raises: ValueError if that is not a tensor of width d_model, or if there is no such layer.
    """
    block = lm.block(layer)
    ids = torch.tensor([[lm.tokenizer.bos_token_id]], device=lm.device)
    with torch.no_grad(), lm.nn.trace() as tracer:
        with tracer.invoke({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            output = block.output.save()
            tracer.stop()
    if not isinstance(output, torch.Tensor) or output.shape[-1] != lm.d_model:
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"block {layer} of {lm.identity} gives {found}, expected (batch, pos, {lm.d_model}); "
            f"base.blocks names the list of blocks, here {lm.blocks}"
        )
