"""The functions that read dependencies out of notebooks and imports, on a made-up package; test_pipeline.py has the real one."""

import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fgaa_utils import params as parameters
from fgaa_utils.pipeline import run, wiring
from fgaa_utils.project import ROOT

FILES = {
    "__init__.py": "",
    "names.py": "import json",
    "heavy.py": "",
    "data/__init__.py": "",
    "data/fetch.py": "from fgaa_utils.names import FITS",
    "data/read.py": "def read():\n    from fgaa_utils import names",
    "method/__init__.py": "from fgaa_utils import shards",
    "method/vectors.py": "import fgaa_utils.data.read\nimport numpy as np",
    "shards.py": "from fgaa_utils.method import vectors",  # round and round
}
PARAMETERS = "top_contexts = 5\ntheta = 0.01\nlayer = 9\nvectors = {}"
FEATURES = """# Features

**Question.** Which?

**Inputs.** `data/behaviours/*.yaml`, the density split `data/data/density.npy`, `params.yaml`,
`data/sae/` and `reports/settings/<name>/metrics/`.
**Outputs.** `data/features/features.safetensors`.

More of `data/raw/lid`."""
CODE = """from fgaa_utils.data import read
b = read_behaviours()
rows = np.load(artefact("data/density.npy"))
sae = load_sae("own")
found = (REPORTS / "settings").glob("*")
load(artefact("features/features.safetensors"))"""
DVC = """# The head.
stages:
  data:
    cmd: python -m fgaa_utils.pipeline.run data
    outs:
      - data/data
  sae:
    frozen: true # once
    cmd: python -m fgaa_utils.pipeline.run sae
    outs:
      - data/sae/cfg.json: {cache: false}
      - data/sae/sae_weights.safetensors: {cache: false}

  features:
    cmd: python -m fgaa_utils.pipeline.run features
    deps: [nothing]
    outs:
      - data/features/features.safetensors

  render:
    cmd: python -m fgaa_utils.data.fetch
    outs: [reports/pages]
"""
WIRED = {
    "deps": [
        "notebooks/02_features.ipynb",
        "fgaa_utils/data/read.py",
        "fgaa_utils/names.py",
        "requirements.lock",
        "data/behaviours",
        "data/data/density.npy",
        "data/sae/cfg.json",
        "data/sae/sae_weights.safetensors",
        "reports/settings",
    ],
    "params": ["features", "vectors", "base.layer", "recipe.theta"],
}


def write_features(intro: str = FEATURES, code: str = CODE) -> None:
    cells = [
        new_markdown_cell(intro),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(code),
    ]
    nbformat.write(new_notebook(cells=cells), run.notebook_path("features"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with the package FILES, the notebook of features, and DVC as its dvc.yaml."""
    for name, text in FILES.items():
        path = tmp_path / "fgaa_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for module in (wiring, parameters):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(wiring, "SCRIPTS", {"render": wiring.Script(["reports/metrics"], [])})
    write_features()
    return tmp_path


def closure(source: str) -> list[str]:
    return sorted(str(path.relative_to(wiring.ROOT / "fgaa_utils")) for path in wiring.import_closure(source))


def stages() -> dict:
    return wiring._yaml().load((wiring.ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("from fgaa_utils import names", ["names.py"]),
        ("from fgaa_utils.names import FITS", ["names.py"]),
        ("from fgaa_utils.data import read as r", ["data/read.py", "names.py"]),
        ("import fgaa_utils.data.fetch", ["data/fetch.py", "names.py"]),
        ("import numpy, json\nfrom pathlib import Path", []),
        (
            "from fgaa_utils.method.vectors import fgaa",
            ["data/read.py", "method/__init__.py", "method/vectors.py", "names.py", "shards.py"],
        ),
    ],
)
def test_the_closure_holds_what_the_imports_run(project, source, files):
    assert closure(source) == files


def test_inputs_are_the_paths_of_their_line(project):
    assert wiring.declared_inputs("features") == [
        "data/behaviours",
        "data/data/density.npy",
        "data/sae",
        "reports/settings",
    ]
    for intro in ("# Features\n\n**Outputs.** `data/x`", "**Inputs.** The SAE.\n**Outputs.** `data/x`"):
        write_features(intro)
        with pytest.raises(ValueError, match=r"02_features\.ipynb: the first cell needs a line \*\*Inputs\.\*\*"):
            wiring.declared_inputs("features")


def test_sync_writes_dependencies_and_parameters_and_leaves_the_rest(project):
    wiring.sync(project / "dvc.yaml")
    written = stages()
    assert {kind: list(written["features"][kind]) for kind in ("deps", "params")} == WIRED
    assert list(written["features"]) == ["cmd", "deps", "params", "outs"]
    text = (project / "dvc.yaml").read_text()
    assert text[: text.index("  features:")] == DVC[: DVC.index("  features:")], "no notebook of it here"
    assert list(written["render"]["deps"]) == ["fgaa_utils/data/fetch.py", "fgaa_utils/names.py", "reports/metrics"]
    assert "params" not in written["render"]
    wiring.sync(project / "dvc.yaml")
    assert (project / "dvc.yaml").read_text() == text
    assert wiring.differences(stages(), parameters.load_params()) == []


def test_what_differs_is_named_and_is_an_error(project, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wiring"])
    assert wiring.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert "features: deps lacks fgaa_utils/data/read.py" in lines and "features: params lacks recipe.theta" in lines
    assert "features: deps has nothing, which it does not read" in lines
    monkeypatch.setattr("sys.argv", ["wiring", "--sync"])
    assert wiring.main() == 0
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("      - recipe.theta\n", ""))
    assert wiring.differences(stages(), parameters.load_params()) == ["features: params lacks recipe.theta"]


def test_a_parameter_that_is_nowhere_is_an_error(project):
    with pytest.raises(ValueError, match="unknown parameter of the notebook of features: 'thta'; did you mean 'theta'"):
        write_features()
        path = run.notebook_path("features")
        path.write_text(path.read_text().replace("theta", "thta"))
        wiring.sync(project / "dvc.yaml")


@pytest.mark.parametrize(
    ("code", "paths"),
    [
        ('artefact("samples/test.parquet"), DATA / name', {"data/samples/test.parquet"}),
        ('metrics_of("vectors")["x"]', {"reports/metrics/vectors.json"}),
        ('artefact(f"{name}"), metrics_of(stage), ROOT / name', set()),
        (
            'read_settings(METRICS, REPORTS / "settings"), MODEL / reference',
            {"reports/metrics", "reports/settings", "data/model"},
        ),
        ('np.load(DATA / "data" / "density.npy"), RAW / "corpus"', {"data/data/density.npy", "data/raw/corpus"}),
        ('METRICS / "vectors.json"', {"reports/metrics/vectors.json"}),
        ("read_labels(), sample_questions(task)", {"data/labels/steered.csv", "data/raw/capability"}),
        ("LocalJudge.fit(x)", {"data/raw/minilm", "data/raw/lid", "data/model"}),
        (
            "local.LocalJudge.fit(x), labels.read_labels()",
            {"data/raw/minilm", "data/raw/lid", "data/model", "data/labels/steered.csv"},
        ),
        ("unread_labels(), model.load_tokenizers()", set()),
        ("fit(x), a / b", set()),
    ],
)
def test_paths_that_code_reads(code, paths):
    assert wiring.paths_read(code) == paths


def test_code_and_inputs_are_compared_both_ways(project):
    assert wiring.input_differences("features", stages()) == []
    write_features(code=CODE.replace("read_behaviours()", 'artefact("vectors/a.safetensors")'))
    assert wiring.input_differences("features", stages()) == [
        "02_features.ipynb reads data/vectors/a.safetensors, which **Inputs** does not name",
        "02_features.ipynb names data/behaviours in **Inputs** and does not read it",
    ]


def test_related_paths_are_those_around_one_another():
    assert wiring.related("data/sae", "data/sae/cfg.json") and wiring.related("data/sae/cfg.json", "data/sae")
    assert wiring.related("data/sae", "data/sae") and not wiring.related("data/sae", "data/sae_2")
