"""`sparse`: which gradients of tables stay lists of rows and their numbers up to the update, and how these are made.

What a `take` sends back to its table is a list: a row for each index. The derivative adds them up to a gradient of the
table's size; where the update then leaves all other rows alone (`compiler.zero_preserving`), the list itself is handed
to the update, if it is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod

from compiler.graph import ITEMSIZE, Dim, Graph, Names, Node, Type, Value
from compiler.layout import TIME, Layout, local_type, nested
from compiler.loop_pieces import apart_in, by_path
from compiler.model import Job, Weight
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.index import ScatterAdd
from compiler.ops.repeat import Repeat
from compiler.origin import Origin, Phase
from compiler.passes.differentiate import Differentiated
from compiler.passes.place.rules import Rules
from compiler.passes.prune import prune_nodes
from compiler.program import STEPS
from compiler.zero_preserving import why_not
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics

Pair = tuple[Value, Value]
"""Rows and their numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseGradient:
    """The gradient of a table as lists.

    pieces: equal ones in which devices have the table's rows; parts: those of its optimizer's states, which are as many
    or more; slot: of all parts, each number once. given: the lists as backward passes put them out; taken: as the
    update takes them in, those of all micro-batches.
    """

    weight: Weight
    dim: Dim
    slot: Dim
    parts: int
    pieces: int
    given: tuple[Pair, ...]
    taken: tuple[Pair, ...]

    @property
    def kind(self) -> tuple[Dim, Dim, int, int]:
        """What tables have in common that one function updates."""
        return self.dim, self.slot, self.parts, self.pieces

    def rows_of(self, type: Type) -> Type:
        """The type of the slots' rows of a tensor with the table's rows."""
        return Type(type.dtype, tuple(self.slot if d.name == self.dim.name else d for d in type.dims))


@dataclass(frozen=True, slots=True)
class Sparse:
    """tables: by the names of weights; dense: why the gradients of other tables are not lists."""

    tables: Mapping[str, SparseGradient] = field(default_factory=dict)
    dense: Mapping[str, str] = field(default_factory=dict)


def sparse(
    job: Job, names: Names, found: Differentiated, known: Mapping[str, str], counts: Mapping[str, Value]
) -> tuple[Sparse, Differentiated]:
    """The gradients that stay lists, and the graphs without their sums: backward puts out rows in the place of the
    gradient, and behind all gradients the numbers, and further lists, table by table.

    known: tables whose gradients cannot be lists, and why; counts: of those that are asked for it, what is touched.
    """
    updates = {u.weight: u for u in job.updates}
    made, pieces = {v: n for n in found.backward.nodes for v in n.outputs}, by_path(job.model.pieces)
    rules = Rules(job, Diagnostics())
    tables: dict[str, SparseGradient] = {}
    dense: dict[str, str] = {}
    extra: list[Node] = []
    for w, g in zip(job.model.trained, found.gradients, strict=True):
        sums, others = leaves(g, made)
        if not sums:
            continue
        stacked = bool(w.loops or apart_in(w.name, pieces))
        choice = _Choice(w, stacked, [made[v] for v, _ in sums], rules, made)
        why = known.get(w.name) or choice.why_not(others) or why_not(updates[w.name], choice.dim.name)
        why = why or choice.too_large()
        if why is not None:
            dense[w.name] = why
            continue
        given = [_own_type(made[v], casts, w, names, extra) for v, casts in sums]
        tables[w.name] = choice.gradient(given, names)
    if not tables:
        return Sparse({}, dense), found
    firsts = (tables[w.name].given[0][0] if w.name in tables else g for w, g in zip(job.model.trained, found.gradients))
    gradients = tuple(firsts)
    further = (v for name, v in counts.items() if name not in tables)
    outputs = (*gradients, *(v for t in tables.values() for v in beside(t.given)), *further)
    nodes = prune_nodes((*found.backward.nodes, *extra), outputs)
    backward = Graph(found.backward.name, found.backward.inputs, nodes, outputs)
    return Sparse(tables, dense), found._replace(backward=backward, gradients=gradients)


def beside(lists: Sequence[Pair]) -> list[Value]:
    """What there is of lists but for the rows of the first."""
    return [v for pair in lists for v in pair][1:]


def leaves(gradient: Value, made: Mapping[Value, Node]) -> tuple[list[tuple[Value, tuple[Node, ...]]], bool]:
    """Sums of lists that a gradient is made of, each with the casts between; and whether it has other addends."""
    found: list[tuple[Value, tuple[Node, ...]]] = []
    others = False
    work: list[tuple[Value, tuple[Node, ...]]] = [(gradient, ())]
    while work:
        value, casts = work.pop()
        node = made.get(value)
        if node is None:
            others = True
        elif isinstance(node.op, ScatterAdd):
            found.append((value, casts))
        elif isinstance(node.op, Map) and node.op.fn == "add" and len(node.inputs) == 2:
            work += [(v, casts) for v in reversed(node.inputs)]
        elif isinstance(node.op, (Cast, Transpose)):
            work.append((node.inputs[0], (*casts, node) if isinstance(node.op, Cast) else casts))
        else:
            others = True
    return found, others


def _own_type(node: Node, casts: Sequence[Node], weight: Weight, names: Names, extra: list[Node]) -> Pair:
    """The list that a node adds up, with rows of the weight's own type."""
    rows, index = node.inputs
    for cast in reversed(casts):
        origin = Origin(weight.value.origin.path, Phase.GRADIENT, weight.name)
        type = rows.type.with_dtype(cast.output.type.dtype)
        value = Value(names.fresh(f"{weight.name}.grad.rows"), type, cast.span, origin)
        extra.append(Node(cast.op, (rows,), (value,), cast.span))
        rows = value
    return rows, index


class _Choice:
    """A table with lists in its gradient."""

    def __init__(
        self, weight: Weight, stacked: bool, sums: Sequence[Node], rules: Rules, made: Mapping[Value, Node]
    ) -> None:
        self.weight, self.stacked, self.sums, self.rules, self.made = weight, stacked, sums, rules, made
        self.ops = [n.op for n in sums if isinstance(n.op, ScatterAdd)]
        self.dim = self.ops[0].dim
        type, loops, name = weight.value.type, weight.loops, weight.name
        compute = rules.declared(name, type, "weights", loops)
        self.stored = {c: rules.storage(name, type, compute, c, loops) for c in ("weights", "gradients", "optimizer")}
        self.count = rules.sizes.get(TIME, 1)
        self.steps = [self._divided(n.inputs[1]) for n in sums]

    def _divided(self, index: Value) -> str | None:
        """The dim of an index that micro-batches divide."""
        if self.count == 1:
            return None
        layout = self.rules.declared(index.name, index.type, "activations", path=index.origin.path)
        at = layout.dim_of(TIME)
        return None if at is None else index.type.names[at]

    def why_not(self, others: bool) -> str | None:
        """Why no lists can stand for the gradient, whatever the optimizer does."""
        name, type = self.dim.name, self.weight.value.type
        if others:
            return "it is read otherwise than by `take`, or in a loop"
        if self.stacked:
            return "it is stacked over a loop"
        if any(op.dim != self.dim or not type.has(op.dim.name) for op in self.ops):
            return "rows are taken over different dims"
        if any(set(n.inputs[1].type.names) & set(type.names) for n in self.sums):
            return "rows are taken for each element of another dim of the table"
        for n, divided in zip(self.sums, self.steps, strict=True):
            if self.count > 1 and divided is None:
                return "what it takes is the same in all micro-batches"
            if divided is not None and n.inputs[1].type.size(divided) % self.count:
                return "micro-batches are uneven"
            if divided is not None and any(self._stacked(v) for v in n.inputs):
                return "a loop makes its rows one after the other"
        axes, own = self._axes(), self._axes("weights")
        if axes[: len(own)] != own:
            return "its rows are stored in other pieces than its optimizer's states"
        if len(axes) > 1 and self.dim.size % self._pieces("optimizer"):
            return f"`{name}` is split unevenly on several axes"
        return None

    def _stacked(self, value: Value) -> bool:
        """Whether a loop makes it slice by slice."""
        node = self.made.get(value)
        return node is not None and isinstance(node.op, Repeat) and value in node.outputs[node.op.carries :]

    def _axes(self, cls: str = "optimizer") -> tuple[str, ...]:
        return self.stored[cls].dims[self.weight.value.type.index(self.dim.name)]

    def _pieces(self, cls: str) -> int:
        """Of the rows."""
        return prod(self.rules.sizes[a] for a in self._axes(cls))

    @property
    def indices(self) -> int:
        """Of a whole step, of all lists."""
        return sum(n.inputs[1].type.elements for n in self.sums)

    def too_large(self) -> str | None:
        """Why the lists are no gain: they are whole on every device in the update."""
        type = self.weight.value.type
        piece = local_type(type, self.stored["gradients"], self.rules.sizes)
        rows = piece.size(self.dim.name)
        row = piece.bytes // rows
        listed = self.indices * (row + ITEMSIZE["int32"])
        if listed < rows * row:
            return None
        return f"the {self.indices} rows of a step's list are {listed} bytes, the {rows} of its gradient {rows * row}"

    def gradient(self, given: Sequence[Pair], names: Names) -> SparseGradient:
        """With lists of the weight's own type."""
        piece = nested(self.dim.size, [self.rules.sizes[a] for a in self._axes()])[-1]
        taken = {n for pair in given for v in pair for n in v.type.names} | set(self.weight.value.type.names)
        word = f"{self.dim.name}_row"
        while word in taken:
            word += "_"
        parts = self._pieces("optimizer")
        slot = Dim(word, parts * min(self.indices, piece))
        pairs = [
            (self._whole(rows, divided, "rows", names), self._whole(index, divided, "index", names))
            for (rows, index), divided in zip(given, self.steps, strict=True)
        ]
        pieces = self._pieces("weights")
        return SparseGradient(self.weight, self.dim, slot, parts, pieces, tuple(given), tuple(pairs))

    def _whole(self, value: Value, divided: str | None, word: str, names: Names) -> Value:
        """What the update reads: the parts of all micro-batches, one behind the other along a dim of their own."""
        dims = value.type.dims
        if divided is not None:
            dims = (
                Dim(STEPS, self.count),
                *(Dim(d.name, d.size // self.count) if d.name == divided else d for d in dims),
            )
        name = self.weight.name
        origin = Origin(self.weight.value.origin.path, Phase.GRADIENT, name)
        return Value(names.fresh(f"{name}.{word}"), Type(value.type.dtype, dims), value.span, origin)


class Unlisted(Exception):
    """Lists that cannot be had as they are laid out, by weight, and why: their gradients are to be added up."""

    def __init__(self, why: Mapping[str, str]) -> None:
        super().__init__()
        self.why = dict(why)


def whole_layout(layout: Layout) -> Layout:
    """That in which the update reads the list of all micro-batches; `layout`: that of each one's own."""
    if TIME not in layout.split_axes:
        return layout
    return Layout(((), *(tuple(a for a in axes if a != TIME) for axes in layout.dims)), layout.pending)
