"""Published, measured training steps: the rows, and what they state."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.published import words

FOLDER = Path(__file__).resolve().parent
TRAINING = FOLDER / "training.csv"
SINGLE_NODE = FOLDER / "single_node.csv"

UNITS = {"B": 1.0, "bytes": 1.0, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2.0**20, "GiB": 2.0**30}

MEMORY_KINDS = {"nvidia-smi": "driver", "driver": "driver", "reserved": "reserved", "alloc": "allocated"}
MEMORY_KINDS |= {"active": "allocated", "XLA": "xla", "init": "init"}
"""What a figure of memory counts, by the first of these words in `mem_kind`: what the driver shows holds what
the allocator has reserved, and that what is allocated. They are never mixed."""


ERRORS = {"A": 0.04, "B": 0.04, "C": 0.12}
"""Of the logarithm, by tier: what a good model is off."""

ASSUMED = 1.5
"""So many times wider, where the chunks of a pipeline are assumed."""

LAYERS = 3
"""Of a stage, beyond which most pipelines are interleaved."""


class Unsupported(Exception):
    """The language, or this script, has no words for a row, or the row does not say enough; the text says of what."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `facts` are its cells as written; README.md says what the columns mean. A column that the
    table has not is a cell that says nothing."""

    facts: Mapping[str, str]

    def __str__(self) -> str:
        return self["row_id"] or "row"

    def __getitem__(self, column: str) -> str:
        said = (self.facts.get(column) or "").strip()
        return "" if said.lower() in words.NOTHING else said

    def yes(self, column: str) -> bool:
        """Whether it says so."""
        return self[column].lower() in words.YES

    def whole(self, column: str, default: int = 1) -> int:
        """A whole number; `default` where the source does not say. Raises `Unsupported` for anything else."""
        number = self.number(column, float(default))
        if number != int(number):
            raise Unsupported(f"{column} is not a whole number: {self[column]}")
        return int(number)

    def number(self, column: str, default: float = 0.0) -> float:
        """A finite number; `default` where the source does not say. Raises `Unsupported` for anything else."""
        try:
            number = words.number(self[column]) if self[column] else default
        except ValueError:
            raise Unsupported(f"{column} is not a number: {self[column]}") from None
        if number - number != 0.0:
            raise Unsupported(f"{column} is not finite: {self[column]}")
        return number

    @property
    def family(self) -> str:
        """Rows of one family were measured by one site, in one manner."""
        return self["family"] or "all"

    @property
    def tier(self) -> str:
        """A: complete; B: something was inferred, by the table or by us; C: a run that nobody tuned for speed."""
        if words.UNTUNED.search(self["notes"]):
            return "C"
        return max(self["tier"] or "A", "B" if self.chunks_assumed else "A")

    @property
    def chunks_assumed(self) -> bool:
        """Whether a pipeline may be interleaved though the row does not say so: most with more than a few layers per
        stage, or with few micro-batches, are."""
        stages = self.whole("pp")
        if stages < 2 or self["vpp"]:
            return False
        few = self.number("gbs") < 4 * stages * self.number("dp", 1.0) * self.number("mbs", 1.0)
        return self.number("layers") > LAYERS * stages and ("megatron" in self.family.lower() or few)

    @property
    def error(self) -> float:
        """How far off (of the logarithm) a good model is, for what the row leaves open."""
        return ERRORS[self.tier] * (ASSUMED if self.chunks_assumed else 1.0)

    @property
    def seconds(self) -> float | None:
        """The measured time of a step: as reported, else computed from what was reported, else None."""
        for column in ("seconds", "step_time_s", "derived_step_s"):
            if self[column]:
                return self.number(column) or None
        tokens = self.number("gbs") * self.number("seq_len")
        if self["tok_s_dev"] and tokens:
            return tokens / (self.number("tok_s_dev") * self.number("n_dev", 1.0))
        if self["samples_s"] and self["gbs"]:
            return self.number("gbs") / self.number("samples_s")
        rate = self.number("tflops_dev") or self.number("mfu_pct") / 100 * self.number("peak_tflops")
        return self.flops() / (rate * 1e12 * self.number("n_dev", 1.0)) if rate and tokens else None

    @property
    def gated(self) -> bool:
        """Whether feed-forward layers are: if the row does not say, where they are not four times as wide as d."""
        return self.yes("glu") if self["glu"] else self.number("ffn") not in (0.0, 4 * self.number("hidden"))

    def flops(self) -> float:
        """Of a step's products, forward and backward, nothing made again: 6 per weight and position, and 12·s·h·k per
        layer and position for attention, of which nothing is masked. That is what MaxText and MFU count."""
        d, heads = self.number("hidden"), self.number("heads")
        width = heads * (self.number("head_dim") or d / max(heads, 1.0))
        grouped = width * self.number("kv_heads", heads) / max(heads, 1.0)
        layer = d * (2 * width + 2 * grouped) + (3 if self.gated else 2) * d * self.number("ffn")
        layers, s = self.number("layers"), self.number("seq_len")
        weights = layers * layer + d * self.number("vocab")
        return (6 * weights + 12 * layers * s * width) * self.number("gbs") * s

    @property
    def memory(self) -> float | None:
        """The measured memory of the fullest device in bytes (of the kind `memory_kind`), or None."""
        name = next(iter(re.findall(r"[A-Za-z]+", self["mem_unit"])), self["mem_unit"]).lower()
        unit = next((size for known, size in UNITS.items() if known.lower() == name), None)
        if name.startswith(("%", "percent")):
            unit = self.number("mem_GB") * 1e9 / 100
        return self.number("mem_per_dev") * unit if unit and self["mem_per_dev"] else None

    @property
    def memory_kind(self) -> str:
        """`allocated`, `reserved`, `driver`, `xla`, `init`, or `unknown`."""
        said = self["mem_kind"].lower()
        found = [(said.index(word.lower()), kind) for word, kind in MEMORY_KINDS.items() if word.lower() in said]
        return min(found)[1] if found else "unknown"


def load(path: Path = TRAINING) -> list[Row]:
    """The rows of a table in its order; the sources of our own tables are listed apart, by number."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = _sources() if path.parent == FOLDER else {}
    named = ({**cells, "source": names.get(cells.get("source", ""), cells.get("source", ""))} for cells in rows)
    return [usual(Row(cells)) for cells in named]


def usual(row: Row) -> Row:
    """With the width of feed-forward layers, where only that is not stated: an expert's, 4·hidden, or, with gates,
    8/3 of it in multiples of 256 (LLaMA's)."""
    if row["ffn"] or not row["hidden"]:
        return row
    try:
        hidden = row.whole("hidden")
    except Unsupported:
        return row  # said where a job is asked for
    width = str(-(-8 * hidden // (3 * 256)) * 256 if row.yes("glu") else 4 * hidden)
    return Row({**row.facts, "ffn": row["moe_ffn"] or width})


@cache
def _sources() -> Mapping[str, str]:
    with (FOLDER / "sources.csv").open(newline="", encoding="utf-8") as file:
        return {number: name for number, name, *_ in csv.reader(file)}
