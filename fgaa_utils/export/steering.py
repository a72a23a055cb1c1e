"""A steering vector ready to be used elsewhere, with all that its user has to know; taken from a run.

What every export says: `delta` is added to the output of one block (the residual stream after it), counted from 0, at every
position, of the prompt, BOS and decoded tokens alike; a positive strength steers towards the behaviour.
"""

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fgaa_utils.evaluation.scales import Strength
from fgaa_utils.evaluation.scores import Choices, read_choices
from fgaa_utils.method.recipe import Recipe
from fgaa_utils.method.tries import Tries, recipes
from fgaa_utils.method.vectors import load_vectors
from fgaa_utils.model.lm import find_blocks, locate
from fgaa_utils.names import MADE, VectorName
from fgaa_utils.params import load_params
from fgaa_utils.project import DATA, artefact, metrics_of, unknown
from fgaa_utils.shards import load_tensors

POSITIONS = "every position: prompt, BOS and decoded tokens"
SIGN = "a positive strength steers towards the behaviour"
LICENCE = "the code that made it: MIT; it derives from the model and the SAE, whose licences apply"


@dataclass(frozen=True)
class Steering:
    """One vector at one strength: h <- h + coeff * vector at the output of block `layer` (paper, Eq. 6).

    vector: (d_model,), unit norm, float32. coeff: absolute norm. name: behaviour.method.variant. module: path of the block in
    the Hugging Face model. model, sae: identities. about: what JSON can hold of strength, recipe and scores.
    """

    name: str
    vector: Tensor
    coeff: float
    layer: int
    module: str
    model: str
    model_type: str
    sae: str
    about: dict

    @property
    def delta(self) -> Tensor:
        """coeff * vector, (d_model,), float32."""
        return self.coeff * self.vector

    @property
    def stem(self) -> str:
        """Name and strength as a file's name without suffix: `love-ng-white_1-means_1-0.25nats`."""
        name = self.name.replace("=", "_").replace(",", "-").replace(".", "-")
        strength = self.about["strength"]
        return f"{name}-{strength['scale']:g}{strength['unit']}"

    @property
    def record(self) -> dict[str, str]:
        """What a file of another format can carry beside the vector, as texts."""
        strength = self.about["strength"]
        told = {"name": self.name, "model": self.model, "layer": self.layer, "coeff": self.coeff}
        return {
            key: str(value) for key, value in (told | {"scale": strength["scale"], "unit": strength["unit"]}).items()
        }


def of_run(behaviour: str, method: str, *, scale: float | None = None) -> Steering:
    """The vector that validation chose for a behaviour and method, at the scale that it chose or at another one.

    Raises: ValueError for a behaviour or method that the run has not, a scale that is not positive, or vectors and choices
    of different runs; FileNotFoundError naming the stage to run if the run is not there.
    """
    chosen = read_choices(artefact("samples/choices.json"))
    if behaviour not in chosen.behaviours:
        raise unknown("behaviour", behaviour, chosen.keys)
    steering = [m for m in chosen.methods if m in MADE]
    if method not in steering:
        raise unknown("method", method, steering)
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"the scale is {scale}; it must be positive, in {chosen.unit}")
    choice = chosen.choices[method][behaviour]
    name = VectorName.parse(".".join(part for part in (behaviour, method, choice["variant"]) if part))
    identity = {"model": chosen.model, "sae": chosen.sae, "layer": chosen.layer}
    path = artefact("vectors/vectors.safetensors")
    found = load_vectors(path, identity=identity)
    strength = Strength.read(chosen.unit, chosen.resid_std, DATA / "gradients/gradients.safetensors", identity)
    if name not in found or abs(strength.coeff(found[name], choice["scale"]) - choice["coeff"]) > 0.1:
        raise ValueError(f"{path.name} and choices.json are of different runs ({name}); run `dvc repro samples`")
    at = choice["scale"] if scale is None else scale
    base = load_params()["base"]
    return Steering(
        name=str(name),
        vector=found[name].float(),
        coeff=strength.coeff(found[name], at),
        layer=chosen.layer,
        module=f"{blocks_of(base['model'], base['blocks'])}.{chosen.layer}",
        model=chosen.model,
        model_type=AutoConfig.from_pretrained(locate(base["model"])[0]).model_type,
        sae=chosen.sae,
        about={
            "strength": {"unit": chosen.unit, "scale": at, "chosen": choice["scale"]},
            "recipe": asdict(recipe_of(name, json.loads(load_tensors(path)[1]["parameters"]))),
            "scores": scores_of(chosen, behaviour, method) if at == choice["scale"] else {},
        },
    )


def recipe_of(name: VectorName, parameters: dict) -> Recipe:
    """The recipe of a vector of the main run; parameters: those that its file carries, of the default recipe.

    Raises: ValueError for a name that the run's tries, in params.yaml, do not have.
    """
    section = load_params()["vectors"]
    tried = Tries(*(section[key] for key in ("n1", "natural_n1", "ranks", "contrasts", "controls")))
    made = recipes(Recipe("fgaa", **parameters), [name.behaviour], tried)
    if name not in made:
        raise unknown("vector", str(name), [str(known) for known in made])
    return made[name]


def scores_of(chosen: Choices, behaviour: str, method: str) -> dict:
    """BCS of the chosen cell on test prompts with its 95 % interval, the number of texts, the judge, and BCS of text without
    steering; nothing if the evaluation was not run, or not on these choices."""
    try:
        found, judge = metrics_of("evaluation"), metrics_of("judge")["judge_kind"]
    except FileNotFoundError:
        return {}
    if found["model"] != chosen.model or found["choices"] != chosen.choices:
        return {}
    bcs = found["bcs"]
    return {"bcs": bcs[method][behaviour], "judge": judge, "unsteered": bcs["unsteered"][behaviour]}


def blocks_of(model: str, path: str) -> str:
    """Module path of the blocks of a model, from its configuration alone. Raises: as find_blocks."""
    config = AutoConfig.from_pretrained(locate(model)[0])
    with torch.device("meta"):
        return find_blocks(AutoModelForCausalLM.from_config(config), path)
