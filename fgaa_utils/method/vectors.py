"""The equations of the methods' steering vectors, all of unit norm (paper, section 3 and Eq. 5), and their files.

SAE, SAE-TS, FGAA and the bias direction; `recipe` puts them together and has CAA.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.names import VectorName
from fgaa_utils.shards import check_identity, load_tensors, save_tensors

SAME = 1e-5  # vectors that differ by no more in any entry are one vector
K = TypeVar("K", bound=VectorName | tuple)


def unit(v: Tensor) -> Tensor:
    """v divided by its L2 norm. Raises: ValueError if it is zero or not finite."""
    norm = v.norm()
    if not norm.isfinite() or norm == 0:
        raise ValueError(f"a steering vector has norm {float(norm)}; it cannot be scaled to unit norm")
    return v / norm


def sae_row(W_dec: Tensor, latent: int) -> Tensor:
    """Decoder row of one latent, (d_model,)."""
    return unit(W_dec[latent])


def fgaa(effect_map: EffectMap, v_target: Tensor, *, bias_weight: float) -> Tensor:
    """M v / |M v| - bias_weight * M b / |M b| (Eq. 5; the paper's weight is 1), (d_model,)."""
    towards = unit(effect_map.M @ v_target)
    return unit(towards + bias_weight * bias_direction(effect_map)) if bias_weight else towards


def sae_ts(effect_map: EffectMap, latent: int, *, bias_weight: float) -> Tensor:
    """FGAA for a target of one latent (arXiv 2411.02193), (d_model,)."""
    one = torch.zeros(effect_map.M.shape[1])
    one[latent] = 1.0
    return fgaa(effect_map, one, bias_weight=bias_weight)


def bias_direction(effect_map: EffectMap) -> Tensor:
    """-M b / |M b|: away from what steering in any direction does, (d_model,)."""
    return -unit(effect_map.M @ effect_map.b)


def twins(vectors: dict[K, Tensor]) -> dict[K, K]:
    """{name: the first name with an equal vector}, its own name where no earlier one is equal.

    A name is a VectorName or a tuple that begins with the behaviour; names of different behaviours are no twins, since
    their texts are scored for different things.
    """
    firsts: dict[str, list[K]] = {}
    found = {}
    for name, vector in vectors.items():
        behaviour = name.behaviour if isinstance(name, VectorName) else name[0]
        earlier = firsts.setdefault(behaviour, [])
        equal = [first for first in earlier if torch.allclose(vector, vectors[first], rtol=0, atol=SAME)]
        if not equal:
            earlier.append(name)
        found[name] = equal[0] if equal else name
    return found


def save_vectors(path: Path, vectors: dict[VectorName, Tensor], **metadata: object) -> None:
    """Write vectors under the spelling of their names (`love.fgaa.n1=4,n2=0`), with metadata, as safetensors."""
    save_tensors(path, {str(name): v.float() for name, v in vectors.items()}, **metadata)


def load_vectors(path: Path, *, identity: dict) -> dict[VectorName, Tensor]:
    """The vectors of a file, (d_model,) each, in the order of their spelt names.

    `identity` holds `model`, `sae` and `layer`. Raises: ValueError if the file was made with others, is damaged or
    holds a name that is none.
    """
    tensors, metadata = load_tensors(path)
    check_identity(path, metadata, identity, fix="run `dvc repro vectors`")
    return {VectorName.parse(name): tensors[name] for name in sorted(tensors)}
