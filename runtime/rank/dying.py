"""Memory that nobody needs any more: operands of a body's nodes that the result may be written over.

Backends may give views of operands as results, and whoever keeps a value keeps its memory: a message that is under way,
a list of slices, an accumulator, a state. So what counts is memory, not values: the values that may lie in the same are
followed together, from the node that made it; what is once given to somebody who may keep it is never written over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from compiler.graph import Graph, Node
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import AllGather, AllReduce, Comm, ReduceScatter
from compiler.ops.effects import Effect
from compiler.ops.elementwise import StopGradient, Transpose
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Merge, Rename, Split

_SOMEBODY = ""
"""Who has made memory that is not this body's own."""

_ONE_TO_ONE = (Rename, Transpose, Split, Merge, StopGradient)
"""Views in which every element of the operand is once."""


def dying(body: Graph, makes: Callable[[Op], bool], kept: Collection[str] = ()) -> Mapping[Node, tuple[int, ...]]:
    """By node, the operands whose memory is nobody's once the node has read them: it may hold the result.

    makes: whether each result of an op lies in memory of its own, of which nobody else knows. kept: names of values
    that somebody keeps besides the body's results.
    """
    owner: dict[str, str] = {}  # value -> that with which the memory was made in which it may lie
    last: dict[str, int] = {}
    writable: set[str] = set()
    shared = {_SOMEBODY}
    for i, node in enumerate(body.nodes):
        owners = [owner.get(v.name, _SOMEBODY) for v in node.inputs]
        last.update(dict.fromkeys(owners, i))
        made, follows = _makes(node.op, makes), _follows(node)
        for v in node.outputs:
            owner[v.name] = v.name if made else owners[0] if follows else _SOMEBODY
            if made or (isinstance(node.op, _ONE_TO_ONE) and node.inputs[0].name in writable):
                writable.add(v.name)
        if not made and not follows:
            shared.update(owners)  # a result may be any of them, or somebody has them now
    for i, node in enumerate(body.nodes):
        if isinstance(node.op, Comm):  # it is read until the message has left, unless it becomes the result
            owners = [owner.get(v.name, _SOMEBODY) for v in node.inputs]
            shared.update(o for o in owners if not isinstance(node.op, AllReduce) or last[o] != i)
    shared.update(owner.get(name, _SOMEBODY) for name in (*kept, *(v.name for v in body.outputs)))
    found: dict[Node, tuple[int, ...]] = {}
    for i, node in enumerate(body.nodes):
        owners = [owner.get(v.name, _SOMEBODY) for v in node.inputs]
        mine = [k for k, o in enumerate(owners) if o not in shared and last[o] == i and owners.count(o) == 1]
        mine = [k for k in mine if node.inputs[k].name in writable]
        if mine:
            found[node] = tuple(mine)
    return found


def _makes(op: Op, makes: Callable[[Op], bool]) -> bool:
    return isinstance(op, AllReduce | ReduceScatter | AllGather) or makes(op)


def _follows(node: Node) -> bool:
    """Whether its result lies in memory of its own or in that of its only operand."""
    return len(node.inputs) == len(node.outputs) == 1 and not isinstance(node.op, Comm | Effect | Repeat | Call)
