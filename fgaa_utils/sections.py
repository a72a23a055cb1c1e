"""The sections of params.yaml, typed: every key with its range and choices. A new key is a line there and one here."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from fgaa_utils.names import FITS, REPORTED_UNSEEN, UNSEEN
from fgaa_utils.project import ROOT, short

DECODER = "decoder"  # the fit of a row without an effect map: a latent's direction is its decoder row


def _distinct(values: list) -> list:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError("without repeats")
    return values


def _growing(values: list) -> list:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("in growing order, without repeats")
    return values


def _behaviours(value: object) -> object:
    names = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    sets = ("all", *UNSEEN, *REPORTED_UNSEEN)
    if value not in sets and not names:
        raise ValueError(f"{', '.join(sets)}, or a list of names")
    return _distinct(value) if isinstance(value, list) else value


def _effect_map(value: str) -> str:
    if value not in FITS and ":" not in value and not Path(value).is_file():
        raise ValueError(f"one of {', '.join(FITS)}, repository:file, or the path of a file that is there")
    return value


Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]
Counts = Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
Naturals = Annotated[list[Natural], Field(min_length=1), AfterValidator(_distinct)]
Growing = Annotated[list[Positive], Field(min_length=1), AfterValidator(_growing)]
Norm = Literal["l1", "l2", "none"]
Kind = Literal["local", "openai", "hf"]


EXACT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False
)  # no other key, no text for a number, no true for 1


class Section(BaseModel):
    model_config = EXACT


class Base(Section):
    seed: Natural
    layer: Natural
    model: Text
    reference: Text
    sae_source: Text
    blocks: Text
    device: Text
    dtype: Literal["auto", "float32", "bfloat16"]
    behaviours: Annotated[Any, AfterValidator(_behaviours)]
    bootstrap_draws: Count


class Recipe(Section):
    include_bos: bool
    theta: NotNegative
    density_filter: bool
    bos_filter: bool
    n2: Natural
    target_norm: Norm
    fit: Annotated[str, AfterValidator(_effect_map)]
    bias_weight: NotNegative
    natural_ridge: NotNegative


class Design(Section):
    scale_unit: Literal["nats", "resid_std", "absolute"]
    scales: Growing
    smoothing: Share
    validation_prompts: Texts
    test_prompts: Texts
    prompting_tokens: Count
    prompting_orders: Count
    validation_samples: Count
    finalists: Natural
    test_samples: Count
    test_scales: Literal["all", "once", "chosen"]
    new_tokens: Count
    top_k: Count
    temperature: Positive
    batch: Count


class Data(Section):
    context: Annotated[int, Field(ge=2)]
    sae_train_rows: Count
    density_rows: Count
    heldout_rows: Count
    heldout_sources: Texts
    density_share: Annotated[float, Field(gt=0, lt=1)]
    max_overlap: Share
    max_chars: dict[str, Natural]


class Sae(Section):
    d_sae: Count
    l0: Count
    tokens: Count
    batch: Count
    lr: Positive
    lr_decay_share: Share
    checkpoints: Natural


class Features(Section):
    top_contexts: Count


class Effects(Section):
    ce_rise: Positive
    ce_probes: Annotated[Growing, Field(min_length=2)]
    ce_texts: Count
    ce_tokens: Annotated[int, Field(ge=2)]
    openers: Annotated[list[str], Field(min_length=1)]
    new_tokens: Count
    top_k: Count
    temperature: Positive
    batch: Count
    chunk_size: Count
    chunks: Annotated[int, Field(ge=2)]
    unsteered_rollouts: Count
    heldout_vectors: Count
    heldout_rollouts: Count
    ridge_strengths: Annotated[list[Positive], Field(min_length=1), AfterValidator(_distinct)]
    adam_epochs: Count
    adam_lr: Positive
    adam_batch: Count


class Gradients(Section):
    openers: Annotated[list[str], Field(min_length=1)]
    new_tokens: Count
    top_k: Count
    temperature: Positive
    batch: Count
    rollouts: Count
    parts: Annotated[int, Field(ge=2)]
    segments: Count
    check_vectors: Count
    check_nats: Growing
    check_rollouts: Count


def _files(values: list) -> list:
    for value in values:
        if not (ROOT / value).is_file():
            raise ValueError(f"paths of files that are there; {short(value)} is not")
    return _distinct(values)


class Vectors(Section):
    n1: Counts
    natural_n1: Counts
    n2_grid: Annotated[list[Natural], AfterValidator(_distinct)]
    ranks: Counts
    contrasts: Annotated[int, Field(ge=2, le=4)]
    controls: Count
    extra: dict[Text, Annotated[list[Text], Field(min_length=1), AfterValidator(_files)]]


class Server(Section):
    concurrency: Count
    timeout: Positive
    attempts: Count
    prices: Annotated[list[NotNegative], Field(min_length=2, max_length=2)]


class Judge(Section):
    judge: Kind
    compare_judges: Annotated[list[Kind], AfterValidator(_distinct)]
    judge_model: Text
    server: Server
    coherence_texts: Count
    labelled_texts: Count


class Evaluation(Section):
    paper_prompt: Text
    planned_behaviours: Annotated[int, Field(ge=2)]
    coherence_margin: Share


class Costs(Section):
    scales: Growing
    tasks: Texts
    questions: Count
    option_score: Literal["per_char", "sum"]
    texts: Count
    text_tokens: Annotated[int, Field(ge=2)]


class Row(TypedDict, total=False):
    """What a row of the ablations changes: fields of a recipe."""

    __pydantic_config__ = EXACT  # type: ignore[misc]
    include_bos: bool
    theta: NotNegative
    density_filter: bool
    bos_filter: bool
    target_norm: Norm
    bias_weight: NotNegative
    fit: Text
    fisher: bool
    natural_ridge: NotNegative
    n1: Count
    n2: Natural
    draw: Natural
    examples: Count
    effect_vectors: Count


class AblationSamples(Section):
    rows: list[Row]
    heat_n1: Counts
    heat_n2: Naturals


class Params(Section):
    base: Base
    recipe: Recipe
    design: Design
    data: Data
    sae: Sae
    features: Features
    effects: Effects
    gradients: Gradients
    vectors: Vectors
    judge: Judge
    evaluation: Evaluation
    costs: Costs
    ablation_samples: AblationSamples
