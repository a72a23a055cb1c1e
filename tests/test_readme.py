"""The Python of the README runs as it is printed."""

import re
import subprocess
import sys

import pytest

import fgaa_utils
from fgaa_utils.project import ROOT


def python_of(section: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S))


def test_using_the_helpers_runs_as_printed(tiny, tmp_path, monkeypatch, capsys):
    loaded = []

    def load_model(path, *, layer):
        loaded.append((path, layer))
        tiny.layer = 2  # the tiny model has four blocks
        return tiny

    monkeypatch.setattr("fgaa_utils.model.lm.load_model", load_model)
    monkeypatch.setattr(tiny, "layer", None)
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of("Using the helpers"), "README.md", "exec"), {})
    assert loaded == [("gemma-3-270m", 9)]
    text, many = capsys.readouterr().out.splitlines()
    assert len(text.split()) == 33 and many.count("w") > 4 and many.startswith("[")
    assert len(list(tmp_path.rglob("shard_*.safetensors"))) == 1


def test_the_helpers_are_the_modules_own_and_others_are_refused():
    from fgaa_utils.model import generate, lm

    assert fgaa_utils.steered_text is generate.steered_text and fgaa_utils.load_model is lm.load_model
    assert set(fgaa_utils.__all__) == {"steered_text", "load_model"}
    with pytest.raises(AttributeError, match="'steer'"):
        getattr(fgaa_utils, "steer")  # noqa: B009


def test_importing_the_package_stays_light():
    code = (
        "import fgaa_utils, sys; print([n for n in ('torch', 'numpy', 'transformers', 'nnsight') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
