"""What the steps of a proof never did: conditions of single numbers that always came out alike.

A schedule after its warm-up, the growth of a loss scale, a clip that does not bite, `where(step > n, …)`: the lowered
program computes both sides, and a proof says nothing of the one that no step took. Conditions of whole tensors (masks,
which expert) are not among them: their elements differ in every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler.graph import Graph, Node
from compiler.model import Training
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from dsl.data import dataclass
from dsl.source import NOWHERE, Span
from runtime.numpy import CallContext

Array = np.ndarray[Any, np.dtype[Any]]

_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_NOT = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class Unreached:
    """What never held (`step.number >= 20.0`), of which value, and where that stands (None: the compiler made it).

    count: how many conditions share the place, as an optimizer's do that is run for every weight.
    """

    never: str
    name: str
    span: Span | None
    count: int = 1


class Branches:
    """A `Watch` of the serial program that notes which sides of its choices are taken."""

    def __init__(self, training: Training) -> None:
        graphs = (training.forward, training.update)
        self._places = Counter(n for graph in graphs for n in _nodes(graph) if _chooses(n))
        self._taken: dict[Node, set[bool]] = {n: set() for n in self._places}

    def __call__(
        self, node: Node, ctx: CallContext, operands: Sequence[Array], results: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        taken = self._taken.get(node)
        if taken is not None and len(taken) < 2:
            taken.add(_side(node, operands, results[0]))
        return results

    def unreached(self) -> tuple[Unreached, ...]:
        """The choices that were made, but one way only; those of one place and one kind together."""
        found: dict[object, Unreached] = {}
        for node, taken in self._taken.items():
            if len(taken) != 1:
                continue
            never = _other(node, *taken)
            span = node.span if node.span is not NOWHERE else None
            key = (span, node.op, *taken) if span else node
            if key in found:
                old = found[key]
                found[key] = Unreached(old.never, old.name, span, old.count + self._places[node])
            else:
                found[key] = Unreached(never, node.output.name, span, self._places[node])
        return tuple(found.values())


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph:
        yield node
        if isinstance(node.op, Repeat | Call):
            yield from _nodes(node.op.body)


def _chooses(node: Node) -> bool:
    """A comparison of single numbers, or the larger or smaller of two."""
    op = node.op
    return isinstance(op, Map) and (op.fn in _SIGNS or op.fn in ("maximum", "minimum")) and not node.output.type.dims


def _values(node: Node, operands: Sequence[Array]) -> list[Any]:
    assert isinstance(node.op, Map)
    given = iter(operands)
    return [next(given) if slot is None else slot for slot in node.op.slots]


def _side(node: Node, operands: Sequence[Array], result: Array) -> bool:
    """Whether a comparison holds; of the larger (smaller) of two, whether it is the first."""
    assert isinstance(node.op, Map)
    if node.op.fn in _SIGNS:
        return bool(result)
    first, second = _values(node, operands)
    return bool(first >= second) if node.op.fn == "maximum" else bool(first <= second)


def _other(node: Node, taken: bool) -> str:
    """The side that was not taken, in words."""
    assert isinstance(node.op, Map)
    given = iter(node.inputs)
    first, second = (next(given).name if slot is None else f"{slot:g}" for slot in node.op.slots)
    sign = _SIGNS.get(node.op.fn) or {"maximum": ">=", "minimum": "<="}[node.op.fn]
    return f"{first} {_NOT[sign] if taken else sign} {second}"


__all__ = ["Branches", "Unreached"]
