"""The parameters: params.yaml held against its sections, and the part of it that each stage takes.

A section belongs to the stage of its name; `base`, `recipe` and `design` belong to none. Whatever is wrong with the
file is said at once, before a stage runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fgaa_utils.names import FITS, GRADIENT
from fgaa_utils.project import ROOT, STAGES, read_yaml, short, unknown
from fgaa_utils.sections import DECODER, Params, Row

SHARED = ("base", "recipe", "design")  # in the order in which a notebook's parameter is looked up


def _between_sections(params: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong between values that are each right."""
    design, prompt = params["design"], params["evaluation"]["paper_prompt"]
    errors = []
    if shared := [text for text in design["test_prompts"] if text in design["validation_prompts"]]:
        errors.append(
            f"design.test_prompts has {', '.join(map(repr, shared))} of validation_prompts; it must have none"
        )
    if prompt not in design["test_prompts"]:
        errors.append(f"evaluation.paper_prompt is {prompt!r}; it must be one of design.test_prompts")
    gradients = params["gradients"]
    openers = len(gradients["openers"])
    for key, by in (("rollouts", openers * gradients["parts"]), ("check_rollouts", 2 * openers)):
        if gradients[key] % by:
            errors.append(f"gradients.{key} is {gradients[key]}; with {openers} openers it must be a multiple of {by}")
    return errors + [error for row in params["ablation_samples"]["rows"] for error in _row_errors(row, params)]


def _row_errors(row: dict[str, Any], params: dict[str, dict[str, Any]]) -> list[str]:
    recipe, effects, errors = params["recipe"], params["effects"], []
    fit, count = row.get("fit", recipe["fit"]), row.get("effect_vectors")
    if fit not in (*FITS, GRADIENT, DECODER, recipe["fit"]):
        errors.append(f"the fit must be one of {', '.join((*FITS, GRADIENT, DECODER))}, or recipe.fit")
    if fit in (GRADIENT, DECODER) and row.get("bias_weight", recipe["bias_weight"]):
        errors.append(f"fit: {fit} has no bias; add bias_weight: 0.0")
    sizes = [n * effects["chunk_size"] for n in range(2, effects["chunks"] + 1)]
    if count is not None and (fit not in FITS or count not in sizes):
        errors.append(f"effect_vectors must be one of {sizes}, with a fit among {', '.join(FITS)}")
    return [f"ablation_samples.rows has {row}; {error}" for error in errors]


def check_params(params: dict[str, dict[str, Any]], where: str = "params.yaml") -> None:
    """Hold all of `params` against the sections' types, ranges and choices; `where` they are from, for the message.

    Raises: ValueError naming every key that is wrong, its value and what it must be, a line each.
    """
    if not isinstance(params, dict):
        raise ValueError(f"{where} holds no sections; see the file in the repository")
    try:
        Params.model_validate(params)
        errors = [f"{where}: {error}" for error in _between_sections(params)]
    except ValidationError as error:
        errors = [_message(detail, where) for detail in error.errors()]
    if errors:
        raise ValueError("\n".join(errors))


def _message(error: ErrorDetails, where: str) -> str:
    """One error of pydantic as section.key, its value and what it must be."""
    *parents, last = error["loc"]
    section = _spelled(parents)
    if error["type"] == "extra_forbidden":
        kind = f"key in section {section!r} of {where}:" if parents else f"{where} section"
        return str(unknown(kind, last, _keys_at(parents)))
    if error["type"] == "missing":
        return f"{where}: section {section!r} lacks {last}" if parents else f"{where} has no section {last}"
    return f"{where}: {_spelled(error['loc'])} is {short(error['input'])}; it must be {_wanted(error)}"


def _spelled(loc: Sequence[int | str]) -> str:
    """`judge.server.timeout`, `ablation_samples.rows[2].theta`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _keys_at(loc: Sequence[int | str]) -> list[str]:
    """The keys that may stand at `loc`."""
    model: Any = Params
    for part in loc:
        model = Row if isinstance(part, int) else model.__annotations__[part]
    return list(model.__annotations__)


def _wanted(error: ErrorDetails) -> str:
    """What a value must be, in words."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"one of {context['expected'].replace(chr(39), '').replace(' or ', ', ')}"
    words = {
        "greater_than": "more than {gt:g}",
        "greater_than_equal": "at least {ge:g}",
        "less_than": "less than {lt:g}",
        "less_than_equal": "at most {le:g}",
        "too_short": "a list of {min_length} or more",
        "too_long": "a list of {max_length} or fewer",
        "string_too_short": "text, not empty",
        "string_type": "text; quote it if it is",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "model_attributes_type": "`key: value` lines",
        "list_type": "a list",
        "dict_type": "`key: value` lines",
        "model_type": "`key: value` lines",
    }
    return words[kind].format(**context) if kind in words else error["msg"]


def check_extra(extra: dict[str, list[str]], behaviours: list[str]) -> None:
    """Raises: ValueError if vectors.extra has files for other behaviours than those of the run, or for some alone: a method
    is compared on all of them."""
    for key in extra:
        if key not in behaviours:
            raise unknown("behaviour in vectors.extra:", key, behaviours)
    if extra and (lacking := [key for key in behaviours if key not in extra]):
        raise ValueError(
            f"vectors.extra has no file for {', '.join(lacking)}; give one for every behaviour, or let base.behaviours be "
            f"[{', '.join(extra)}]"
        )


def load_params(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """params.yaml as {section: {key: value}}, the values as they stand there.

    Raises: ValueError for anything that check_params refuses.
    """
    params = read_yaml(path or ROOT / "params.yaml")
    check_params(params)
    return params


def section_of(name: str, stage: str, params: dict) -> str | None:
    """The section that a stage's parameter stands in: the stage's own, else base, recipe or design; None if it is the
    name of a stage whose section is taken whole. Raises: ValueError if it is nowhere."""
    for section in (stage, *SHARED):
        if name in params.get(section, {}):
            return section
    if name in STAGES and name in params:
        return None
    keys = [key for section in (stage, *SHARED) for key in params.get(section, {})]
    raise unknown(f"parameter of the notebook of {stage}:", name, [*keys, *(s for s in STAGES if s in params)])


def stage_params(stage: str, accepted: list[str], params: dict | None = None) -> dict[str, Any]:
    """The values of the parameters that a stage's notebook accepts (see section_of).

    Raises: ValueError for a parameter that params.yaml does not have, or a key of the stage's own section that the
    notebook does not accept.
    """
    params = params or load_params()
    for key in params.get(stage, {}):
        if key not in accepted:
            raise unknown(f"key in section {stage!r} of params.yaml:", key, accepted)
    sections = {name: section_of(name, stage, params) for name in accepted}
    return {name: params[section][name] if section else params[name] for name, section in sections.items()}
