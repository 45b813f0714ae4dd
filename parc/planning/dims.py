"""What of a model can be split, found by how its graph uses its dims: names mean nothing.

batch      the dim that micro-batches cut
inner      dims of weights that a loop does not carry from one iteration to the next: what is between two products
experts    dims along which each weight has its own positions: in both operands of a product and in its result
heads      inner dims along which products of two values that are no weights have positions of their own
rows       dims of tables of which rows are taken and that no product has
positions  other dims of the inputs that loops carry or, without loops, that no product sums up
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd

from compiler.graph import Graph, Value
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.index import Take
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Split
from compiler.ops.window import Window
from compiler.walk import bodies
from dsl.data import dataclass

TOLD = ("h", "r", "f", "v")
"""In which order the standard library's tactics name inner dims: a rule that says the same has to be the same where a
tensor has two of them."""


@dataclass(frozen=True, slots=True)
class Splittable:
    """Names of dims. sizes: what divides them in all tensors, and the first of the dims that one becomes (but the
    batch). loops: labels and counts of the loops at the top, in
    their order; paths: of them, as rules of recomputation name them."""

    batch: str
    inner: tuple[str, ...]
    experts: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[str, ...]
    positions: tuple[str, ...]
    sizes: dict[str, int]
    loops: tuple[tuple[str, int], ...]
    paths: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Iterations of all loops at the top."""
        return sum(count for _, count in self.loops)


def splittable(job: Job) -> Splittable:
    """What strategies of the job can split."""
    model = job.model
    graph = model.graph
    top = [n.op for n in graph.nodes if isinstance(n.op, Repeat) and not n.op.scan]
    labels = {op.label for op in top}
    tensors = [i.value for i in model.inputs]
    batch = job.strategy.microbatch_dim or next((t.type.names[0] for t in tensors if t.type.names), "")
    given = [n for n in dict.fromkeys(n for t in tensors for n in t.type.names) if n != batch]
    carried = {n for op in top for v in op.body.inputs[: op.carries] for n in v.type.names}
    found = list(_products(graph, {w.value for w in model.weights}))
    products = [p for p in found if p.weight]
    experts = tuple(dict.fromkeys(n for p in products for n in p.each if n != batch and n not in given))
    paired = {n for p in found if not p.weight for n in p.each}
    seen = {n for p in products for n in (*p.each, *p.summed, *p.kept)}
    taken = dict.fromkeys(node.op.dim for body in bodies(graph) for node in body.nodes if isinstance(node.op, Take))
    windows = {node.op.kernel.name for body in bodies(graph) for node in body.nodes if isinstance(node.op, Window)}
    own = [[n for n in w.value.type.names if n not in labels] for w in model.weights]
    eligible = [[n for n in names if n not in {batch, *given, *carried, *experts, *windows}] for names in own]
    inner = dict.fromkeys(first[0] for first, names in zip(eligible, own, strict=True) if first and len(names) > 1)
    sizes: dict[str, int] = {}
    for type in (*(v.type for v in _values(graph)), *(w.value.type for w in model.weights)):
        sizes |= {d.name: gcd(d.size, sizes.get(d.name, 0)) for d in type.dims}
    for op in (node.op for body in bodies(graph) for node in body.nodes):
        if isinstance(op, Split) and op.dim != batch:  # pieces of it are pieces of the first of these
            sizes[op.dim] = gcd(op.into[0].size, sizes[op.dim])
    summed = {n for p in products for n in p.summed}
    positions = tuple(n for n in given if (n in carried if top else n not in summed) and sizes[n] > 1)
    inner = dict.fromkeys(sorted(inner, key=lambda n: TOLD.index(n) if n in TOLD else len(TOLD)))
    rows = tuple(n for n in taken if n in {n for names in own for n in names} and n not in seen)
    return Splittable(
        batch,
        tuple(n for n in inner if sizes[n] > 1),
        tuple(n for n in experts if sizes[n] > 1),
        tuple(n for n in inner if n in paired and sizes[n] > 1),
        rows,
        positions,
        sizes,
        tuple((op.label, op.count) for op in top),
        tuple(op.body.name for op in top),
    )


@dataclass(frozen=True, slots=True)
class _Use:
    """How a product uses the dims of a weight, or of its first operand where none is one."""

    weight: bool
    each: tuple[str, ...]
    summed: tuple[str, ...]
    kept: tuple[str, ...]


def _products(graph: Graph, weights: Iterable[Value], within: frozenset[Value] = frozenset()) -> Iterator[_Use]:
    """Each product. What is only another form of a weight is one."""
    known = {*weights, *within}
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            inside = {p for given, p in zip(node.inputs, node.op.body.inputs, strict=True) if given in known}
            yield from _products(node.op.body, (), frozenset(inside))
        elif isinstance(node.op, Contract):
            a, b = node.inputs if node.inputs[0] in known else node.inputs[::-1]
            of, to = a.type.names, node.op.dims
            yield _Use(
                a in known and b not in known,
                tuple(n for n in of if b.type.has(n) and n in to),
                tuple(n for n in of if n not in to),
                tuple(n for n in of if n in to and not b.type.has(n)),
            )
        elif len(node.inputs) == 1 and node.inputs[0] in known:  # a cast, a view
            known.update(node.outputs)


def _values(graph: Graph) -> Iterator[Value]:
    for body in bodies(graph):
        yield from body.inputs
        for node in body.nodes:
            yield from node.outputs
