"""What one graph must hand to another that is open towards it: chosen, saved or computed again, and closed over.

`early` runs first (the forward graph); `late` (the backward graph) refers freely to early's values, and its loops are
`OpenRepeat`s, each open towards the body of an early loop, its twin. Closing decides for every early value needed late:
  read      an input of early is an input of late as well (a slice or an invariant, in a loop); nothing is saved
  again     late computes it from other values: constants, views and other cheap ops, and what the rules say
  saved     early puts it out (a loop: as a stack with one slice per iteration)
Nothing here knows about derivatives: splitting a backward graph in two is the same task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from compiler.graph import Dim, Graph, Names, Node, Type, Value
from compiler.ops.create import Random
from compiler.ops.elementwise import Cast, Map
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.passes.copying import copy_node, renamed, suffixed
from compiler.passes.prune import Live, pruned_repeat
from compiler.passes.recompute import Recompute
from compiler.passes.transpose import OpenRepeat

AGAIN = suffixed(".again", Phase.AGAIN)


class Closing:
    """One level: the top of both graphs, or the bodies of a pair of loops.

    After `close`: `early` = early's nodes with what they newly put out, `nodes`/`outputs` = the closed late ones,
    `saved` and `read` = the early values that late takes in (both map to the value by which late calls them).
    """

    def __init__(
        self,
        context: ResidualContext,
        path: str | None,
        early_inputs: Sequence[Value],
        early_nodes: Sequence[Node],
        carries: int,
        static: frozenset[Value],
        passing: frozenset[Value] = frozenset(),
    ) -> None:
        """passing: inputs of early that are not there any more when late runs, as early renews them."""
        self.context = context
        self.path = path
        self.hidden = context.recompute.at(path or "")
        self.readable = frozenset(early_inputs[carries:]) - passing
        self.passing = passing
        self.early = list(early_nodes)
        self.position = {node: i for i, node in enumerate(early_nodes)}
        self.made = {v: i for i, node in enumerate(early_nodes) for v in node.outputs}
        self.static: set[Value] = set(static)
        self.saved: dict[Value, Value] = {}
        self.read: dict[Value, Value] = {}
        self.env: dict[Value, Value] = {}
        self.nodes: list[Node] = []
        self._again: dict[int, Live] = {}  # early loops that late runs again: with which outputs
        self._again_values: set[Value] = set()
        self._keep: set[Value] = set()

    # --- the whole ---------------------------------------------------------------------------------

    def close(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> tuple[Value, ...]:
        """Close the late nodes; returns the outputs under their new names."""
        self.static = self._find_static()
        drafts = [self._close_loop(n) if isinstance(n.op, OpenRepeat) else n for n in nodes]
        own = {v for n in drafts for v in n.outputs} | self.env.keys()
        needed = dict.fromkeys(v for n in drafts for v in n.inputs if v not in own)
        needed.update(dict.fromkeys(v for v in outputs if v not in own))
        self._choose(list(needed))
        for node in drafts:
            operands = tuple(self._get(v) for v in node.inputs)
            made = tuple(self.context.name(v) for v in node.outputs)
            self.env.update(zip(node.outputs, made, strict=True))
            self.nodes.append(Node(node.op, operands, made, node.span))
        return tuple(self._get(v) for v in outputs)

    # --- loops -------------------------------------------------------------------------------------

    def _close_loop(self, node: Node) -> Node:
        """The loop with a closed body, and as operands what it takes of the early level, still by its early names."""
        op = cast(OpenRepeat, node.op)
        at = self.position[cast(Node, op.twin)]
        twin = self.early[at]
        twin_op = cast(Repeat, twin.op)
        body = twin_op.body
        static = frozenset(
            p
            for i, (p, x) in enumerate(zip(body.inputs, twin.inputs, strict=True))
            if i >= twin_op.carries and x in self.static
        )
        path = body.name
        passing = frozenset(p for p, x in zip(body.inputs, twin.inputs, strict=True) if x in self.passing)
        inner = Closing(self.context, path, body.inputs, body.nodes, twin_op.carries, static, passing)
        params = [self.context.name(v) for v in op.body.inputs]
        inner.env.update(zip(op.body.inputs, params, strict=True))
        results = inner.close(op.body.nodes, op.body.outputs)
        stacks = self._extend(at, inner)
        taken = {p: twin.inputs[i] for i, p in enumerate(body.inputs)}
        slices = [v for v in inner.read if body.inputs.index(v) < twin_op.carries + twin_op.stacks]
        fixed = [v for v in inner.read if v not in slices]
        closed = Repeat(
            op.label,
            op.count,
            Graph(
                op.body.name,
                (
                    *params,
                    *(inner.read[v] for v in slices),
                    *inner.saved.values(),
                    *(inner.read[v] for v in fixed),
                ),
                tuple(inner.nodes),
                results,
            ),
            op.carries,
            op.stacks + len(slices) + len(inner.saved),
            op.reverse,
            op.scan,
        )
        operands = (*node.inputs, *(taken[v] for v in slices), *stacks, *(taken[v] for v in fixed))
        return Node(closed, operands, node.outputs, node.span)

    def _extend(self, at: int, inner: Closing) -> list[Value]:
        """Make the early loop put out the saved values of its body; returns their stacks."""
        twin = self.early[at]
        op = cast(Repeat, twin.op)
        there = {v: out for v, out in zip(op.body.outputs[op.carries :], twin.outputs[op.carries :])}
        new = {v: self._stack(v, op) for v in inner.saved if v not in there}
        body = Graph(op.body.name, op.body.inputs, tuple(inner.early), (*op.body.outputs, *new))
        self.early[at] = Node(replace(op, body=body), twin.inputs, (*twin.outputs, *new.values()), twin.span)
        for v in new.values():
            self.made[v] = at
        return [there.get(v) or new[v] for v in inner.saved]

    def _stack(self, v: Value, op: Repeat) -> Value:
        base = self.context.stacked.get(v, v)
        name = self.context.names.fresh(f"{base.name}.saved")
        type = Type(v.type.dtype, (Dim(op.label, op.count), *v.type.dims))
        layout = v.layout and v.layout.stacked()  # where the graph is placed
        stack = Value(name, type, v.span, replace(v.origin, of=base.name), layout)
        self.context.stacked[stack] = base
        return stack

    # --- the choice --------------------------------------------------------------------------------

    def _find_static(self) -> set[Value]:
        """Values that depend on data and constants only, by maps and cheap ops: computed again at little cost."""
        found = set(self.static)
        for node in self.early:
            op = node.op
            simple = isinstance(op, (Map, Cast)) or (op.cheap() and not isinstance(op, Random))
            if simple and all(x in found for x in node.inputs):
                found.update(node.outputs)
        return found

    def _is_cheap(self, value: Value) -> bool:
        if value in self.context.never_again:
            return False
        node = self.early[self.made[value]]
        return node.op.cheap() or isinstance(node.op, Cast) or _is_scaling(node) or value in self.static

    def _must_again(self, value: Value) -> bool:
        if self.hidden is None or value not in self.made or value in self.context.never_again:
            return False
        return self.hidden.covers(value, self.early[self.made[value]]) and not self.hidden.keeps(value)

    def _run_again(self, value: Value) -> list[Value]:
        """Late computes this value again; returns the operands that this newly needs."""
        self._again_values.add(value)
        at = self.made[value]
        node = self.early[at]
        if isinstance(node.op, Repeat):
            live = self._again.get(at)
            if live is None:
                live = self._again[at] = Live.body(node)
            return [node.inputs[i] for i in live.need_output(node.outputs.index(value))]
        return list(node.inputs)

    def _choose(self, needed: Sequence[Value]) -> None:
        """Fill `_keep` (what is saved) and `_again_values` (what is not)."""
        cheap: list[Value] = []
        work = list(needed)
        seen: set[Value] = set()
        while work:
            v = work.pop()
            if v in seen or v in self.readable:
                continue
            seen.add(v)
            if v not in self.made:  # a carry
                self._keep.add(v)
            elif self._must_again(v):
                work.extend(self._run_again(v))
            elif self._is_cheap(v) and not (self.hidden is not None and self.hidden.keeps(v)):
                cheap.append(v)
            else:
                self._keep.add(v)
        for v in sorted(cheap, key=lambda v: self.made[v]):
            self._decide(v)

    def _decided(self, v: Value) -> bool:
        return v in self.readable or v in self._keep or v in self._again_values

    def _decide(self, v: Value) -> None:
        """Save the smallest on the chain of cheap ops that leads to `v` (of equals the first: views share it)."""
        if self._decided(v):
            return
        chain = [v]
        saved: Value | None = None
        while True:
            operands = self.early[self.made[chain[-1]]].inputs
            open_ = [x for x in operands if not self._decided(x) and x not in self.static]
            if not open_:
                break  # all there: nothing has to be saved
            x = open_[0]
            more = len(open_) == 1 and not self._must_again(x)
            if more and x in self.made and self._is_cheap(x):
                chain.append(x)
                continue
            saved = self._smallest(chain, x if more else None)
            self._keep.add(saved)
            break
        for c in chain:
            if c is saved:
                break
            work = [c]
            while work:
                x = work.pop()
                if not self._decided(x):
                    work.extend(self._run_again(x))

    def _smallest(self, chain: Sequence[Value], source: Value | None) -> Value:
        """Which value on the chain, or its source, to save. Of equals the first of which the others are mere views."""
        best = chain[0]
        views_only = True
        for maker, v in zip(chain, (*chain[1:], *([source] if source else []))):
            views_only = views_only and self.early[self.made[maker]].op.cheap()
            if v.type.bytes < best.type.bytes or (v.type.bytes == best.type.bytes and views_only):
                best, views_only = v, True
        return best

    # --- writing -----------------------------------------------------------------------------------

    def _get(self, v: Value) -> Value:
        """The late name of a value; what must be computed again first is written here, just before its first reader."""
        if v in self.env:
            return self.env[v]
        if v in self.readable:
            self.env[v] = self.read[v] = self.context.late_name(v, ".read", self.path)
        elif v in self._keep:
            self.env[v] = self.saved[v] = self.context.late_name(v, ".kept", self.path)
        else:
            self._write_again(v)
        return self.env[v]

    def _write_again(self, value: Value) -> None:
        # Iterative: chains of cheap ops may be long.
        stack = [value]
        while stack:
            v = stack[-1]
            if v in self.env:
                stack.pop()
                continue
            at = self.made[v]
            node = self.early[at]
            live = self._again.get(at)
            if live is not None:
                node = pruned_repeat(node, live)
            waiting = [x for x in node.inputs if x not in self.env and self._is_again(x)]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            for x in node.inputs:
                self._get(x)
            self.nodes.append(copy_node(node, self.env, self.context.names, AGAIN))
            self.context.copies.update((self.env[x], x) for x in node.outputs)
            stack.pop()

    def _is_again(self, v: Value) -> bool:
        return v not in self.readable and v not in self._keep


def _is_scaling(node: Node) -> bool:
    """A tensor times, plus or minus a number: saved is rather what it is made from, if that is saved anyway."""
    op = node.op
    return isinstance(op, Map) and op.fn in ("add", "sub", "mul", "neg") and len(node.inputs) == 1


class ResidualContext:
    """What all levels share. `name` makes a late value of an open one, under the name that it is to have.

    `never_again`: values that late must not compute again, as they were made elsewhere than where it reads them.
    `copies`: what late computes again -> the early value that it is equal to (not inside copied loops).
    `stacked`: what loops put out to be saved -> the value of their bodies that it has of every iteration.
    """

    def __init__(
        self,
        names: Names,
        recompute: Recompute,
        name: Callable[[Value], Value],
        never_again: frozenset[Value] = frozenset(),
    ) -> None:
        self.names = names
        self.recompute = recompute
        self.name = name
        self.never_again = never_again
        self.copies: dict[Value, Value] = {}
        self.stacked: dict[Value, Value] = {}

    def late_name(self, v: Value, suffix: str, path: str | None) -> Value:
        """At the top (no path) both graphs call a value the same; in loops the late body has parameters of its own."""
        if path is None:
            return v
        return renamed(v, self.names.fresh(v.name + suffix))
