"""Settings side by side: what each is, its averages, layers against each other, the claims' verdicts.

Reads what settings reported, never their texts: scores of different models come from different texts and scales.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import LABELS, METHODS, method_order
from fgaa_utils.stats import paired_comparisons

OF_A_LAYER = {("base", "layer"), ("effects", "ce_probes")}  # what two settings of one experiment on layers differ in
PAGES = {"evaluation": "04_evaluation", "capability": "capability"}  # the stages that decide claims


@dataclass(frozen=True)
class Setting:
    """What a setting reported: metrics[stage]; params[section], none of the main run's own."""

    name: str
    metrics: dict[str, dict]
    params: dict[str, dict] | None = None

    @property
    def layer(self) -> int:
        """The layer steered at, of a setting that is not the main run's own."""
        assert self.params is not None, f"{self.name} has no parameters"
        return self.params["base"]["layer"]

    @property
    def bcs(self) -> dict[str, dict]:
        """bcs[method][behaviour or "average"]: {value, lo, hi, n}."""
        return self.metrics["evaluation"]["bcs"]

    @property
    def averages(self) -> dict[str, float]:
        return {m: entries["average"]["value"] for m, entries in self.bcs.items()}

    @property
    def claims(self) -> dict[str, str]:
        """The verdict on each claim."""
        return {c: verdict for stage in PAGES for c, verdict in self.metrics.get(stage, {}).get("claims", {}).items()}


def read_settings(main: str, metrics: Path, reported: Path) -> list[Setting]:
    """The main run, named `main`, and the settings under `reported`, in the order of their names.

    Raises: ValueError naming a folder that lacks metrics/evaluation.json or metrics/judge.json.
    """
    folders = sorted(path.parent for path in reported.glob("*/metrics"))
    return [Setting(main, _read(metrics))] + [
        Setting(folder.name, _read(folder / "metrics"), yaml.safe_load((folder / "params.yaml").read_text()))
        for folder in folders
    ]


def _read(folder: Path) -> dict[str, dict]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if missing := {"evaluation", "judge"} - set(found):
        raise ValueError(
            f"{folder} lacks {', '.join(sorted(missing))}: the setting was not run whole; run and report it again"
        )
    return found


def methods_of(settings: list[Setting]) -> list[str]:
    """The methods of any setting, in the order of tables."""
    return method_order([m for setting in settings for m in setting.bcs])


def setting_table(settings: list[Setting]) -> pd.DataFrame:
    """One column a setting: what it is."""
    return pd.DataFrame({setting.name: _described(setting.metrics) for setting in settings}).rename_axis(
        "of the setting"
    )


def _described(metrics: dict[str, dict]) -> dict[str, str]:
    evaluation, sae = metrics["evaluation"], metrics.get("sae", {})
    explained = sae.get("explained_variance")
    return {
        "model": evaluation["model"].split(":")[0],
        "judge": metrics["judge"]["judge_kind"],
        "behaviours": str(len(evaluation["bcs"]["fgaa"]) - 1),
        "latents of the SAE": str(sae.get("d_sae", "pretrained")),
        "explained variance": "" if explained is None else f"{explained:.2f}",
        "effect vectors": str(metrics.get("effects", {}).get("vectors", "published")),
        "test samples": str(evaluation["samples"]["test"]),
    }


def average_rows(settings: list[Setting]) -> pd.DataFrame:
    """One row a setting and method: setting, method, value, lo, hi of the average BCS."""
    rows = [
        {"setting": setting.name, "method": m} | {k: setting.bcs[m]["average"][k] for k in ("value", "lo", "hi")}
        for setting in settings
        for m in methods_of(settings)
        if m in setting.bcs
    ]
    return pd.DataFrame(rows)


def average_table(settings: list[Setting]) -> pd.DataFrame:
    """Average BCS with its interval: a row a setting, a column a method."""
    rows = {
        setting.name: {LABELS[m]: with_interval(setting.bcs.get(m, {}).get("average")) for m in methods_of(settings)}
        for setting in settings
    }
    return pd.DataFrame(rows).T.rename_axis("setting")


def layer_groups(settings: list[Setting]) -> list[list[Setting]]:
    """Settings that differ in nothing but the layer, two or more together, the shortest name first."""
    groups: list[list[Setting]] = []
    for setting in settings:
        if setting.params is not None:
            same = next((group for group in groups if _rest(group[0]) == _rest(setting)), None)
            groups.append([setting]) if same is None else same.append(setting)
    return [sorted(group, key=lambda setting: len(setting.name)) for group in groups if len(group) > 1]


def _rest(setting: Setting) -> dict[tuple[str, str], object]:
    """The parameters that say what a setting is, apart from its layer."""
    return {
        (s, k): v for s, values in (setting.params or {}).items() for k, v in values.items() if (s, k) not in OF_A_LAYER
    }


def layer_differences(group: list[Setting]) -> dict[str, dict]:
    """{method: {layer: {value, lo, hi, p}}}: average BCS of each layer less that of the first setting's, paired over
    behaviours; p is corrected for the number of other layers (Holm)."""
    (first, at), *others = [(setting.layer, setting.bcs) for setting in group]
    found = {}
    for m in _shared_methods(group):
        by_layer: dict = {layer: _scores(bcs[m]) for layer, bcs in others}
        against = paired_comparisons(_scores(at[m]), by_layer)
        found[m] = {
            layer: {"value": -d["value"], "lo": -d["hi"], "hi": -d["lo"], "p": d["p"]} for layer, d in against.items()
        }
    return found


def layer_table(group: list[Setting]) -> pd.DataFrame:
    """Average BCS of each layer, and its difference from the first: a row a method, a column a layer."""
    differences = layer_differences(group)
    rows: dict[str, dict] = {}
    for m in differences:
        for setting in group:
            layer = setting.layer
            entry = with_interval(setting.bcs[m]["average"])
            if (d := differences[m].get(layer)) is not None:
                entry += f", {with_interval(d, '+.2f')}, p {d['p']:.2f}"
            rows.setdefault(LABELS[m], {})[f"layer {layer}"] = entry
    return pd.DataFrame(rows).T.rename_axis("method")


def _shared_methods(group: list[Setting]) -> list[str]:
    return [m for m in methods_of(group) if all(m in setting.bcs for setting in group)]


def _scores(entries: dict[str, dict]) -> np.ndarray:
    return np.array([entry["value"] for behaviour, entry in entries.items() if behaviour != "average"])


def claims_table(settings: list[Setting]) -> pd.DataFrame:
    """One row a claim: the page and section that decide it, and its verdict in each setting, empty where it is not asked."""
    decided = {
        claim: f"{PAGES[stage]}, {section}"
        for setting in reversed(settings)  # the main run's pages are those that are shown
        for stage in PAGES
        for claim, section in setting.metrics.get(stage, {}).get("claims_shown_in", {}).items()
    }
    claims = dict.fromkeys(claim for setting in settings for claim in setting.claims)
    rows = {
        claim: {"decided in": decided.get(claim, "")} | {s.name: s.claims.get(claim, "") for s in settings}
        for claim in claims
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim")


def steering_sentence(settings: list[Setting]) -> str:
    """In which settings FGAA has the highest average BCS of the methods that steer, and who has it elsewhere."""
    best = {s.name: max((m for m in s.averages if m in METHODS), key=lambda m: s.averages[m]) for s in settings}
    first = [name for name, m in best.items() if m == "fgaa"]
    others = [f"{LABELS[m]} in {name}" for name, m in best.items() if m != "fgaa"]
    return (
        f"Of the methods that steer, FGAA has the highest average BCS in {len(first)} of {len(best)} settings ({listed(first)})"
        + (f", {listed(others)}." if others else ".")
    )


def overall_sentence(settings: list[Setting]) -> str:
    """Who has the highest average BCS of all, prompting and controls among them."""
    where: dict[str, list[str]] = {}
    for setting in settings:
        where.setdefault(LABELS[max(setting.averages, key=lambda m: setting.averages[m])], []).append(setting.name)
    found = "; ".join(f"{label} in {listed(names)}" for label, names in where.items())
    return f"With prompting and the controls counted in, the highest is {found}."


def claims_sentence(settings: list[Setting]) -> str:
    """How many claims have the same verdict in every setting that asked them."""
    verdicts = claims_table(settings).drop(columns="decided in")
    agreed = [next(iter(found)) for _, row in verdicts.iterrows() if len(found := set(row) - {""}) == 1]
    counts = ", ".join(f"{agreed.count(v)} {'hold' if v == 'holds' else v}" for v in dict.fromkeys(agreed))
    return (
        f"Of {len(verdicts)} claims {len(agreed)} have one verdict in all settings that ask them ({counts or 'none'})."
    )


def comparison(settings: list[Setting]) -> dict[str, dict]:
    """What reports/metrics/compare.json holds."""
    layers = {min(setting.name for setting in group): layer_differences(group) for group in layer_groups(settings)}
    return {"average_bcs": {setting.name: setting.averages for setting in settings}, "layers": layers}
