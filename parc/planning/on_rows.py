"""Which kernels work on rows of the batch: as many as a device has, however many replicas there are.

Of all else how much there is hangs on replicas. What is made of weights alone, and what is done with their gradients,
is done on shards where these are sharded, of which there are as many as there are replicas; gradients of tables may be
lists of rows, which nobody adds up; and whether a kernel writes a gradient is a question of how that is sent. So what
is taken of layers for other replicas is what works on rows, without what it writes of gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from compiler.cost.kernels.work import Part, Product
from compiler.cost.price.calibration import Calibration
from compiler.cost.price.machine import Machine
from compiler.graph import Graph, Node, Value
from compiler.layout import local_type
from compiler.ops.base import Movement
from compiler.ops.comm import Comm
from compiler.ops.contract import Contract
from compiler.ops.effects import Accumulate, Effect, Load, Save
from compiler.ops.index import ScatterAdd
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, Function, FunctionPhase
from compiler.walk import walk
from dsl.data import dataclass

Dims = frozenset[str]
"""Those of a value along which samples lie; none: there are no rows in it."""


@dataclass(frozen=True, slots=True)
class RowKernels:
    """Of a body. heads: names of what begins with work on rows; moved, computed: values without rows that are read or
    written within such kernels, and those that are computed there; ops: by how many of them alone."""

    heads: frozenset[str]
    moved: tuple[Value, ...]
    computed: tuple[Value, ...]
    ops: int

    def seconds(self, on: Machine, cal: Calibration) -> float:
        """What kernels take longer for what they write and compute besides rows, at most."""
        unit = min(on.vector_peaks.values(), default=0.0)
        elements = sum(local_type(v.type, v.layout, on.sizes).elements for v in self.computed)
        arithmetic = elements / unit if unit else 0.0
        launches = self.ops * (1 - cal.fusion) * cal.launch
        moved = sum(local_type(v.type, v.layout, on.sizes).bytes for v in self.moved)
        return moved / (on.device.bandwidth * cal.vector) + arithmetic + launches


@dataclass(frozen=True, slots=True)
class TimesOnRows:
    """Picoseconds of a body's loops and kernels, by their places; less: by how much all kernels may be too long. Not
    rounded: whoever adds up in another order would come to another picosecond."""

    loops: Mapping[int, float]
    kernels: Mapping[int, int]
    less: float

    def least(self, of: Collection[int]) -> float:
        """Of the nodes at these places."""
        kernels = sum(ps for i, ps in self.kernels.items() if i in of)
        return sum(ps for i, ps in self.loops.items() if i in of) + max(0.0, kernels - self.less)


class OnRows:
    """Of the passes of a class of devices, whatever the sizes of axes. batch: the dim of samples."""

    def __init__(self, cls: DeviceClass, batch: str) -> None:
        self.cls, self.batch = cls, batch  # bodies are known by their identity
        self.saved: dict[str, Dims] = {}
        self.gradients = {s.name for s in cls.states if s.role in (Role.GRADIENT, Role.ROWS)}
        self.dims: dict[int, dict[str, Dims]] = {}  # by bodies, of those of their values that have rows
        self.sunk: dict[int, set[str]] = {}
        self.found: dict[tuple[int, tuple[tuple[str, bool], ...]], RowKernels] = {}
        for function in sorted(cls.functions, key=lambda f: f.phase is not FunctionPhase.FORWARD):
            self._enter(function)

    def has_rows(self, saved: str) -> bool:
        """Whether what is kept under this name has rows."""
        return bool(self.saved.get(saved, True))

    def kernels(self, body: Graph, part: Part) -> RowKernels:
        """Of a body and its work."""
        key = id(body), tuple([(node.name, isinstance(node.work, Product)) for node in part.nodes])
        if key not in self.found:
            self.found[key] = self._kernels(body, {*key[1]})
        return self.found[key]

    def _kernels(self, body: Graph, of: Collection[tuple[str, bool]]) -> RowKernels:
        """of: names of what its work is, and whether that is a product."""
        heads, moved, computed, ops = set[str](), list[Value](), list[Value](), 0
        products = {name for name, product in of if product}
        own, lists = {name for name, _ in of}, self._lists(body)
        vectors: set[str] = set()  # what is made by kernels that others may join, and views of it
        for node in body.nodes:
            if isinstance(node.op, (Effect, Repeat)) or not node.outputs:
                continue
            name, reads = node.outputs[0].name, any(self._of(body, v) for v in node.inputs)
            makes = any(self._of(body, v) for v in node.outputs)
            summed = isinstance(node.op, ScatterAdd) and name in self.sunk.get(id(body), ())
            listed = isinstance(node.op, Comm) and name in lists  # where rows stay a list they may not be sent
            if name in own and (reads or makes) and not summed and not listed:
                heads.add(name)
            joined = any(v.name in vectors for v in node.inputs)
            free = isinstance(node.op, Comm) or node.op.movement is not Movement.NO
            if name not in products and not isinstance(node.op, Comm) and (joined or name in own):
                vectors.update(v.name for v in node.outputs)
            if free or name in products or summed or makes:
                continue
            if reads:
                moved += node.outputs
            elif joined and name not in own:
                moved += (*node.inputs, *node.outputs)
                computed += node.outputs
                ops += 1
        return RowKernels(frozenset(heads), tuple(moved), tuple(computed), ops)

    def _lists(self, body: Graph) -> set[str]:
        """Values of which nothing is made but tables' gradients."""
        sunk, found = self.sunk.get(id(body), set()), set[str]()
        others = {v.name for v in body.outputs}
        for node in reversed(body.nodes):
            names = {v.name for v in node.outputs}
            summed = isinstance(node.op, ScatterAdd) and names <= sunk
            if summed or (names and names <= found - others):
                found.update(v.name for v in node.inputs if v.name in sunk)
            else:
                others.update(v.name for v in node.inputs)
        return found - others

    # --- what has rows -------------------------------------------------------------------------------------------

    def _of(self, body: Graph, value: Value) -> Dims:
        return self.dims[id(body)].get(value.name, frozenset())

    def _enter(self, function: Function) -> None:
        if any(isinstance(node.op, ScatterAdd) for node, _ in walk(function.body)):
            self._mark(function.body, set())
        self._go(function.body, [frozenset()] * len(function.body.inputs))

    def _mark(self, body: Graph, results: set[int]) -> None:
        """The values of a body that only gradients hang on. results: indices of those of its results."""
        others = {v.name for i, v in enumerate(body.outputs) if i not in results}
        mine = {v.name for i, v in enumerate(body.outputs) if i in results} - others
        for node in reversed(body.nodes):
            if isinstance(node.op, Effect) and node.inputs:
                fine = isinstance(node.op, Accumulate) and node.op.name in self.gradients
            else:
                fine = all(v.name in mine and v.name not in others for v in node.outputs)
            (mine if fine else others).update(v.name for v in node.inputs)
        mine -= others
        self.sunk[id(body)] = mine
        for node in body.nodes:
            if isinstance(node.op, Repeat):
                made = enumerate(node.outputs)
                self._mark(node.op.body, {i for i, v in made if i >= node.op.carries and v.name in mine})

    def _go(self, body: Graph, given: Sequence[Dims]) -> list[Dims]:
        """Through a body; what its results have."""
        known = self.dims[id(body)] = {}

        def note(value: Value, dims: Dims) -> None:
            if dims:
                known[value.name] = dims

        for value, dims in zip(body.inputs, given, strict=True):
            note(value, dims | self._plain(value))
        for node in body.nodes:
            ins = [self._of(body, v) for v in node.inputs]
            if isinstance(node.op, Save):
                self.saved[node.op.name] = self.saved.get(node.op.name, frozenset()) | ins[0]
            for value, dims in zip(node.outputs, self._made(body, node, ins), strict=True):
                note(value, dims)
        return [self._of(body, v) for v in body.outputs]

    def _made(self, body: Graph, node: Node, ins: Sequence[Dims]) -> Iterator[Dims]:
        op = node.op
        if isinstance(op, Repeat):
            results = self._go(op.body, ins)
            again = [a | b for a, b in zip(results[: op.carries], ins, strict=False)]
            if again != ins[: op.carries]:
                results = self._go(op.body, [*again, *ins[op.carries :]])
            yield from results
            return
        every = frozenset[str]().union(*ins)
        for value in node.outputs:
            if isinstance(op, ScatterAdd) and value.name in self.sunk.get(id(body), ()):
                yield frozenset()  # as large as its table
            elif isinstance(op, Load):
                yield self.saved.get(op.name, self._plain(value))
            else:
                names = frozenset(value.type.names)
                found = (every & names) | self._plain(value)
                if every - names and not isinstance(op, (Contract, Reduce)):  # in another order, under other names
                    found |= names - {n for v in node.inputs for n in v.type.names}
                yield found

    def _plain(self, value: Value) -> Dims:
        return frozenset({self.batch} & {*value.type.names})
