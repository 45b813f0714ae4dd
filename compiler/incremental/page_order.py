"""What becomes of positions that are read from pages part by part, and so in another order than their own: whatever is
made of them must be the same in any order, as attention is.
"""

from __future__ import annotations

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from dsl.diagnostics import ParcError, fail
from dsl.source import Span

Slot = tuple[Value, str]
"""A dim of a value."""


def in_any_order(graph: Graph, turned: set[Slot], span: Span) -> None:
    """Follow dims of values that are in the order of pages.

    Args:
        turned: where they begin: what was read, and the numbers of positions. They are followed from there.
        span: where errors point at.

    Raises ParcError: E0542 with the op that would join them with others in their own order, or looks at the order.
    """
    follow = _Follow(turned, span)
    follow.graph(graph)
    for v in graph.outputs:
        for name in v.type.names:
            if (v, name) in turned:
                raise follow.refused(f"`{v.name}`, which leaves the model, has positions", name)


def order_matters(node: Node, name: str, span: Span) -> ParcError:
    """Of an op for which the order of positions is something."""
    return _refused(f"`{node.op.mnemonic}` in `{node.outputs[0].origin.path}` looks at positions", name, span)


def _refused(what: str, name: str, span: Span) -> ParcError:
    help = (
        f"leave `split {name}` or the pages out: each device has a part of each page, so that positions are in no order"
    )
    return fail("E0542", f"{what} `{name}` in their order, of caches in pages that are cut along them", span, help=help)


class _Follow:
    """turned: dims in the order of pages. free: those along which all is the same, whatever the order."""

    def __init__(self, turned: set[Slot], span: Span) -> None:
        self.turned, self.span = turned, span
        self.free: set[Slot] = set()

    def refused(self, what: str, name: str) -> ParcError:
        return _refused(what, name, self.span)

    def graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            if isinstance(node.op, Repeat):
                self._loop(node, node.op)
            else:
                self._node(node)

    def _node(self, node: Node) -> None:
        met: set[Slot] = set()
        for loop in node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs]):
            ins = [(v, n) for v, n in zip(node.inputs, loop.ins) if n is not None]
            outs = [(v, n) for v, n in zip(node.outputs, loop.outs) if n is not None]
            met.update(ins)
            plain = loop.kind in ("pass", "sum", "max") and not loop.placed
            if any(slot in self.turned for slot in ins):
                if not plain or any(slot not in self.turned and slot not in self.free for slot in ins):
                    raise order_matters(node, next(n for v, n in ins if (v, n) in self.turned), self.span)
                self.turned.update(outs)
            elif plain and all(slot in self.free for slot in ins):
                self.free.update(outs)
        for v in node.inputs:
            for name in v.type.names:
                if (v, name) in self.turned and (v, name) not in met:
                    raise order_matters(node, name, self.span)

    def _loop(self, node: Node, op: Repeat) -> None:
        body = op.body
        for given, param in zip(node.inputs, body.inputs, strict=True):
            for known in (self.turned, self.free):
                known.update((param, name) for name in param.type.names if (given, name) in known)
        self.graph(body)
        for i, (inside, out) in enumerate(zip(body.outputs, node.outputs, strict=True)):
            for name in inside.type.names:
                ends = (inside, name) in self.turned
                if i < op.carries and ends != ((body.inputs[i], name) in self.turned):
                    raise order_matters(node, name, self.span)
                if ends:
                    self.turned.add((out, name))
