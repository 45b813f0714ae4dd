"""`behind_scans`: gradients of weights that a scan reads are one product behind its way back, over all positions.

Reverse mode adds them up from position to position: a sum as large as the weight, read and written in each, of products
of few rows. What these products read is there for all positions (it was saved, or is the gradient of what has the
scanned dim), or is put out by the loop: like any saved value, and no longer than up to the product. So cuDNN and
PyTorch compute them.

Not of what data make (keys and values of an attention in blocks): there is one of these for each sample, and its
products read what is as large as all scores. Nor of what a rule has computed again: it is not to be kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import cast

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.origin import Origin, Phase
from compiler.passes.differentiate import Differentiated
from compiler.passes.prune import prune_nodes
from compiler.walk import node_values

_ADD = Map("add", (None, None))


def behind_scans(found: Differentiated, weights: Collection[str], names: Names) -> Differentiated:
    """weights: their names; `names` must know all names of both graphs."""
    before = found.backward
    nodes = _Level(names, _of_data(found.forward, weights)).nodes(before.nodes)
    if all(a is b for a, b in zip(nodes, before.nodes, strict=False)) and len(nodes) == len(before.nodes):
        return found
    pruned = prune_nodes(nodes, before.outputs)
    there = {v.name for v in (*before.inputs, *node_values(pruned))}
    cotangents = {of: name for of, name in found.cotangents.items() if name in there}
    return found._replace(backward=replace(before, nodes=pruned), cotangents=cotangents)


def _of_data(forward: Graph, weights: Collection[str]) -> frozenset[str]:
    """Names of the values that are made of more than weights and constants."""
    found = {v.name for v in forward.inputs if v.name not in weights}
    _spread(forward.nodes, found)
    return frozenset(found)


def _spread(nodes: Iterable[Node], found: set[str]) -> None:
    for node in nodes:
        op = node.op
        if not isinstance(op, Repeat):
            if any(v.name in found for v in node.inputs):
                found.update(v.name for v in node.outputs)
            continue
        body = op.body
        found.update(p.name for p, x in zip(body.inputs, node.inputs, strict=True) if x.name in found)
        while True:
            _spread(body.nodes, found)
            carried = zip(body.inputs[: op.carries], body.outputs, strict=False)
            more = {p.name for p, v in carried if v.name in found} - found
            if not more:
                break
            found |= more
        found.update(x.name for x, v in zip(node.outputs, body.outputs, strict=True) if v.name in found)


class _Level:
    """The nodes of a graph, or of a body in it. data: names of the forward values that are made of data."""

    def __init__(self, names: Names, data: frozenset[str]) -> None:
        self.names = names
        self.data = data

    def nodes(self, given: Sequence[Node]) -> list[Node]:
        """What stands for the nodes; inner loops come first, for what they put out is what outer ones add up."""
        zeros = {n.output for n in given if isinstance(n.op, Full) and n.op.value == 0.0}
        found: list[Node] = []
        for node in given:
            if not isinstance(node.op, Repeat):
                found.append(node)
                continue
            op = node.op
            inside = self.nodes(op.body.nodes)
            if len(inside) != len(op.body.nodes) or any(a is not b for a, b in zip(inside, op.body.nodes)):
                body = replace(op.body, nodes=prune_nodes(inside, op.body.outputs))
                node = Node(replace(op, body=body), node.inputs, node.outputs, node.span)
            found += _Sums(node, zeros, self).run() if op.scan else [node]
        return found


class _Sums:
    """What a scan adds up, and what is put behind it.

    each: a value of the body -> what has it of every position outside: a stack that the loop takes or puts out.
    stacked: what it puts out newly.
    """

    def __init__(self, node: Node, zeros: Collection[Value], level: _Level) -> None:
        self.node, self.level = node, level
        self.op = op = cast(Repeat, node.op)
        body = self.body = op.body
        self.made = {v: n for n in body.nodes for v in n.outputs}
        self.uses = Counter(v for n in body.nodes for v in n.inputs) + Counter(body.outputs)
        self.each = dict(zip(body.outputs[op.carries :], node.outputs[op.carries :], strict=True))
        slices = slice(op.carries, op.carries + op.stacks)
        self.each.update(zip(body.inputs[slices], node.inputs[slices], strict=True))
        self.carried = set(body.inputs[: op.carries])
        self.stacked: dict[Value, Value] = {}
        self.behind: list[Node] = []
        of = [v.origin.of for v in node.outputs[: op.carries]]
        self.sums = [i for i, x in enumerate(node.inputs[: op.carries]) if x in zeros and of[i] not in level.data]

    def run(self) -> list[Node]:
        """The loop, and what stands behind it."""
        gone: set[int] = set()
        for kind in (Contract, Reduce):  # sums of biases take only what is there then
            for i in self.sums:
                added = self._added(i) if i not in gone else None
                terms = None if added is None else self._terms(added, (), kind)
                if terms is not None:
                    gone.add(i)
                    self._put(self.node.outputs[i], terms)
        return [self._loop(gone), *self.behind] if gone else [self.node]

    def _added(self, i: int) -> Value | None:
        """What carry `i` is added in each iteration, if it does nothing else."""
        before, after = self.body.inputs[i], self.body.outputs[i]
        node = self.made.get(after)
        if node is None or node.op != _ADD or before not in node.inputs:
            return None
        if self.uses[before] > 1 or self.uses[after] > 1:
            return None
        (added,) = (v for v in node.inputs if v is not before)
        return added if added.type == before.type else None

    def _terms(self, value: Value, views: tuple[Op, ...], kind: type[Op]) -> list[tuple[Node, tuple[Op, ...]]] | None:
        """The products whose sum a value is, each with what is done with it; None if it is anything else, too."""
        node = self.made.get(value)
        if node is None or self.uses[value] > 1:
            return None
        if node.op == _ADD and all(v.type == value.type for v in node.inputs):
            both = [self._terms(v, views, kind) for v in node.inputs]
            return None if None in both else [t for terms in both for t in terms or ()]
        if isinstance(node.op, (Cast, Rename, Transpose)):
            return self._terms(node.inputs[0], (node.op, *views), kind)
        if isinstance(node.op, kind) and all(self._is_there(v, kind is Contract) for v in node.inputs):
            return [(node, views)] if not isinstance(node.op, Reduce) or node.op.fn == "sum" else None
        return None

    def _is_there(self, value: Value, may_stack: bool) -> bool:
        """Whether a value is there, or may be, for all iterations at once."""
        if value in self.each:
            return True
        node = self.made.get(value)
        if node is not None and isinstance(node.op, (Cast, Rename, Transpose)):
            return self._is_there(node.inputs[0], may_stack)
        if node is not None:
            return may_stack and value.origin.phase is not Phase.AGAIN
        return may_stack and value in self.carried

    def _outside(self, value: Value, origin: Origin) -> Value:
        """What has a value of all iterations."""
        if value in self.each:
            return self.each[value]
        lead, node = Dim(self.op.label, self.op.count), self.made.get(value)
        type = Type(value.type.dtype, (lead, *value.type.dims))
        if node is None or not isinstance(node.op, (Cast, Rename, Transpose)):
            found = Value(self.level.names.fresh(f"{value.name}.each"), type, value.span, value.origin)
            self.stacked[value] = self.each[value] = found
            return found
        op = replace(node.op, dims=(lead.name, *node.op.dims)) if isinstance(node.op, Transpose) else node.op
        found = self._add(op, (self._outside(node.inputs[0], origin),), origin, value.name)
        self.each[value] = found
        return found

    def _put(self, result: Value, terms: Sequence[tuple[Node, tuple[Op, ...]]]) -> None:
        """The sum over all iterations, behind the loop; it is what the loop's result was."""
        origin, total = result.origin, None
        for node, views in terms:
            operands = tuple(self._outside(v, origin) for v in node.inputs)
            op = node.op
            if isinstance(op, Reduce):
                op = replace(op, dims=(self.op.label, *op.dims))
            part = self._add(op, operands, origin, node.output.name)
            for view in views:
                part = self._add(view, (part,), origin, f"{result.name}.{view.mnemonic}")
            total = part if total is None else self._add(_ADD, (total, part), origin, result.name)
        last = self.behind.pop()
        self.behind.append(Node(last.op, last.inputs, (result,), last.span))

    def _add(self, op: Op, operands: tuple[Value, ...], origin: Origin, name: str) -> Value:
        (type,) = op.infer(*(v.type for v in operands))
        found = Value(self.level.names.fresh(name), type, self.node.span, origin)
        self.behind.append(Node(op, operands, (found,), self.node.span))
        return found

    def _loop(self, gone: set[int]) -> Node:
        """The loop without the sums that are gone, with what it puts out newly."""
        op, body, node = self.op, self.body, self.node
        outputs = tuple(v for i, v in enumerate(body.outputs) if i not in gone)
        params = tuple(v for i, v in enumerate(body.inputs) if i not in gone)
        results = (*(v for i, v in enumerate(node.outputs) if i not in gone), *self.stacked.values())
        inside = Graph(body.name, params, body.nodes, (*outputs, *self.stacked))
        loop = replace(op, body=inside, carries=op.carries - len(gone))
        return Node(loop, tuple(v for i, v in enumerate(node.inputs) if i not in gone), results, node.span)
