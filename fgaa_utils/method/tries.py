"""What each method tries: the recipes of the main run, as many for every method, among which validation chooses."""

from dataclasses import dataclass, replace

from fgaa_utils.method.recipe import Recipe
from fgaa_utils.names import GRADIENT, SHARED, VectorName

CONTRASTS = ((False, False), (False, True), (True, False), (True, True))  # BOS in the means of streams, whitened


@dataclass(frozen=True)
class Tries:
    """What each method chooses among on validation, as many for every method.

    n1 of FGAA, natural_n1 of NG-FGAA, ranks of SAE and SAE-TS; contrasts, how many of CONTRASTS CAA and NG-CAA have. NG has
    the sums of two or three of these: the last target of NG-FGAA, the whitened contrast of NG-CAA, the difference of means
    of CAA. controls: draws of each random control.
    """

    n1: list[int]
    natural_n1: list[int]
    ranks: list[int]
    contrasts: int
    controls: int


def recipes(default: Recipe, behaviours: list[str], tries: Tries) -> dict[VectorName, Recipe]:
    """The recipes of the main run: every method of every behaviour, then the controls, which belong to no behaviour."""
    made = {}
    natural = replace(default, fit=GRADIENT, fisher=True, bias_weight=0.0)
    for b in behaviours:
        for like, method in ((default, "caa"), (natural, "ng_caa")):
            made |= _contrasts(replace(like, method=method), b, tries.contrasts)
        for rank in tries.ranks:
            for method in ("sae", "sae_ts"):
                made[VectorName(b, method, rank=rank)] = replace(default, method=method, rank=rank)
        made |= fgaa_recipes(default, [b], n1=tries.n1, n2=[default.n2 or 0])
        made |= fgaa_recipes(replace(natural, method="ng_fgaa"), [b], n1=tries.natural_n1, n2=[default.n2 or 0])
        made |= _sums(replace(natural, method="ng"), b, tries.natural_n1)
    made[VectorName(SHARED, "bias")] = replace(default, method="bias")
    for draw in range(1, tries.controls + 1):
        for method, like in (("random", default), ("random_latent", default), ("random_ng", natural)):
            made[VectorName(SHARED, method, draw=draw)] = replace(like, method=method, draw=draw)
    return made


def _contrasts(default: Recipe, behaviour: str, count: int) -> dict[VectorName, Recipe]:
    """The first `count` of CONTRASTS."""
    return {
        VectorName(behaviour, default.method, bos=bos, white=white): replace(default, include_bos=bos, white=white)
        for bos, white in CONTRASTS[:count]
    }


def _sums(natural: Recipe, behaviour: str, n1: list[int]) -> dict[VectorName, Recipe]:
    """NG: each two of the target with the last n1, the whitened contrast and the difference of means, those of means
    without BOS, and all three; the last of these, if NG-FGAA has fewer tries."""
    latents: dict = {"n1": n1[-1], "n2": natural.n2 or 0}
    streams = replace(natural, include_bos=False)
    parts: tuple[dict, ...] = ({**latents, "white": True}, {**latents, "means": True}, {"white": True, "means": True})
    sums = [*parts, {**latents, "white": True, "means": True}]
    made = {VectorName(behaviour, "ng", **of): replace(streams, **of) for of in sums}
    return dict(list(made.items())[-len(n1) :])


def fgaa_recipes(default: Recipe, behaviours: list[str], *, n1: list[int], n2: list[int]) -> dict[VectorName, Recipe]:
    """The recipes of FGAA, or of the method of `default`, with every pair of n1 and n2, for every behaviour."""
    pairs = [(positives, negatives) for positives in n1 for negatives in n2]
    return {
        VectorName(b, default.method, n1=positives, n2=negatives): replace(default, n1=positives, n2=negatives)
        for b in behaviours
        for positives, negatives in pairs
    }
