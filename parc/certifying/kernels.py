"""The serial program's kernels, one by one; which of them every other program has as well; and the smallest sides of
its products, for those hang together with others as soon as there is one row or column left. And what they write that
other programs send, beside something else: of that a price may not have the writing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

from compiler.cost.kernels.work import Part, Product, Vector, WorkLoop, WorkNode
from compiler.driver import Compiled
from compiler.graph import ITEMSIZE, Graph, Value
from compiler.model import Job, Training
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.walk import walk


class SerialKernel(NamedTuple):
    """times: how often it runs in a step; looped: in a loop; sure: every program has it, as a kernel of its own."""

    name: str
    work: Product | Vector
    times: int
    looped: bool
    sure: bool


def serial_kernels(part: Part, times: int = 1, looped: bool = False) -> Iterator[SerialKernel]:
    """Products and element-wise kernels."""
    for at, node in enumerate(part.nodes):
        if node.again:
            continue
        if isinstance(node.work, WorkLoop):
            yield from serial_kernels(node.work.body, times * node.work.count, True)
        elif isinstance(node.work, Product):
            yield SerialKernel(node.name, node.work, times, looped, True)
        elif isinstance(node.work, Vector):
            yield SerialKernel(node.name, node.work, times, looped, _begins(part.nodes, at))


class Sendable(NamedTuple):
    """Bytes that the kernels of a step write: gradients, those of what is in loops, weights."""

    gradients: float
    looped: float
    weights: float


def sendable(compiled: Compiled, job: Job, labels: Collection[str]) -> Sendable:
    """As large as gradients are: of a table, lists of rows, perhaps."""
    sizes = {s.name: prod(s.type.shape) for s in compiled.program.classes[0].states}
    found = [(sizes[f"{w.name}.grad"], not {*labels}.isdisjoint(w.loops)) for w in job.model.weights if w.trained]
    each, kept = ITEMSIZE[job.precision.compute], ITEMSIZE[job.precision.master]
    number = sum(n for n, _ in found)
    return Sendable(number * each, sum(n for n, inside in found if inside) * each, number * kept)


def _begins(nodes: Sequence[WorkNode], at: int) -> bool:
    """Whether an element-wise kernel cannot be the end of another one, of whatever sizes: what it reads was made by
    none of these, or by a product that had to wait for all of them."""
    others = [d for d in nodes[at].deps if isinstance(nodes[d].work, Vector)]
    if not others:
        return True
    for product in (d for d in nodes[at].deps if isinstance(nodes[d].work, Product)):
        reached, todo = set[int](), [product]
        while todo:
            new = [d for d in nodes[todo.pop()].deps if d not in reached]
            reached.update(new)
            todo += new
        if reached.issuperset(others):
            return True
    return False


def smallest_sides(training: Training, batch: str) -> dict[str, int]:
    """`rows`: of what has positions of the batch, under whatever name; `columns`: of all else; 0 without any."""
    nodes = [node for graph in (training.forward, training.backward) for node, _ in walk(graph)]
    born: dict[str, set[str]] = {}  # dims, and those that they become where these are made
    for node in nodes:
        before, after = _dims(node.inputs), _dims(node.outputs)
        for gone in before.keys() - after.keys():
            born.setdefault(gone, set()).update(after.keys() - before.keys())
    samples, todo = {batch}, [batch]
    while todo:
        new = born.get(todo.pop(), set()) - samples
        samples |= new
        todo += new
    found: dict[str, list[int]] = {"rows": [], "columns": []}
    for node in nodes:
        if isinstance(node.op, Repeat) and samples & {node.op.label, *_walked(node.inputs, node.op.body)}:
            found["rows"].append(1)
        if not isinstance(node.op, Contract):
            continue
        a, b, out = _dims(node.inputs[:1]), _dims(node.inputs[1:]), _dims(node.outputs)
        sides = [out.keys() & a.keys() - b.keys(), out.keys() & b.keys() - a.keys()]
        sizes = [prod(out[d] for d in side) for side in sides]
        if 1 not in sizes:
            for side, size in zip(sides, sizes, strict=True):
                found["rows" if side & samples else "columns"].append(size)
    return {kind: min(sizes, default=0) for kind, sizes in found.items()}


def carried(training: Training, batch: str, labels: Sequence[str]) -> list[float]:
    """Bytes that a single loop hands on from iteration to iteration, of all samples: of its pass ahead, and back."""
    found = []
    for graph in (training.forward, training.backward):
        loops = [(n, n.op) for n in graph.nodes if isinstance(n.op, Repeat) and n.op.label in labels]
        carried = [v.type.bytes for n, op in loops for v in n.outputs[: op.carries] if v.type.has(batch)]
        found.append(float(sum(carried)) if len(loops) == len(labels) == 1 else 0.0)
    return found


def _dims(values: Sequence[Value]) -> Mapping[str, int]:
    return {d.name: d.size for v in values for d in v.type.dims}


def _walked(given: Sequence[Value], body: Graph) -> Iterator[str]:
    """Dims of which each iteration has a position."""
    for outside, inside in zip(given, body.inputs, strict=True):
        yield from _dims([outside]).keys() - _dims([inside]).keys()
