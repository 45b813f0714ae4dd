"""What the steps of a proof never did: conditions that always came out alike.

A schedule after its warm-up, the growth of a loss scale, a clip that does not bite, `where(step > n, …)`: the lowered
program computes both sides, and a proof says nothing of the one that no step took. Of whole tensors, what a `where`
chooses by counts if it depends on weights (a capacity that no expert exceeds, a bound that no value reaches), in each
iteration of a loop by itself, for each may be on other devices: a side that no element took. What data alone decide
(masks, which labels count) is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler.graph import Graph, Node, Value
from compiler.model import Training
from compiler.ops.base import Movement
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from dsl.data import dataclass
from dsl.source import NOWHERE, Span
from runtime.numpy import CallContext

Array = np.ndarray[Any, np.dtype[Any]]

MOST, MOST_SHOWN = 1024, 4
"""Iterations that are told apart (further ones count as those again), and that are named."""

_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_NOT = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class Unreached:
    """What never held (`step.number >= 20.0`), of which value, and where that stands (None: the compiler made it).

    count: how many conditions share the place, as an optimizer's do that is run for every weight. whole: whether it is
    of whole tensors.
    """

    never: str
    name: str
    span: Span | None
    count: int = 1
    whole: bool = False


class Branches:
    """A `Watch` of the serial program that notes which sides of its choices are taken."""

    def __init__(self, training: Training) -> None:
        graphs = (training.forward, training.update)
        self._places = Counter(n for graph in graphs for n in _nodes(graph) if _chooses(n))
        self._taken: dict[Node, set[bool]] = {n: set() for n in self._places}
        self._whole = Choices(training)

    def __call__(
        self, node: Node, ctx: CallContext, operands: Sequence[Array], results: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        taken = self._taken.get(node)
        if taken is not None and len(taken) < 2:
            taken.add(_side(node, operands, results[0]))
        self._whole.note(node, operands)
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
        return (*found.values(), *self._whole.unreached())


class Choices:
    """The `where`s of whole tensors in a forward pass whose condition depends on weights, and the sides that elements
    took, by iteration."""

    def __init__(self, training: Training) -> None:
        self._made: dict[str, Node] = {}
        self._taken: dict[Node, list[set[bool]]] = {}
        self._calls: Counter[Node] = Counter()
        self._graph(training.forward, {w.name for w in training.model.weights}, 1)

    def _graph(self, graph: Graph, hanging: set[str], times: int) -> set[str]:
        """Finds them; what of the graph depends on weights. hanging: which of its inputs do."""
        hanging = set(hanging)
        for node in graph:
            mine = any(v.name in hanging for v in node.inputs)
            self._made.update((v.name, node) for v in node.outputs)
            if isinstance(node.op, Repeat | Call):
                body, inner = node.op.body, dict(zip((p.name for p in node.op.body.inputs), node.inputs))
                own = {p for p, v in inner.items() if v.name in hanging}
                count = node.op.count if isinstance(node.op, Repeat) else 1
                carries = node.op.carries if isinstance(node.op, Repeat) else 0
                more = True
                while more:  # what an iteration carries may do so from the second one on
                    made = self._graph(body, own, times * count)
                    new = {p.name for p, v in zip(body.inputs[:carries], body.outputs) if v.name in made} - own
                    own |= new
                    more = bool(new)
                hanging.update(v.name for v, made_of in zip(node.outputs, body.outputs) if made_of.name in made)
                continue
            if mine:
                hanging.update(v.name for v in node.outputs)
            if _selects(node) and node.inputs[0].name in hanging:
                self._taken[node] = [set() for _ in range(min(times, MOST))]
        return hanging

    def note(self, node: Node, operands: Sequence[Array]) -> None:
        """A node that was computed."""
        by = self._taken.get(node)
        if by is None:
            return
        taken = by[self._calls[node] % len(by)]
        self._calls[node] += 1
        if len(taken) < 2:
            condition = operands[0]
            taken |= {side for side, any_ in ((True, condition.any()), (False, not condition.all())) if any_}

    def unreached(self) -> Iterator[Unreached]:
        """A side for each, of all iterations in which no element took it."""
        for node, by in self._taken.items():
            for side in (True, False):
                without = [i for i, taken in enumerate(by) if taken and side not in taken]
                if not without or not self._calls[node]:
                    continue
                never = self._never(node.inputs[0], side)
                if len(without) < len(by):
                    shown = ", ".join(str(i + 1) for i in without[:MOST_SHOWN])
                    never += f" in iteration {shown}" + (" …" if len(without) > MOST_SHOWN else "")
                yield Unreached(never, node.output.name, node.span if node.span is not NOWHERE else None, 1, True)

    def _never(self, condition: Value, side: bool) -> str:
        made = self._made.get(condition.name)
        while made is not None and made.op.movement is not Movement.NO:
            made = self._made.get(made.inputs[0].name)
        if made is not None and isinstance(made.op, Map) and made.op.fn in _SIGNS:
            return _other(made, not side)
        return f"{condition.name} is {str(side).lower()}"


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph:
        yield node
        if isinstance(node.op, Repeat | Call):
            yield from _nodes(node.op.body)


def _selects(node: Node) -> bool:
    """A `where` of whole tensors, by a condition that is one."""
    return (
        isinstance(node.op, Map)
        and node.op.fn == "where"
        and node.op.slots[0] is None
        and bool(node.inputs[0].type.dims)
    )


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
