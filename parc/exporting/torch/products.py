"""Products of matrices with what is added to them, and those of the same rows as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from compiler.graph import Node, Value
from compiler.ops.elementwise import Map
from compiler.regions.reading import Reading
from parc.exporting.torch.emitters import is_matrix_product
from parc.exporting.torch.reading import FusedCall
from parc.exporting.torch.writer import Writer

Products = list[tuple[Node, Node | None]]
"""Products, each with the node that adds a vector to it, if one does."""


def biased(of: Reading, nodes: Sequence[Node]) -> Iterator[tuple[Node, FusedCall]]:
    """`linear` with its bias: a product of rows with a matrix, and a vector that is added to each."""
    for node in nodes:
        operands = of.map(node.output, "add", None, None) if isinstance(node.op, Map) else None
        first = of.made.get(operands[0]) if operands and len(operands) == 2 else None
        if first is None or operands is None or not is_matrix_product(first) or len(of.readers[operands[0]]) != 1:
            continue
        x, weight = first.inputs
        if operands[1].type.names == weight.type.names[-1:] and len(weight.type.dims) == 2:
            yield node, FusedCall((x, weight, operands[1]), first, _linear(x, weight, operands[1]))


def _linear(x: Value, weight: Value, bias: Value) -> Callable[[Writer], str]:
    return lambda w: f"functional.linear({w.ref(x)}, {w.ref(weight)}.T, {w.ref(bias)})"


def together(nodes: Sequence[Node], needed: Collection[Node], calls: Mapping[Node, FusedCall]) -> dict[Node, Products]:
    """Products of the same rows with several matrices that are there before the first of them: by that one, all."""
    place = {v: at for at, node in enumerate(nodes) for v in node.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    found: dict[Value, Products] = {}
    for node in nodes:
        if node in needed and node not in calls and is_matrix_product(node):
            x, weight = node.inputs
            first = place[found[x][0][0].output] if x in found else place[node.output]
            if place.get(weight, -1) < first:
                found.setdefault(x, []).append((node, _bias(node, readers, place, first)))
    return {group[0][0]: group for group in found.values() if len(group) > 1}


def _bias(node: Node, readers: Mapping[Value, list[Node]], place: Mapping[Value, int], first: int) -> Node | None:
    """The node that adds to a product a vector of its columns that is there before, if nobody else reads it."""
    after = readers.get(node.output, [])
    if len(after) != 1 or not isinstance(after[0].op, Map) or after[0].op.fn != "add" or len(after[0].inputs) != 2:
        return None
    (adds,) = after
    other = [v for v in adds.inputs if v is not node.output]
    x, weight = node.inputs
    columns = tuple(n for n in weight.type.names if not x.type.has(n))
    fits = len(other) == 1 and other[0].type.names == columns and adds.output.type.names == node.output.type.names
    return adds if fits and place.get(other[0], -1) < first else None
