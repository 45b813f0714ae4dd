"""Which results take the memory of an operand: those that renew a state, rows of a weight or of its states, or what
rests in another memory; and weights and their states where a fused region makes the new ones piece by piece.

A program speaks of values: `%new = scatter %cache, %rows, %index over t`, `write %new to cache`. What `read` gives is
the buffer itself, so where nothing needs the old contents any more they may be overwritten, and there is never a second
copy of the state. In a loop over a stacked state each iteration renews its own slice of the buffer. This is how
programs are run, not what they say (like `liveness.sinks`): executors and the memory accounting ask here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from compiler.graph import Graph, Node, Value
from compiler.layout import TIME
from compiler.memory.tiers import FIRST
from compiler.ops.base import Movement
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.effects import Read, Write
from compiler.ops.repeat import Repeat
from compiler.ops.rows import WriteRows
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionPhase, StateDecl
from compiler.regions.fused import FusedNodes, as_run, makes_own
from compiler.walk import bodies


class Reuse(NamedTuple):
    """operand: whose memory the result takes. copied: a stack of a loop whose slices lie elsewhere when they are made,
    and are copied there."""

    operand: int
    copied: bool = False


Reuses = dict[tuple[int, int], Reuse]
"""(identity of the node, number of its result) -> where it lies."""


def reuses(cls: DeviceClass, microbatches: int, run: bool = True) -> Reuses:
    """Of all functions of a class. Where micro-batches share a state its old contents are needed up to the last one.
    run: of bodies as they are run (`as_run`), too: what fused regions renew."""
    found: Reuses = {}
    own, rest = _renewed(cls.states, microbatches)
    for function in cls.functions:
        found |= _in_body(function.body, own, rest)
        if run and function.phase is FunctionPhase.UPDATE:
            found |= _of_function(function.body, rest, FusedNodes)
            _given(function.body, found)
    return found


def operands_of(reuses: Reuses, node: Node) -> dict[int, int]:
    """In the memory of which operands the results of a node lie, where in any."""
    return {k: r.operand for k in range(len(node.outputs)) if (r := reuses.get((id(node), k))) is not None}


def _given(body: Graph, found: Reuses) -> None:
    """Adds what the regions of called functions make in the memory of what they are given, where that is made for each
    call and nobody needs it any more (states that rest elsewhere, and have been moved here)."""
    uses = _Uses(body, frozenset(v.name for v in body.outputs), FusedNodes)
    own = {v.name for n in uses.nodes if makes_own(n) for v in n.outputs}
    free: dict[int, tuple[Graph, set[int]]] = {}
    for i, node in enumerate(uses.nodes):
        if isinstance(node.op, Call):
            mine = {j for j, v in enumerate(node.inputs) if v.name in own and _ends(uses, v.name, i, j)}
            known = free.setdefault(id(node.op.body), (node.op.body, mine))
            known[1].intersection_update(mine)
    for called, params in free.values():
        names = {called.inputs[j].name for j in params}
        inner = _Uses(called, frozenset(v.name for v in called.outputs), FusedNodes)
        for i, node in enumerate(inner.nodes):
            for k, fits in enumerate(node.op.fits if isinstance(node.op, FusedNodes) else ()):
                taken = (j for j in fits if node.inputs[j].name in names and _ends(inner, node.inputs[j].name, i, j))
                j = next(taken, None) if (id(node), k) not in found else None
                if j is not None:
                    found[id(node), k] = Reuse(j)
                    names.remove(node.inputs[j].name)


def _ends(uses: _Uses, name: str, at: int, operand: int) -> bool:
    """Whether nothing needs a value any more but a node as this operand."""
    return all(u.at < at or (u.at == at and u.operand == operand) for u in uses.of(name, at))


def renewed_of(cls: DeviceClass) -> set[int]:
    """Identities of the nodes whose results take the memory of states (or would, in a step of one micro-batch), but
    for those that renew rows, which are in no region anyway."""
    kept = any(s.role is Role.STATE or s.memory != FIRST for s in cls.states)
    return {key[0] for key in reuses(cls, 1, run=False)} if kept else set()


def reuses_of(body: Graph, states: Iterable[StateDecl], microbatches: int) -> Reuses:
    """Of one function. What updates renew is renewed in its memory where only rows of it are (`write_rows`)."""
    return _in_body(body, *_renewed(states, microbatches))


def _renewed(states: Iterable[StateDecl], microbatches: int) -> tuple[list[str], list[str]]:
    """States whose contents may be renewed in their memory, and those of which only rows may."""
    own, rest = [], []
    for s in states:
        if _renewed_there(s, microbatches):
            own.append(s.name)
        elif s.role is Role.WEIGHT or s.role is Role.OPTIMIZER:
            rest.append(s.name)
    return own, rest


def _in_body(body: Graph, own: Collection[str], rest: Collection[str]) -> Reuses:
    found = _of_function(body, own) if own else {}
    if rest and any(isinstance(n.op, WriteRows) for b in bodies(body) for n in b.nodes):
        found |= _of_function(body, rest, WriteRows)
    return found


def _renewed_there(s: StateDecl, microbatches: int) -> bool:
    """Whether its contents may be renewed in its memory, if nothing needs them any more."""
    if s.role is Role.STATE:
        return microbatches == 1 or TIME in s.layout.split_axes
    return s.memory != FIRST and s.role in (Role.WEIGHT, Role.OPTIMIZER)


Only = type[WriteRows] | type[FusedNodes] | None
"""The only ops that count, where not all do: those that renew rows, or regions, of bodies as they are run."""


def _of_function(body: Graph, states: Collection[str], only: Only = None) -> Reuses:
    reads: dict[str, list[Value]] = {}
    writes: dict[str, list[Value]] = {}
    for node in body.nodes:
        if isinstance(node.op, Read):
            reads.setdefault(node.op.name, []).append(node.outputs[0])
        elif isinstance(node.op, Write):
            writes.setdefault(node.op.name, []).append(node.inputs[0])
    found: Reuses = {}
    uses = _Uses(body, only=only)
    for name in states:
        read, written = reads.get(name, []), writes.get(name, [])
        if len(read) == len(written) == 1:
            found |= _traced(uses, read[0], written[0]) or {}
    return _by_all_calls(body, found, only)


def _by_all_calls(body: Graph, found: Reuses, only: Only) -> Reuses:
    """Without what holds for some calls of a function and not for others, which run the same nodes."""
    calls: dict[int, list[Node]] = {}
    for node in body.nodes:
        if isinstance(node.op, Call):
            calls.setdefault(id(node.op.body), []).append(node)
    for nodes in calls.values():
        results = range(len(nodes[0].outputs))
        if any(len({(id(n), k) in found for n in nodes}) > 1 for k in results):
            inside = {id(n) for b in bodies(nodes[0].op.body) for n in _nodes(b, only)}  # type: ignore[attr-defined]
            found = {key: reuse for key, reuse in found.items() if key[0] not in inside}
    return found


def _nodes(body: Graph, only: Only) -> Sequence[Node]:
    return as_run(body).nodes if only is FusedNodes else body.nodes


class _Use(NamedTuple):
    """Where memory is read: by which node of a body (its number; infinity: it leaves the body), as which operand."""

    at: float
    operand: int = -1


class _Uses:
    """Who reads the memory of each value of a body: its own readers, and those of what shares it.

    leaving: values that are carried out of the body in the memory that they have. (Other results of an iteration are
    copied when they are made.)
    """

    def __init__(self, body: Graph, leaving: Collection[str] = (), only: Only = None) -> None:
        self.leaving, self.only, self.nodes = leaving, only, _nodes(body, only)
        self.made = {v.name: (i, k) for i, node in enumerate(self.nodes) for k, v in enumerate(node.outputs)}
        self.readers: dict[str, list[_Use]] = {}
        for i, node in enumerate(self.nodes):
            for k, v in enumerate(node.inputs):
                self.readers.setdefault(v.name, []).append(_Use(i, k))

    def of(self, name: str, but: int = -1) -> Iterator[_Use]:
        """All of them; but: the number of a node whose result is another content of the memory."""
        work = [name]
        while work:
            found = work.pop()
            if found in self.leaving:
                yield _Use(inf)
            for use in self.readers.get(found, ()):
                yield use
                node = self.nodes[int(use.at)]
                if use.at == but:
                    continue
                if node.op.movement is Movement.VIEW:
                    work.append(node.outputs[0].name)
                elif isinstance(node.op, Repeat) and use.operand < node.op.carries:
                    work.append(node.outputs[use.operand].name)  # it may be carried through
                elif isinstance(node.op, Call):  # it may give what it takes
                    work += [v.name for v in node.outputs if v.memory == node.inputs[use.operand].memory]


def read_behind(body: Graph, name: str, at: int) -> bool:
    """Whether a value's memory, which the node of that number renews, is read behind it, or leaves the body."""
    uses = _Uses(body, frozenset(v.name for v in body.outputs))
    return any(use.at > at for use in uses.of(name, at))


def _traced(uses: _Uses, own: Value, result: Value) -> Reuses | None:
    """Where all that is between `own` and `result` lies, if it can lie in the memory of `own`; None if it cannot."""
    if result.name == own.name:
        return {}
    if result.name not in uses.made:
        return None
    i, k = uses.made[result.name]
    node = uses.nodes[i]
    for operand, inner in _candidates(node, k, uses.only):
        before = node.inputs[operand]
        if any(u.at > i or (u.at == i and u.operand != operand) for u in uses.of(before.name, i)):
            continue
        rest = _traced(uses, own, before)
        if rest is not None:
            return rest | inner
    return None


def _candidates(node: Node, k: int, only: Only) -> Iterator[tuple[int, Reuses]]:
    """Operands whose memory result `k` of a node may take, and what lies where then."""
    op = node.op
    if isinstance(op, Call):
        uses = _Uses(op.body, frozenset(v.name for i, v in enumerate(op.body.outputs) if i != k), only)
        for j, param in enumerate(op.body.inputs):
            within = _traced(uses, param, op.body.outputs[k])
            if within is not None and (within or only is None):
                yield j, within | {(id(node), k): Reuse(j)}
        return
    if only is not None and not isinstance(op, only):
        return
    if isinstance(op, FusedNodes):
        yield from ((j, {(id(node), k): Reuse(j)}) for j in op.fits[k])
        return
    if not isinstance(op, Repeat):
        out = node.outputs[k]
        if isinstance(op, Comm):
            return
        for j, v in enumerate(node.inputs):
            if j == op.renews or (op.pointwise and (v.type, v.layout, v.memory) == (out.type, out.layout, out.memory)):
                yield j, {(id(node), k): Reuse(j)}
        return
    carried = [v.name for v in op.body.outputs[: op.carries]]
    result = op.body.outputs[k]
    if k < op.carries:
        others = frozenset(n for i, n in enumerate(carried) if i != k)
        inner = _traced(_Uses(op.body, others), op.body.inputs[k], result)
        if inner is not None:
            yield k, inner
        return
    uses = _Uses(op.body, frozenset(carried))
    defined = uses.made.get(result.name, (-1, 0))[0]
    for j in range(op.carries, op.carries + op.stacks):
        old, new = node.inputs[j], node.outputs[k]
        if (old.type, old.layout, old.memory) != (new.type, new.layout, new.memory):
            continue
        inner = _traced(uses, op.body.inputs[j], result)
        if inner is not None:
            yield j, inner | {(id(node), k): Reuse(j)}
        elif all(u.at <= defined for u in uses.of(op.body.inputs[j].name)):
            yield j, {(id(node), k): Reuse(j, copied=True)}
