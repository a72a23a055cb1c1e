"""The whole pipeline, every stage, at the sizes of params.quick.yaml, in the workspace .quick/.

It shares the fetched wheels and DVC's cache with the real run and touches none of its results.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from fgaa_utils.project import ROOT, load_params, unknown

WORKSPACE = ROOT / ".quick"
COPIED = (
    "fgaa_utils",
    "notebooks",
    "data/behaviours",
    "data/labels",
    "data/sources.yaml",
    "data/paper.yaml",
    "requirements.lock",
    "README.md",
    ".dvcignore",
)


def overlay(params: dict, changes: dict) -> dict:
    """params with the values of `changes` in place. Raises: ValueError for a key that params does not have."""
    merged = {section: dict(values) for section, values in params.items()}
    for section, values in changes.items():
        for key, value in values.items():
            if key not in merged.get(section, {}):
                raise unknown(f"key in section {section!r} of params.quick.yaml:", key, list(merged.get(section, {})))
            merged[section][key] = value
    return merged


def prepare(workspace: Path) -> None:
    """Lay out the workspace anew, keeping what DVC made there before."""
    (workspace / "data").mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, workspace / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy(source, target)
    wheels = workspace / "data" / "wheels"
    if not wheels.exists():
        (ROOT / "data" / "wheels").mkdir(exist_ok=True)
        wheels.symlink_to(ROOT / "data" / "wheels", target_is_directory=True)
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        stage.pop("frozen", None)
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    changes = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    (workspace / "params.yaml").write_text(yaml.safe_dump(overlay(load_params(), changes), sort_keys=False))
    (workspace / "reports").mkdir(exist_ok=True)


def main() -> None:
    prepare(WORKSPACE)
    environment = os.environ | {"PYTHONPATH": str(WORKSPACE)}
    dvc = [sys.executable, "-m", "dvc"]
    if not (WORKSPACE / ".dvc").exists():
        subprocess.run([*dvc, "init", "--quiet", "--no-scm"], cwd=WORKSPACE, check=True)
        subprocess.run([*dvc, "config", "cache.dir", str(ROOT / ".dvc" / "cache")], cwd=WORKSPACE, check=True)
        subprocess.run([*dvc, "config", "core.analytics", "false"], cwd=WORKSPACE, check=True)
    sys.exit(subprocess.run([*dvc, "repro"], cwd=WORKSPACE, env=environment).returncode)


if __name__ == "__main__":
    main()
