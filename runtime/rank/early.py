"""Moves of a loop that begin some iterations before the one that reads what they bring."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from compiler.graph import Node
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from runtime.backend import Array
from runtime.rank.buffers import HeldArray


def early_moves(
    op: Repeat,
    given: Sequence[HeldArray | None],
    order: Sequence[int],
    element: Callable[[Array, int], Array],
    moved: Callable[[Node, Array], HeldArray],
) -> dict[int, Iterator[HeldArray]]:
    """By the identity of an instruction in the loop's body, what it gives in one iteration after the other.

    given: the loop's operands; order: of the iterations; element: a slice of a stack; moved: what an instruction makes
    of its operand.
    """
    found = {}
    for node in op.body.nodes:
        if isinstance(node.op, Move) and node.op.ahead:
            k = op.body.inputs.index(node.inputs[0])
            held = given[k]
            assert held is not None, "it is not carried, so that the loop still needs it"
            whole = k >= op.carries + op.stacks
            found[id(node)] = _early(node, node.op.ahead, _slices(held.array, None if whole else element, order), moved)
    return found


def _slices(stack: Array, element: Callable[[Array, int], Array] | None, order: Sequence[int]) -> Iterator[Array]:
    for i in order:
        yield stack if element is None else element(stack, i)


def _early(
    node: Node, ahead: int, slices: Iterator[Array], moved: Callable[[Node, Array], HeldArray]
) -> Iterator[HeldArray]:
    """What the moves give; so many more have begun when the first is read."""
    under_way: deque[HeldArray] = deque()
    for array in slices:
        under_way.append(moved(node, array))
        if len(under_way) > ahead:
            yield under_way.popleft()
    while under_way:
        yield under_way.popleft()
