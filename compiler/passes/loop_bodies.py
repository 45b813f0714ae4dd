"""Bodies of loops that were emitted before: the chunks of a pipeline have the very same, and so have programs of one
placed graph with other numbers of stages.

What becomes of a placed body hangs on the pass, on the names that the function gives, and, as far as dims of it are
those of loops that are cut, on how many iterations the stage has. Where all that is the same it is the same object, and
whoever finds things by the identity of bodies finds them again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from compiler.graph import Dim, Graph
from compiler.ops.repeat import Repeat
from compiler.passes.emit import Emitter, dim_fields
from compiler.walk import graph_values, walk

KEPT = 1000
"""Placed bodies that are remembered, those that were met last."""


class EmittedBody(NamedTuple):
    """given: names that it has asked for, and what they are."""

    given: tuple[tuple[str, str], ...]
    body: Graph


class PlacedBody(NamedTuple):
    """body: kept, for it is found by its identity; dims: names and sizes of all its dims; made: what became of it."""

    body: Graph
    dims: frozenset[tuple[str, int]]
    made: dict[object, list[EmittedBody]]


class LoopBodies:
    """Those that were emitted so far. Only for programs of which nobody asks which of several functions a node is of:
    prices do not."""

    def __init__(self) -> None:
        self.known: dict[int, PlacedBody] = {}

    def of(self, op: Repeat, emit: Emitter) -> Graph:
        """The body of a placed loop, in a function that is being made."""
        placed = self.known.pop(id(op.body), None)
        if placed is None:
            while len(self.known) >= KEPT:
                del self.known[next(iter(self.known))]
            placed = PlacedBody(op.body, frozenset(_dims(op.body)), {})
        self.known[id(op.body)] = placed
        counts = emit.part.counts if emit.part is not None else {}
        cut = tuple([(dim, counts[dim]) for dim in sorted(placed.dims & counts.keys())])
        known = placed.made.setdefault((op.label, emit.function, cut), [])
        for each in known:
            if emit.names.again(each.given):
                return each.body
        outer, names, emit.bodies = emit.names, emit.names.noted(), None
        emit.names = names
        made = emit.loop_body(op)
        emit.names, emit.bodies = outer, self
        known.append(EmittedBody(tuple(names.given), made))
        return made


def _dims(body: Graph) -> set[tuple[str, int]]:
    """Of its values, and of what its ops say."""
    dims = {d for v in graph_values(body) for d in v.type.dims}
    for node, _ in walk(body):
        for name in dim_fields(node.op):
            value: Any = getattr(node.op, name)
            dims.update((value,) if isinstance(value, Dim) else value)
    return {(d.name, d.size) for d in dims}
