"""Environments of other programs: this one's packages with theirs on top, made when first needed.

`python tests/environments.py ray` prints the interpreter of the environment of consumers/ray.txt.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

from fgaa_utils.project import ROOT
from fgaa_utils.shards import digest

CONSUMERS = Path(__file__).parent / "consumers"


def python_of(name: str) -> str:
    """The interpreter of the environment of consumers/<name>.txt."""
    asked = (CONSUMERS / f"{name}.txt").read_text()
    place = ROOT / ".settings" / "consumers" / f"{name}-{digest(asked)}"
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        below = place / "lib" / version / "site-packages" / "zz_below.pth"  # read last: the consumer's own come first
        below.write_text(sysconfig.get_paths()["purelib"] + "\n")
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--requirement"]
        subprocess.run([*install, CONSUMERS / f"{name}.txt"], check=True, stdout=sys.stderr)
        ready.touch()
    return str(python)


if __name__ == "__main__":
    print(python_of(sys.argv[1]))
