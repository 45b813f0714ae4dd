"""The graph: named, typed values and the nodes that compute them. Immutable; passes build new graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from math import prod
from typing import TYPE_CHECKING

from compiler.memory.tiers import FIRST
from compiler.origin import FORWARD, Origin
from dsl.data import Unique, dataclass, fix
from dsl.source import NOWHERE, Span

if TYPE_CHECKING:
    from compiler.layout import Layout
    from compiler.ops.base import Op
    from compiler.regions.region import Region

FLOATS = ("f64", "f32", "bf16", "f16")
DTYPES = (*FLOATS, "int32", "uint32", "bool")
ITEMSIZE = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "int32": 4, "uint32": 4, "bool": 1}
DIGITS = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
"""Significant bits of each float type."""
RANGES = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1)}
"""The least and the largest number of each integer type."""
BEYOND_F32 = (2 - 2.0 ** -DIGITS["f32"]) * 2.0**127
"""The least number that is infinite as f32."""


@dataclass(frozen=True, slots=True)
class Dim(Unique):
    """A named dimension of a known size."""

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}={self.size}"


@dataclass(frozen=True, slots=True)
class Type(Unique):
    """Element type and ordered dims of a tensor; names within one tensor are distinct.

    `positions`: where the dim of a name is. `elements`: their number.
    """

    dtype: str
    dims: tuple[Dim, ...] = ()
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    positions: dict[str, int] = field(init=False, repr=False, compare=False)
    shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    elements: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = tuple([d.name for d in self.dims])
        positions = {name: i for i, name in reversed([*enumerate(names)])}
        shape = tuple([d.size for d in self.dims])
        fix(self, names=names, positions=positions, shape=shape, elements=prod(shape))

    @property
    def bytes(self) -> int:
        return self.elements * ITEMSIZE[self.dtype]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def size(self, name: str) -> int:
        """Size of the dim called `name`; KeyError if there is none."""
        return self.dims[self.positions[name]].size

    def index(self, name: str) -> int:
        """Position of the dim called `name`; KeyError if there is none."""
        return self.positions[name]

    def has(self, name: str) -> bool:
        return name in self.positions

    def with_dtype(self, dtype: str) -> Type:
        return Type(dtype, self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One tensor, by its logical type. `name` is unique in the whole training graph, and in a function of a program.

    origin: what the value is for, and where it comes from. Of this a lowered program tells the phase: moved, for what
    collectives and effects give; again; else its function's.
    layout: how its pieces lie on the devices (the piece: `local_type(type, layout, sizes)`); None before `place`, which
    gives all values theirs. Typed as if it were always there: nobody reads it before.
    memory: where its bytes are; only `move` brings them elsewhere.
    """

    name: str
    type: Type
    span: Span = field(default=NOWHERE, repr=False)
    origin: Origin = field(default=FORWARD, repr=False)
    layout: Layout = None  # type: ignore[assignment]
    memory: str = FIRST

    def same(self, other: Value) -> bool:
        """Whether both are called alike, and have equal types, layouts, origins and memories."""
        return self is other or (
            self.name == other.name
            and self.type == other.type
            and self.layout == other.layout
            and self.origin == other.origin
            and self.memory == other.memory
        )

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """`outputs = op(inputs)`. Effects in functions of a program may have no outputs."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    span: Span = field(default=NOWHERE, repr=False)

    @property
    def output(self) -> Value:
        (value,) = self.outputs
        return value

    @property
    def far(self) -> int | None:
        """Which operand rests in another memory than the others, where rows of it are read or renewed; None: none."""
        at = self.op.reaches
        if at is None or len({v.memory for v in self.inputs}) == 1:
            return None
        return at

    def same(self, other: Node) -> bool:
        """Whether both give the same values by the same op of operands that are called alike."""
        return self is other or (
            self.op == other.op
            and names_of(self.inputs) == names_of(other.inputs)
            and _same(self.outputs, other.outputs)
        )


def names_of(values: Iterable[Value]) -> list[str]:
    """What the values are called."""
    return [v.name for v in values]


def _same(left: tuple[Value, ...], right: tuple[Value, ...]) -> bool:
    return len(left) == len(right) and all(a.same(b) for a, b in zip(left, right))


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in an order in which they can run. Inputs are data, weights, state or (in a body) parameters.

    A function of a program has neither inputs nor outputs: its effects are nodes. Graphs are equal if they have the
    same text, values and nodes are not: within a graph each is itself alone.
    regions: what of it systems compute as one, once `mark_regions` has found that, and what runs as one (`fuse`).
    run: how it is run then, once that was asked (`regions.fused.as_run`).
    """

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    regions: tuple[Region, ...] = ()
    run: Graph | None = field(default=None, init=False, repr=False, compare=False)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return self is other or (
            self.name == other.name
            and len(self.nodes) == len(other.nodes)
            and _same(self.inputs, other.inputs)
            and all(a.same(b) for a, b in zip(self.nodes, other.nodes))
            and names_of(self.outputs) == names_of(other.outputs)
            and self.regions == other.regions
        )

    def __hash__(self) -> int:
        return hash((self.name, len(self.nodes), *names_of(self.inputs)))

    def __str__(self) -> str:
        from compiler.text.stages import show_graph

        return show_graph(self)


class Names:
    """Hands out unique names: `x`, `x_1`, `x_2`…"""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._next: dict[str, int] = dict.fromkeys(taken, 1)

    def copy(self) -> Names:
        """The same, to hand out names apart from these."""
        found = Names()
        found._next = dict(self._next)
        return found

    def fresh(self, name: str) -> str:
        if name not in self._next:
            self._next[name] = 1
            return name
        while True:
            candidate = f"{name}_{self._next[name]}"
            self._next[name] += 1
            if candidate not in self._next:
                self._next[candidate] = 1
                return candidate

    def again(self, given: Iterable[tuple[str, str]]) -> bool:
        """Hand out names (asked for, given) once more, if all are what they were; otherwise none is handed out."""
        before = dict(self._next)
        if all([self.fresh(name) == made for name, made in given]):
            return True
        self._next = before
        return False

    def noted(self) -> NotedNames:
        """The same, with a note of what is handed out from now on."""
        found = NotedNames()
        found._next = self._next
        return found


class NotedNames(Names):
    """given: names that were asked for, and what was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[str, str]] = []

    def fresh(self, name: str) -> str:
        made = super().fresh(name)
        self.given.append((name, made))
        return made


class Builder:
    """Appends nodes to a graph under construction; types come from the ops' own rules.

    One `Names` is shared by all builders of one training graph, so that names stay unique across graphs and bodies.
    `origin`: that of what is added; None: values are the model's own, their names are their paths.
    """

    def __init__(self, names: Names, scope: str = "", origin: Origin | None = None) -> None:
        self.names = names
        self.scope = scope
        self.origin = origin
        self.nodes: list[Node] = []

    def fresh(self, name: str) -> str:
        return self.names.fresh(f"{self.scope}.{name}" if self.scope else name)

    def value(self, name: str, type: Type, span: Span = NOWHERE) -> Value:
        """A value that no node computes: an input or a body's parameter."""
        return self._define(self.fresh(name), type, span)

    def add(self, op: Op, *inputs: Value, name: str | None = None, span: Span = NOWHERE) -> Value:
        """Append `op` and return its only output. Raises `OpError` where the types do not fit."""
        (out,) = self.add_many(op, *inputs, name=name, span=span)
        return out

    def add_many(
        self,
        op: Op,
        *inputs: Value,
        name: str | None = None,
        span: Span = NOWHERE,
        types: tuple[Type, ...] | None = None,
    ) -> tuple[Value, ...]:
        """types: of the results, where they are known already."""
        types = types if types is not None else op.infer(*(v.type for v in inputs))
        base = name or op.default_name(inputs)
        outputs = tuple(self._define(self.fresh(base), t, span) for t in types)
        self.nodes.append(Node(op, inputs, outputs, span))
        return outputs

    def _define(self, name: str, type: Type, span: Span) -> Value:
        return Value(name, type, span, self.origin or Origin(name))

    def graph(self, name: str, inputs: Iterable[Value], outputs: Iterable[Value]) -> Graph:
        return Graph(name, tuple(inputs), tuple(self.nodes), tuple(outputs))
