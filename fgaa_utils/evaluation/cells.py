"""Steered samples over behaviours, methods, scales and prompts; their scores; the choice made on validation.

A cell is one vector at one scale; its samples are `prompts` x `samples` texts, with the same random numbers in
every cell of a split, so that cells are compared on equal luck.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fgaa_utils.evaluation.scales import check_scales
from fgaa_utils.judges.criteria import COHERENCE
from fgaa_utils.judges.local import Judge
from fgaa_utils.judges.server import ServerJudge
from fgaa_utils.model.generate import Rows, SamplingParams, generate_all, row_seeds
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import SHARED
from fgaa_utils.project import unknown
from fgaa_utils.stats import average_draws, bcs, bcs_draws, estimate

UNSTEERED = (SHARED, "unsteered", 0)


def cell_grid(
    names: list[tuple[str, str, int]],
    scales: list[float],
    *,
    unit: float,
    plain: Iterable[tuple[str, str, int]] = (),
) -> pd.DataFrame:
    """One row per cell: behaviour, method, variant, scale (in the unit), coeff (absolute).

    `unit` is the absolute norm of scale 1. Unsteered text and the names of `plain` have one cell, at scale 0.
    """
    check_scales(scales)
    rows = [(*name, scale, scale * unit) for name in names for scale in scales]
    rows += [(*name, 0.0, 0.0) for name in (UNSTEERED, *plain)]
    return pd.DataFrame(rows, columns=["behaviour", "method", "variant", "scale", "coeff"])


def expand_samples(cells: pd.DataFrame, prompts: list[str], samples: int, *, seeds: tuple[int, ...]) -> pd.DataFrame:
    """One row per text to generate: the cell's columns, prompt, sample and seed.

    Raises: ValueError for no prompts or a sample count below 1.
    """
    if samples < 1 or not prompts:
        raise ValueError(f"{samples} samples of {len(prompts)} prompts asked for; both must be at least 1")
    pairs = pd.DataFrame([(p, s) for p in prompts for s in range(samples)], columns=["prompt", "sample"])
    pairs["seed"] = row_seeds(*seeds, count=len(pairs))
    return cells.merge(pairs, how="cross")


def generate_samples(
    lm: LanguageModel,
    samples: pd.DataFrame,
    vectors: dict[tuple[str, str, int], Tensor],
    layer: int,
    sampling: SamplingParams,
    folder: Path,
    *,
    progress: str,
    prefixes: dict[tuple[str, str, int], list[int]] | None = None,
) -> pd.DataFrame:
    """The samples with a column `text`: prompt and continuation as one string, without the prefix if there is one."""
    number = {name: i for i, name in enumerate(vectors)}
    names = list(zip(samples.behaviour, samples.method, samples.variant))
    openers = dict(zip(samples.prompt, lm.encode(samples.prompt.tolist(), bos=False)))
    contexts = [(tuple((prefixes or {}).get(name, ())), prompt) for name, prompt in zip(names, samples.prompt)]
    distinct = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    rows = Rows(
        prompts=[[lm.tokenizer.bos_token_id, *prefix, *openers[prompt]] for prefix, prompt in distinct],
        vectors=torch.stack([*vectors.values(), torch.zeros(lm.d_model)]),
        prompt=np.array([distinct[context] for context in contexts]),
        vector=np.array([number.get(name, len(vectors)) for name in names]),  # the last one is zero
        coeff=samples.coeff.to_numpy(dtype=np.float32),
        seed=samples.seed.to_numpy(),
    )
    tokens = generate_all(lm, rows, layer, sampling, folder, progress=progress)
    full = [openers[prompt] + new for prompt, new in zip(samples.prompt, tokens.tolist(), strict=True)]
    return samples.assign(text=lm.tokenizer.batch_decode(full, skip_special_tokens=True))


def score_samples(samples: pd.DataFrame, judge: Judge, behaviours: list[str]) -> pd.DataFrame:
    """The samples with a column `coherence` and one `B_<behaviour>` for every behaviour, all 0..1.

    A sample is scored for the behaviour that it is to show, shared ones for all; the rest of B is NaN.
    """
    scored = samples.assign(coherence=judge.coherence(samples.text.tolist()))
    for name in behaviours:
        texts = for_target(samples, name).text
        scored[f"B_{name}"] = pd.Series(judge.behaviour(texts.tolist(), name), index=texts.index)
    return scored


def announce(judge: Judge, samples: pd.DataFrame, behaviours: list[str]) -> None:
    """Print what a judge that has to be asked will be asked for and how long it takes, before it starts."""
    if isinstance(judge, ServerJudge):
        texts = {name: for_target(samples, name).text.tolist() for name in behaviours}
        print("to be asked:", judge.estimate(texts | {COHERENCE: samples.text.tolist()}, timed=True))


def missing_scores(samples: pd.DataFrame, behaviours: list[str]) -> int:
    """How many scores of score_samples a judge left out."""
    own = [for_target(samples, name)[f"B_{name}"] for name in behaviours]
    return int(sum(column.isna().sum() for column in (samples.coherence, *own)))


def for_target(samples: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """The samples of a behaviour's own vectors and of the shared ones."""
    return samples[samples.behaviour.isin([behaviour, SHARED])]


def for_behaviour(samples: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """The samples of a behaviour's own vectors and of the shared ones, with its score as column `B`."""
    own = for_target(samples, behaviour)
    return own.assign(B=own[f"B_{behaviour}"], target=behaviour)


def cell_scores(samples: pd.DataFrame, behaviours: list[str]) -> pd.DataFrame:
    """Mean B, mean coherence C and BCS = B x C of every cell and target behaviour (paper, section 4)."""
    long = pd.concat([for_behaviour(samples, b) for b in behaviours])
    keys = ["target", "method", "variant", "scale", "coeff"]
    means = long.groupby(keys, sort=False).agg(B=("B", "mean"), C=("coherence", "mean"), n=("B", "size"))
    return means.assign(BCS=means.B * means.C).reset_index()


def choose_cells(scores: pd.DataFrame) -> pd.DataFrame:
    """The cell of the highest BCS for each target and method; ties go to the smaller scale, then variant."""
    ranked = scores.sort_values(["BCS", "scale", "variant"], ascending=[False, True, True], kind="stable")
    return ranked.drop_duplicates(["target", "method"]).sort_values(["target", "method"]).reset_index(drop=True)


def chosen_samples(samples: pd.DataFrame, choice: pd.Series) -> pd.DataFrame:
    """The samples of the cell that a row of choose_cells names, with column `B` for its target.

    Raises: ValueError if there are none.
    """
    own = for_behaviour(samples, choice.target)
    cell = own[(own.method == choice.method) & (own.variant == choice.variant) & np.isclose(own.scale, choice.scale)]
    if cell.empty:
        raise ValueError(
            f"no samples of {choice.method} variant {choice.variant} at scale {choice.scale} for {choice.target}"
        )
    return cell


def bcs_table(samples: pd.DataFrame, choices: pd.DataFrame, *, draws: int, seed: int) -> tuple[dict, dict]:
    """(table, draws): table[method][behaviour or "average"] is {value, lo, hi, n}; draws[method] (behaviours, draws).

    Values are the BCS of the chosen cells on the samples given; intervals are bootstraps over prompts and
    samples, and over behaviours too for the average. The average of one behaviour is that behaviour's score.
    """
    table: dict[str, dict] = {}
    distributions: dict[str, np.ndarray] = {}
    for method, rows in choices.groupby("method", sort=False):
        boots = []
        table[method] = {}
        for _, choice in rows.iterrows():
            cell = chosen_samples(samples, choice)
            b, c, groups = cell.B.to_numpy(), cell.coherence.to_numpy(), cell.prompt.to_numpy()
            boots.append(bcs_draws(b, c, groups, draws=draws, seed=seed))
            table[method][choice.target] = estimate(bcs(b, c), boots[-1], len(cell), units=cell.prompt.nunique())
        distributions[method] = np.stack(boots)
        entries = list(table[method].values())
        value, total = np.mean([entry["value"] for entry in entries]), sum(entry["n"] for entry in entries)
        averages = average_draws(distributions[method], seed=seed)
        average = estimate(float(value), averages, total, units=len(entries))
        table[method]["average"] = average if len(entries) > 1 else entries[0]
    return table, distributions


def off_target(
    samples: pd.DataFrame, choices: pd.DataFrame, method: str, judge: Judge, behaviours: list[str]
) -> pd.DataFrame:
    """How much more of each behaviour (columns) the chosen cell of each target (rows) shows than unsteered text."""
    plain = samples[samples.method == "unsteered"].text.tolist()
    base = [np.nanmean(judge.behaviour(plain, name)) for name in behaviours]
    rows = choices[choices.method == method].set_index("target").loc[behaviours].reset_index()
    texts = [chosen_samples(samples, row).text.tolist() for row in rows.itertuples()]
    means = [[np.nanmean(judge.behaviour(cell, name)) for name in behaviours] for cell in texts]
    return pd.DataFrame(np.array(means) - base, index=behaviours, columns=behaviours)


def check_design(
    *,
    scales: list[float],
    validation_prompts: list[str],
    test_prompts: list[str],
    paper_prompt: str,
    validation_samples: int,
    test_samples: int,
) -> None:
    """Look at the whole design before anything is generated.

    Raises: ValueError for scales that do not grow, a prompt on both sides, a paper prompt that is no test prompt,
    or a sample count below 1.
    """
    check_scales(scales)
    for name, prompts in (("validation_prompts", validation_prompts), ("test_prompts", test_prompts)):
        if len(set(prompts)) < len(prompts):
            raise ValueError(f"{name} names a prompt twice: {prompts}")
    if both := set(validation_prompts) & set(test_prompts):
        raise ValueError(f"prompts {sorted(both)} are in validation_prompts and in test_prompts; each may be in one")
    if paper_prompt not in test_prompts:
        raise unknown("paper_prompt", paper_prompt, test_prompts)
    for name, count in (("validation_samples", validation_samples), ("test_samples", test_samples)):
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")


def scale_curves(samples: pd.DataFrame, choices: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """BCS of each target's and method's chosen variant at every scale: target, method, scale, B, C, value, lo, hi, n."""
    rows = []
    for _, choice in choices.iterrows():
        own = for_behaviour(samples, choice.target)
        own = own[(own.method == choice.method) & (own.variant == choice.variant)]
        for scale, cell in own.groupby("scale"):
            b, c = cell.B.to_numpy(), cell.coherence.to_numpy()
            boots = bcs_draws(b, c, cell.prompt.to_numpy(), draws=draws, seed=seed)
            row = {
                "target": choice.target,
                "method": choice.method,
                "scale": scale,
                "B": np.nanmean(b),
                "C": np.nanmean(c),
            }
            rows.append(row | estimate(bcs(b, c), boots, len(cell), units=cell.prompt.nunique()))
    return pd.DataFrame(rows)


def best_over_scales(curves: pd.DataFrame) -> dict:
    """table[method][behaviour] as in bcs_table: the maximum over scales of scale_curves, on the samples that are
    reported, as the paper takes it (section 4; there on one prompt)."""
    best = curves.sort_values("value", ascending=False, kind="stable").drop_duplicates(["target", "method"])
    table: dict[str, dict] = {}
    for row in best.sort_values(["method", "target"]).itertuples():
        table.setdefault(row.method, {})[row.target] = {"value": row.value, "lo": row.lo, "hi": row.hi, "n": row.n}
    return table
