"""A steering vector ready to be used elsewhere, with all that its user has to know; taken from a run.

What every export says: `delta` is added to the output of one block (the residual stream after it), counted from 0, at every
position, of the prompt, BOS and decoded tokens alike; a positive strength steers towards the behaviour.
"""

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
from fgaa_utils.names import METHODS, VectorName
from fgaa_utils.params import load_params
from fgaa_utils.project import DATA, artefact, metrics_of, unknown

POSITIONS = "every position: prompt, BOS and decoded tokens"
SIGN = "a positive strength steers towards the behaviour"
LICENCE = "vector: MIT; it is of no use without the model, which has a licence of its own"


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
        """The name as a file's name without suffix."""
        return self.name.replace("=", "").replace(",", "_").replace(".", "-")


def of_run(behaviour: str, method: str, *, scale: float | None = None) -> Steering:
    """The vector that validation chose for a behaviour and method, at the scale that it chose or at another one.

    Raises: ValueError for a behaviour or method that the run has not, or a scale that is not positive; FileNotFoundError
    naming the stage to run if the run is not there.
    """
    chosen = read_choices(artefact("samples/choices.json"))
    if behaviour not in chosen.behaviours:
        raise unknown("behaviour", behaviour, chosen.keys)
    steering = [m for m in chosen.methods if m in METHODS]
    if method not in steering:
        raise unknown("method", method, steering)
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"the scale is {scale}; it must be positive, in {chosen.unit}")
    choice = chosen.choices[method][behaviour]
    identity = {"model": chosen.model, "sae": chosen.sae, "layer": chosen.layer}
    vectors = {
        name.cell: v for name, v in load_vectors(artefact("vectors/vectors.safetensors"), identity=identity).items()
    }
    cell = (behaviour, method, choice["variant"])
    strength = Strength.read(chosen.unit, chosen.resid_std, DATA / "gradients/gradients.safetensors", identity)
    at = choice["scale"] if scale is None else scale
    name = VectorName.parse(".".join(part for part in cell if part))
    base = load_params()["base"]
    return Steering(
        name=str(name),
        vector=vectors[cell].float(),
        coeff=strength.coeff(vectors[cell], at),
        layer=chosen.layer,
        module=f"{blocks_of(base['model'], base['blocks'])}.{chosen.layer}",
        model=chosen.model,
        model_type=AutoConfig.from_pretrained(locate(base["model"])[0]).model_type,
        sae=chosen.sae,
        about={
            "strength": {"unit": chosen.unit, "scale": at, "chosen": choice["scale"]},
            "recipe": asdict(recipe_of(name)),
            "scores": scores_of(chosen, behaviour, method) if at == choice["scale"] else {},
        },
    )


def recipe_of(name: VectorName) -> Recipe:
    """The recipe of a vector of the main run, from params.yaml. Raises: ValueError for a name that the run does not try."""
    params = load_params()
    shaped = {key: value for key, value in params["recipe"].items() if key in Recipe.__dataclass_fields__}
    section = params["vectors"]
    tried = Tries(*(section[key] for key in ("n1", "natural_n1", "ranks", "contrasts", "controls")))
    made = recipes(Recipe("fgaa", **shaped), [name.behaviour], tried)
    if name not in made:
        raise unknown("vector", str(name), [str(known) for known in made])
    return made[name]


def scores_of(chosen: Choices, behaviour: str, method: str) -> dict:
    """BCS of the chosen cell on test prompts with its 95 % interval, the number of texts, the judge, and BCS of text without
    steering; nothing if the evaluation was not run."""
    try:
        found = metrics_of("evaluation")["bcs"]
        judge = metrics_of("judge")["judge_kind"]
    except FileNotFoundError:
        return {}
    return {"bcs": found[method][behaviour], "judge": judge, "unsteered": found["unsteered"][behaviour]}


def blocks_of(model: str, path: str) -> str:
    """Module path of the blocks of a model, from its configuration alone. Raises: as find_blocks."""
    config = AutoConfig.from_pretrained(locate(model)[0])
    with torch.device("meta"):
        return find_blocks(AutoModelForCausalLM.from_config(config), path)
