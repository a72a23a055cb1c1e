"""What a GPU makes of the pipeline: rates on random models of real widths, and how long settings would take at them.

    python benchmarks/gpu.py [--seconds 3] [--tiny]

Prints Markdown, model by model. The share is of the matrix rate that the card reaches in a large product; operations
are two for each weight that a token meets, attention over the short texts left out. --tiny runs anywhere, on toy models.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import transformers
import yaml
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.method import gradients
from fgaa_utils.method.effects import mean_activations
from fgaa_utils.method.recipe import Recipe
from fgaa_utils.method.tries import Tries, recipes
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import SamplingParams, generate_batch, row_seeds
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.lm import LanguageModel, resolve_device, resolve_dtype, wrap
from fgaa_utils.model.steer import steered_ce
from fgaa_utils.names import CONTROLS, FITS, MADE
from fgaa_utils.params import load_params
from fgaa_utils.project import ROOT

GEMMA_3_270M = {
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
}
GEMMA_2_9B = {
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
TOY = {
    "vocab_size": 1100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 14,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "max_position_embeddings": 256,
}
ENDS = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 1}
PROMPT = [2, 235285, 1798]  # `I think` in Gemma's vocabulary; any tokens would do
GRADIENT_ROWS = 64  # of one pass: what gradient_shards takes by default


@dataclass(frozen=True)
class Case:
    """A model, and the sizes of its setting: rows of a pass, tokens of a text, latents."""

    name: str
    setting: str
    config: PreTrainedConfig
    d_sae: int
    rows: int
    context: int


def cases(tiny: bool) -> list[Case]:
    found = [
        ("Gemma 3 270M", "gemma-3-270m", Gemma3TextConfig(**GEMMA_3_270M | ENDS), 8192),
        ("Gemma 2 2B", "gemma-2-2b", Gemma2Config(**ENDS), 16384),
        ("Gemma 2 9B", "gemma-2-9b", Gemma2Config(**GEMMA_2_9B | ENDS), 16384),
    ]
    made = []
    for name, setting, config, d_sae in found:
        params = params_of(setting)
        made.append(Case(name, setting, config, d_sae, params["design"]["batch"], params["data"]["context"]))
    if not tiny:
        return made
    toys = [Gemma3TextConfig(**TOY | ENDS), Gemma2Config(**TOY | ENDS)]
    return [replace(case, config=toy, d_sae=64, rows=4, context=16) for case, toy in zip(made, toys)]


def params_of(setting: str) -> dict:
    """params.yaml with the values of a setting in place."""
    changes = yaml.safe_load((ROOT / "settings" / f"{setting}.yaml").read_text()) or {}
    return {section: values | changes.get(section, {}) for section, values in load_params().items()}


def build(case: Case, device: torch.device) -> LanguageModel:
    """The case's model with random weights, in the dtype that `auto` is on the device."""
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(0)
    with device:
        hf = AutoModelForCausalLM.from_config(case.config, dtype=resolve_dtype("auto", device))
    return wrap(hf, tokenizer, case.name)


def random_sae(lm: LanguageModel, d_sae: int, layer: int) -> JumpReLUSAE:
    """An SAE with random decoder rows, of whose latents about one in fifty fires."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(lm.d_model, d_sae, dtype="float32", device=str(lm.device)))
    sae.W_dec.data = torch.nn.functional.normalize(torch.randn(d_sae, lm.d_model, device=lm.device), dim=1)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    (resid,) = capture_resid(lm, [random_texts(lm, 1, 9)[0].tolist()], layer)
    sae.threshold.data.fill_(2 * float(resid[1:].float().norm(dim=1).mean()) / lm.d_model**0.5)
    return sae.eval()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(run: Callable[[], object], times: int = 1) -> float:
    """Seconds of one run()."""
    synchronise()
    start = time.perf_counter()
    for _ in range(times):
        run()
    synchronise()
    return (time.perf_counter() - start) / times


def seconds_of(run: Callable[[], object], budget: float) -> float:
    """Median seconds of one run() in three rounds that take about `budget` seconds together, after a warm-up."""
    run()
    times = max(1, int(budget / 3 / timed(run)))
    return statistics.median(timed(run, times) for _ in range(3))


def matrix_rate(device: torch.device, budget: float, size: int) -> float:
    """Operations a second of a square product in the dtype that `auto` is."""
    a, b = (torch.randn(size, size, device=device, dtype=resolve_dtype("auto", device)) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, budget)


@dataclass(frozen=True)
class Weights:
    """Numbers of weights: of the blocks up to the layer, of those after it, and of the head."""

    below: int
    above: int
    head: int

    @classmethod
    def of(cls, lm: LanguageModel, layer: int) -> "Weights":
        each = [sum(p.numel() for p in block.parameters()) for block in lm.hf.get_submodule(lm.blocks)]
        return cls(sum(each[: layer + 1]), sum(each[layer + 1 :]), lm.hf.get_output_embeddings().weight.numel())

    @property
    def all(self) -> int:
        return self.below + self.above + self.head


@dataclass(frozen=True)
class Work:
    """Something to time: what one run() does in `unit`s, with how many operations each; 0 if they are not counted."""

    name: str
    size: str
    run: Callable[[], object]
    count: int
    operations: int
    unit: str = "tokens"


def random_texts(lm: LanguageModel, rows: int, tokens: int) -> torch.Tensor:
    """Token ids (rows, tokens), BOS first."""
    vocabulary = lm.hf.config.get_text_config().vocab_size
    ids = torch.randint(4, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    ids[:, 0] = lm.tokenizer.bos_token_id
    return ids


def random_deltas(lm: LanguageModel, rows: int) -> torch.Tensor:
    return 100 * torch.nn.functional.normalize(torch.randn(rows, lm.d_model), dim=1)


def generation(lm: LanguageModel, case: Case, params: dict, weights: Weights) -> Work:
    design, layer = params["design"], params["base"]["layer"]
    sampling = SamplingParams(design["new_tokens"], design["top_k"], design["temperature"], case.rows)
    ids = torch.tensor([PROMPT] * case.rows) % lm.hf.config.get_text_config().vocab_size
    delta, seeds = random_deltas(lm, case.rows), row_seeds(0, count=case.rows)
    size, count = f"{case.rows} rows of {len(PROMPT)} + {sampling.new_tokens}", case.rows * sampling.new_tokens
    return Work(
        "generation", size, lambda: generate_batch(lm, ids, delta, seeds, layer, sampling), count, 2 * weights.all
    )


def capture(lm: LanguageModel, case: Case, params: dict, weights: Weights) -> Work:
    rows = max(1, 4 * lm.batch_tokens // case.context) if case.context > 16 else 8
    texts = random_texts(lm, rows, case.context).tolist()
    layer, size = params["base"]["layer"], f"{rows} texts of {case.context}"
    return Work("capture", size, lambda: list(capture_resid(lm, texts, layer)), rows * case.context, 2 * weights.below)


def rollout_reading(lm: LanguageModel, case: Case, params: dict, weights: Weights, rows: int) -> Work:
    how = {name: params["gradients"][name] for name in ("segments", "top_k", "temperature")}
    ids, layer = random_texts(lm, rows, 1 + params["gradients"]["new_tokens"]), params["base"]["layer"]
    in_parts = Halving(rows)

    def run() -> None:
        with gradients.frozen_weights(lm):
            in_parts(lambda part: gradients.read_rollouts(lm, ids[part], 1, layer, **how).scores, rows)

    operations = 2 * weights.all + 2 * how["segments"] * weights.above
    size = f"{rows} rollouts of {ids.shape[1]}, {how['segments']} segments"
    return Work(f"gradients, {rows} rows", size, run, ids.numel(), operations)


def sums(lm: LanguageModel, sae: JumpReLUSAE, params: dict, rows: int) -> Work:
    """What follows a reading: latents of the new tokens on the GPU, their products with the scores on the processor."""
    section = params["gradients"]
    segments, openers = section["segments"], len(section["openers"])
    scores, resid = torch.randn(rows, segments, lm.d_model), torch.randn(rows, 1 + section["new_tokens"], lm.d_model)
    opener = torch.arange(rows) % openers
    run = lambda: gradients._sums(sae, scores, resid, 1, opener, openers, segments)  # noqa: E731
    return Work("gradients, sums", f"{rows} rollouts, {sae.cfg.d_sae} latents", run, rows, 0, "rollouts")


def rereading(lm: LanguageModel, sae: JumpReLUSAE, case: Case, params: dict) -> Work:
    texts = random_texts(lm, case.rows, 1 + params["effects"]["new_tokens"])
    ids, layer, size = texts.tolist(), params["base"]["layer"], f"{len(texts)} rollouts of {texts.shape[1]}"
    return Work("effects, latents", size, lambda: mean_activations(lm, sae, ids, layer), texts.numel(), 0)


def ce_rule(lm: LanguageModel, params: dict, weights: Weights) -> Work:
    rows, tokens, layer = 64, params["effects"]["ce_tokens"], params["base"]["layer"]
    ids, delta = random_texts(lm, 1, tokens).expand(rows, -1), random_deltas(lm, rows)
    size = f"{rows} deltas, {tokens} tokens"
    return Work("effects, CE rule", size, lambda: steered_ce(lm, ids, layer, delta), rows * tokens, 2 * weights.all)


def works(lm: LanguageModel, case: Case, params: dict) -> list[Work]:
    layer = params["base"]["layer"]
    weights, sae = Weights.of(lm, layer), random_sae(lm, case.d_sae, layer)
    small = min(GRADIENT_ROWS, case.rows)
    return [
        generation(lm, case, params, weights),
        capture(lm, case, params, weights),
        *(rollout_reading(lm, case, params, weights, rows) for rows in sorted({small, case.rows})),
        sums(lm, sae, params, small),
        rereading(lm, sae, case, params),
        ce_rule(lm, params, weights),
    ]


def table_row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def table_head(cells: list[str]) -> None:
    print()
    table_row(cells)
    table_row(["---"] * len(cells))


def peak_gib() -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if torch.cuda.is_available() else "-"


def measure(todo: list[Work], budget: float, matrix: float) -> dict[str, float]:
    """Units a second of each, printed as they come."""
    table_head(["what", "of", "a second", "of the matrix rate", "peak GiB"])
    rates = {}
    for work in todo:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        rates[work.name] = work.count / seconds_of(work.run, budget)
        share = f"{rates[work.name] * work.operations / matrix:.1%}" if work.operations else ""
        table_row([work.name, work.size, f"{rates[work.name]:,.0f} {work.unit}", share, peak_gib()])
    return rates


def effects_seconds(params: dict, rates: dict[str, float], d_sae: int) -> tuple[float, str]:
    """Of the rollouts and the scales; the fits are left out."""
    section = params["effects"]
    if params["recipe"]["fit"] not in FITS:
        return 0.0, f"none: the map is {params['recipe']['fit']}"
    heldout = section["heldout_vectors"] * section["heldout_rollouts"]
    rollouts = section["chunks"] * section["chunk_size"] + section["unsteered_rollouts"] + heldout
    new, probes = section["new_tokens"], len(section["ce_probes"]) * section["ce_texts"]
    seconds = rollouts * (new / rates["generation"] + (1 + new) / rates["effects, latents"])
    seconds += d_sae * probes * section["ce_tokens"] / rates["effects, CE rule"]
    told = f"{rollouts:,} rollouts x ({new} / generation + {1 + new} / latents)"
    return seconds, f"{told} + {d_sae:,} latents x {probes} x {section['ce_tokens']} / CE rule"


def gradients_seconds(params: dict, rates: dict[str, float]) -> tuple[float, str]:
    """Of the map; its checks are left out."""
    rollouts, new = params["gradients"]["rollouts"], params["gradients"]["new_tokens"]
    reading = next(name for name in rates if name.startswith("gradients, ") and name.endswith("rows"))
    each = new / rates["generation"] + (1 + new) / rates[reading] + 1 / rates["gradients, sums"]
    return rollouts * each, f"{rollouts:,} rollouts x ({new} / generation + {1 + new} / {reading} + 1 / sums)"


def sample_rows(params: dict) -> tuple[int, int, int]:
    """Rows of validation, test, and n1 x n2: at most, since equal texts are made once and leading cells may be few."""
    design, vectors = params["design"], params["vectors"]
    behaviours, scales = [b.key for b in read_behaviours(params["base"]["behaviours"])], len(design["scales"])
    tries = Tries(*(vectors[name] for name in ("n1", "natural_n1", "ranks", "contrasts", "controls")))
    made = len(recipes(Recipe("fgaa", **params["recipe"]), behaviours, tries))
    first, groups = len(design["validation_prompts"]), len(MADE + CONTROLS) * len(behaviours)
    tried = made * scales + 1 + design["prompting_orders"] * len(behaviours)
    leading = min(tried, design["finalists"] * (groups + len(behaviours)) or tried)
    validation = first * (tried + leading * (design["validation_samples"] - 1))
    drawn = {"all": design["test_samples"], "once": 1, "chosen": 0}[design["test_scales"]]
    chosen, others = groups + 1 + len(behaviours), groups * (scales - 1)
    test = len(design["test_prompts"]) * (chosen * design["test_samples"] + others * drawn)
    pairs = len(behaviours) * len(vectors["n1"]) * len(vectors["n2_grid"]) * scales
    return validation, test, pairs * first


def samples_seconds(params: dict, rates: dict[str, float]) -> tuple[float, str]:
    """Of the texts; judging is left out."""
    rows, new = sample_rows(params), params["design"]["new_tokens"]
    told = " + ".join(f"{n:,}" for n in rows)
    return sum(rows) * new / rates["generation"], f"({told} rows of validation, test, n1 x n2) x {new} / generation"


def foretell(case: Case, params: dict, rates: dict[str, float]) -> None:
    """Minutes of the long stages of a setting at the rates."""
    table_head([f"SETTING={case.setting}", "minutes", "formula"])
    stages = {
        "effects": effects_seconds(params, rates, case.d_sae),
        "gradients": gradients_seconds(params, rates),
        "samples": samples_seconds(params, rates),
    }
    for name, (seconds, formula) in stages.items():
        table_row([name, f"{seconds / 60:,.1f}", formula])


def fits(case: Case, device: torch.device) -> bool:
    """Whether the weights take at most half of what the GPU has free."""
    if device.type != "cuda":
        return True
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(case.config).parameters())
    return 2 * weights * 2 < torch.cuda.mem_get_info()[0]


def run_case(case: Case, device: torch.device, budget: float, matrix: float) -> None:
    print(f"\n## {case.name}", flush=True)
    if not fits(case, device):
        return print("\nLeft out: its weights take more than half of the memory.", flush=True)
    start, params = time.perf_counter(), params_of(case.setting)
    lm = build(case, device)
    todo = works(lm, case, params)
    print(f"\n{sum(p.numel() for p in lm.hf.parameters()):,} weights, made in {time.perf_counter() - start:.0f} s.")
    foretell(case, params, measure(todo, budget, matrix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--tiny", action="store_true", help="toy models, to try the script")
    options = parser.parse_args()
    device = resolve_device("auto")
    if device.type != "cuda" and not options.tiny:
        parser.error("no CUDA device is there; --tiny runs anywhere")
    budget = 0.03 if options.tiny else options.seconds
    matrix = matrix_rate(device, budget, 256 if options.tiny else 8192)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    print(
        f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}; {dtype}"
    )
    print(f"products of two large matrices: {matrix / 1e12:.1f} Tflop/s", flush=True)
    for case in cases(options.tiny):
        run_case(case, device, budget, matrix)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
