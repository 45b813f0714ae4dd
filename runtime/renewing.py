"""Which states of a model are renewed in their memory, by ops that renew rows, in functions as they are run: chains of
element-wise work may run later than they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field

from compiler.graph import Graph, names_of
from compiler.in_place import Reuses, read_behind
from compiler.ops.base import Op
from compiler.ops.comm import Comm
from compiler.ops.effects import Effect, Read, Write
from compiler.ops.repeat import Repeat
from dsl.data import dataclass


def as_it_stands(body: Graph) -> Graph:
    """A body whose instructions are run as they stand."""
    return body


@dataclass(slots=True)
class Renewed:
    """reads: values that are such a state. nodes: identities of those that renew in place. stacks: (identity of a loop,
    number of its result) -> the operand that it is, renewed."""

    reads: set[str] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)
    stacks: dict[tuple[int, int], int] = field(default_factory=dict)

    @staticmethod
    def of(
        body: Graph,
        states: Iterable[str],
        reuses: Reuses,
        as_run: Callable[[Graph], Graph] = as_it_stands,
        makes: Callable[[Op], bool] | None = None,
    ) -> Renewed:
        """Of a function.

        Args:
            states: names of those that may be.
            as_run: a body as its instructions are run.
            makes: whether each result of an op lies in memory of its own, where others may be views of operands, and
                messages are on their way while the next instructions run; None: only ops that move nothing give views,
                and no message is.
        """
        found = Renewed()
        for name in states:
            reads = [n.outputs[0].name for n in body.nodes if isinstance(n.op, Read) and n.op.name == name]
            writes = [n.inputs[0].name for n in body.nodes if isinstance(n.op, Write) and n.op.name == name]
            if len(reads) == len(writes) == 1 and found._add(as_run(body), reads[0], writes[0], reuses, as_run, makes):
                found.reads.add(reads[0])
        return found

    def _add(
        self,
        body: Graph,
        own: str,
        result: str,
        reuses: Reuses,
        as_run: Callable[[Graph], Graph],
        makes: Callable[[Op], bool] | None,
    ) -> bool:
        """Whether a result is made in the memory of a value of the body; adds how."""
        made = ((i, n, k) for i, n in enumerate(body.nodes) for k, v in enumerate(n.outputs) if v.name == result)
        i, node, k = next(made, (-1, None, 0))
        if node is None or (id(node), k) not in reuses or read_behind(body, own, i):
            return False
        if makes is not None and _held_behind(body, own, i, makes):
            return False
        operand, given = reuses[id(node), k].operand, names_of(node.inputs)
        if given[operand] != own or given.count(own) > 1:
            return False
        if not isinstance(node.op, Repeat):
            if node.op.renews != operand or operand:
                return False
            self.nodes.add(id(node))
            return True
        inner = node.op.body
        if k < node.op.carries or not self._add(
            as_run(inner), inner.inputs[operand].name, inner.outputs[k].name, reuses, as_run, makes
        ):
            return False
        self.stacks[id(node), k] = operand
        return True


def _held_behind(body: Graph, own: str, at: int, makes: Callable[[Op], bool]) -> bool:
    """Whether somebody may still have the memory of a value where the node of that number renews it: a message, a
    buffer, or who reads what may be a view of it."""
    views, results = {own}, {v.name for v in body.outputs}
    for i, node in enumerate(body.nodes):
        if i == at or not views.intersection(v.name for v in node.inputs):
            continue
        if i > at or isinstance(node.op, Comm | Effect | Repeat):
            return True
        if not makes(node.op):
            views.update(v.name for v in node.outputs)
    return bool(views & results)
