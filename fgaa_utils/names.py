"""Methods and controls, their labels and order in tables and figures; the typed name of a vector. Imports nothing heavy.

CAA (arXiv 2312.06681), SAE decoder rows, SAE-TS (arXiv 2411.02193), FGAA (arXiv 2501.09929); the same targets by natural
gradient, which are ours (see method.gradients); and controls that the paper lacks.
"""

import re
from dataclasses import dataclass, fields

PAPER_METHODS = ("caa", "sae", "sae_ts", "fgaa")
# By natural gradient: CAA's contrast, FGAA's target, and sums of both and of the plain difference of means.
NATURAL = ("ng_caa", "ng_fgaa", "ng")
IMPORTED = "imported"  # vectors of files from elsewhere, if a run is given some
MADE = PAPER_METHODS + NATURAL  # methods whose vectors are made here
METHODS = (*MADE, IMPORTED)
CONTROLS = ("random", "bias", "random_latent", "random_ng")  # vectors that know no behaviour
PROMPTING, UNSTEERED = "prompting", "unsteered"  # text without a vector
SHARED = "shared"  # the behaviour of what has none: its texts are scored for every behaviour
UNSEEN = ("development", "test", "later")  # folders of data/behaviours/; see data/behaviours.md
REPORTED_UNSEEN = {"unseen": ("test", "later")}  # folders under one name: behaviours that no method was tuned on
FITS = ("reduced_rank", "ridge", "adam")  # of the effect map, where it is fitted here
GRADIENT = "gradient"  # a fit: the gradient of expected latents, from unsteered rollouts, in the place of a map
LABELS = {
    "caa": "CAA",
    "prompting": "prompting",
    "sae": "SAE",
    "sae_ts": "SAE-TS",
    "fgaa": "FGAA",
    "ng_caa": "NG-CAA",
    "ng_fgaa": "NG-FGAA",
    "ng": "NG",
    IMPORTED: "imported",
    "random": "random vector",
    "bias": "bias direction",
    "random_latent": "random latent",
    "random_ng": "random latent, NG",
    "unsteered": "unsteered",
}
SCALE_UNITS = {  # what a scale of 1 is, in words
    "nats": "nats a token",
    "resid_std": "spreads of the residual stream",
    "absolute": "absolute norm",
}
Cell = tuple[str, str, str]  # behaviour, method, variant: the columns of that name in tables of samples


def method_order(methods: list[str]) -> list[str]:
    """Methods in the order of tables and figures: natural gradient, FGAA, its baselines, prompting, controls, unsteered."""
    order = ("ng", "ng_fgaa", "ng_caa", "fgaa", "sae_ts", "sae", "caa", IMPORTED, PROMPTING, *CONTROLS, UNSTEERED)
    return [m for m in order if m in methods]


def scale_label(unit: str) -> str:
    """The axis of scales in figures."""
    return f"scale ({SCALE_UNITS[unit]}, logarithmic)"


@dataclass(frozen=True)
class VectorName:
    """Names a vector, or text without one, by behaviour, method and what varies within the method.

    n1, n2: positive and negative latents of FGAA's target; rank: place of the latent of SAE and SAE-TS among the
    highest; draw: which of several random vectors, latents or orders of examples; bos: whether BOS is in the means;
    white: whether the contrast of residual streams is whitened by their covariance; means: whether the difference of means
    is a part of a sum.

    Raises: ValueError for a method that does not exist, or a behaviour that cannot stand in a name.
    """

    behaviour: str
    method: str
    n1: int | None = None
    n2: int | None = None
    rank: int | None = None
    draw: int | None = None
    bos: bool | None = None
    white: bool | None = None
    means: bool | None = None

    def __post_init__(self):
        if self.method not in LABELS:
            raise ValueError(f"unknown method {self.method!r} (there are: {', '.join(LABELS)})")
        if not re.fullmatch(r"[\w-]+", self.behaviour):
            raise ValueError(f"{self.behaviour!r} cannot name a behaviour; letters, digits, - and _ are allowed")

    @property
    def variant(self) -> str:
        """What varies, as files and tables spell it: `n1=4,n2=0`, `rank=2`, `draw=1`, or nothing."""
        return ",".join(f"{key}={int(value)}" for key, value in self._varying() if value is not None)

    @property
    def cell(self) -> Cell:
        return self.behaviour, self.method, self.variant

    def _varying(self) -> list[tuple[str, int | None]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self)[2:]]

    def __str__(self) -> str:
        return ".".join(part for part in self.cell if part)

    @classmethod
    def parse(cls, text: str) -> "VectorName":
        """The name that `text` spells, as str() does. Raises: ValueError for anything else."""
        behaviour, method, variant = [*text.split(".", 2), "", ""][:3]
        varying: dict = variant_values(variant)
        if not method or set(varying) - {f.name for f in fields(cls)[2:]}:
            raise ValueError(f"{text!r} names no vector; a name is like love.fgaa.n1=4,n2=0 or love.caa")
        for name in {"bos", "white", "means"} & set(varying):
            varying[name] = bool(varying[name])
        return cls(behaviour, method, **varying)


def variant_values(variant: str) -> dict[str, int]:
    """{"n1": 4, "n2": 0} of `n1=4,n2=0`. Raises: ValueError for another spelling."""
    pairs = [part.partition("=") for part in variant.split(",") if variant]
    if not all(key and value.isdigit() for key, _, value in pairs):
        raise ValueError(f"{variant!r} is no variant; one is like n1=4,n2=0 or rank=2")
    return {key: int(value) for key, _, value in pairs}
