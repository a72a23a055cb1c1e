"""fgaa-export: take a steering vector of a finished run to another tool, or check a bundle.

fgaa-export love                                   natural gradient, at the chosen strength, as a bundle in exports/
fgaa-export love --method caa --format gguf        another method, for llama.cpp
fgaa-export all --format gguf --scale 0.25         every behaviour, at another strength (in the run's unit, nats)
fgaa-export verify exports/love-*                  is it whole, and of the model and layer that params.yaml names?
"""

import argparse
import sys
from pathlib import Path

from fgaa_utils.evaluation.scores import read_choices
from fgaa_utils.export import bundle, gguf, lm_eval, neuronpedia, steering_vectors
from fgaa_utils.export.steering import Steering, of_run
from fgaa_utils.model.lm import weights_identity
from fgaa_utils.params import load_params
from fgaa_utils.project import artefact

FORMATS = {
    "bundle": bundle.write,
    "gguf": gguf.write,
    "steering-vectors": steering_vectors.write,
    "lm-eval": lm_eval.write,
    "neuronpedia": neuronpedia.write,
}


def export(behaviour: str, method: str, kind: str, folder: Path, *, scale: float | None = None) -> list[Path]:
    """Write the vector of a behaviour, or of `all`, in one format. Raises: as of_run and the format's write."""
    keys = read_choices(artefact("samples/choices.json")).keys if behaviour == "all" else [behaviour]
    return [FORMATS[kind](of_run(key, method, scale=scale), folder) for key in keys]


def verify(path: Path) -> Steering:
    """The vector of a bundle, checked against the model and the layer of params.yaml. Raises: as bundle.read."""
    base = load_params()["base"]
    return bundle.read(path, model=weights_identity(base["model"]), layer=base["layer"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="fgaa-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("behaviour", help="a behaviour of the run, all, or verify")
    parser.add_argument("path", nargs="?", type=Path, help="of verify: the bundle's folder")
    parser.add_argument("--method", default="ng", help="a method that steers (default: ng)")
    parser.add_argument("--format", choices=list(FORMATS), default="bundle", help="default: bundle")
    parser.add_argument("--scale", type=float, help="strength in the run's unit; default: the chosen one")
    parser.add_argument("--to", type=Path, default=Path("exports"), help="folder (default: exports/)")
    args = parser.parse_args(arguments)
    if (args.behaviour == "verify") != (args.path is not None):
        parser.error("verify needs the path of a bundle, and nothing else takes one")
    if args.path:
        found = verify(args.path)
        print(f"{args.path} is whole: {found.name}, norm {found.coeff:.1f}, after block {found.layer} of {found.model}")
        return
    for path in export(args.behaviour, args.method, args.format, args.to, scale=args.scale):
        print(path)


def run() -> None:
    """The command: errors without a traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
