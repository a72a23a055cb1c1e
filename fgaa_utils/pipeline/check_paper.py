"""Numbers that the paper prints, recomputed from the weights: v_diff of single latents, the cosines of table D.1.

    make check-paper SETTING=gemma-2-2b TEXTS=texts.yaml

The paper's contrastive texts are the authors'; with ours (the default) the numbers are close at best. A file of texts
reads `love: {positive: [...], negative: [...]}`, and so on. Latents are filtered by densities on `data.density_rows`
rows of the background text that the data stage of the default setting leaves; their shards are kept in
data/check_paper/.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from sae_lens import SAE

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.data.corpus import pack
from fgaa_utils.method.approximator import load_effect_map
from fgaa_utils.method.features import contrastive_difference, latent_stats, text_means
from fgaa_utils.method.recipe import Ingredients, Recipe, only, steering_vector
from fgaa_utils.method.vector_tables import fgaa_cosines
from fgaa_utils.model.lm import LanguageModel, load_model
from fgaa_utils.names import PAPER_METHODS
from fgaa_utils.params import load_params
from fgaa_utils.pipeline.settings import overlay, read_setting
from fgaa_utils.project import DATA, unknown
from fgaa_utils.sae.load import decoder_rows, load_sae

Texts = dict[str, tuple[list[str], list[str]]]  # behaviour: X+, X-


def read_texts(path: Path | None) -> Texts:
    """Contrastive texts of a file, or those of data/behaviours/. Raises: ValueError for a file of another shape."""
    if path is None:
        return {b.key: (list(b.positive), list(b.negative)) for b in read_behaviours()}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return {key: (list(sides["positive"]), list(sides["negative"])) for key, sides in content.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must read `behaviour: {{positive: [...], negative: [...]}}`") from error


def background_texts() -> list[str]:
    """Background documents. Raises: FileNotFoundError if the data stage has not run."""
    path = DATA / "data" / "density_documents.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; run `dvc repro data`")
    return pd.read_parquet(path).text.tolist()


def v_diff_table(v_diff: dict[str, torch.Tensor], printed: dict[str, dict[int, float]]) -> pd.DataFrame:
    """One row for each printed latent: the paper's value, ours and its rank among ours."""
    rows = []
    for behaviour, latents in printed.items():
        for latent, value in latents.items():
            ours = v_diff[behaviour]
            rank = int((ours > ours[latent]).sum()) + 1
            rows.append((behaviour, latent, value, round(float(ours[latent]), 3), rank))
    return pd.DataFrame(rows, columns=["behaviour", "latent", "paper", "ours", "rank in ours"])


def cosine_table(
    recipe: Recipe, ingredients: Ingredients, best_n1: dict[str, int], printed: dict[str, float]
) -> pd.DataFrame:
    """Cosine of FGAA's vector at the paper's n1 with the other methods', the average of `best_n1`'s behaviours
    (columns `ours`, `paper`; rows are methods)."""
    wanted = {b: {m: replace(recipe, method=m, n1=n1, rank=1) for m in PAPER_METHODS} for b, n1 in best_n1.items()}
    vectors = {b: {m: steering_vector(r, b, ingredients) for m, r in row.items()} for b, row in wanted.items()}
    return pd.DataFrame({"ours": fgaa_cosines(vectors).mean(), "paper": printed}).round(4)


def means_of_texts(lm: LanguageModel, sae: SAE, recipe: Recipe, texts: Texts, layer: int) -> tuple[dict, dict]:
    """(latents, resid) of the ingredients: means of the texts, with or without BOS as the recipe takes them."""
    bos = recipe.include_bos
    means = {
        behaviour: [text_means(lm, sae, side, layer, include_bos=(bos,))[bos] for side in sides]
        for behaviour, sides in texts.items()
    }
    latents, resid = (
        {bos: {behaviour: tuple(getattr(side, what) for side in sides) for behaviour, sides in means.items()}}
        for what in ("latents", "resid")
    )
    return latents, resid


def check_behaviours(texts: Texts, paper: dict, name: str) -> None:
    """Raises: ValueError for a behaviour of the paper's printed latents without texts, or texts of one that it
    lacks."""
    for behaviour in paper["v_diff"][name]:
        if behaviour not in texts:
            raise unknown("behaviour among the texts:", behaviour, list(texts))
    for behaviour in texts:
        if behaviour not in paper["best_n1"][name]:
            raise unknown("behaviour of the paper:", behaviour, list(paper["best_n1"][name]))


def check(lm: LanguageModel, sae: SAE, params: dict, texts: Texts, paper: dict, name: str, rows: np.ndarray) -> None:
    """Print the paper's numbers of the model `name` beside those of these texts; `rows` are of background text.

    Raises: ValueError as check_behaviours does.
    """
    check_behaviours(texts, paper, name)
    layer, recipe = params["base"]["layer"], Recipe("fgaa", **params["recipe"])
    print(f"{lm.identity}, layer {layer}\n")
    latents, resid = means_of_texts(lm, sae, recipe, texts, layer)
    v_diff = {behaviour: contrastive_difference(*sides) for behaviour, sides in latents[recipe.include_bos].items()}
    print(v_diff_table(v_diff, paper["v_diff"][name]).to_markdown(index=False))

    stats = latent_stats(lm, sae, rows, layer, DATA / "check_paper", top=1, progress="density")
    W_dec = decoder_rows(sae)
    effect_map = load_effect_map(recipe.fit, DATA / "effects", d_model=lm.d_model, d_sae=len(W_dec), identity={})
    maps = only(effect_map, recipe.fit)
    ingredients = Ingredients(latents, resid, stats.density, stats.bos_latents, W_dec, maps, params["base"]["seed"])
    best_n1 = {behaviour: paper["best_n1"][name][behaviour] for behaviour in texts}
    print("\nCosine of FGAA's vector with the other methods' (table D.1), the average of")
    print(f"{', '.join(texts)}; the paper's is of {len(paper['best_n1'][name])} behaviours:\n")
    print(cosine_table(recipe, ingredients, best_n1, paper["cosine_fgaa"][name]).to_markdown())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", help="a file of settings/, without .yaml")
    parser.add_argument("texts", nargs="?", type=Path, help="contrastive texts; those of data/behaviours/ by default")
    args = parser.parse_args()
    params = overlay(load_params(), read_setting(args.setting), args.setting)
    base = params["base"]
    texts, background = read_texts(args.texts), background_texts()
    paper = yaml.safe_load((DATA / "paper.yaml").read_text(encoding="utf-8"))
    if args.setting not in paper["v_diff"]:
        raise unknown("setting with printed numbers", args.setting, list(paper["v_diff"]))
    lm = load_model(
        base["model"], layer=base["layer"], dtype=base["dtype"], device=base["device"], blocks=base["blocks"]
    )
    sae = load_sae(base["sae_source"], lm, base["layer"])
    size = {"context": params["data"]["context"], "rows": params["data"]["density_rows"]}
    rows = pack(background, lm.tokenizer, seed=base["seed"], **size)
    check(lm, sae, params, texts, paper, args.setting, rows)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
