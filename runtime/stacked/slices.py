"""Stacks of loops that stand nowhere as a whole: what iterations make for other loops, kept slice by slice.

What a loop saves for the backward pass is read by the loop of the backward pass, an iteration at a time. A list of the
arrays themselves takes no copy of each, keeps what several share (windows of an image) once, and lets go of each as
soon as it is read for the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from compiler.graph import Graph, Node
from compiler.memory.tiers import FILES
from compiler.ops.effects import Load, Save
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import StateDecl
from compiler.walk import walk
from runtime.distribute import Array

LARGE = 1 << 16
"""Bytes of memory from which on a view of a small part of it is copied."""


def saved_in_slices(functions: Sequence[Graph], states: Iterable[StateDecl]) -> frozenset[str]:
    """Which saved buffers of a class are made by loops and read by loops alone, in all of its functions."""
    found = {s.name for s in states if s.role is Role.SAVED and s.memory not in FILES}
    for body in functions:
        top = {id(n) for n in body.nodes}
        found -= {n.op.name for n, _ in walk(body) if isinstance(n.op, Save | Load) and id(n) not in top}
    found &= {n.op.name for body in functions for n in body.nodes if isinstance(n.op, Load)}
    while True:
        kept = set(found)
        for body in functions:
            lists = in_slices(body, frozenset(found))
            for n in body.nodes:
                if isinstance(n.op, Save | Load):
                    value = n.inputs[0] if isinstance(n.op, Save) else n.output
                    if value.name not in lists:
                        kept.discard(n.op.name)
        if kept == found:
            return frozenset(found)
        found = kept


def in_slices(body: Graph, saved: frozenset[str]) -> frozenset[str]:
    """The values of a function that are lists of slices, where these buffers are."""
    results = {v.name for v in body.outputs}
    made: list[str] = []
    other: set[str] = set()  # what somebody reads as a whole
    for n in body.nodes:
        if isinstance(n.op, Load) and n.op.name in saved:
            made.append(n.output.name)
        if isinstance(n.op, Repeat):
            made += [v.name for v in n.outputs[n.op.carries :] if v.memory not in FILES]
        for i, v in enumerate(n.inputs):
            sliced = isinstance(n.op, Repeat) and n.op.carries <= i < n.op.carries + n.op.stacks
            if not sliced and not (isinstance(n.op, Save) and n.op.name in saved):
                other.add(v.name)
    return frozenset(name for name in made if name not in other and name not in results)


def read_last(loop: Node, dying: Iterable[str], lists: frozenset[str]) -> set[str]:
    """The lists of which a loop, which needs them last, can let go slice by slice: each value is a list of its own."""
    names = [v.name for v in loop.inputs]
    return {n for n in dying if n in lists and names.count(n) == 1}


def slice_of(x: Array) -> Array:
    """An iteration's value as it is kept: itself, or a copy where it is a small part of what it would keep."""
    owner = x
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return x.copy(order="K") if owner.nbytes > max(LARGE, 2 * x.nbytes) else x


def copy_of(x: Array) -> Array:
    """The same, where memory may be renewed that it is a view of."""
    return x.copy(order="K")
