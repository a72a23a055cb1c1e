"""The plan of the ablations: what each row changes, on which texts it is scored, at which scale.

Written where the texts are made, read where they are compared. Imports nothing heavy.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fgaa_utils.names import Cell

DEFAULT = "default"  # the row that changes nothing
ABLATION = "ablation"  # method of texts that the main run lacks; their variant is the first row that needs them


def row_label(changes: dict) -> str:
    """A row's name in tables: what is changed."""
    shown = {True: "on", False: "off"}
    return ", ".join(f"{name} {shown.get(v, v) if isinstance(v, bool) else v}" for name, v in changes.items())


def row_changes(rows: list[dict], *, heat_n1: list[int], heat_n2: list[int]) -> dict[str, dict]:
    """{label: changes} of every row but the default: first each pair of n1 and n2, then `rows`."""
    pairs = [{"n1": n1, "n2": n2} for n2 in heat_n2 for n1 in heat_n1]
    return {row_label(changes): changes for changes in [*pairs, *rows]}


@dataclass(frozen=True)
class Plan:
    """What a reader of the texts has to know.

    default: the fields of the default's recipe; n1: its n1 for each behaviour, chosen on validation. whole: how many
    contrastive texts of a side and effect vectors the default uses, for which its recipe says None. rows: {label:
    changes}, without the default. names: {label: {behaviour: name of the texts}}, the default included; rows with
    equal vectors share texts. scales: {name: scale}. counts: of vectors and samples; model: its identity.
    """

    behaviours: list[str]
    default: dict
    n1: dict[str, int]
    whole: dict[str, int | None]
    rows: dict[str, dict]
    names: dict[str, dict[str, Cell]]
    scales: dict[Cell, float]
    counts: dict[str, dict[str, int]]
    model: str

    def same(self, row: str, other: str = DEFAULT) -> bool:
        """Whether two rows have the same vectors for every behaviour."""
        return self.names[row] == self.names[other]

    def row_scales(self, row: str) -> list[float]:
        """The scale chosen for a row's vector of each behaviour."""
        return [self.scales[self.names[row][behaviour]] for behaviour in self.behaviours]

    def write(self, path: Path) -> None:
        """Write the plan as JSON, rows in their order; a name is spelled behaviour.method.variant."""
        names = {row: {b: _spell(name) for b, name in cells.items()} for row, cells in self.names.items()}
        scales = {_spell(name): scale for name, scale in self.scales.items()}
        path.write_text(json.dumps(asdict(self) | {"names": names, "scales": scales}, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan that `write` wrote. Raises: ValueError if an entry is missing or not known."""
        found = json.loads(path.read_text("utf-8"))
        if set(found) != (wanted := {f.name for f in fields(cls)}):
            odd = ", ".join(sorted(set(found) ^ wanted))
            raise ValueError(f"{path} is no plan of this version (entries {odd}); run `dvc repro ablation_samples`")
        found["names"] = {row: {b: _parse(text) for b, text in cells.items()} for row, cells in found["names"].items()}
        found["scales"] = {_parse(text): scale for text, scale in found["scales"].items()}
        return cls(**found)


def _spell(name: Cell) -> str:
    return ".".join(name)


def _parse(text: str) -> Cell:
    behaviour, method, variant = text.split(".", 2)  # a variant may hold dots: `theta 0.03`
    return behaviour, method, variant
