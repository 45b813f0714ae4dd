"""What a device can start before the program says so, because all that it needs is there: read off the functions.

- The update begins with reductions of gradients. One can start in the last backward pass, once nothing more is added to
  its gradient: layer by layer in a rolled loop (`reductions`).
- A loop gathers slices of weights. Those of the next iteration can be on their way while this one computes (`gathers`).

All peers run the same functions in the same order, and so start the same messages in the same order. What is computed,
and of what, is what the program says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.comm import AllGather, AllReduce, Comm, ReduceScatter
from compiler.ops.effects import Accumulate, Effect, Read, Write
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, listed
from compiler.schedules.actions import Action
from dsl.data import dataclass
from runtime.straight_line import without_calls

BUCKET = 4 << 20
"""Bytes of gradients that are reduced as one message, about: what becomes ready later waits for as much more, or for
the end of the backward pass. (DDP takes 25 MB; layers of small models would then all go at the end.)"""


MOST = 64
"""Collectives that travel as one message, at most."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A collective of the update that can start when its operand, what `buffer` holds, is complete."""

    buffer: str
    operand: Value
    op: Comm
    result: Value

    @property
    def key(self) -> tuple[str, str]:
        """Of what the update waits for."""
        return self.buffer, self.result.name

    def of_slices(self) -> Reduction | None:
        """The same of a slice of the first dim; None if it cannot be done slice by slice."""
        if not self.operand.type.dims or self.operand.layout.halo or self.operand.layout.dims[0]:
            return None
        if self.result.layout.dims[0]:
            return None
        return Reduction(self.buffer, _slice(self.operand), self.op, _slice(self.result))


def _slice(value: Value) -> Value:
    layout = Layout(value.layout.dims[1:], value.layout.pending)
    return replace(value, type=Type(value.type.dtype, value.type.dims[1:]), layout=layout)


@dataclass(frozen=True, slots=True)
class Reductions:
    """`of`: by the function whose last run completes their operands; `last`: the micro-batch of that run; `early`: by
    the names of their results in the update."""

    of: Mapping[FunctionKey, tuple[Reduction, ...]]
    last: Mapping[FunctionKey, int]
    early: Mapping[str, Reduction]


def reductions(cls: DeviceClass, order: Sequence[Action]) -> Reductions:
    """The reductions of gradients with which the update of a class begins. order: the actions of a step."""
    functions = {f.key: f for f in cls.functions}
    update = functions.get((FunctionPhase.UPDATE, 0))
    if update is None:
        return Reductions({}, {}, {})
    adds = {key: {i.op.name for i in f.body.nodes if isinstance(i.op, Accumulate)} for key, f in functions.items()}
    ends: dict[str, FunctionKey] = {}
    last: dict[FunctionKey, int] = {}
    for phase, chunk, micro in order:
        last[phase, chunk] = micro
        ends.update(dict.fromkeys(adds[phase, chunk], (phase, chunk)))
    gradients = {s.name for s in cls.states if s.role is Role.GRADIENT and not listed(s)}
    body = without_calls(update.body)
    read = {i.outputs[0].name: i.op.name for i in unchanged(body) if isinstance(i.op, Read) and i.op.name in gradients}
    of: dict[FunctionKey, tuple[Reduction, ...]] = {}
    early: dict[str, Reduction] = {}
    for instr in body.nodes:
        if not isinstance(instr.op, AllReduce | ReduceScatter):
            continue
        (operand,), (result,) = instr.inputs, instr.outputs
        buffer = read.get(operand.name)
        if buffer in ends:
            found = early[result.name] = Reduction(buffer, operand, instr.op, result)
            of[ends[buffer]] = (*of.get(ends[buffer], ()), found)
    return Reductions(of, last, early)


def unchanged(body: Graph) -> dict[Node, None]:
    """Reads of what nothing in the body has changed before: they can be done at its start."""
    found: dict[Node, None] = {}
    changed: set[str] = set()
    for instr in body.nodes:
        if isinstance(instr.op, Read) and instr.op.name not in changed:
            found[instr] = None
        elif isinstance(instr.op, Write | Accumulate):
            changed.add(instr.op.name)
    return found


def together(body: Graph, started: Collection[str]) -> list[list[Node]]:
    """Collectives that can be started at once, by the first of each set: of one kind over the same axes, with operands
    that are there before the first. started: results of those that have been."""
    defined = {v.name: -1 for v in (*body.inputs, *(v for n in unchanged(body) for v in n.outputs))}
    latest: dict[tuple[object, ...], tuple[int, list[Node]]] = {}
    found: list[list[Node]] = []
    for i, instr in enumerate(body.nodes):
        for v in instr.outputs:
            defined.setdefault(v.name, i)
        op = instr.op
        if not isinstance(op, AllGather | ReduceScatter | AllReduce) or instr.output.name in started:
            continue
        key = type(op), op.axes, getattr(op, "fn", ""), instr.outputs[0].type.dtype
        first, nodes = latest.get(key, (-1, []))
        if nodes and defined[instr.inputs[0].name] < first and len(nodes) < MOST:
            nodes.append(instr)
        else:
            latest[key] = i, [instr]
            found.append(latest[key][1])
    return [nodes for nodes in found if len(nodes) > 1]


def brought_forward(body: Graph, buffers: Collection[str]) -> dict[Node, list[Node]]:
    """Additions to these accumulators, each the only one that touches its own, by what makes the operand: they can be
    done behind it."""
    touched: dict[str, int] = {}
    made = {v.name: i for i in body.nodes for v in i.outputs}
    for instr in body.nodes:
        if isinstance(instr.op, Accumulate | Read | Write):
            touched[instr.op.name] = touched.get(instr.op.name, 0) + 1
    found: dict[Node, list[Node]] = {}
    for instr in body.nodes:
        if isinstance(instr.op, Accumulate) and instr.op.name in buffers and touched[instr.op.name] == 1:
            maker = made.get(instr.inputs[0].name)
            if maker is not None and not isinstance(maker.op, Comm | Effect):
                found.setdefault(maker, []).append(instr)
    return found


def gathers(op: Repeat, weights: Collection[str]) -> Graph | None:
    """What an iteration gathers of slices of weights, with what has to be done for it, as a graph of its own: of slices
    it makes what the rest of the iteration reads of it. None if there is nothing.

    weights: the stacks, by the names of their parameters.
    """
    there = {p.name for p in op.body.inputs[op.carries : op.carries + op.stacks] if p.name in weights}
    chosen: list[Node] = []
    for instr in op.body.nodes:
        if instr.inputs and all(v.name in there for v in instr.inputs) and _plain(instr):
            chosen.append(instr)
            there.update(v.name for v in instr.outputs)
    needed: set[str] = set()
    kept: list[Node] = []
    for instr in reversed(chosen):
        if isinstance(instr.op, AllGather) or any(v.name in needed for v in instr.outputs):
            kept.append(instr)
            needed.update(v.name for v in instr.inputs)
    if not kept:
        return None
    kept.reverse()
    nodes = [*(n for n in kept if not isinstance(n.op, Comm)), *(n for n in kept if isinstance(n.op, Comm))]
    if not _in_order(nodes):
        nodes = kept  # what is gathered is worked on and gathered again
    made = {v.name: v for n in nodes for v in n.outputs}
    if any(v.name in made for v in op.body.outputs):
        return None
    mine = set(nodes)
    read = {v.name for n in op.body.nodes if n not in mine for v in n.inputs}
    params = tuple(p for p in op.body.inputs if p.name in needed)
    return Graph("ahead", params, tuple(nodes), tuple(v for name, v in made.items() if name in read))


def _plain(instr: Node) -> bool:
    return isinstance(instr.op, AllGather) or not isinstance(instr.op, Comm | Effect | Repeat)


def _in_order(nodes: Iterable[Node]) -> bool:
    """Whether everything is made before it is read."""
    made: set[str] = set()
    later = {v.name for n in nodes for v in n.outputs}
    for n in nodes:
        if any(v.name in later and v.name not in made for v in n.inputs):
            return False
        made.update(v.name for v in n.outputs)
    return True
