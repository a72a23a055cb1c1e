"""The browsers of samples and latents: what is kept of the data, and the pages as Chromium shows them."""

import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect, sync_playwright

from fgaa_utils.names import CONTROLS, LABELS, PROMPTING, SHARED, UNSTEERED, method_order
from fgaa_utils.pipeline import browser

BEHAVIOURS = {
    "anger": "Anger",
    "christian": "Christian evangelist",
    "conspiracy": "Conspiracy",
    "french": "French",
    "london": "London",
    "love": "Love",
    "praise": "Praise",
    "want_to_die": "Want to die",
    "wedding": "Wedding",
}
SCALES = (0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75)
VARIANTS = {
    "fgaa": [f"n1={n1},n2={n2}" for n1 in (1, 2, 4, 8) for n2 in (0, 4)],
    "sae": [f"rank={rank}" for rank in (1, 2, 3, 4)],
    "sae_ts": [f"rank={rank}" for rank in (1, 2, 3, 4)],
    "caa": [f"bos={bos},white={white}" for bos in (0, 1) for white in (0, 1)],
    "ng_caa": [f"bos={bos},white={white}" for bos in (0, 1) for white in (0, 1)],
    "ng_fgaa": [f"n1={n1},n2=0" for n1 in (2, 8, 32, 128)],
    "ng": ["n1=8,n2=0", "n1=32,n2=0", "white=1", "n1=8,n2=0,white=1"],
    "imported": [f"draw={draw}" for draw in (1, 2)],
    "random": [f"draw={draw}" for draw in range(4)],
    "random_latent": [f"draw={draw}" for draw in range(4)],
    "random_ng": [f"draw={draw}" for draw in range(4)],
    "bias": [""],
    PROMPTING: [f"draw={draw}" for draw in range(4)],
    UNSTEERED: [""],
}
PROMPTS = {
    "validation": ["I feel", "My friend", "Today", "People", "Once", "It seems"],
    "test": ["I think", "You know", "They", "Last night", "Nobody", "Our", "So,", "Everyone says", "What", "Here"],
}
SAMPLES = {"validation": 2, "test": 3}
HOSTILE = (
    "I think</script><script>alert(1)</script><img src=x onerror=alert(2)> {{data}} "
    '<!--<svg onload=alert(3)> & &lt; \\u003c " \u202eabc\u2028 \r\n<b>bold</b>'
)
WORDS = (
    "the a of and to in was were that it she he they we had would could never always again quietly people house river "
    "morning letter friend garden winter road music window doctor children history market small bright old certain "
    "reason question story evening naïve café déjà forêt élève “said” it’s"
).split()
CELL = ["behaviour", "method", "variant", "scale", "coeff"]


@dataclass
class Study:
    """Artefacts below `data` as the stages write them, and the scores that the evaluation would report of them."""

    data: Path
    choices: dict
    bcs: dict[str, dict[str, dict[str, float]]]  # [method][behaviour]: {value, B, C}


def sentences(rng: random.Random, prompt: str) -> str:
    """A text of about the length and look of a sampled one."""
    words = rng.choices(WORDS, k=rng.randint(18, 30))
    for _ in range(3):
        words[rng.randrange(len(words))] += rng.choice([",", ".", ".\n\n", ' "', "!"])
    return f"{prompt} {' '.join(words)}"


def cell_rows(split: str, cells: list[tuple], behaviours: list[str], seed: int) -> pd.DataFrame:
    """The table of a split: every cell with the same draws, scored as evaluation.cells.score_samples does."""
    rng = np.random.default_rng(seed)
    draws = [(p, s) for p in PROMPTS[split] for s in range(SAMPLES[split])]
    seeds = rng.integers(0, 2**62, size=len(draws))
    rows = [(*cell, *draw, s) for cell in cells for draw, s in zip(draws, seeds)]
    table = pd.DataFrame(rows, columns=[*CELL, "prompt", "sample", "seed"])
    writer = random.Random(seed)
    table["text"] = [sentences(writer, prompt) for prompt in table.prompt]
    table["coherence"] = rng.beta(2, 2, size=len(table))
    for behaviour in behaviours:
        scores = rng.beta(0.3, 0.6, size=len(table))
        table[f"B_{behaviour}"] = np.where(table.behaviour.isin([behaviour, SHARED]), scores, np.nan)
    return table


def write_study(data: Path, behaviours: dict[str, str], scales: tuple[float, ...], *, seed: int = 0) -> Study:
    """Made-up artefacts with all methods and controls: on test, the chosen variants at every scale."""
    rng = np.random.default_rng(seed)
    free = (*CONTROLS, UNSTEERED)
    names = [
        (behaviour, method, variant)
        for method in LABELS
        for behaviour in ([SHARED] if method in free else behaviours)
        for variant in VARIANTS[method]
    ]
    plain = (PROMPTING, UNSTEERED)
    grid = [(*n, s, s * 1524.6) for n in names for s in ((0.0,) if n[1] in plain else scales)]
    choices = {method: {} for method in LABELS}
    for method in LABELS:
        for behaviour in behaviours:
            own = [cell for cell in grid if cell[1] == method and cell[0] in (behaviour, SHARED)]
            _, _, variant, scale, coeff = own[rng.integers(len(own))]
            choices[method][behaviour] = {"variant": variant, "scale": scale, "coeff": coeff}
    picked = {(b, m, v) for b, m, v in names for t, c in choices[m].items() if b in (t, SHARED) and v == c["variant"]}
    tables = {
        "validation": cell_rows("validation", grid, list(behaviours), seed=11),
        "test": cell_rows("test", [cell for cell in grid if cell[:3] in picked], list(behaviours), seed=12),
    }
    (data / "samples").mkdir(parents=True)
    (data / "features").mkdir()
    (data / "labels").mkdir()
    test = tables["test"]
    first = next(iter(behaviours))
    test.loc[chosen_rows(test, "fgaa", first, choices["fgaa"][first]).index[0], "text"] = HOSTILE
    chosen = {m: {b: chosen_rows(test, m, b, choices[m][b]) for b in behaviours} for m in LABELS}
    for split, table in tables.items():
        table.to_parquet(data / "samples" / f"{split}.parquet", index=False)
    about = {"behaviours": behaviours, "resid_std": 1524.6, "unit": 1524.6, "layer": 9, "choices": choices}
    (data / "samples" / "choices.json").write_text(json.dumps(about))
    labelled_rows(test, behaviours, chosen).to_csv(data / "labels" / "steered.csv", index=False)
    (data / "features" / "latents.json").write_text(json.dumps(latents(rng, behaviours)))
    return Study(data, about, {m: {b: scores_of(rows, b) for b, rows in of.items()} for m, of in chosen.items()})


def chosen_rows(test: pd.DataFrame, method: str, behaviour: str, choice: dict) -> pd.DataFrame:
    own = test.behaviour.isin([behaviour, SHARED]) & (test.method == method)
    return test[own & (test.variant == choice["variant"]) & (test.scale == choice["scale"])]


def scores_of(rows: pd.DataFrame, behaviour: str) -> dict[str, float]:
    """An independent reading of the paper's score: mean B times mean C, as the metrics round it."""
    B, C = float(np.nanmean(rows[f"B_{behaviour}"])), float(np.nanmean(rows.coherence))
    return {"value": round(B * C, 4), "B": round(B, 4), "C": round(C, 4)}


def labelled_rows(test: pd.DataFrame, behaviours: dict[str, str], chosen: dict) -> pd.DataFrame:
    rows = [
        (b, chosen[m][b].text.iloc[i], i % 4, (i + 1) % 4, 2, 3)
        for m in ("fgaa", "random")
        for b in behaviours
        for i in range(4)
    ]
    columns = ["behaviour", "text", "a_behaviour", "b_behaviour", "a_coherence", "b_coherence"]
    return pd.DataFrame(rows, columns=columns)


def latents(rng: np.random.Generator, behaviours: dict[str, str]) -> list[dict]:
    made = []
    for number in range(60):
        contexts = [
            {
                "before": " ".join(rng.choice(WORDS, 8)) + " ",
                "token": str(rng.choice(WORDS)),
                "after": " " + " ".join(rng.choice(WORDS, 4)),
                "value": float(value),
            }
            for value in np.sort(rng.uniform(50, 900, size=5))[::-1]
        ]
        wanted = {str(b): float(rng.uniform(0.1, 40)) for b in rng.choice(list(behaviours), 1 + number % 2)}
        promotes = [f" {word}" for word in rng.choice(WORDS, 8)]
        density = float(10 ** rng.uniform(-4, -2))
        made.append(
            {"latent": 17 * number, "density": density, "promotes": promotes, "contexts": contexts, "wanted_by": wanted}
        )
    made[0]["contexts"][0] |= {"before": HOSTILE, "token": "<img src=x onerror=alert(4)>"}
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Study:
    """Three behaviours and two scales."""
    few = {key: BEHAVIOURS[key] for key in ("anger", "french", "love")}
    return write_study(tmp_path_factory.mktemp("small") / "data", few, SCALES[:2])


@pytest.fixture(scope="module")
def pages(small, tmp_path_factory) -> Path:
    """The folder of the small study's pages."""
    reports = tmp_path_factory.mktemp("reports")
    assert [path.name for path in browser.write_browser(reports, small.data)] == ["samples.html", "latents.html"]
    return reports


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Study, Path]:
    """A study as large as the default setting's, and the folder of its pages."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_study(folder / "data", BEHAVIOURS, SCALES)
    browser.write_browser(folder / "reports", study.data)
    return study, folder / "reports"


def payload_of(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def split_rows(payload: dict) -> pd.DataFrame:
    """The payload's texts as rows again: the page's reading of it, written independently."""
    cells = pd.DataFrame(payload["cells"])
    rows = cells.loc[cells.index.repeat(cells.rows)].reset_index(drop=True)
    draws = pd.DataFrame(payload["draws"]).loc[payload["draw"]].reset_index(drop=True)
    return rows.assign(
        prompt=draws.prompt, sample=draws["sample"], text=payload["text"], C=payload["C"], B=payload["B"]
    )


def page_scores(payload: dict, method: str, behaviour: str) -> dict[str, float]:
    """The scores of the chosen test cell as the payload has them."""
    rows = split_rows(payload)
    rows = rows[(rows.split == "test") & (rows.method == method) & rows.chosen.map(lambda chosen: behaviour in chosen)]
    rows = rows[rows.behaviour.isin([behaviour, SHARED])]
    place, unit = payload["behaviours"].index(behaviour), 10 ** payload["digits"]
    B = sum(b[place] if isinstance(b, list) else b for b in rows.B) / len(rows) / unit
    C = sum(rows.C) / len(rows) / unit
    return {"value": round(B * C, 4), "B": round(B, 4), "C": round(C, 4)}


def edited(small: Study, tmp_path: Path, split: str, edit) -> Path:
    """A copy of the small study's data with one table edited."""
    data = tmp_path / "data"
    shutil.copytree(small.data, data)
    table = pd.read_parquet(data / "samples" / f"{split}.parquet")
    edit(table).to_parquet(data / "samples" / f"{split}.parquet", index=False)
    return data


class TestSamples:
    def test_every_text_is_kept_with_its_cell_and_draw(self, small, pages):
        rows = split_rows(payload_of(pages / "samples.html"))
        for split in PROMPTS:
            table = pd.read_parquet(small.data / "samples" / f"{split}.parquet")
            keys = ["behaviour", "method", "variant", "scale", "prompt", "sample", "text"]
            kept = rows[rows.split == split][keys].sort_values(keys[:-1], ignore_index=True)
            pd.testing.assert_frame_equal(kept, table[keys].sort_values(keys[:-1], ignore_index=True))

    def test_scores_of_every_chosen_cell_are_the_metrics(self, whole):
        study, reports = whole
        payload = payload_of(reports / "samples.html")
        for method in ("fgaa", "prompting", "random", "unsteered"):
            for behaviour in BEHAVIOURS:
                assert page_scores(payload, method, behaviour) == study.bcs[method][behaviour], (method, behaviour)

    def test_a_default_run_fits_with_most_of_its_texts(self, whole):
        study, reports = whole
        payload = payload_of(reports / "samples.html")
        assert len(payload["text"]) > 20_000 > payload["left_out"]
        assert (reports / "samples.html").stat().st_size < 5_000_000

    def test_equal_data_make_equal_bytes(self, small, pages, tmp_path):
        for path in browser.write_browser(tmp_path, small.data):
            assert path.read_bytes() == (pages / path.name).read_bytes()

    def test_labels_stand_at_their_text_and_behaviour(self, small, pages):
        payload = payload_of(pages / "samples.html")
        rows = split_rows(payload)
        labels = pd.read_csv(small.data / "labels" / "steered.csv")
        given = {(r.behaviour, r.text): [*r[browser.LABEL_COLUMNS]] for _, r in labels.iterrows()}
        found = {(payload["behaviours"][b], rows.text[row]): marks for row, b, *marks in payload["labels"]}
        assert found == given
        assert {rows.behaviour[row] for row, *_ in payload["labels"]} == {*payload["behaviours"], SHARED}

    def test_a_score_that_a_judge_left_out_is_null_and_counts_for_nothing(self, small, tmp_path):
        choice = small.choices["choices"]["fgaa"]["love"]

        def without(table):
            first = chosen_rows(table, "fgaa", "love", choice).index[0]
            table.loc[first, ["coherence", "B_love"]] = np.nan
            return table

        data = edited(small, tmp_path, "test", without)
        rows = split_rows(payload_of(browser.write_browser(tmp_path / "reports", data)[0]))
        assert rows.C.isna().sum() == rows.B.isna().sum() == 1

    def test_digits_are_as_few_as_keep_the_means(self):
        table = cell_rows("test", [("love", "fgaa", "n1=1,n2=0", 0.1, 152.5)], ["love"], seed=0)
        table["coherence"], table["B_love"] = 0.5, 0.25
        assert browser.score_digits(table.assign(cell=0), ["love"]) == 4
        table["B_love"] = [0.20004, 0.20004, 0.20009] * 10  # mean 0.2001, but of 0.2000, 0.2000, 0.2001 it is 0.2000
        assert browser.score_digits(table.assign(cell=0), ["love"]) == 5

    def test_too_many_texts_thin_validation_by_whole_draws(self, small, pages, monkeypatch):
        samples = browser.read_samples(small.data / "samples", small.choices)
        labels = pd.read_csv(small.data / "labels" / "steered.csv")
        size = (pages / "samples.html").stat().st_size
        monkeypatch.setattr(browser, "LIMIT", size - 40_000)
        made = browser.samples_page(samples, small.choices, labels)
        payload = json.loads(re.search(r'id="data">(.*?)</script>', made, re.S)[1])
        rows = split_rows(payload)
        assert len(made.encode()) <= size - 40_000
        assert payload["left_out"] == len(samples) - len(rows) > 0
        assert (rows[rows.split == "test"].groupby(CELL).size() == 30).all()
        kept = rows[rows.split == "validation"]
        whole_cells = kept.chosen.map(bool) | (kept.method == UNSTEERED)
        assert (kept[whole_cells].rows == kept[whole_cells].of).all()
        assert len({frozenset(zip(g["prompt"], g["sample"])) for _, g in kept[~whole_cells].groupby(CELL)}) == 1
        assert page_scores(payload, "fgaa", "love") == small.bcs["fgaa"]["love"]

    def test_chosen_test_texts_that_do_not_fit_are_an_error(self, small, monkeypatch):
        monkeypatch.setattr(browser, "LIMIT", 10_000)
        samples = browser.read_samples(small.data / "samples", small.choices)
        few = samples[samples.chosen.astype(bool) | (samples.method == UNSTEERED)].head(200)
        labels = pd.read_csv(small.data / "labels" / "steered.csv")
        with pytest.raises(ValueError, match="exceed 10000 bytes; raise LIMIT"):
            browser.samples_page(few, small.choices, labels)

    def test_a_text_of_another_seed_than_the_unsteered_one_is_an_error(self, small, tmp_path):
        def reseeded(table):
            table.loc[table.index[table.method == "fgaa"][0], "seed"] += 1
            return table

        data = edited(small, tmp_path, "test", reseeded)
        with pytest.raises(ValueError, match="1 texts of test have no unsteered text of their seed"):
            browser.read_samples(data / "samples", small.choices)

    def test_a_chosen_cell_without_texts_is_an_error(self, small):
        choice = {"variant": "n1=9,n2=0", "scale": 0.1, "coeff": 1.0}
        with pytest.raises(ValueError, match=r"no test texts of fgaa for love at .*n1=9"):
            browser.read_samples(small.data / "samples", small.choices | {"choices": {"fgaa": {"love": choice}}})

    def test_an_unknown_method_is_named(self, small, tmp_path):
        data = edited(small, tmp_path, "test", lambda table: table.replace({"method": {"fgaa": "fgga"}}))
        with pytest.raises(ValueError, match="unknown method 'fgga'; did you mean 'fgaa'"):
            browser.read_samples(data / "samples", small.choices)

    def test_missing_data_name_the_stage_to_run(self, small, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"choices.json is not there; run `dvc repro samples`"):
            browser.write_browser(tmp_path, tmp_path)
        shutil.copytree(small.data, tmp_path / "data")
        (tmp_path / "data" / "features" / "latents.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"latents.json is not there; run `dvc repro features`"):
            browser.write_browser(tmp_path, tmp_path / "data")


class TestPage:
    def test_data_cannot_leave_their_script(self):
        made = browser.embedded({"text": HOSTILE})
        assert "<" not in made and json.loads(made) == {"text": HOSTILE}

    def test_what_looks_like_a_marker_of_the_page_is_left_as_it_is(self, pages):
        assert HOSTILE in payload_of(pages / "samples.html")["text"]

    @pytest.mark.parametrize("name", ["samples", "latents"])
    def test_the_page_loads_nothing_and_parses_no_text(self, pages, name):
        text = (pages / f"{name}.html").read_text(encoding="utf-8")
        own = text.replace(re.search(r'id="data">(.*?)</script>', text, re.S)[1], "")
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
        assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in own
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", own)
        assert not re.search(r"https?://|\bsrc=|@import|url\(", own)

    def test_a_latent_of_an_unknown_behaviour_is_named(self):
        latent = {"latent": 3, "density": 0.1, "promotes": [], "contexts": [], "wanted_by": {"lov": 1.0}}
        with pytest.raises(ValueError, match="behaviour of latent 3 'lov'; did you mean 'love'"):
            browser.latents_payload([latent], BEHAVIOURS)


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium. Skipped without one, but not on a CI machine, which must have it."""
    path = shutil.which("chromium")
    if path is None and "CI" not in os.environ:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    assert path is not None, "no chromium on this CI machine: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture
def opened(chromium, pages):
    """opened("samples.html#...", width=...) is that page in a fresh tab; no script failed, no dialog opened, nothing was
    asked of a network."""
    tabs, faults = [], []

    def open_page(address: str, *, width: int = 1280, folder: Path = pages, scheme: str = "light"):
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
        tab.goto((folder / address.partition("#")[0]).as_uri() + "".join(address.partition("#")[1:]))
        expect(tab.locator("#status")).not_to_be_empty()
        tabs.append(tab)
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


def count(tab, wanted: str) -> None:
    """Wait until the page says so many texts."""
    expect(tab.locator("#status")).to_have_text(wanted, timeout=10_000)


@pytest.mark.browser
class TestSamplesInChromium:
    def test_shows_the_chosen_test_cells_of_a_behaviour_first(self, opened):
        tab = opened("samples.html")
        count(tab, f"{30 * len(LABELS)} texts in {len(LABELS)} cells")
        shown = tab.locator("#summary tbody a").all_inner_texts()
        assert shown == [LABELS[m] for m in method_order(list(LABELS))]
        assert tab.locator(".card").count() == 30

    def test_the_table_gives_every_bcs_of_the_metrics(self, opened, small):
        tab = opened("samples.html#behaviour=")
        cells = sum(map(len, small.bcs.values()))
        tab.get_by_text(f"Scores of the {cells} cells").click()
        rows = [line.locator("td").all_inner_texts() for line in tab.locator("#summary tbody tr").all()]
        names = {label: key for key, label in LABELS.items()} | {n: k for k, n in BEHAVIOURS.items()}
        shown = {(names[row[0]], names[row[1]]): row[2:5] for row in rows}
        assert len(shown) == len(rows) == cells
        for (method, behaviour), found in shown.items():
            expected = small.bcs[method][behaviour]
            assert found == [f"{expected[name]:.4f}" for name in ("value", "B", "C")], (method, behaviour)

    @pytest.mark.parametrize("method", ["fgaa", "random_latent"])
    def test_a_cell_alone_shows_its_bcs(self, opened, small, method):
        tab = opened(f"samples.html#behaviour=love&method={method}")
        count(tab, "30 texts in 1 cell")
        expected = small.bcs[method]["love"]
        assert tab.locator(".figure .value").all_inner_texts() == [f"{expected[k]:.4f}" for k in ("B", "C", "value")]
        plain = small.bcs["unsteered"]["love"]
        assert f"mean B {plain['B']:.4f}, mean C {plain['C']:.4f}, BCS {plain['value']:.4f}" in tab.inner_text(
            "#summary"
        )

    def test_the_average_over_behaviours_is_the_metrics(self, opened, small):
        tab = opened("samples.html#behaviour=&method=caa")
        values = [entry["value"] for entry in small.bcs["caa"].values()]
        assert float(tab.inner_text("#average")) == pytest.approx(np.mean(values), abs=1e-4)

    def test_filters_narrow_and_reset(self, opened):
        tab = opened("samples.html")
        tab.get_by_label("Method").select_option("sae")
        count(tab, "30 texts in 1 cell")
        tab.get_by_label("chosen cells only").uncheck()
        count(tab, "60 texts in 2 cells")
        tab.get_by_label("Scale").select_option("0.1")
        count(tab, "30 texts in 1 cell")
        tab.get_by_label("Split").select_option("validation")
        count(tab, "48 texts in 4 cells")
        tab.get_by_label("Variant").select_option("=rank=2")
        count(tab, "12 texts in 1 cell")
        tab.get_by_role("button", name="Reset filters").click()
        count(tab, f"{30 * len(LABELS)} texts in {len(LABELS)} cells")
        assert "#" not in tab.url.rstrip("#")

    def test_minimum_scores_and_order(self, opened):
        tab = opened("samples.html#behaviour=love&b=0.5&c=0.4&sort=best")
        lines = tab.locator(".card section:first-child .scores").all()
        scores = [[float(x) for x in line.locator("b").all_inner_texts()] for line in lines]
        assert scores and all(b >= 0.5 and c >= 0.4 for b, c, _ in scores)
        assert [product for *_, product in scores] == sorted((product for *_, product in scores), reverse=True)
        assert "not the scores of the cells" in tab.inner_text("#summary")

    def test_search_marks_what_it_finds(self, opened, small):
        test = pd.read_parquet(small.data / "samples" / "test.parquet")
        own = chosen_rows(test, "fgaa", "love", small.choices["choices"]["fgaa"]["love"])
        expected = int(own.text.str.contains("RIVER", case=False).sum())
        tab = opened("samples.html#behaviour=love&method=fgaa")
        tab.get_by_label("Search in the texts").fill("RIVER")
        count(tab, f"{expected} text{'s' * (expected != 1)} in 1 cell")
        assert {mark.lower() for mark in tab.locator("section:first-child mark").all_inner_texts()} == {"river"}
        assert f"Only the {expected} of 30 texts" in tab.inner_text("#summary")

    def test_a_search_is_text_and_no_pattern(self, opened):
        tab = opened("samples.html")
        tab.get_by_label("Search in the texts").fill("(.*[\\-/")
        count(
            tab, "No text passes these filters. Chosen cells only is on, and a method has one of them for a behaviour."
        )
        assert tab.locator(".card").count() == 0 and not tab.locator("#summary").is_visible()

    def test_the_address_keeps_the_filters(self, opened):
        tab = opened("samples.html")
        tab.get_by_label("Behaviour").select_option("love")
        tab.get_by_label("Method").select_option("fgaa")
        tab.get_by_label("Search in the texts").fill("café & thé")
        expect(tab).to_have_url(re.compile("q="))
        again = opened("samples.html#" + tab.url.partition("#")[2])
        for one in (tab, again):
            assert one.get_by_label("Behaviour").input_value() == "love"
            assert one.get_by_label("Search in the texts").input_value() == "café & thé"
        assert again.inner_text("#status") == tab.inner_text("#status")

    def test_an_address_that_names_nothing_shows_the_defaults(self, opened):
        count(
            opened("samples.html#behaviour=envy&method=%3Cb%3E&scale=x"),
            f"{30 * len(LABELS)} texts in {len(LABELS)} cells",
        )

    def test_steered_and_unsteered_text_stand_side_by_side(self, opened, small):
        test = pd.read_parquet(small.data / "samples" / "test.parquet")
        own = chosen_rows(test, "caa", "love", small.choices["choices"]["caa"]["love"]).iloc[0]
        plain = test[(test.method == UNSTEERED) & (test.seed == own.seed)].iloc[0]
        first = opened("samples.html#behaviour=love&method=caa").locator(".card").first
        texts = [part.evaluate("node => node.textContent") for part in first.locator(".text").all()]
        assert texts == [own.text, plain.text]
        assert first.locator(".opener").all_inner_texts() == [own.prompt, own.prompt]
        scores = [float(x) for x in first.locator(".scores").nth(1).locator("b").all_inner_texts()]
        assert scores[:2] == pytest.approx([plain.B_love, plain.coherence], abs=6e-4)

    def test_markup_in_a_text_stays_text(self, opened):
        tab = opened("samples.html#behaviour=anger&method=fgaa")
        text = tab.locator(".card .text").first
        assert text.evaluate("node => node.textContent") == HOSTILE
        assert text.evaluate("node => node.querySelectorAll('script, img, svg').length") == 0
        assert tab.locator("img, svg").count() == 0 and tab.locator("script").count() == 2

    def test_works_by_keyboard(self, opened):
        tab = opened("samples.html")
        unnamed = (
            "[...document.querySelectorAll('input, select, button')].filter(c => !c.labels?.length && !c.textContent)"
        )
        assert tab.evaluate(f"{unnamed}.length") == 0
        tab.get_by_role("link", name="SAE-TS", exact=True).focus()
        tab.keyboard.press("Enter")
        count(tab, "30 texts in 1 cell")
        tab.go_back()
        count(tab, f"{30 * len(LABELS)} texts in {len(LABELS)} cells")
        tab.locator("#more").focus()
        tab.keyboard.press("Enter")
        assert tab.locator(".card").count() == 60

    def test_says_what_was_left_out(self, opened, small, tmp_path, monkeypatch, pages):
        assert "none was left out" in opened("samples.html").inner_text("#rest")
        monkeypatch.setattr(browser, "LIMIT", (pages / "samples.html").stat().st_size - 40_000)
        browser.write_browser(tmp_path, small.data)
        left = payload_of(tmp_path / "samples.html")["left_out"]
        tab = opened("samples.html#chosen=0&split=validation&behaviour=love&method=fgaa&scale=0.1", folder=tmp_path)
        assert re.search(rf"{left} texts .* left out.*data/samples/validation.parquet", tab.inner_text("#rest"))
        tab.locator("#summary tbody a").first.click()
        tab.wait_for_selector(".figure")
        assert re.search(r"\d+ of the cell's 12 texts are on this page", tab.inner_text("#summary"))

    def test_a_whole_run_opens_and_filters(self, opened, whole):
        tab = opened("samples.html#behaviour=&chosen=0", folder=whole[1])
        assert int(re.sub(r"\D", "", tab.inner_text("#status").split(" ")[0])) > 20_000
        assert tab.locator("#summary tbody tr").count() == 60
        tab.get_by_label("Search in the texts").fill("winter road")
        tab.wait_for_selector("mark")


@pytest.mark.browser
class TestLatentsInChromium:
    def test_filter_order_and_search(self, opened, small):
        latents = json.loads((small.data / "features" / "latents.json").read_text())
        tab = opened("latents.html")
        own = [latent for latent in latents if "love" in latent["wanted_by"]]
        tab.get_by_label("Wanted by").select_option("love")
        count(tab, f"{len(own)} latents of {len(latents)}")
        by_value = sorted(own, key=lambda latent: -latent["wanted_by"]["love"])
        assert tab.locator("h3").all_inner_texts() == [f"Latent {latent['latent']}" for latent in by_value[:30]]
        tab.get_by_label("Order").select_option("sparse")
        by_density = sorted(own, key=lambda latent: latent["density"])
        expect(tab.locator("h3").first).to_have_text(f"Latent {by_density[0]['latent']}")
        tab.get_by_role("button", name="Reset filters").click()
        tab.get_by_label("Search").fill("onerror")
        count(tab, f"1 latent of {len(latents)}")

    def test_the_token_is_marked_and_stays_text(self, opened):
        tab = opened("latents.html#q=onerror")
        assert tab.locator("mark.token").first.inner_text() == "<img src=x onerror=alert(4)>"
        assert tab.locator("img").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("address", ["samples.html", "samples.html#behaviour=love&method=fgaa", "latents.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_narrow_screen_and_is_legible(opened, address, scheme):
    tab = opened(address, width=390, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate(CONTRAST) >= 4.5


# The lowest contrast (WCAG 2) of a text's colour against the background that it stands on.
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    const own = getComputedStyle(node).backgroundColor;
    return (channels(own)[3] ?? 1) > 0 || !node.parentElement ? own : ground(node.parentElement);
  };
  const nodes = [...document.querySelectorAll("p, h1, h3, h4, a, b, label, button, td, th, li, span.name, mark")];
  return Math.min(...nodes.filter((node) => node.innerText?.trim()).map((node) => {
    const [x, y] = [light(getComputedStyle(node).color), light(ground(node))];
    return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  }));
}"""
