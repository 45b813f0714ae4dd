"""The matrix: examples in small sizes, tactics to put on them one by one or together, what must come of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from zlib import crc32

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.model import Precision
from dsl.source import Source

DOUBLE = Precision("f64", "f64")
HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"

SMALL: dict[str, dict[str, int]] = {
    "gpt": {"layers": 4, "hidden": 16, "heads": 4, "vocab": 24, "seq": 8, "batch": 16},
    "llama": {"layers": 4, "hidden": 16, "heads": 8, "kv_heads": 4, "vocab": 24, "seq": 8, "batch": 16},
    "pangu_200b": {"layers": 4, "hidden": 16, "heads": 4, "vocab": 24, "seq": 8, "batch": 16},
    "mamba": {"layers": 4, "hidden": 16, "states": 4, "vocab": 24, "seq": 8, "batch": 16},
    "streaming": {"layers": 4, "hidden": 16, "heads": 4, "vocab": 24, "seq": 4, "memory": 8, "batch": 16},
    "resnet": {"layers": 4, "size": 8, "channels": 8, "classes": 12, "batch": 16},
    "batch_norm": {"layers": 4, "size": 8, "channels": 8, "classes": 12, "batch": 16},
    "recsys": {"users": 24, "items": 30, "hidden": 8, "groups": 4, "batch": 16},
    "towers": {"hidden": 8, "pixels": 16, "samples": 12, "vocab": 16, "seq": 8, "batch": 16},
    "translation": {"layers": 4, "hidden": 16, "heads": 4, "vocab": 24, "seq": 8, "batch": 16},
    "groups": {"layers": 2, "groups": 2, "hidden": 16, "heads": 4, "vocab": 24, "seq": 8, "batch": 16},
}
"""The parameters of each example, and of models that are here for the matrix alone."""

DIMS = {
    "gpt": set("bsdvhft") | {"block"},
    "llama": set("bsdvhfrt") | {"block"},
    "pangu_200b": set("bsdvhft") | {"block"},
    "mamba": set("bsdvcn") | {"block"},
    "streaming": set("bsdvhft") | {"block"},
    "resnet": {"b", "y", "x", "c", "co", "v", "block", "stem"},
    "batch_norm": {"b", "y", "x", "c", "co", "v", "block", "stem"},
    "recsys": set("buiejnf"),
    "towers": set("bpasvdf") | {"image"},
    "translation": set("bsdvhft") | {"block", "memory"},
    "groups": set("bsdvhft") | {"block"},
}
"""What tactics can speak of: dims, the loop `block`, the scopes `image` and `stem`, what `block` reads of before it
(`memory`)."""


PATHS = {"groups": "group.block"}
"""Where the loop `block` stands, if not at the top: scopes are named by their paths."""

OUTPUTS = {"recsys": "score, pair", "towers": "i, t, w", "translation": "x"}
"""What each example's model is to give where it is inferred; others: `logits`."""


@dataclass(frozen=True, slots=True)
class Tactic:
    """Axes and rules. `needs`: all of these dims; `order`: it says how micro-batches run (two such do not compose)."""

    name: str
    axes: tuple[tuple[str, int], ...]
    rules: tuple[str, ...]
    needs: frozenset[str]
    order: bool = False


def _tactic(name: str, axes: str, needs: str, *rules: str, order: bool = False) -> Tactic:
    pairs = tuple((a.partition("=")[0], int(a.partition("=")[2])) for a in axes.split())
    return Tactic(name, pairs, rules, frozenset(needs.split()), order)


def _pipeline(schedule: str, arguments: str, row: str = "block", cuts: str = "") -> str:
    return f"pipeline {row} on pp, schedule {schedule}({arguments}, over = b){cuts and f', cuts {cuts}'}"


_TOWERS = ("place image on at[0]", "place text on at[1]", "place audio on at[2]")
_VISITED = ("place encoder on at[1]", "place embedding on at[0]", "place block on at[0]", "place linear on at[1]")

TACTICS: tuple[Tactic, ...] = (
    _tactic("uneven_batch", "ub=3", "b", "split b on ub pad"),
    _tactic("dp", "dp=2", "b", "data_parallel(dp)"),
    _tactic("zero_1", "z1=2", "b", "data_parallel(z1)", "optimizer_parallel(z1, 1)"),
    _tactic("zero_2", "z2=2", "b", "data_parallel(z2)", "optimizer_parallel(z2, 2)"),
    _tactic("zero_3", "z3=2", "b", "fsdp(z3)"),
    _tactic("as_they_come", "rp=2", "b", "data_parallel(rp)", "reduce gradients on rp per microbatch"),
    _tactic("tp", "tp=2", "f", "tensor_parallel(tp)"),
    _tactic("megatron", "mt=2", "f s h", "megatron(mt)"),
    _tactic("vocab", "vp=2", "v", "vocab_parallel(vp)"),
    _tactic("cp", "cp=2", "s", "context_parallel(cp)"),
    _tactic("ulysses", "up=2", "s h", "ulysses(up)"),
    _tactic("columns", "cl=2", "d", "split d on cl"),
    _tactic("bands", "sp=2", "y", "spatial(sp)"),
    _tactic("tiles", "ty=2 tx=2", "y x", "tiles(ty, tx)"),
    _tactic("channels", "ch=2", "co", "split co on ch"),
    _tactic("tables", "em=2", "u", "split u, j on em"),
    _tactic("uneven", "od=5", "v", "split v on od for weights, activations pad"),
    _tactic("nested_batch", "na=2 nb=3", "b", "split b on na", "split b on nb pad"),
    _tactic("nested_vocab", "va=5 vb=2", "v", *(f"split v on {a} for weights, activations pad" for a in ("va", "vb"))),
    _tactic(
        "nested_shards", "sa=3 sb=2", "", *(f"shard optimizer, gradients, weights on {a} pad" for a in ("sa", "sb"))
    ),
    _tactic("uneven_bands", "sd=3", "y", "split y on sd for activations pad"),
    _tactic("uneven_users", "od=5", "u", "split u on od for weights pad"),
    _tactic("uneven_shards", "us=3", "", "shard optimizer, gradients, weights on us pad"),
    _tactic("recompute", "", "block", "recompute block"),
    _tactic("recompute_image", "", "image", "recompute image"),
    _tactic("microbatches", "", "b", "microbatches 2 over b", order=True),
    _tactic("last", "", "b", "microbatches 3 over b pad", order=True),
    _tactic("last_two_passes", "", "image", "microbatches 3 over b pad, two passes", order=True),
    _tactic("last_1f1b", "pp=2", "block", _pipeline("one_f_one_b", "microbatches = 3, pad = true"), order=True),
    _tactic(
        "last_rounds", "pp=2", "block", _pipeline("interleaved", "microbatches = 3, chunks = 2, pad = true"), order=True
    ),
    _tactic("two_passes", "", "image", "microbatches 2 over b, two passes", order=True),
    _tactic("gpipe", "pp=2", "block", _pipeline("gpipe", "microbatches = 2"), order=True),
    _tactic("one_f_one_b", "pp=4", "block", _pipeline("one_f_one_b", "microbatches = 4"), order=True),
    _tactic("interleaved", "pp=2", "block", _pipeline("interleaved", "microbatches = 2, chunks = 2"), order=True),
    _tactic("zero_bubble", "pp=2", "block", _pipeline("zero_bubble", "microbatches = 4"), order=True),
    _tactic("ends", "pp=3", "block", _pipeline("zero_bubble", "microbatches = 4", cuts="[0, 4]"), order=True),
    _tactic(
        "rounds",
        "pp=3",
        "block",
        _pipeline("interleaved", "microbatches = 4, chunks = 2", cuts="[0, 1, 2, 3, 4]"),
        order=True,
    ),
    _tactic("row", "pp=3", "stem", _pipeline("one_f_one_b", "microbatches = 4", "stem, block, head"), order=True),
    _tactic("loops", "pp=3", "memory", _pipeline("one_f_one_b", "microbatches = 4", "inner, block"), order=True),
    _tactic(
        "loops_interleaved",
        "pp=2",
        "memory",
        _pipeline("interleaved", "microbatches = 4, chunks = 2", "encoder.inner, block"),
        order=True,
    ),
    _tactic(
        "encoder_by_each",
        "pp=2",
        "memory",
        _pipeline("one_f_one_b", "microbatches = 2"),
        "place encoder on pp",
        order=True,
    ),
    _tactic(
        "beside",
        "pp=3",
        "memory",
        _pipeline("one_f_one_b", "microbatches = 2", cuts="[0, 2]"),
        "place encoder on pp[0]",
        order=True,
    ),
    _tactic(
        "beside_interleaved",
        "pp=2",
        "memory",
        _pipeline("interleaved", "microbatches = 4, chunks = 2"),
        "place encoder on pp[0]",
        "place linear on pp[1]",
        order=True,
    ),
    _tactic(
        "returning",
        "pp=2",
        "memory",
        _pipeline("one_f_one_b", "microbatches = 4"),
        "place encoder on pp[1]",
        "place linear on pp[0]",
        order=True,
    ),
    _tactic(
        "returning_zero_bubble",
        "pp=2",
        "block memory",
        _pipeline("zero_bubble", "microbatches = 4"),
        "place embedding on pp[1]",
        "place linear on pp[0]",
        order=True,
    ),
    _tactic(
        "side_by_side",
        "at=2 pp=2",
        "memory",
        _pipeline("one_f_one_b", "microbatches = 4"),
        "pipeline encoder.inner on pp",
        *(
            f"place {scope} on at[{at}]"
            for scope, at in (("encoder", 0), ("embedding", 1), ("block", 1), ("linear", 1))
        ),
        order=True,
    ),
    _tactic("visited", "at=2", "memory", *_VISITED, order=True),
    _tactic("visited_in_parts", "at=2", "memory", *_VISITED, "microbatches 4 over b", order=True),
    _tactic("places", "at=3", "image", *_TOWERS, order=True),
    _tactic("places_two_passes", "at=3", "image", *_TOWERS, "microbatches 2 over b, two passes", order=True),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """An example under tactics."""

    example: str
    tactics: tuple[Tactic, ...]

    def __str__(self) -> str:
        return f"{self.example}-{'+'.join(t.name for t in self.tactics)}"

    @property
    def source(self) -> Source:
        """The example with one more strategy, which its job uses instead of its own, without a cluster."""
        path = next(p for of in (EXAMPLES, HERE) if (p := of / f"{self.example}.par").exists())
        axes = ", ".join(f"{a} = {n}" for t in self.tactics for a, n in t.axes) or "one = 1"
        loop = PATHS.get(self.example, "block")
        rules = "\n".join(
            f"  {r.replace('recompute block', f'recompute {loop}')}" for t in self.tactics for r in t.rules
        )
        text = path.read_text(encoding="utf-8")
        model = re.search(r"^model (\w+)", text, re.M)
        assert model is not None
        strategy = f"strategy cell for {model[1]} {{\n  mesh ({axes})\n{rules}\n}}\n\n"
        text = re.sub(r"^use std\.tactics.*\n", "", text, flags=re.M)
        text, count = re.subn(r" on pod\(.*\) using \w+", " using cell", text)
        assert count == 1
        text = text.replace("\njob ", f"\n{strategy}job ", 1)
        return Source(str(path), f"use std.tactics\n{text}", str(path))

    @property
    def inferring(self) -> Source:
        """The same, to be inferred: its model puts something out, its job has no optimizer."""
        return inferring(self.source, OUTPUTS.get(self.example, "logits"))

    def compile_inference(self, precision: Precision | None = DOUBLE) -> Compiled:
        """Raises ParcError where the composition is refused."""
        overrides = {k: str(v) for k, v in SMALL[self.example].items()}
        return compile_job(evaluate_file(self.inferring, overrides, precision=precision).job)

    def compile(self, precision: Precision | None = DOUBLE) -> Compiled:
        """Raises ParcError where the composition is refused."""
        overrides = {k: str(v) for k, v in SMALL[self.example].items()}
        return compile_job(evaluate_file(self.source, overrides, precision=precision).job)


def inferring(given: Source, outputs: str) -> Source:
    """A file whose first job infers what its last model puts out then, besides what it did."""
    head, loss, tail = given.text.replace("answers = false", "answers = true").rpartition("\n  loss ")
    told = "" if f"output {outputs}\n" in head else f"\n  output {outputs}"
    head, job, tail = f"{head}{told}{loss}{tail}".partition("\njob ")
    tail = re.sub(r"^  (optimizer|frozen) .*\n", "", tail.replace("\n  train ", "\n  infer ", 1), flags=re.M)
    return Source(given.name, head + job + tail, given.path)


def applicable(example: str) -> list[Tactic]:
    """Tactics whose dims the example has."""
    return [t for t in TACTICS if t.needs <= DIMS[example]]


@cache
def cells(size: int) -> tuple[Cell, ...]:
    """All compositions of `size` tactics on all examples; not those with two orders or two meanings of one axis."""
    found: list[Cell] = []
    for example in SMALL:
        for tactics in combinations(applicable(example), size):
            axes = [a for t in tactics for a, _ in t.axes]
            if sum(t.order for t in tactics) <= 1 and len(set(axes)) == len(axes):
                found.append(Cell(example, tactics))
    return tuple(found)


def spread(found: Iterable[Cell], step: int, first: int = 0) -> list[Cell]:
    """Every `step`-th cell, beginning with `first`."""
    return list(found)[first::step]


def each_once(found: Iterable[Cell]) -> list[Cell]:
    """Pairs of all examples in which each tactic is, as a rule once: as few as there are."""
    cells = sorted(found, key=lambda c: crc32(str(c).encode()))  # without a rhythm
    left = {t.name for c in cells for t in c.tactics}
    chosen = []
    for new in (2, 1):
        for cell in cells:
            names = left & {t.name for t in cell.tactics}
            if len(names) >= new:
                chosen.append(cell)
                left -= names
    return chosen


BATCH = 16
"""Size of dim `b` of every example."""

TRIPLES = 41
"""Of triples every so many are on the page."""


@cache
def chosen() -> tuple[Cell, ...]:
    """What the page is of: all single tactics, all pairs, some triples."""
    return (*cells(1), *cells(2), *spread(cells(3), TRIPLES))


def senseless(cell: Cell) -> str:
    """Why a cell makes no sense, whatever a compiler could do; "" if it does."""
    if cell.example == "towers" and not {t.name for t in cell.tactics}.isdisjoint(("microbatches", "last")):
        return "the loss compares each sample with all others of the batch, and `two passes` is not said"
    return ""


def _undivided(cell: Cell) -> Tactic | None:
    """The first tactic that cuts the batch without saying `pad`, where what those before leave does not divide."""
    size = BATCH
    for tactic in sorted(cell.tactics, key=lambda t: not t.order):  # micro-batches come first
        cuts = [(int(n), rule) for rule in tactic.rules for n in _MICRO_BATCHES.findall(rule)]
        if "b" in tactic.needs and not tactic.order:
            cuts = [(n, next(rule for rule in tactic.rules if axis in rule)) for axis, n in tactic.axes]
        for pieces, rule in cuts:
            if size % pieces and "pad" not in rule:
                return tactic
            size = -(-size // pieces)
    return None


_MICRO_BATCHES = re.compile(r"microbatches(?: =)? (\d+)")


def expected(cell: Cell) -> str:
    """ "proved", or the codes by which the cell must be refused."""
    names = {t.name for t in cell.tactics}
    codes = []
    if senseless(cell):
        codes.append("E0502")
    if cell.example == "batch_norm" and any(name.startswith("last") for name in names):
        codes.append("E0501")  # statistics of each micro-batch are of as many samples
    undivided = None if codes else _undivided(cell)
    if undivided is not None:
        codes.append("E0540")
        if undivided.name == "as_they_come":
            codes.append("E0542")  # nothing is left that its second rule would reduce
    return ", ".join(codes) or "proved"
