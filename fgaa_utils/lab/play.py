"""Steering by hand: a vector of any method, for a behaviour of the run or of one's own, and what it does to a text."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
from sae_lens import SAE
from torch import Tensor

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.export.steering import Steering
from fgaa_utils.judges.local import LocalJudge
from fgaa_utils.method.approximator import load_effect_map
from fgaa_utils.method.features import promoted_tokens, text_means
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.recipe import Ingredients, Recipe, only, read_ingredients, steering_vectors
from fgaa_utils.method.tries import Tries, recipes
from fgaa_utils.model.capture import capture_resid
from fgaa_utils.model.generate import SamplingParams, generate_batch, row_seeds
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import VectorName
from fgaa_utils.params import load_params
from fgaa_utils.project import DATA, MODEL, artefact
from fgaa_utils.sae.load import decoder_rows, encode, load_model_and_sae
from fgaa_utils.shards import load_tensors, weights_digest

COUNTS = (1, 2, 4, 8, 32, 128)  # n1 to choose among


@dataclass(frozen=True)
class Pair:
    """A text without and with steering, from the same random numbers, as token ids without the prompt's."""

    plain: list[int]
    steered: list[int]


@dataclass
class Play:
    """A model, its SAE and all that vectors are made from. `judge` is None where no judge was fitted; `names` {key: name} are
    the behaviours, those of one's own among them."""

    lm: LanguageModel
    sae: SAE
    layer: int
    default: Recipe
    ingredients: Ingredients
    strength: Strength
    judge: LocalJudge | None
    names: dict[str, str]
    top_k: int
    temperature: float
    own: set[str] = field(default_factory=set)  # keys of the behaviours that were added
    _made: dict[tuple[str, str, int], tuple[VectorName, Recipe, Tensor]] = field(default_factory=dict)

    @classmethod
    def of_run(cls) -> "Play":
        """What the run of params.yaml left. Raises: FileNotFoundError naming the stage to run first."""
        params = load_params()
        base, recipe, design = (params[section] for section in ("base", "recipe", "design"))
        path, map_path = artefact("features/features.safetensors"), artefact("gradients/gradients.safetensors")
        place = {key: base[key] for key in ("layer", "dtype", "device", "blocks")}
        lm, sae, identity = load_model_and_sae(base["model"], base["sae_source"], **place)
        W_dec, gradients = decoder_rows(sae), GradientMap.load(map_path, **identity)
        fit, sizes = recipe["fit"], {"d_model": lm.d_model, "d_sae": len(W_dec)}
        maps = only(load_effect_map(fit, DATA / "effects", **sizes, identity=identity), fit)
        made_of = {"identity": identity, "seed": base["seed"], "gradients": gradients}
        ingredients = read_ingredients(path, W_dec, maps, **made_of)
        spread = float(load_tensors(path)[1]["resid_std"])
        return cls(
            lm,
            sae,
            base["layer"],
            Recipe("fgaa", **recipe),
            ingredients,
            Strength("nats", spread, gradients),
            _judge_of_run(base["reference"]),
            {b.key: b.name for b in read_behaviours(base["behaviours"])},
            design["top_k"],
            design["temperature"],
        )

    def add(self, name: str, positive: str, negative: str) -> str:
        """A behaviour of one's own from two boxes of contrastive texts, a line each; its key.

        Raises: ValueError for no name, one that is taken by the run, or an empty box.
        """
        key = "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
        if not key or key in set(self.names) - set(self.own):
            raise ValueError(f"the name is {name!r}; it must have letters and not be a behaviour of the run")
        sides = [[line.strip() for line in box.splitlines() if line.strip()] for box in (positive, negative)]
        for side, texts in zip(("positive", "negative"), sides):
            if not texts:
                raise ValueError(f"there is no {side} text; write one or more, a line each, as many on both sides")
        means = [text_means(self.lm, self.sae, texts, self.layer) for texts in sides]
        for bos in (True, False):
            self.ingredients.latents[bos][key] = (means[0][bos].latents, means[1][bos].latents)
            self.ingredients.resid[bos][key] = (means[0][bos].resid, means[1][bos].resid)
        self._made = {made: vectors for made, vectors in self._made.items() if made[0] != key}
        self.names[key] = name.strip()
        self.own.add(key)
        return key

    def vector(self, key: str, method: str, n1: int) -> Tensor:
        """The vector (d_model,) of a method for a behaviour; FGAA, NG-FGAA and NG have n1 latents. CAA takes the means
        without BOS, NG-CAA whitens them, NG sums all its parts, SAE and SAE-TS take the highest latent.

        Raises: ValueError if the filters leave fewer latents than n1.
        """
        return self._make(key, method, n1)[2]

    def _make(self, key: str, method: str, n1: int) -> tuple[VectorName, Recipe, Tensor]:
        if (key, method, n1) not in self._made:
            tried = recipes(self.default, [key], Tries([n1], [n1], [1], contrasts=2, controls=1))
            own = {name: recipe for name, recipe in tried.items() if name.method == method}
            name = list(own)[0 if method == "caa" else -1]
            self._made[key, method, n1] = name, own[name], steering_vectors(own, self.ingredients)[name]
        return self._made[key, method, n1]

    def steering(self, key: str, method: str, n1: int, nats: float) -> Steering:
        """The vector at a strength in nats a token, for the formats of fgaa_utils.export. It has no scores: what was played
        with was not measured. Raises: as `vector`."""
        name, recipe, vector = self._make(key, method, n1)
        nats = round(nats, 4)  # as it is said
        return Steering(
            name=f"played.{name}",  # a file of fgaa-export, which has scores, is not written over
            vector=vector.float(),
            coeff=self.strength.coeff(vector, nats),
            layer=self.layer,
            module=f"{self.lm.blocks}.{self.layer}",
            model=self.lm.identity,
            model_type=self.lm.hf.config.model_type,
            sae=weights_digest(self.sae),
            about={
                "strength": {"unit": "nats", "scale": nats, "chosen": None},
                "recipe": asdict(recipe),
                "scores": {},
            },
        )

    def pairs(
        self, vector: Tensor, nats: float, prompt: str, *, seed: int = 0, samples: int = 4, new_tokens: int = 33
    ) -> Iterator[Pair]:
        """Texts without and with the vector (d_model,) at a strength in nats a token, one after another."""
        ids = torch.tensor(self.lm.encode([prompt]) * 2)
        delta = torch.stack([torch.zeros_like(vector), self.strength.coeff(vector, nats) * vector])
        sampling = SamplingParams(new_tokens=new_tokens, top_k=self.top_k, temperature=self.temperature, batch=2)
        for number in row_seeds(seed, count=samples):
            tokens = generate_batch(self.lm, ids, delta, np.repeat(number, 2), self.layer, sampling)
            yield Pair(*tokens.tolist())

    def texts(self, pairs: list[Pair]) -> pd.DataFrame:
        """A row a pair: columns plain and steered."""
        return pd.DataFrame({side: self.lm.decode([getattr(p, side) for p in pairs]) for side in ("plain", "steered")})

    def scored(self, pairs: list[Pair], key: str) -> pd.DataFrame:
        """The texts, with B and C of the steered ones where a judge knows the behaviour."""
        frame = self.texts(pairs)
        if self.judge and key in self.judge.behaviours:
            frame["B"] = self.judge.behaviour(frame.steered.tolist(), key)
            frame["C"] = self.judge.coherence(frame.steered.tolist())
        return frame

    def latents(self, vector: Tensor, nats: float, pairs: list[Pair], prompt: str, *, count: int = 8) -> pd.DataFrame:
        """The latents that the gradient expects the vector to raise most, what they promote, and how much more of each the
        steered texts have, read without steering, than those without: columns promotes, expected, measured."""
        gradients = self.ingredients.gradients
        assert gradients is not None, "of_run gives them"
        expected = self.strength.coeff(vector, nats) * (vector @ gradients.G)
        top = expected.topk(count).indices
        start = self.lm.encode([prompt])[0]
        means = [self._means(start, [getattr(p, side) for p in pairs]) for side in ("plain", "steered")]
        promotes = promoted_tokens(self.lm, self.ingredients.W_dec[top], 5)
        columns = {"promotes": [", ".join(map(repr, tokens)) for tokens in promotes]}
        columns |= {"expected": expected[top].tolist(), "measured": (means[1] - means[0])[top].tolist()}
        return pd.DataFrame(columns, index=pd.Index(top.tolist(), name="latent"))

    def _means(self, start: list[int], texts: list[list[int]]) -> Tensor:
        """Mean latents (d_sae,) of the texts' own tokens."""
        resid = capture_resid(self.lm, [[*start, *tokens] for tokens in texts], self.layer)
        return torch.stack([encode(self.sae, r[len(start) :]).mean(dim=0) for r in resid]).mean(dim=0)


def _judge_of_run(reference: str) -> LocalJudge | None:
    path = DATA / "judge/judge.safetensors"
    return LocalJudge.load(path, reference=MODEL / reference) if path.exists() else None
