"""Behaviours to steer towards: one YAML file each under data/behaviours/, contrastive texts and judge texts.

The contrastive sets X+ and X- build steering vectors (paper, section 3 and appendix); the judge texts train
and test the judge and never overlap with them. A new behaviour is a new file. data/behaviours.md tells of its sets.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from fgaa_utils.names import UNSEEN
from fgaa_utils.project import DATA, unknown

FOLDER = DATA / "behaviours"
RESERVED = ("shared", "average", "behaviour", "coherence")  # what tables call other things than behaviours


@dataclass(frozen=True)
class Behaviour:
    """`key` is the file's stem; `positive` and `negative` are X+ and X-; `language` set means that the judge
    is language identification."""

    key: str
    name: str
    description: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    judge_positive: tuple[str, ...]
    judge_negative: tuple[str, ...]
    language: str | None = None


def _check_keys(content: object, allowed: list[str], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is empty; it needs {', '.join(allowed)}")
    for key in content:
        if key not in allowed:
            raise unknown(f"key in {where}:", key, allowed)


def _texts(source: dict, key: str, path: Path) -> tuple[str, ...]:
    texts = source.get(key)
    if not texts or not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"{path.name}: {key!r} must be a list of non-empty texts")
    return tuple(texts)


def read_behaviour(path: Path) -> Behaviour:
    """The behaviour of one file.

    Raises: ValueError if it is not UTF-8 YAML, lacks a part, has an unknown key or one text on two sides.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {error}") from error
    allowed = ["name", "description", "language", "positive", "negative", "judge"]
    _check_keys(content, allowed, path.name)
    if missing := [
        key for key in ("name", "description", "positive", "negative", "judge") if content.get(key) in (None, "")
    ]:
        raise ValueError(f"{path.name} lacks {', '.join(missing)}")
    _check_keys(content["judge"], ["positive", "negative"], f"judge of {path.name}")
    behaviour = Behaviour(
        key=path.stem,
        name=content["name"],
        description=content["description"],
        positive=_texts(content, "positive", path),
        negative=_texts(content, "negative", path),
        judge_positive=_texts(content["judge"], "positive", path),
        judge_negative=_texts(content["judge"], "negative", path),
        language=content.get("language"),
    )
    _check_disjoint(behaviour, path)
    return behaviour


def _check_disjoint(behaviour: Behaviour, path: Path) -> None:
    """Raises: ValueError if a text stands twice, within a set or in two of the four."""
    seen: dict[str, str] = {}
    for side in ("positive", "negative", "judge_positive", "judge_negative"):
        for text in getattr(behaviour, side):
            folded = " ".join(text.lower().split())
            if folded in seen:
                raise ValueError(f"{path.name}: {text!r} is in {seen[folded]} and in {side}; it may stand once")
            seen[folded] = side


def _files(folder: Path) -> list[Path]:
    """The behaviour files of a folder, in the order of their names. Raises: ValueError for a name that cannot be used."""
    if other := sorted(path.name for path in folder.glob("*.yml")):
        raise ValueError(f"{other[0]} would be ignored; a behaviour file ends in .yaml")
    paths = sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    for path in paths:
        if path.stem in RESERVED or not re.fullmatch(r"[\w-]+", path.stem):
            raise ValueError(
                f"{path.name}: rename the file; letters, digits, - and _ are allowed, {', '.join(RESERVED)} are taken"
            )
    return paths


def read_behaviours(names: list[str] | str = "all", folder: Path = FOLDER) -> list[Behaviour]:
    """All behaviours of the folder, those of its folder `development` or `test`, or those named by their file stems, from
    anywhere there; in alphabetical order.

    Raises: ValueError for an unknown name, a file name that cannot be used, or two files with one stem or display name.
    """
    sets = {"all": folder} | {name: folder / name for name in UNSEEN}
    if not names or (isinstance(names, str) and names not in sets):
        raise ValueError(
            f"behaviours is {names!r}; it must be {', '.join(sets)} or a list of names such as [anger, love]"
        )
    places = [sets[names]] if isinstance(names, str) else list(sets.values())
    files = [path for place in places for path in _files(place)]
    if not files:
        raise ValueError(f"{places[0]} holds no behaviour files")
    paths: dict[str, Path] = {}
    for path in files:
        if path.stem in paths:
            raise ValueError(f"{path} and {paths[path.stem]} have one name; rename one")
        paths[path.stem] = path
    for name in [] if isinstance(names, str) else names:
        if name not in paths:
            raise unknown("behaviour", name, list(paths))
    behaviours = [read_behaviour(paths[stem]) for stem in sorted(paths) if isinstance(names, str) or stem in names]
    by_name: dict[str, str] = {}
    for behaviour in behaviours:
        if behaviour.name in by_name:
            raise ValueError(
                f"{behaviour.key}.yaml and {by_name[behaviour.name]}.yaml are both named {behaviour.name!r}"
            )
        by_name[behaviour.name] = behaviour.key
    return behaviours
