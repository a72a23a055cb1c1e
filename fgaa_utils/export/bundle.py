"""Our own format: a folder with vector.safetensors and manifest.json, which says what the vector is and checks it.

Reading it needs no code of ours: `load_file("vector.safetensors")["vector"] * manifest["coeff"]`.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fgaa_utils.digests import sha256
from fgaa_utils.export.steering import LICENCE, POSITIONS, SIGN, Steering
from fgaa_utils.shards import digest, save_tensors

FORMAT = "fgaa-steering-1"
TENSORS, MANIFEST = "vector.safetensors", "manifest.json"
FIELDS = ("name", "coeff", "layer", "module", "model", "model_type", "sae", "about")  # of Steering, as they are


def write(steering: Steering, folder: Path) -> Path:
    """Write the bundle into `<folder>/<name>/`, which is made, and return that."""
    target = folder / steering.stem
    target.mkdir(parents=True, exist_ok=True)
    save_tensors(target / TENSORS, {"vector": steering.vector})
    manifest = {"format": FORMAT} | {field: getattr(steering, field) for field in FIELDS}
    manifest |= {"d_model": len(steering.vector), "positions": POSITIONS, "sign": SIGN, "licence": LICENCE}
    manifest["sha256"] = sha256(target / TENSORS)
    manifest["digest"] = digest(manifest)
    (target / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return target


def read(folder: Path, *, model: str | None = None, layer: int | None = None) -> Steering:
    """The vector of a bundle, checked; `model`, an identity or the weights' digest in it, and `layer` are what it is to fit.

    Raises: FileNotFoundError for no bundle; ValueError for a damaged one, or one of another model or layer.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise ValueError(f"{folder / MANIFEST} has the format {manifest.get('format')!r}; this reads {FORMAT}")
        given = manifest.pop("digest", None)
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged: {error}") from error
    if given != digest(manifest):
        raise ValueError(f"{folder / MANIFEST} was changed after it was written; export the vector again")
    if (found := sha256(folder / TENSORS)) != manifest["sha256"]:
        raise ValueError(
            f"{folder / TENSORS} is damaged: its sha256 is {found[:16]}..., not {manifest['sha256'][:16]}...; copy it again"
        )
    try:
        vector = load_file(folder / TENSORS)["vector"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / TENSORS} is damaged: {error}") from error
    if not vector.isfinite().all() or not torch.isclose(vector.norm(), torch.tensor(1.0), atol=1e-4):
        raise ValueError(f"{folder / TENSORS} holds no vector of unit norm: its norm is {float(vector.norm())}")
    if model is not None and weights(model) != weights(manifest["model"]):
        raise ValueError(f"{folder.name} steers {manifest['model']}, not {model}")
    if layer is not None and layer != manifest["layer"]:
        raise ValueError(f"{folder.name} steers block {manifest['layer']}, not {layer}")
    return Steering(vector=vector, **{field: manifest[field] for field in FIELDS})


def weights(identity: str) -> str:
    """The digest of the weights in a model's identity `name:digest:dtype`, whatever name and dtype it has."""
    parts = identity.split(":")
    return parts[1] if len(parts) == 3 else identity
