"""What of a pass is done to samples: the rest of its work may be less where there are more replicas.

Weights and their gradients can lie in as many shards as there are replicas, so that what is made of them alone is made
of shards; a table's gradient may stay the list of its rows; and a gradient that is sent on at once is not written.
`docs/plan.md` says which kernels count, and what is taken off of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.cost.kernels.work import Part, Product
from compiler.graph import Graph, Node
from compiler.layout import local_type
from compiler.ops.base import Movement
from compiler.ops.comm import Comm
from compiler.ops.contract import Contract
from compiler.ops.effects import Accumulate, Effect, Load, Save
from compiler.ops.index import ScatterAdd
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import Program
from dsl.data import dataclass


@dataclass(slots=True)
class Besides:
    """What kernels of a body do besides the work on samples: bytes moved, elements made, in so many steps."""

    bytes: int = 0
    elements: int = 0
    steps: int = 0


class SampleDims:
    """Of a program of one class of devices: which dims of each value samples lie along. batch: theirs in the model."""

    def __init__(self, program: Program, batch: str) -> None:
        (cls,) = program.classes
        self.batch, self.axes = batch, program.sizes
        self.along: dict[int, dict[str, set[str]]] = {}
        self.ends: dict[int, set[str]] = {}  # of each body, what nothing but gradients is made of
        self.kept: dict[str, set[str]] = {}
        sums = {s.name for s in cls.states if s.role in (Role.GRADIENT, Role.ROWS)}
        passes = {f.phase.value: f.body for f in cls.functions if f.phase.value in ("F", "B")}
        for name in ("F", "B"):
            if name in passes:
                self._ends(passes[name], frozenset(), sums)
                self._through(passes[name], [])

    def kept_for_samples(self, name: str) -> bool:
        """Whether what is kept from the forward pass under this name has samples."""
        return name not in self.kept or bool(self.kept[name])

    def _ends(self, body: Graph, which: frozenset[int], sums: set[str]) -> None:
        asked = {v.name for i, v in enumerate(body.outputs) if i not in which}  # of which something else is made
        only = {v.name for v in body.outputs}
        for node in body.nodes[::-1]:
            if isinstance(node.op, Effect) and node.inputs:
                ends = isinstance(node.op, Accumulate) and node.op.name in sums
            else:
                ends = {v.name for v in node.outputs} <= only - asked
            names = {v.name for v in node.inputs}
            only |= names
            if not ends:
                asked |= names
        self.ends[id(body)] = only - asked
        for node in body.nodes:
            if isinstance(node.op, Repeat):
                own = [v.name in self.ends[id(body)] for v in node.outputs]
                self._ends(node.op.body, frozenset(i for i in range(node.op.carries, len(own)) if own[i]), sums)

    def _through(self, body: Graph, given: Sequence[set[str]]) -> list[set[str]]:
        along = self.along[id(body)] = {}
        for i, value in enumerate(body.inputs):
            along[value.name] = self._named(value.type.names) | (given[i] if given else set())
        for node in body.nodes:
            if isinstance(node.op, Save):
                self.kept.setdefault(node.op.name, set()).update(along[node.inputs[0].name])
            if isinstance(node.op, Repeat):
                before = [along[v.name] for v in node.inputs]
                once = self._through(node.op.body, before)
                carried = [{*before[i]} | once[i] for i in range(node.op.carries)]
                results = self._through(node.op.body, carried + before[node.op.carries :])
                along.update(zip((v.name for v in node.outputs), results, strict=True))
                continue
            for value in node.outputs:
                along[value.name] = self._result(body, node, value.name, value.type.names)
        return [along[v.name] for v in body.outputs]

    def _result(self, body: Graph, node: Node, name: str, names: Sequence[str]) -> set[str]:
        if isinstance(node.op, ScatterAdd) and name in self.ends[id(body)]:
            return set()
        if isinstance(node.op, Load):
            return self.kept.get(node.op.name, self._named(names))
        given = {dim for v in node.inputs for dim in self.along[id(body)][v.name]}
        known = {dim for v in node.inputs for dim in v.type.names}
        own = given.intersection(names) | self._named(names)
        gone = not given <= {*names} and not isinstance(node.op, Contract | Reduce)
        return own | ({*names} - known if gone else set())

    def _named(self, names: Sequence[str]) -> set[str]:
        return {self.batch}.intersection(names)

    def _for_tables(self, body: Graph) -> set[str]:
        """What is of use for gradients of tables alone: where these stay lists, it may not be sent."""
        users: dict[str, list[Node]] = {}
        for node in body.nodes:
            for value in node.inputs:
                users.setdefault(value.name, []).append(node)
        found, results = set[str](), {v.name for v in body.outputs}
        for node in body.nodes[::-1]:
            for value in (*node.outputs, *node.inputs):
                ends = (
                    (isinstance(n.op, ScatterAdd) and {v.name for v in n.outputs} <= self.ends[id(body)])
                    or (bool(n.outputs) and {v.name for v in n.outputs} <= found)
                    for n in users.get(value.name, ())
                )
                if value.name in self.ends[id(body)] - results and value.name in users and all(ends):
                    found.add(value.name)
        return found

    def count(self, body: Graph, part: Part) -> tuple[set[str], Besides]:
        """Names of kernels and messages of a body that begin with samples, and what kernels do besides."""
        along, besides = self.along[id(body)], Besides()
        nodes: Mapping[str, bool] = {n.name: isinstance(n.work, Product) for n in part.nodes}
        begun, inside, for_tables = set[str](), set[str](), self._for_tables(body)
        for node in body.nodes:
            if not node.outputs or isinstance(node.op, Effect | Repeat):
                continue
            name = node.output.name if len(node.outputs) == 1 else node.outputs[0].name
            taken, made = ([v for v in of if along[v.name]] for of in (node.inputs, node.outputs))
            list_of_rows = isinstance(node.op, ScatterAdd) and name in self.ends[id(body)]
            sent = isinstance(node.op, Comm) and name in for_tables
            if (taken or made) and name in nodes and not list_of_rows and not sent:
                begun.add(name)
            follows = bool(inside & {v.name for v in node.inputs})
            if isinstance(node.op, Comm) or nodes.get(name, False):
                continue
            if follows or name in nodes:
                inside.update(v.name for v in node.outputs)
            if made or list_of_rows or node.op.movement is not Movement.NO:
                continue
            if not taken and (name in nodes or not follows):
                continue
            pieces = [local_type(v.type, v.layout, self.axes) for v in node.outputs]
            besides.bytes += sum(piece.bytes for piece in pieces)
            if not taken:
                besides.bytes += sum(local_type(v.type, v.layout, self.axes).bytes for v in node.inputs)
                besides.elements += sum(piece.elements for piece in pieces)
                besides.steps += 1
        return begun, besides
