"""Two pages opened from disk: reports/samples.html, steered texts beside unsteered ones, and reports/latents.html.

Each is one file that loads nothing: its data stand in it as JSON, columns rather than records, scores as integers.
The page's own parts are the files of browser_page/. Equal data make equal bytes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fgaa_utils.figures import COLOURS
from fgaa_utils.names import LABELS, SHARED, UNSTEERED, method_order
from fgaa_utils.project import unknown

PARTS = Path(__file__).parent / "browser_page"
LIMIT = 5_000_000  # bytes of samples.html
SHOWN_DIGITS = 4  # of a mean on the page, as in the metrics
SPLITS = ("test", "validation")
CELL = ["split", "behaviour", "method", "variant", "scale", "coeff"]
DRAW = ["split", "prompt", "sample", "seed"]  # texts of one draw had equal luck
LABEL_COLUMNS = ["a_behaviour", "b_behaviour", "a_coherence", "b_coherence"]


def write_browser(reports: Path, data: Path) -> list[Path]:
    """Write reports/samples.html and reports/latents.html from the artefacts below `data`; returns both paths.

    Raises: FileNotFoundError naming the stage to run if one is not there; ValueError for samples that do not fit
    together, or that are too many for a page.
    """
    choices = json.loads(_made_by("samples", data / "samples" / "choices.json").read_text(encoding="utf-8"))
    latents = json.loads(_made_by("features", data / "features" / "latents.json").read_text(encoding="utf-8"))
    labels = pd.read_csv(data / "labels" / "steered.csv", keep_default_na=False)
    pages = {
        "samples": samples_page(read_samples(data / "samples", choices), choices, labels),
        "latents": page("latents", latents_payload(latents, choices["behaviours"])),
    }
    reports.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (reports / f"{name}.html").write_text(text, encoding="utf-8", newline="\n")
    return [reports / f"{name}.html" for name in pages]


def _made_by(stage: str, path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; run `dvc repro {stage}`")
    return path


def page(name: str, payload: dict) -> str:
    """The page `name` as HTML, with its data inside."""
    parts = {
        "title": {"samples": "Samples of steered text", "latents": "Latents of the SAE"}[name],
        "body": _part(f"{name}.html"),
        "style": _part("page.css"),
        "script": _part("page.js") + _part(f"{name}.js"),
        "data": embedded(payload),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def embedded(payload: dict) -> str:
    """The payload as JSON that can stand in a <script>: no `<`, so that no text can close it or open another."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def read_samples(folder: Path, choices: dict) -> pd.DataFrame:
    """The rows of test.parquet and validation.parquet, cell by cell, with columns split, cell and draw (numbers),
    of (texts of the cell) and chosen: the behaviours for which the row's cell is the chosen one.

    Raises: ValueError for a text whose draw has no unsteered one of the same seed, or a chosen cell without texts.
    """
    parts = [pd.read_parquet(_made_by("samples", folder / f"{split}.parquet")).assign(split=split) for split in SPLITS]
    samples = pd.concat(parts, ignore_index=True)
    _check_known("behaviour", samples.behaviour, [*choices["behaviours"], SHARED])
    _check_known("method", samples.method, list(LABELS))
    samples["cell"] = samples.groupby(CELL, sort=False).ngroup()
    samples["draw"] = samples.groupby(DRAW, sort=False).ngroup()
    samples["of"] = samples.groupby("cell").cell.transform("size")
    _check_pairs(samples)
    return _with_chosen(samples, choices).sort_values(["cell", "draw"], kind="stable", ignore_index=True)


def _check_known(kind: str, values: pd.Series, allowed: list[str]) -> None:
    for value in values.unique():
        if value not in allowed:
            raise unknown(kind, value, allowed)


def _check_pairs(samples: pd.DataFrame) -> None:
    alone = samples[~samples.draw.isin(samples.draw[samples.method == UNSTEERED])]
    if len(alone):
        row = alone.iloc[0]
        raise ValueError(
            f"{len(alone)} texts of {row.split} have no unsteered text of their seed, the first after {row.prompt!r}, "
            f"sample {row['sample']}; run `dvc repro samples`"
        )


def _with_chosen(samples: pd.DataFrame, choices: dict) -> pd.DataFrame:
    cells = samples.drop_duplicates("cell")
    chosen = {cell: [] for cell in cells.cell}
    for method, by_behaviour in choices["choices"].items():
        for behaviour, choice in by_behaviour.items():
            own = cells.behaviour.isin([behaviour, SHARED]) & (cells.method == method)
            found = cells[own & (cells.variant == choice["variant"]) & np.isclose(cells.scale, choice["scale"])]
            if "test" not in set(found.split):
                raise ValueError(f"no test texts of {method} for {behaviour} at {choice}; run `dvc repro samples`")
            for cell in found.cell:
                chosen[cell].append(behaviour)
    return samples.assign(chosen=samples.cell.map(chosen))


def samples_page(samples: pd.DataFrame, choices: dict, labels: pd.DataFrame) -> str:
    """The page of the samples, with as many of them as LIMIT allows.

    Raises: ValueError if the chosen cells alone are too many.
    """
    digits = score_digits(samples, list(choices["behaviours"]))
    for kept in thinnings(samples):
        payload = samples_payload(kept, choices["behaviours"], labels, digits=digits)
        made = page("samples", payload | {"left_out": len(samples) - len(kept)})
        if len(made.encode()) <= LIMIT:
            return made
    raise ValueError(f"the test texts of the chosen cells alone exceed {LIMIT} bytes; raise LIMIT in {__name__}")


def thinnings(samples: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """All samples, then ever fewer: first validation texts go, chosen cells' last, then test texts of cells that were
    not chosen. A draw goes from every cell at once, so that what is left is of equal luck; unsteered texts stay."""
    yield samples
    order = samples.drop_duplicates("draw").sort_values(["sample", "draw"], ascending=False)
    chosen, loose = samples.chosen.astype(bool), samples.method != UNSTEERED
    kept = pd.Series(True, index=samples.index)
    for split, may_go in (("validation", loose & ~chosen), ("validation", loose), ("test", loose & ~chosen)):
        for draw in order.draw[order.split == split]:
            gone = kept & may_go & (samples.draw == draw)
            if gone.any():
                kept &= ~gone
                yield samples[kept]


def score_digits(samples: pd.DataFrame, behaviours: list[str]) -> int:
    """The fewest decimals of a score at which every cell's mean B, mean C and BCS come out as without rounding."""
    own = [samples[samples.behaviour.isin([b, SHARED])] for b in behaviours]
    long = pd.concat(
        [part[["cell", "coherence"]].assign(target=b, B=part[f"B_{b}"]) for b, part in zip(behaviours, own)]
    ).astype({"B": float, "coherence": float})
    exact = _shown_means(long)
    return next(n for n in range(SHOWN_DIGITS, 14) if _shown_means(long.round({"B": n, "coherence": n})).equals(exact))


def _shown_means(long: pd.DataFrame) -> pd.DataFrame:
    means = long.groupby(["cell", "target"])[["B", "coherence"]].mean()
    return means.assign(BCS=means.B * means.coherence).round(SHOWN_DIGITS)


def samples_payload(samples: pd.DataFrame, behaviours: dict[str, str], labels: pd.DataFrame, *, digits: int) -> dict:
    """What the page of the samples holds. Rows stand in the order of the cells, of which `rows` counts them; `B` is a
    number, or one for each behaviour where the text is scored for all; `labels` are rows of row number, behaviour
    and both annotators' labels; scores are integers, `digits` decimals of them after the point."""
    cells = samples.drop_duplicates("cell")
    counts = samples.groupby("cell").size().loc[cells.cell]
    draws = samples.drop_duplicates("draw").sort_values("draw")
    place = {draw: i for i, draw in enumerate(draws.draw)}
    return {
        "behaviours": list(behaviours),
        "names": list(behaviours.values()),
        "methods": [[m, LABELS[m], COLOURS[m]] for m in method_order(samples.method.unique().tolist())],
        "digits": digits,
        "cells": cells[[*CELL, "of", "chosen"]].round({"coeff": 1}).to_dict("list") | {"rows": counts.tolist()},
        "draws": draws[["split", "prompt", "sample"]].to_dict("list"),
        "draw": [place[draw] for draw in samples.draw],
        "text": samples.text.tolist(),
        "C": _integers(samples.coherence, digits),
        "B": _behaviour_scores(samples, list(behaviours), digits),
        "labels": _labels_of(samples, list(behaviours), labels),
    }


def _integers(scores: pd.Series, digits: int) -> list[int | None]:
    scaled = np.rint(scores.to_numpy(dtype=float) * 10**digits)
    return [None if np.isnan(score) else int(score) for score in scaled]


def _behaviour_scores(samples: pd.DataFrame, behaviours: list[str], digits: int) -> list:
    columns = [_integers(samples[f"B_{b}"], digits) for b in behaviours]
    place = {b: i for i, b in enumerate(behaviours)}
    return [
        list(scores) if behaviour == SHARED else scores[place[behaviour]]
        for behaviour, scores in zip(samples.behaviour, zip(*columns))
    ]


def _labels_of(samples: pd.DataFrame, behaviours: list[str], labels: pd.DataFrame) -> list[list[int]]:
    """[row, behaviour's number, a and b on behaviour, a and b on coherence] for every text that was labelled."""
    rows = samples.reset_index(drop=True).reset_index(names="row")[["row", "behaviour", "text"]]
    known = labels.drop_duplicates(["behaviour", "text"])
    found = rows.merge(known, on="text", suffixes=("", "_labelled"))
    found = found[(found.behaviour == found.behaviour_labelled) | (found.behaviour == SHARED)]
    found = found[found.behaviour_labelled.isin(behaviours)]
    numbers = found.behaviour_labelled.map(behaviours.index)
    return (
        found.assign(number=numbers)[["row", "number", *LABEL_COLUMNS]].sort_values(["row", "number"]).values.tolist()
    )


def latents_payload(latents: list[dict], behaviours: dict[str, str]) -> dict:
    """What the page of the latents holds. Raises: ValueError for a latent wanted by a behaviour that is not there."""
    for latent in latents:
        for behaviour in latent["wanted_by"]:
            if behaviour not in behaviours:
                raise unknown(f"behaviour of latent {latent['latent']}", behaviour, list(behaviours))
    return {"behaviours": behaviours, "latents": latents}
