"""How the sums that NG tries were found: candidates on the twelve development behaviours, by blind labels.

    python benchmarks/sums.py                                  the table, from data/labels/development.csv
    python benchmarks/sums.py --make texts.csv                 candidates' texts, to be labelled; data/ of a finished run
    python benchmarks/sums.py --make texts.csv --gradients more.safetensors    by another gradient map

Parts of a sum are as long as costs the same KL: `latents` is the natural gradient of FGAA's target (n1 128), `contrast`
that of the whitened contrast of mean streams, `means` their plain difference (CAA). The larger map is of 65,536 rollouts
(benchmarks/rollouts.md); the committed one has 8,192. One annotator, a language model, read every text, blind to candidate
and strength, by the rubric of data/labels/README.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.evaluation import cells
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.figures import markdown_table
from fgaa_utils.method import features
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.recipe import Ingredients, Recipe, steering_vector
from fgaa_utils.model.generate import SamplingParams
from fgaa_utils.names import GRADIENT, VectorName
from fgaa_utils.params import load_params
from fgaa_utils.project import DATA
from fgaa_utils.sae.load import decoder_rows, load_model_and_sae
from fgaa_utils.shards import load_tensors
from fgaa_utils.stats import paired_difference

LABELS = DATA / "labels" / "development.csv"
CANDIDATES: dict[str, dict] = {
    "latents": {"n1": 128},
    "contrast": {"white": True},
    "latents + contrast": {"n1": 128, "white": True},
    "latents + means": {"n1": 128, "means": True},
    "contrast + means": {"white": True, "means": True},
    "latents + contrast + means": {"n1": 128, "white": True, "means": True},
}
SCALES, SAMPLES, ROUND = [0.35, 0.7], 2, 31  # nats a token, texts of each opener, what is added to the seed


def make(path: Path, gradients: Path) -> None:
    """Write the candidates' texts: columns behaviour, candidate, scale, coeff, prompt, seed, text."""
    params = load_params()
    base, design, recipe = params["base"], params["design"], params["recipe"]
    place = {key: base[key] for key in ("layer", "dtype", "device", "blocks")}
    lm, sae, identity = load_model_and_sae(base["model"], base["sae_source"], **place)
    behaviours, found = read_behaviours("development"), GradientMap.load(gradients, **identity)
    means = features.contrastive_means(lm, sae, behaviours, base["layer"])
    latents, resid = (
        {
            bos: {b: tuple(getattr(means[b][s][bos], what) for s in features.SIDES) for b in means}
            for bos in (True, False)
        }
        for what in ("latents", "resid")
    )
    background, _ = load_tensors(DATA / "features" / "features.safetensors")
    density, bos = background["density"], background["bos_latents"]
    ingredients = Ingredients(latents, resid, density, bos, decoder_rows(sae), None, base["seed"], found)
    ng = Recipe("ng", **(recipe | {"fit": GRADIENT, "bias_weight": 0.0}), fisher=True)
    caa = replace(ng, method="caa", include_bos=False, white=False)
    wanted = {"CAA": caa} | {name: replace(ng, include_bos=False, **of) for name, of in CANDIDATES.items()}
    names = {VectorName(b.key, "ng", draw=i): (b.key, r) for b in behaviours for i, r in enumerate(wanted.values())}
    vectors = {name.cell: steering_vector(r, key, ingredients) for name, (key, r) in names.items()}
    grid = cells.cell_grid(vectors, SCALES, Strength("nats", 1.0, found))
    grid = grid[grid.method == "ng"]  # unsteered text is not asked for
    rows = cells.expand_samples(grid, design["validation_prompts"], SAMPLES, seeds=(base["seed"], ROUND))
    sampling = SamplingParams(*(design[key] for key in ("new_tokens", "top_k", "temperature", "batch")))
    made = cells.generate_samples(lm, rows, vectors, base["layer"], sampling, path.with_suffix(""), progress="texts")
    made["candidate"] = [list(wanted)[int(variant.partition("=")[2])] for variant in made.variant]
    made[["behaviour", "candidate", "scale", "coeff", "prompt", "seed", "text"]].to_csv(path, index=False)


def table(labels: pd.DataFrame) -> pd.DataFrame:
    """By round and candidate: behaviour, coherence and BCS, averaged over behaviours and strengths, and BCS less CAA's, paired
    over behaviours (Student)."""
    cell = ["round", "candidate", "behaviour", "scale"]
    found = labels.groupby(cell)[["behaviour_label", "coherence_label"]].mean() / 3
    found["BCS"] = found.behaviour_label * found.coherence_label
    found = found.groupby(["round", "candidate", "behaviour"]).mean()
    rows = []
    for (number, candidate), part in found.groupby(["round", "candidate"]):
        ours, caa = (found.loc[(number, name)].BCS.to_numpy() for name in (candidate, "CAA"))
        mean, lo, hi = paired_difference(ours, caa) if candidate != "CAA" else (0.0, 0.0, 0.0)
        averages = part.mean().round(3).tolist()
        rows.append([number, candidate, *averages, f"{mean:+.3f} [{lo:+.3f}, {hi:+.3f}]" if candidate != "CAA" else ""])
    columns = ["round", "candidate", "behaviour", "coherence", "BCS", "BCS less CAA's"]
    return pd.DataFrame(rows, columns=columns).sort_values(["round", "BCS"], ascending=[True, False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, help="write texts to be labelled to this file")
    parser.add_argument("--gradients", type=Path, default=DATA / "gradients" / "gradients.safetensors")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.make:
        make(args.make, args.gradients)
    else:
        print(markdown_table(table(pd.read_csv(LABELS)), index=False))


if __name__ == "__main__":
    main()
