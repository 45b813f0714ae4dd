"""The space that a certificate names: meshes, and choices for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import takewhile
from math import prod
from typing import Any

from compiler.program import FunctionPhase
from compiler.schedules.actions import actions
from dsl.data import dataclass
from parc.certifying.left_out import StatedLeft, stated_left
from parc.certifying.sides import Side
from parc.certifying.stated import StatedPart, Unfounded

SPLITS = ("inner", "experts", "heads", "rows", "positions")
"""What dims are split by, or are."""

KINDS = ("stages", "data", "experts", "positions", "inner")
SINGLE = ("gpipe", "one_f_one_b", "zero_bubble")
"""Schedules without chunks."""

FIRST = (("stages", "pp"), ("data", "dp"))
"""Kinds of what may be outermost, and the name by which each is left out."""

MOST_AXES = 8
MOST_SCHEDULES = 32
MOST_SCOPES = 64
MOST_BY_HAND = 8
AWAY = ("optimizer", "weights", "activations")
FIELDS = ("zero", "recompute", "schedule", "chunks", "along", "heads", "rows", "by", "offload")


@dataclass(frozen=True, slots=True)
class StatedByHand:
    """A function of the library, that computes scopes along the axis of positions; zigzag: these lie in that order."""

    function: str
    scopes: tuple[str, ...]
    zigzag: bool


@dataclass(frozen=True, slots=True)
class StatedAgain:
    """A scope that is computed again, but for what is kept: values by name."""

    scope: str
    keep: tuple[str, ...]

    def told(self) -> str:
        """In words."""
        return f"{self.scope} but for {', '.join(self.keep)}" if self.keep else self.scope

    def beside(self, by_hand: StatedByHand | None) -> tuple[str, ...]:
        """What is kept where something by hand takes the place of scopes: in the place of their values, they."""
        found: list[str] = []
        for name in self.keep:
            parts = name.split(".")
            around = {".".join(parts[: n + 1]) for n in range(len(parts))}
            instead = [s for s in by_hand.scopes if s in around] if by_hand is not None else []
            found += [n for n in (instead[:1] or [name]) if n not in found]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class StatedSpace:
    """The choices that a certificate names. axes: (name, kind, dim), major to minor; recomputes: of each choice the
    scopes, with what is kept of them; sides: of the model's products; whole: whether nothing has micro-batches; paths:
    scopes that are a layer; left: what of all these no strategy has."""

    devices: int
    batch: int
    axes: tuple[tuple[str, str, str], ...]
    splits: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    labels: tuple[str, ...]
    layers: int
    recomputes: tuple[tuple[StatedAgain, ...], ...]
    schedules: tuple[tuple[str, int], ...]
    zero: tuple[int, ...]
    domains: tuple[int, ...]
    by_hand: tuple[StatedByHand, ...] = ()
    offloads: tuple[tuple[str, ...], ...] = ((),)
    sides: tuple[Side, ...] = ()
    whole: bool = False
    paths: tuple[str, ...] = ()
    left: StatedLeft = StatedLeft()

    @property
    def every(self) -> StatedSpace:
        """With what is left out: layers and loops that are looked at are no strategies of the space."""
        return replace(self, left=StatedLeft())

    def told(self) -> str:
        """Which choices there are, in words; what is not among them, nothing was said of."""
        there = [(name, kind, dim) for name, kind, dim in self.axes if self._axis(name, 2)]
        axes = ", ".join(f"{name} ({kind}{f' {dim}' if dim else ''})" for name, kind, dim in there)
        schedules = ", ".join(name if chunks == 1 else f"{name} of {chunks}" for name, chunks in self._schedules())
        recomputes = [self.recomputes[again] for again in self._again()]
        again = ", ".join(" and ".join(of.told() for of in choice) or "nothing" for choice in recomputes)
        zero = ", ".join(map(str, self._zero()))
        found = f"axes {axes or 'none'}; schedules {schedules or 'none'}; ZeRO {zero}; computed again {again}"
        by_hand = (
            f"{' and '.join(of.scopes)} by {of.function}{' in zig-zag order' if of.zigzag else ''}"
            for of in self.by_hand
            if self.left.by_hand(of.function, of.zigzag)
        )
        found += f"; written by hand {', '.join(by_hand)}" if self.by_hand else ""
        found += f"; without {left}" if (left := self.left.told()) else ""
        found += "; no micro-batches" if self.whole else ""
        away = ", or ".join(" and ".join(classes) or "nothing" for classes in self.offloads)
        return f"{found}; with the hosts {away}" if self.offloads != ((),) else found

    def meshes(self) -> Iterator[dict[str, int]]:
        """Sizes of the axes whose product is the number of devices, those of 1 left out."""
        names = [name for name, _, _ in self.axes]

        def rest(at: int, left: int, sizes: dict[str, int]) -> Iterator[dict[str, int]]:
            if at == len(names):
                if left == 1:
                    yield sizes
                return
            for size in (d for d in range(1, left + 1) if left % d == 0) if left < 4096 else divisors_of(left):
                if size > 1 and not self._axis(names[at], size):
                    continue
                yield from rest(at + 1, left // size, sizes if size == 1 else {**sizes, names[at]: size})

        yield from rest(0, self.devices, {})

    def _axis(self, name: str, size: int) -> bool:
        """Whether an axis above 1 is left in, with so many devices; of stages with a schedule to run by."""
        return self.left.axis(name, size) and (self.kind(name) != "stages" or bool(self._schedules()))

    def _schedules(self) -> list[tuple[str, int]]:
        return [(name, chunks) for name, chunks in self.schedules if self.left.schedule(name, chunks)]

    def _zero(self) -> list[int]:
        return [stage for stage in self.zero if f"zero={stage}" not in self.left.names]

    def _again(self) -> list[int]:
        rules = [[(of.scope, bool(of.keep)) for of in choice] for choice in self.recomputes]
        return [number for number, of in enumerate(rules) if self.left.again(of, self.paths)]

    def of_kind(self, mesh: Mapping[str, int], *kinds: str) -> int:
        """Devices along the axes of these kinds."""
        return prod(n for name, n in mesh.items() if self.kind(name) in kinds)

    def kind(self, axis: str) -> str:
        return next(kind for name, kind, _ in self.axes if name == axis)

    def dim(self, axis: str) -> str:
        return next(dim for name, _, dim in self.axes if name == axis)

    # --- choices: (all, those that no number speaks against) -----------------------------------------------------

    def choices(self, mesh: Mapping[str, int]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Of a mesh, by field; `first` is the kind of the outermost axis."""
        kinds = {self.kind(name) for name in mesh}
        position_dims = [dim for _, kind, dim in self.axes if kind == "positions"]
        every: dict[str, list[Any]] = {
            "first": [first for first, name in FIRST if f"outermost={name}" not in self.left.names]
            if {"stages", "data"} <= kinds
            else [""],
            "zero": self._zero() if kinds & {"data", "experts", "positions"} else [0],
            "recompute": self._again(),
            "schedule": self._schedules() if "stages" in kinds else [("", 1)],
            "along": ["", *position_dims] if "inner" in kinds and "sequence" not in self.left.names else [""],
            "offload": [away for away in self.offloads if self.left.away(away)],
            "inside": [(False, 0)],  # heads, and what is written by hand
            "rows": [(), self.splits["rows"]] if "data" in kinds and self._tables() else [()],
        }
        if "positions" in kinds:
            every["inside"] += [(True, 0)] * bool(self.splits["heads"] and "heads" not in self.left.names)
            by_hand = enumerate(self.by_hand, 1)
            every["inside"] += [(False, by) for by, of in by_hand if self.left.by_hand(of.function, of.zigzag)]
        can = dict(every)
        layer = self.of_kind(mesh, "experts", "positions", "inner")
        if len(every["first"]) == 2 and not any(layer % d for d in self.domains[:-1]):
            can["first"] = ["stages"]
        stages = self.of_kind(mesh, "stages")
        can["schedule"] = [s for s in every["schedule"] if self._has_chunks(stages, s[1])]
        can["along"] = [a for a in every["along"] if not a or self.sizes[a] % self._pieces(mesh, a) == 0]
        can["inside"] = [(h, by) for h, by in every["inside"] if not h or self.heads(mesh)]
        blocks = {self.dim(a): 2 * n for a, n in mesh.items() if self.kind(a) == "positions"}
        if any(self.sizes[d] % n for d, n in blocks.items()):
            can["inside"] = [(h, by) for h, by in can["inside"] if not by or not self.by_hand[by - 1].zigzag]
        tables = tuple(d for d in self.splits["rows"] if self.divides_rows(mesh, d))
        can["rows"] = [(), tables] if tables and len(every["rows"]) > 1 else [()]
        return every, can

    def _tables(self) -> bool:
        return bool(self.splits["rows"]) and "rows" not in self.left.names

    def _has_chunks(self, stages: int, chunks: int) -> bool:
        """As many layers as chunks at least; and as many in each, where there are 3, 5, 6, 7 of them (docs/plan.md)."""
        each, over = divmod(max(self.layers, 1), stages * chunks)
        return each > 0 and (over == 0 or chunks & (chunks - 1) == 0)

    def _pieces(self, mesh: Mapping[str, int], along: str) -> int:
        return prod(n for a, n in mesh.items() if self.kind(a) == "inner" or self.dim(a) == along)

    def heads(self, mesh: Mapping[str, int]) -> list[str]:
        """The heads that positions' axes can split."""
        pieces, inner = self.of_kind(mesh, "positions"), self.of_kind(mesh, "inner")
        found = []
        for d in self.splits["heads"]:
            size = self.sizes[d]
            if size % (inner * pieces if size % inner == 0 else pieces) == 0:
                found.append(d)
        return found

    def divides_rows(self, mesh: Mapping[str, int], dim: str) -> bool:
        """Whether the axis of data can split rows of tables, in the pieces that an inner axis makes of them."""
        data, inner, size = self.of_kind(mesh, "data"), self.of_kind(mesh, "inner"), self.sizes[dim]
        return size % (data * inner if dim in self.splits["inner"] and size % inner == 0 else data) == 0

    def can_be(self, mesh: Mapping[str, int], m: int) -> bool:
        """Whether there are strategies of such a mesh in so many micro-batches."""
        return (m == 1 or not self.whole) and self.divides(mesh, m) and all(self._axis(a, n) for a, n in mesh.items())

    def divides(self, mesh: Mapping[str, int], m: int) -> bool:
        """Whether mesh and micro-batches are such that no number speaks against all choices."""
        if self.batch % (m * self.of_kind(mesh, "data", "experts")):
            return False
        for axis, n in mesh.items():
            kind = self.kind(axis)
            if kind == "stages" and n > self.layers:
                return False
            if kind == "inner" and all(self.sizes[d] % n for d in self.splits["inner"]):
                return False
            if kind == "experts" and any(self.sizes[d] % n for d in self.splits["experts"]):
                return False
            if kind == "positions" and self.sizes[self.dim(axis)] % n:
                return False
        return True


def divisors_of(n: int) -> list[int]:
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def sizes_of(entry: StatedPart) -> dict[str, int]:
    """The axes `inside` of an entry, in their order, and their sizes. Raises Unfounded."""
    found: dict[str, int] = {}
    for pair in entry["inside"].each():
        axis, size = pair.pair()
        if axis.text() in found:
            raise Unfounded(f"{entry.path}.inside has `{axis.text()}` twice", entry.path)
        found[axis.text()] = size.whole(2)
    return found


def tables_of(of: StatedPart, space: StatedSpace, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Dims of rows of tables, in their order, that the axis of data splits. Raises Unfounded."""
    found = tuple(d.text() for d in of.each())
    can = tuple(d for d in space.splits["rows"] if d in found and space.divides_rows(mesh, d))
    if found != can or (found and space.of_kind(mesh, "data") == 1):
        raise Unfounded(f"{of.path} are no rows of tables that the axis of data splits", of.path)
    return found


def classes_of(of: StatedPart) -> tuple[str, ...]:
    """What rests with the hosts, in the one order that it is written in."""
    found = tuple(v.text() for v in of.distinct(len(AWAY)))
    if found != tuple(c for c in AWAY if c in found):
        raise Unfounded(f"{of.path} are no classes of what can rest with the hosts", of.path)
    return found


def stated_again(of: StatedPart) -> StatedAgain:
    """A rule of what is computed again."""
    if extra := sorted(of.items().keys() - {"scope", "keep"}):
        raise Unfounded(f"{of.path} has `{extra[0]}`, which no rule has", of.path)
    return StatedAgain(of["scope"].text(), tuple(k.text() for k in of["keep"].distinct(MOST_SCOPES)))


def _by_hand(of: StatedPart) -> StatedByHand:
    scopes = tuple(s.text() for s in of["scopes"].distinct(MOST_SCOPES))
    names = (of["function"].text(), *(part for scope in scopes for part in scope.split(".")))
    if not scopes or not all(name.isidentifier() for name in names):
        raise Unfounded(f"{of.path} is no function in the place of scopes", of.path)
    return StatedByHand(names[0], scopes, of["zigzag"].truth())


def stated_space(of: StatedPart, devices: int, domains: Sequence[int]) -> StatedSpace:
    """The space that a certificate names."""
    axes = tuple((a["name"].text(), a["kind"].text(), a["dim"].text()) for a in of["axes"].each())
    if (
        len(axes) > MOST_AXES
        or len({name for name, _, _ in axes}) < len(axes)
        or any(kind not in KINDS for _, kind, _ in axes)
    ):
        raise Unfounded(f"{of.path}.axes are not axes of different names and of known kinds", of.path)
    if any(kind == "positions" and not dim for _, kind, dim in axes):
        raise Unfounded(f"{of.path}.axes has positions of no dim", of.path)
    stages = [z.whole() for z in of["zero"].distinct(4)]
    if not set(stages) <= {0, 1, 2, 3}:
        raise Unfounded(f"{of.path}.zero are no stages of ZeRO", of.path)
    splits = {k: tuple(d.text() for d in v.each()) for k, v in of["splits"].items().items()}
    if splits.keys() != {*SPLITS}:
        raise Unfounded(f"{of.path}.splits has other kinds of dims", of.path)
    sizes = {d: v.whole(1) for d, v in of["sizes"].items().items()}
    named = {d for dims in splits.values() for d in dims} | {dim for _, _, dim in axes if dim}
    if missing := sorted(named - sizes.keys()):
        raise Unfounded(f"{of.path}.sizes has no `{missing[0]}`", of.path)
    loops = [loop.pair() for loop in of["loops"].each()]
    schedules = []
    for s in of["schedules"].distinct(MOST_SCHEDULES):
        name, chunks = s.pair()
        if not (name.text() in SINGLE and chunks.whole(1) == 1 or name.text() == "interleaved"):
            raise Unfounded(f"{s.path} is no schedule", s.path)
        schedules.append((name.text(), chunks.whole(1)))
    return StatedSpace(
        devices,
        of["batch"]["size"].whole(1),
        axes,
        splits,
        sizes,
        tuple(label.text() for label, _ in loops),
        sum(count.whole(1) for _, count in loops),
        tuple(tuple(stated_again(rule) for rule in choice.each()) for choice in of["recompute"].each()),
        tuple(schedules),
        tuple(stages),
        tuple(domains),
        tuple(_by_hand(v) for v in of["implementations"].distinct(MOST_BY_HAND)),
        tuple(classes_of(v) for v in of["offload"].distinct(MOST_BY_HAND)),
        whole=of["batch"]["whole"].truth(),
        left=stated_left(of["left_out"]),
    )


@cache
def before_back(stages: int, chunks: int, m: int, schedule: str, stage: int) -> list[int]:
    """Of which chunks a stage runs forward before it first runs back."""
    played = actions(schedule, stages, chunks, m, stage)
    return [a.chunk for a in takewhile(lambda action: action.kind is FunctionPhase.FORWARD, played)]
