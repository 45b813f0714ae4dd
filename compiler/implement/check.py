"""Types of a local graph: how every value relates to the whole, from what the signature says.

Local ops are ordinary ones. What splitting does to their loops (`Op.loops`) says what pieces give: pieces (`pass`),
sums and maxima that are pending, or, where a loop cannot be split, what is each device's own. Raises ParcError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import nan

from compiler.graph import Graph, Node, Value
from compiler.implement import messages
from compiler.implement.pieces import MINE, MINE_IN_ZIGZAG, WHOLE, Owner, Pieces, Split, of_dims
from compiler.implement.written import (
    WrittenAllGather,
    WrittenAllReduce,
    WrittenAllToAll,
    WrittenClaim,
    WrittenMessage,
    WrittenPositions,
    WrittenRank,
    WrittenReduceScatter,
    WrittenShard,
    WrittenShift,
    WrittenType,
)
from compiler.ops.base import Loop, majors
from compiler.ops.elementwise import Cast, Map
from compiler.ops.repeat import Repeat
from dsl.data import dataclass
from dsl.source import Span

Known = dict[Value, Pieces]

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class OwnBecause:
    """Where a value became each device's own, and by what."""

    text: str
    span: Span


class Checker:
    """Follows pieces through a local graph. sizes: devices along each axis, in the order of the mesh."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.known: Known = {}
        self.why: dict[tuple[Value, str], OwnBecause] = {}

    def run(self, nodes: Sequence[Node]) -> None:
        """All nodes in their order."""
        for node in nodes:
            if isinstance(node.op, Repeat):
                self._loop(node, node.op)
            elif isinstance(node.op, WrittenMessage):
                self._written(node, node.op)
            elif isinstance(node.op, WrittenPositions):
                dim, axes = node.op.dim.name, [a for a, _ in node.op.pieces]
                self.known[node.output] = of_dims([(dim, axes)], [dim] if node.op.zigzag else ())
            elif isinstance(node.op, WrittenType):
                self._stated(node, node.op)
            else:
                self._local(node)

    def result(self, value: Value, span: Span) -> Pieces:
        """What is returned: pieces of a whole, each device's own ones."""
        found = self.known[value]
        for axis in self.sizes:
            if axis in found.own:
                raise messages.not_claimed(value, axis, self.why.get((value, axis)), span)
            if axis in found.pending:
                raise messages.pending_result(value, axis, found, span)
        for dim, split in found.dims.items():
            for axis, owner in split:
                if not owner.own:
                    raise messages.others_result(value, dim, axis, owner, span)
        return found

    # --- local ops ------------------------------------------------------------------------------------------

    def _local(self, node: Node) -> None:
        given = [self.known[v] for v in node.inputs]
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        if all(p.constant is not None for p in given):
            for v in node.outputs:
                self.known[v] = Pieces(constant=_constant(node, given))
            if given or self.known[node.outputs[0]].constant is not None:
                return
            for v in node.outputs:
                self.known[v] = WHOLE
            return
        pending = self._pending(node, given)
        own = frozenset[str]().union(*(p.own for p in given))
        split = self._split(node, loops, given, own)
        why: dict[str, OwnBecause] = {}
        for a in own:
            at = next(v for v, p in zip(node.inputs, given) if a in p.own)
            why[a] = self.why.get((at, a)) or OwnBecause("it is each device's own", at.span)
        found: dict[str, str] = dict(pending)
        summed: set[str] = set()
        for a in self.sizes:
            here = [k for k, of in enumerate(split) if any(x == a for x, _ in of)]
            if not here or a in own:
                continue
            if len(here) > 1:
                names = [loops[k].names[0] for k in here]
                why[a] = OwnBecause(messages.of_block(names, a), node.span)
                continue
            loop = loops[here[0]]
            if loop.kind in ("sum", "max") and not loop.placed:
                found[a] = loop.kind
                summed.add(a)
            elif loop.kind != "pass" or loop.placed:
                why[a] = OwnBecause(messages.of_loop(node.op, loop, a), node.span)
            elif any(o.zigzag for _, o in split[here[0]]) and (odd := _odd(node, loop)):
                why[a] = OwnBecause(messages.of_odd(odd, a), node.span)
        own = frozenset(why)
        for j, out in enumerate(node.outputs):
            dims: dict[str, Split] = {}
            for _k, (loop, of) in enumerate(zip(loops, split)):
                name = loop.outs[j]
                kept = tuple((a, o) for a, o in of if a not in why or loop.kind == "pass")
                if name is not None and kept and name not in dims:
                    dims[name] = kept
            self.known[out] = Pieces(dims, {a: fn for a, fn in found.items() if a not in own}, own)
            self.why.update(((out, a), w) for a, w in why.items())

    def _pending(self, node: Node, given: Sequence[Pieces]) -> dict[str, str]:
        """The axes along which what is pending stays so."""
        found: dict[str, str] = {}
        for a in self.sizes:
            of = {i: p.pending[a] for i, p in enumerate(given) if a in p.pending}
            if not of:
                continue
            first = node.inputs[min(of)]
            if set(of.values()) == {"max"}:
                if not node.op.passes_max(len(of) == len(given)):
                    raise messages.needs_sum(node, first, a, given[min(of)])
                found[a] = "max"
                continue
            groups = [g for g in node.op.linear(len(given)) if set(of) <= g]
            fits = [g for g in groups if all(i in of or given[i].constant == 0 for i in g)]
            if not fits or set(of.values()) != {"sum"}:
                others = [i for g in groups for i in sorted(g) if i not in of and given[i].constant != 0]
                if others:
                    raise messages.added_often(node, node.inputs[others[0]], first, a, self.sizes[a])
                raise messages.needs_sum(node, first, a, given[min(of)])
            for i, p in enumerate(given):
                if i not in fits[0] and a in p.axes:
                    raise messages.needs_sum(node, first, a, given[min(of)], node.inputs[i])
            found[a] = "sum"
        return found

    def _split(self, node: Node, loops: Sequence[Loop], given: Sequence[Pieces], own: frozenset[str]) -> list[Split]:
        """The axes along which the pieces of each loop lie."""
        found: list[Split] = []
        walked: list[set[str]] = [set() for _ in given]
        for loop in loops:
            holders: list[tuple[int, Split]] = []
            for i, (name, pieces) in enumerate(zip(loop.ins, given)):
                if name is None or pieces.constant is not None or name in walked[i]:
                    continue  # a later part of a dim: its pieces are those of the first
                walked[i].add(name)
                holders.append((i, pieces.dims.get(name, ())))
            certain = [(i, tuple((a, o) for a, o in of if a not in own)) for i, of in holders]
            for i, of in certain[1:]:
                if of != certain[0][1]:
                    raise messages.do_not_match(node, loop, certain[0], (i, of))
            more: dict[str, Owner] = {}
            for a in own:  # of what is each device's own, pieces are known along some dims
                known = [(i, tuple(x for x in of if x[0] == a)) for i, of in holders]
                known = [(i, of) for i, of in known if of or a not in given[i].own]
                for i, of in known[1:]:
                    if of != known[0][1]:
                        raise messages.do_not_match(node, loop, known[0], (i, of))
                more.update(known[0][1] if known else ())
            found.append((*(certain[0][1] if certain else ()), *more.items()))
        for k, loop in enumerate(loops):  # what is merged behind others lies in no piece
            if loop.kind == "minor" and found[k] and all(loops[m].size == 1 for m in majors(loops, k)):
                first = majors(loops, k)[0]
                found[first], found[k] = found[k], ()
        return found

    # --- what is written ------------------------------------------------------------------------------------

    def _written(self, node: Node, op: WrittenMessage) -> None:
        if isinstance(op, WrittenRank):
            out = node.output
            self.known[out] = Pieces(own=frozenset({op.axis}))
            self.why[out, op.axis] = OwnBecause(f"`rank({op.axis})` differs from device to device", node.span)
            return
        (x,) = node.inputs
        found = self.known[x]
        a, dims, pending = op.axis, dict(found.dims), dict(found.pending)
        if isinstance(op, WrittenClaim):
            self.known[node.output] = self._claimed(node, op, found)
            self.why.update(((node.output, b), self.why[x, b]) for b in found.own - {a} if (x, b) in self.why)
            return
        if isinstance(op, WrittenShift):
            self.known[node.output] = self._shifted(node, op, found)
            self.why.update(((node.output, b), self.why[x, b]) for b in found.own if (x, b) in self.why)
            return
        if a in found.own:
            raise messages.own_sent(node, op, x, self.why.get((x, a)))
        for b in found.own:
            if (x, b) in self.why:
                self.why[node.output, b] = self.why[x, b]
        if isinstance(op, WrittenAllReduce | WrittenReduceScatter) and pending.pop(a, None) != op.fn:
            raise messages.nothing_pending(node, op, x, found)
        if isinstance(op, WrittenAllGather | WrittenAllToAll):
            split = dims.pop(op.dim, ())
            if a not in [b for b, _ in split]:
                raise messages.not_split(node, op, x, found)
            if split[-1][0] != a:
                raise messages.not_minor(node, op, x, [b for b, _ in split])
            if split[-1][1].zigzag != op.zigzag:
                raise messages.in_another_order(node, op, x, split[-1][1])
            if not split[-1][1].own:
                raise messages.of_others(node, op, x, split[-1][1])
            if split[:-1]:
                dims[op.into if isinstance(op, WrittenAllGather) else op.dim] = split[:-1]
        if isinstance(op, WrittenShard) and a in found.axes:
            raise messages.not_whole(node, op, x, found)
        into = {WrittenReduceScatter: "dim", WrittenAllToAll: "into", WrittenShard: "dim"}.get(type(op))
        if into is not None:
            name = getattr(op, into)
            zigzag = op.into_zigzag if isinstance(op, WrittenAllToAll) else op.zigzag  # type: ignore[attr-defined]
            if zigzag and dims.get(name):
                raise messages.order_inside(node, op, x, name)
            dims[name] = (*dims.get(name, ()), (a, MINE_IN_ZIGZAG if zigzag else MINE))
        self.known[node.output] = Pieces(dims, pending, found.own)

    def _claimed(self, node: Node, op: WrittenClaim, found: Pieces) -> Pieces:
        a, (x,) = op.axis, node.inputs
        if a not in found.own:
            raise messages.known_already(node, op, x, found)
        dims = {d: tuple((b, o) for b, o in of if b != a) for d, of in found.dims.items()}
        pending = dict(found.pending)
        if op.dim:
            if op.zigzag and dims.get(op.dim):
                raise messages.order_inside(node, op, x, op.dim)
            dims[op.dim] = (*dims.get(op.dim, ()), (a, MINE_IN_ZIGZAG if op.zigzag else MINE))
        else:
            pending[a] = "sum"
        return Pieces({d: of for d, of in dims.items() if of}, pending, found.own - {a})

    def _shifted(self, node: Node, op: WrittenShift, found: Pieces) -> Pieces:
        a, (x,) = op.axis, node.inputs
        if a not in found.axes:
            raise messages.same_everywhere(node, op, x)

        def moved(of: Split) -> Split:
            return tuple((b, o.shifted(op.by, op.devices) if b == a else o) for b, o in of)

        return Pieces({d: moved(of) for d, of in found.dims.items()}, found.pending, found.own)

    def _stated(self, node: Node, op: WrittenType) -> None:
        (x,) = node.inputs
        found, said = self.known[x], dict(op.pieces)
        for dim in x.type.names:
            if found.constant is None and found.split(dim) != said.get(dim, ()):
                raise messages.stated_otherwise(node, x, dim, said.get(dim, ()), found)
        self.known[node.output] = found
        self.why.update(((node.output, a), self.why[x, a]) for a in found.own if (x, a) in self.why)

    # --- loops ----------------------------------------------------------------------------------------------

    def _loop(self, node: Node, op: Repeat) -> None:
        """The body is followed until nothing changes; whose pieces it works on may grow with the iterations."""
        given = [self.known[v] for v in node.inputs]
        carried = given[: op.carries]
        for p in given[op.carries : op.carries + op.stacks]:
            if p.dims.get(op.label):
                raise messages.split_loop(node, op.label, p.split(op.label)[0])
        for _ in range(_ROUNDS):
            for i, param in enumerate(op.body.inputs):
                outer = node.inputs[i]
                self.known[param] = carried[i] if i < op.carries else given[i]
                self.why.update(((param, a), w) for a in self.known[param].own if (w := self.why.get((outer, a))))
            self.run(op.body.nodes)
            left = [self.known[v] for v in op.body.outputs[: op.carries]]
            for param, v in zip(op.body.inputs, op.body.outputs):
                for a in self.known[v].own:
                    if (v, a) in self.why:
                        self.why.setdefault((param, a), self.why[v, a])
            new = [self._joined(node, op, i, *pair) for i, pair in enumerate(zip(carried, left))]
            if new == carried:
                break
            carried = new
        else:
            raise messages.never_the_same(node)
        for out, inside, p in zip(node.outputs, op.body.outputs, carried):
            self.known[out] = self._behind(p, op)
            self._carry_why(out, inside)
        for out, inside in zip(node.outputs[op.carries :], op.body.outputs[op.carries :]):
            p = self.known[inside]
            growing = {a for of in p.dims.values() for a, o in of if op.label in dict(o.each)}
            self.known[out] = Pieces(p.dims, p.pending, p.own | growing, p.constant)
            self._carry_why(out, inside)
            self.why.update(
                ((out, a), OwnBecause(f"each iteration of `{op.label}` has another's", node.span)) for a in growing
            )

    def _carry_why(self, out: Value, inside: Value) -> None:
        for a in self.known[out].own:
            if (inside, a) in self.why:
                self.why.setdefault((out, a), self.why[inside, a])

    def _behind(self, pieces: Pieces, op: Repeat) -> Pieces:
        dims = {
            d: tuple((a, o.after(op.label, op.count, self.sizes[a])) for a, o in of) for d, of in pieces.dims.items()
        }
        return Pieces(dims, pieces.pending, pieces.own, pieces.constant)

    def _joined(self, node: Node, op: Repeat, i: int, before: Pieces, after: Pieces) -> Pieces:
        """What a carry is at the beginning of every iteration."""
        if before.constant is not None or after.constant is not None:
            if before.constant is not None and after.constant is not None:
                return before if before.constant == after.constant else Pieces(constant=nan)
            return after if before.constant is not None else before
        own = before.own | after.own
        pending = [{a: fn for a, fn in p.pending.items() if a not in own} for p in (before, after)]
        dims: dict[str, Split] = {}
        same = pending[0] == pending[1]
        for d in before.dims.keys() | after.dims.keys():
            one, other = before.dims.get(d, ()), after.dims.get(d, ())
            if [a for a, _ in one if a not in own] != [a for a, _ in other if a not in own]:
                same = False
                break
            then = dict(other)
            split = []
            for a, o in one:
                if a in then:
                    owner = self._growing(op, a, o, then[a])
                    same = same and owner is not None
                    split.append((a, owner or o))
            if split:
                dims[d] = tuple(split)
        if not same:
            raise messages.changes_in_loop(node, op, i, before, after, self.sizes)
        return Pieces(dims, pending[0], own)

    def _growing(self, op: Repeat, axis: str, before: Owner, after: Owner) -> Owner | None:
        """Whose piece enters each iteration, if the first has that of `before` and leaves that of `after`."""
        n = self.sizes[axis]
        if before == after:
            return before
        step = (after.ahead - before.ahead) % n
        known = dict(before.each).get(op.label)
        if after.each != before.each or (known is not None and known != step):
            return None
        return before if known is not None else before.growing(op.label, step, n)


def _odd(node: Node, loop: Loop) -> str:
    """A dim that the loop walks, of which a piece is no two blocks; "" if there is none."""
    rows = (*zip(node.outputs, loop.outs), *zip(node.inputs, loop.ins))
    return next((name for v, name in rows if name is not None and v.type.size(name) % 2), "")


def _constant(node: Node, given: Sequence[Pieces]) -> float | None:
    """The number that all elements of the result are, of operands that are each one number everywhere; nan: some."""
    if not given:
        return node.op.uniform()
    if node.op.selects() or isinstance(node.op, Cast):
        return given[0].constant if len(given) == 1 else nan
    zero = isinstance(node.op, Map) and node.op.fn in ("neg", "mul") and any(p.constant == 0 for p in given)
    return 0.0 if zero else nan


def check_graph(
    graph: Graph, inputs: Iterable[Pieces], sizes: Mapping[str, int], spans: Sequence[Span]
) -> tuple[Pieces, ...]:
    """How the results relate to the whole, of what enters as `inputs` say. spans: where each result is returned."""
    checker = Checker(sizes)
    checker.known.update(zip(graph.inputs, inputs, strict=True))
    checker.run(graph.nodes)
    return tuple(checker.result(v, s) for v, s in zip(graph.outputs, spans, strict=True))
