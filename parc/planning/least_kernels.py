"""How many kernels a device runs at least, whatever splits its work: those of the serial program that any other has.

Which instructions are one kernel hangs on sizes: a product with one row or column is a run of additions, which joins
others; and element-wise work joins what comes before it where both are as large. So products count as long as each has
two rows and columns left, and of element-wise kernels those that begin behind a product or behind nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from compiler.cost.kernels.work import Part, Product, Vector
from compiler.cost.price.calibration import Calibration
from compiler.graph import Node
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.program import FunctionPhase, Program
from compiler.walk import walk
from dsl.data import dataclass

PASSES = (FunctionPhase.FORWARD, FunctionPhase.BACKWARD)


@dataclass(frozen=True, slots=True)
class LeastSides:
    """Of all products of the serial program, the smallest of those sides that have dims of the batch (`rows`), and of
    the others (`columns`); 0: there is none."""

    rows: int
    columns: int


def firm(part: Part) -> frozenset[int]:
    """Element-wise kernels that are none less, however large they are: they need what a product makes that comes behind
    all other kernels that they need, or need none of these."""
    nodes = part.nodes
    behind: list[frozenset[int]] = []
    for node in nodes:
        behind.append(frozenset(node.deps).union(*(behind[d] for d in node.deps)))
    found = set()
    for i, node in enumerate(nodes):
        if isinstance(node.work, Vector):
            before = {d for d in node.deps if isinstance(nodes[d].work, Vector)}
            if not before or any(isinstance(nodes[d].work, Product) and before <= behind[d] for d in node.deps):
                found.add(i)
    return frozenset(found)


def vector_launches(work: Vector, is_firm: bool, cal: Calibration) -> float:
    """Kernels that the host dispatches for it at least. All of its operations, as far as the software fuses none; else
    what is one kernel in any case."""
    if work.core and cal.fused_attention > 0:
        return 0.0
    return work.ops * (1 - cal.fusion) + is_firm * cal.fusion


def least_sides(program: Program, batch: str) -> LeastSides:
    """batch: the dim that micro-batches are of. A loop along it says that there is but one row."""
    (cls,) = program.classes
    nodes = [node for f in cls.functions if f.phase in PASSES for node, _ in walk(f.body)]
    of_batch = _made_of(batch, nodes)
    rows: list[int] = []
    columns: list[int] = []
    for node in nodes:
        if isinstance(node.op, Repeat) and _goes_along(node, of_batch):
            rows.append(1)
        if isinstance(node.op, Contract):
            sides = list(_sides(node))
            if all(size > 1 for size, _ in sides):
                for size, names in sides:
                    (rows if names & of_batch else columns).append(size)
    return LeastSides(min(rows, default=0), min(columns, default=0))


def _made_of(batch: str, nodes: list[Node]) -> set[str]:
    """The names of dims that positions of the batch have become, as they were renamed or joined with others."""
    found, before = {batch}, 0
    while len(found) > before:
        before = len(found)
        for node in nodes:
            given = {n for v in node.inputs for n in v.type.names}
            made = {n for v in node.outputs for n in v.type.names}
            if found & given - made:
                found |= made - given
    return found


def _goes_along(node: Node, names: set[str]) -> bool:
    """Whether each iteration has one position of such a dim."""
    op = node.op
    assert isinstance(op, Repeat)
    return op.label in names or any(
        set(outside.type.names) & names - set(inside.type.names)
        for outside, inside in zip(node.inputs, op.body.inputs, strict=True)
    )


def _sides(node: Node) -> Iterator[tuple[int, set[str]]]:
    """Rows and columns of a product, with their dims."""
    left, right = (v.type for v in node.inputs)
    out = node.output.type
    for one, other in ((left, right), (right, left)):
        dims = [d for d in one.dims if out.has(d.name) and not other.has(d.name)]
        yield prod(d.size for d in dims), {d.name for d in dims}
