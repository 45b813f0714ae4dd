"""Published, measured training steps: the rows, and what they state."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TRAINING = FOLDER / "training.csv"
SINGLE_NODE = FOLDER / "single_node.csv"

UNITS = {"GB": 1e9, "GiB": 2.0**30}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `facts` are its cells as written; README.md says what the columns mean."""

    facts: Mapping[str, str]

    def __str__(self) -> str:
        return self["row_id"]

    def __getitem__(self, column: str) -> str:
        return self.facts[column]

    def whole(self, column: str, default: int = 1) -> int:
        """A whole number; `default` where the source does not say."""
        return int(self.facts[column] or default)

    def number(self, column: str, default: float = 0.0) -> float:
        """A number; `default` where the source does not say."""
        return float(self.facts[column] or default)

    @property
    def family(self) -> str:
        """Rows of one family were measured by one site, in one manner."""
        return self["family"]

    @property
    def seconds(self) -> float:
        """The measured time of a step."""
        return self.number("seconds")

    @property
    def memory(self) -> float | None:
        """The measured memory of the fullest device in bytes (of the kind `mem_kind`), or None."""
        return self.number("mem_per_dev") * UNITS[self["mem_unit"]] if self["mem_per_dev"] else None


def load(path: Path = TRAINING) -> list[Row]:
    """The rows of a table in its order."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(cells) for cells in csv.DictReader(file)]
