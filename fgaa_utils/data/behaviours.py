"""Behaviours to steer towards: one YAML file each under data/behaviours/, contrastive texts and judge texts.

The contrastive sets X+ and X- build steering vectors (paper, section 3 and appendix); the judge texts train
and test the judge and never overlap with them. A new behaviour is a new file. data/behaviours.md tells of its sets.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fgaa_utils.names import REPORTED_UNSEEN, UNSEEN
from fgaa_utils.project import DATA, read_yaml, short, unknown

FOLDER = DATA / "behaviours"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends
MAX_BYTES = 1_000_000  # of a file
MAX_CHARS = 2_000  # of a text
MAX_NAME = 60  # characters
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
        raise ValueError(f"{where} is empty or no `key: value` lines; it needs {', '.join(allowed)}")
    for key in content:
        if key not in allowed:
            raise unknown(f"key in {where}:", key, allowed)


def _texts(source: dict, key: str, path: Path) -> tuple[str, ...]:
    texts = source.get(key)
    if not texts or not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(f"{path.name}: {key!r} must be a list of non-empty texts")
    for text in texts:
        if len(text) > MAX_CHARS:
            raise ValueError(f"{path.name}: a text of {key!r} has {len(text):,} characters; {MAX_CHARS:,} at most")
        if control := CONTROL.search(text):
            raise ValueError(f"{path.name}: {key!r} has the control character {control[0]!r}; take it out")
    return tuple(texts)


def _line(content: dict, key: str, path: Path) -> str:
    """A part that is one line of text."""
    text = content[key]
    if not isinstance(text, str) or not text.strip() or CONTROL.search(text):
        raise ValueError(f"{path.name}: {key} is {short(text)}; it must be text, quoted if it is a number or a date")
    return text


def _name(content: dict, path: Path) -> str:
    name = _line(content, "name", path)
    if len(name) > MAX_NAME or "\n" in name:
        raise ValueError(
            f"{path.name}: name is {name[:MAX_NAME]!r}...; it must be one line of {MAX_NAME} characters or fewer"
        )
    return name


def _language(content: dict, path: Path) -> str | None:
    language = content.get("language")
    if language is not None and not (isinstance(language, str) and re.fullmatch("[a-z]{2,3}", language)):
        raise ValueError(f"{path.name}: language is {short(language)}; it must be a code such as fr, or left out")
    return language


def read_behaviour(path: Path) -> Behaviour:
    """The behaviour of one file.

    Raises: ValueError if it is too large, not UTF-8 YAML, lacks a part, has an unknown key or one text on two sides, or
    a part is of the wrong kind.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes; a behaviour is a few dozen sentences, {MAX_BYTES:,} at most")
    content = read_yaml(path)
    allowed = ["name", "description", "language", "positive", "negative", "judge"]
    _check_keys(content, allowed, path.name)
    if missing := [
        key for key in ("name", "description", "positive", "negative", "judge") if content.get(key) in (None, "")
    ]:
        raise ValueError(f"{path.name} lacks {', '.join(missing)}")
    _check_keys(content["judge"], ["positive", "negative"], f"judge of {path.name}")
    behaviour = Behaviour(
        key=path.stem,
        name=_name(content, path),
        description=_line(content, "description", path),
        positive=_texts(content, "positive", path),
        negative=_texts(content, "negative", path),
        judge_positive=_texts(content["judge"], "positive", path),
        judge_negative=_texts(content["judge"], "negative", path),
        language=_language(content, path),
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
    """All behaviours of the folder, those of one or two of its folders (see names.UNSEEN and REPORTED_UNSEEN), or those named
    by their file stems, from anywhere there; in alphabetical order.

    Raises: ValueError for an unknown name, a file name that cannot be used, or two files with one stem or display name.
    """
    folders = {"all": folder} | {name: folder / name for name in UNSEEN}
    sets = {name: [path] for name, path in folders.items()}
    sets |= {name: [folders[part] for part in parts] for name, parts in REPORTED_UNSEEN.items()}
    if not names or (isinstance(names, str) and names not in sets):
        raise ValueError(
            f"behaviours is {names!r}; it must be {', '.join(sets)} or a list of names such as [anger, love]"
        )
    places = sets[names] if isinstance(names, str) else list(folders.values())
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


def sets_of(keys: list[str], folder: Path = FOLDER) -> dict[str, list[str]]:
    """{folder of names.UNSEEN: those of the keys that are there}, the folders that have any."""
    found = {name: [key for key in keys if (folder / name / f"{key}.yaml").exists()] for name in UNSEEN}
    return {name: own for name, own in found.items() if own}
