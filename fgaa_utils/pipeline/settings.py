"""Named settings: the pipeline with some values of params.yaml changed, each in a workspace of its own.

    python -m fgaa_utils.pipeline.settings gemma-2-2b          the changes of settings/gemma-2-2b.yaml
    python -m fgaa_utils.pipeline.settings gemma-2-2b quick    those, then the sizes of settings/quick.yaml

A workspace is .settings/<names>/; it shares the fetched wheels and DVC's cache with the repository and touches none
of its results. What a setting reports is copied to reports/settings/<name>/, where the compare stage reads it.

Beside the sections of params.yaml a setting may list stages: `takes`, frozen ones whose output in git it uses as it is, and
`without`, those that it leaves out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.data.convert import MADE
from fgaa_utils.judges.server import check_environment
from fgaa_utils.model.lm import resolve_device
from fgaa_utils.names import FITS
from fgaa_utils.params import check_extra, check_params, load_params
from fgaa_utils.pipeline.wiring import outputs, related
from fgaa_utils.project import REPORTS, ROOT, STAGES, frozen_stages, read_yaml, unknown

DEFAULT = "gemma-3-270m"
QUICK = "quick"
SETTINGS = ROOT / "settings"
WORKSPACES = ROOT / ".settings"
COPIED = (
    "fgaa_utils",
    "notebooks",
    "data/behaviours",
    "data/labels",
    "settings",
    "data/sources.yaml",
    "data/paper.yaml",
    "requirements.lock",
    "README.md",
    ".dvcignore",
)
PATHS = (  # values that may be paths
    ("base", "model"),
    ("base", "reference"),
    ("base", "sae_source"),
    ("recipe", "fit"),
    ("judge", "judge_model"),
)
# What dvc.yaml does not list, since a fresh clone has it only once the frozen stage has run: in a workspace it runs.
UNLISTED = {"ablation_samples": [{"data/ablation_samples": {"persist": True}}, "reports/ablation_samples.ipynb"]}
ABLATIONS = ("ablation_samples", "ablations")
PAGES = ("compare", "render")  # which show what there is
LISTS = ("takes", "without")  # of stages, beside the sections of a setting
REPORTED = ("metrics", "pages", "figures", "index.html", "resources.json")


def setting_file(name: str) -> Path:
    """settings/<name>.yaml, or a file by its path. Raises: ValueError for a name that is neither."""
    path = Path(name) if name.endswith(".yaml") else SETTINGS / f"{name}.yaml"
    if not path.is_file():
        raise unknown("setting", name, sorted(p.stem for p in SETTINGS.glob("*.yaml")))
    return path.resolve()


def read_setting(name: str) -> dict:
    """{section: {key: value}} of a setting. Raises: ValueError for a name that is none."""
    return {section: values for section, values in _content(name).items() if section not in LISTS}


def _content(name: str) -> dict:
    return read_yaml(setting_file(name)) or {}


def stage_lists(names: list[str]) -> dict[str, list[str]]:
    """{"takes", "without"} of the settings, each from the last of them that has it.

    Raises: ValueError for a stage that is not there, or that `takes` names and is not frozen.
    """
    found: dict[str, list[str]] = {key: [] for key in LISTS}
    for name in names:
        content = _content(name)
        found |= {key: content[key] or [] for key in LISTS if key in content}
    if wrong := [key for key in LISTS if not isinstance(found[key], list)]:
        raise ValueError(
            f"{wrong[0]!r} of the setting {'+'.join(names)} is {found[wrong[0]]!r}; it must be a list of stages"
        )
    for key, known in (("takes", frozen_stages()), ("without", list(STAGES))):
        for stage in found[key]:
            if stage not in known:
                raise unknown(f"stage in {key!r} of the setting {'+'.join(names)}:", stage, known)
    return found


def overlay(params: dict, changes: dict, name: str) -> dict:
    """params with the values of the setting `name` in place. Raises: ValueError for a key that params does not have."""
    merged = {section: dict(values) for section, values in params.items()}
    for section, values in changes.items():
        if not isinstance(values, dict):
            raise ValueError(f"the setting {name}: section {section!r} is {values!r}; it must hold `key: value` lines")
        for key, value in values.items():
            if key not in merged.get(section, {}):
                raise unknown(f"key in section {section!r} of the setting {name}:", key, list(merged.get(section, {})))
            merged[section][key] = value
    return merged


def pipeline_for(
    params: dict, pipeline: dict, *, takes: Iterable[str] = (), without: Iterable[str] = (), ablations: bool = False
) -> dict:
    """The stages that a setting runs: none `without` which it is, none whose product it takes from elsewhere, and ablations
    only if asked for; frozen are those that it `takes` alone. What is left depends on nothing that a dropped stage makes.

    Raises: ValueError for a stage in `without` that is needed (see check_left_out); check_same looks at those in `takes`.
    """
    check_left_out(without, pipeline)
    dropped = {"compare", *without}
    dropped |= {"sae"} if params["base"]["sae_source"] != "own" else set()
    dropped |= {"effects"} if params["recipe"]["fit"] not in FITS else set()
    dropped |= set() if ablations else set(ABLATIONS)
    stages = pipeline["stages"]
    gone = ["reports/settings", *(out for name in dropped for out in outputs(stages[name]))]
    kept = {}
    for name, stage in stages.items():
        if name not in dropped:
            kept[name] = {key: value for key, value in stage.items() if key != "frozen" or name in takes}
            kept[name]["deps"] = [dep for dep in stage["deps"] if not any(related(dep, out) for out in gone)]
            kept[name]["outs"] = stage.get("outs", []) + UNLISTED.get(name, [])
    return {"stages": kept}


def check_same(params: dict, stage: str, pipeline: dict, made: dict) -> None:
    """Whether the setting would make what `stage` left in git with the parameters that dvc.lock, `made`, says of it and of
    the stages before it. Which behaviours are steered to shapes none of these.

    Raises: ValueError naming a parameter that differs.
    """
    for name in (stage, *stages_before(stage, pipeline)):
        locked = made[name].get("params", {}).get("params.yaml", {})
        for spelt, value in locked.items():
            section, _, key = spelt.partition(".")
            here = params[section][key] if key else params[section]
            if here != value and spelt != "base.behaviours":
                raise ValueError(
                    f"the setting takes {stage} from git, where {name} was made with another {spelt}; leave {stage} out of `takes`"
                )


def stages_before(stage: str, pipeline: dict) -> list[str]:
    """The stages whose outputs a stage reads, directly or through others."""
    stages = pipeline["stages"]
    found: list[str] = []
    todo = [stage]
    while todo:
        deps = stages[todo.pop()].get("deps", [])
        before = [
            name
            for name, other in stages.items()
            if name not in found and any(related(dep, out) for dep in deps for out in outputs(other))
        ]
        found += before
        todo += before
    return found


def check_left_out(without: Iterable[str], pipeline: dict) -> None:
    """Raises: ValueError for a stage left out that another one needs which is not; the pages do without."""
    for name in without:
        for other, stage in pipeline["stages"].items():
            needs = any(related(dep, out) for dep in stage.get("deps", []) for out in outputs(pipeline["stages"][name]))
            if needs and other not in (name, *without, *PAGES, *ABLATIONS):
                raise ValueError(f"{other} needs {name}, which `without` leaves out; leave out {other} too, or neither")


def rows_that_can_run(rows: list[dict], fit: str) -> list[dict]:
    """The rows of the ablations that a setting with the effect map `fit` can run: with a map from elsewhere there are
    no effect data here to fit another to."""
    if fit in FITS:
        return rows
    return [row for row in rows if row.get("fit") not in FITS and "effect_vectors" not in row]


def params_of(names: list[str]) -> dict:
    """params.yaml with the values of the settings in place, later ones over earlier ones, checked.

    Raises: ValueError naming every value that cannot be (see params.check_params).
    """
    params = load_params()
    params["vectors"]["extra"] = {}  # files of the default's behaviours are no setting's
    for name in names:
        params = overlay(params, read_setting(name), name)
    section = params["ablation_samples"]
    section["rows"] = rows_that_can_run(section["rows"], params["recipe"]["fit"])
    check_params(params, f"the setting {'+'.join(names)}")
    if extra := params["vectors"]["extra"]:
        check_extra(extra, [b.key for b in read_behaviours(params["base"]["behaviours"])])
    return params


def check_ready(params: dict) -> None:
    """Look, before anything is fetched, at what would stop the run late.

    Raises: ValueError for a device that is not there, or a judge that asks a server without its variables.
    """
    device = resolve_device(params["base"]["device"])
    if device.type == "cpu" and params["base"]["model"] not in MADE:
        print(f"{params['base']['model']} will run on the processor", flush=True)
    if "openai" in (params["judge"]["judge"], *params["judge"]["compare_judges"]):
        check_environment()


def workspace_of(names: list[str]) -> Path:
    """The folder of a setting, made.

    Raises: ValueError for a name that is no setting, or for a file of one's own whose name another setting has.
    """
    files = [setting_file(name) for name in names]
    for name, path in zip(names, files):
        if path.parent != SETTINGS and (SETTINGS / path.name).exists():
            raise ValueError(f"the setting {name} has the name of settings/{path.name}; rename it")
    workspace = WORKSPACES / "+".join(path.stem for path in files)
    owner, ours = workspace / "setting.json", [os.path.relpath(path, ROOT) for path in files]
    theirs = json.loads(owner.read_text()) if owner.exists() else ours
    if theirs != ours:
        raise ValueError(f"{workspace} has the results of {', '.join(theirs)}; rename the setting")
    workspace.mkdir(parents=True, exist_ok=True)
    owner.write_text(json.dumps(ours))
    return workspace


def prepare(workspace: Path, names: list[str], *, ablations: bool = False) -> None:
    """Lay out the workspace anew, keeping what DVC made there before."""
    params, lists = params_of(names), stage_lists(names)
    pipeline, lock = (read_yaml(ROOT / name) for name in ("dvc.yaml", "dvc.lock"))
    for stage in lists["takes"]:
        check_same(params, stage, pipeline, lock["stages"])
    check_ready(params)
    for section, key in PATHS:
        if Path(str(params[section][key])).exists():
            params[section][key] = str(Path(params[section][key]).resolve())  # it is read from another folder
    extra = params["vectors"]["extra"]
    params["vectors"]["extra"] = {key: [str((ROOT / file).resolve()) for file in files] for key, files in extra.items()}
    (workspace / "data").mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        _copy(name, workspace)
    wheels = workspace / "data" / "wheels"
    if not wheels.exists():
        (ROOT / "data" / "wheels").mkdir(exist_ok=True)
        wheels.symlink_to(ROOT / "data" / "wheels", target_is_directory=True)
    stages = pipeline_for(params, pipeline, ablations=ablations, **lists)
    for path in (path for stage in lists["takes"] for path in outputs(pipeline["stages"][stage])):
        _copy(path, workspace)
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    (workspace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for metrics in (workspace / "reports" / "metrics").glob("*.json"):
        if metrics.stem not in stages["stages"]:  # of a run that had more stages
            metrics.unlink()
            (workspace / "reports" / f"{STAGES[metrics.stem]}.ipynb").unlink(missing_ok=True)
            shutil.rmtree(workspace / "reports" / "figures" / metrics.stem, ignore_errors=True)
    (workspace / "reports").mkdir(exist_ok=True)


def _copy(name: str, workspace: Path) -> None:
    """A file or a folder of the repository, into the same place of the workspace."""
    source, target = ROOT / name, workspace / name
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def with_this_python() -> dict[str, str]:
    """The environment, in which the `python` of dvc.yaml's commands is the one that runs here."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def reproduce(workspace: Path, *targets: str) -> int:
    """`dvc repro` in the workspace, of all or of some stages; its exit status."""
    environment = with_this_python() | {"PYTHONPATH": str(workspace)}
    dvc = [sys.executable, "-m", "dvc"]
    if not (workspace / ".dvc").exists():
        subprocess.run([*dvc, "init", "--quiet", "--no-scm"], cwd=workspace, check=True)
        subprocess.run([*dvc, "config", "cache.dir", str(ROOT / ".dvc" / "cache")], cwd=workspace, check=True)
        subprocess.run([*dvc, "config", "core.analytics", "false"], cwd=workspace, check=True)
    return subprocess.run([*dvc, "repro", *targets], cwd=workspace, env=environment).returncode


def report(workspace: Path, name: str) -> None:
    """Copy what a setting reports to reports/settings/<name>/."""
    target = REPORTS / "settings" / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in REPORTED:
        source = workspace / "reports" / part
        if source.is_dir():
            shutil.copytree(source, target / part)
        elif source.exists():
            shutil.copy(source, target)
    shutil.copy(workspace / "params.yaml", target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="files of settings/, without .yaml, or paths; later ones prevail")
    parser.add_argument("--ablations", action="store_true", help="run the ablations too")
    args = parser.parse_args()
    if args.names == [DEFAULT]:
        return subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=ROOT, env=with_this_python()).returncode
    workspace = workspace_of(args.names)
    ran = (workspace / "data" / "ablation_samples" / "samples.parquet").exists()  # then they belong to the setting
    prepare(workspace, args.names, ablations=args.ablations or ran)
    status = reproduce(workspace)
    if status == 0 and QUICK not in map(lambda name: Path(name).stem, args.names):
        report(workspace, workspace.name)
        print(f"Results: reports/settings/{workspace.name}/index.html")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
