"""Ways to break a program, for tests of whatever must notice: the verifier, the comparison with the serial program.

Each mutation keeps the program printable. Its name begins with its kind, one of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from compiler.graph import Graph, Node, Value, names_of
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.comm import AllGather, AllReduce, Comm, ReduceScatter, Shard
from compiler.ops.effects import Accumulate, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.elementwise import Map
from compiler.ops.neighbours import ShiftAcross
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.program import Affine, DeviceClass, For, Function, Program, Run
from compiler.regions.region import Region, RegionKind
from compiler.walk import called

KINDS = {
    "drop": "a collective is left out",
    "still": "elements that move on to the next piece stay where they are",
    "axis": "a collective runs over another axis",
    "unreduced": "a reduce_scatter only cuts",
    "gather": "a reduction only gathers",
    "join": "the sum between stages is left out",
    "apart": "a reduction between stages is left out by all of them",
    "peer": "a message goes the other way",
    "skip": "an action on a micro-batch is left out",
    "stale": "a buffer keeps its old contents",
    "lost": "a value is not saved, or a gradient not accumulated",
    "swap": "two saved values of one type are taken for each other",
    "scale": "a factor is left out",
    "max": "a sum becomes a maximum",
}

UNSEEN = ("scale", "swap", "max", "still")
"""Kinds that may give a legal program, which computes something else."""

Path = tuple[int, ...]
Edit = tuple[str, Callable[[Node, Program], "list[Node] | Value | None"]]
"""Kind, and what becomes of the instruction: others, the operand in place of the result, or no mutation."""


def mutations(program: Program) -> Iterator[tuple[str, Program]]:
    """(what was done, the broken program), for every place where it can be done."""
    for c, cls in enumerate(program.classes):
        for f, function in enumerate(cls.functions):
            for path, instr in _places(function.body, ()):
                for kind, edit in _EDITS:
                    made = edit(instr, program)
                    if made is not None:
                        body = _edited(function.body, path, made)
                        values = ", ".join(names_of((*instr.inputs, *instr.outputs)))
                        where = f"class {c}, {function.phase}.{function.chunk}"
                        yield f"{kind}: {instr.op.mnemonic} {values} ({where})", _with(program, c, f, body)
            yield from _swapped_loads(program, c, f, function)
            yield from _stale_writes(program, c, f, function)
        yield from _skipped(program, c, cls)
    yield from _apart(program)


def _places(body: Graph, path: Path) -> Iterator[tuple[Path, Node]]:
    functions = {id(g) for g in called(body.nodes)}  # each at its first call
    for i, instr in enumerate(body.nodes):
        yield (*path, i), instr
        if isinstance(instr.op, Repeat) or (isinstance(instr.op, Call) and id(instr.op.body) in functions):
            functions.discard(id(instr.op.body))
            yield from _places(instr.op.body, (*path, i))


def _with(program: Program, c: int, f: int, body: Graph) -> Program:
    cls = program.classes[c]
    functions = (*cls.functions[:f], replace(cls.functions[f], body=body), *cls.functions[f + 1 :])
    return _with_class(program, c, replace(cls, functions=functions))


def _with_class(program: Program, c: int, cls: DeviceClass) -> Program:
    return program.with_classes((*program.classes[:c], cls, *program.classes[c + 1 :]))


def _edited(body: Graph, path: Path, made: list[Node] | Value) -> Graph:
    i, rest = path[0], path[1:]
    instr = body.nodes[i]
    if rest:
        assert isinstance(instr.op, Repeat | Call)
        inner = replace(instr.op, body=_edited(instr.op.body, rest, made))
        return replace(body, nodes=(*body.nodes[:i], replace(instr, op=inner), *body.nodes[i + 1 :]))
    if isinstance(made, list):
        return replace(body, nodes=(*body.nodes[:i], *made, *body.nodes[i + 1 :]), regions=_without(body, instr))
    old, new = instr.outputs[0], made
    after = tuple(replace(n, inputs=_renamed(n.inputs, old, new)) for n in body.nodes[i + 1 :])
    nodes, outputs = (*body.nodes[:i], *after), _renamed(body.outputs, old, new)
    return replace(body, nodes=nodes, outputs=outputs, regions=_without(body, instr))


def _without(body: Graph, instr: Node) -> tuple[Region, ...]:
    """The body's regions but for the fused one that the instruction was in."""
    names = set(names_of(instr.outputs))
    return tuple(r for r in body.regions if r.kind is not RegionKind.FUSED or not names & set(r.values))


def _renamed(values: Sequence[Value], old: Value, new: Value) -> tuple[Value, ...]:
    return tuple(new if v is old else v for v in values)


# --- edits of one instruction --------------------------------------------------------------------


def _drop(instr: Node, program: Program) -> Value | None:
    op = instr.op
    if not isinstance(op, Comm) or isinstance(op, ShiftAcross):
        return None
    sizes = program.sizes
    axes: tuple[str, ...] = getattr(op, "axes", ())
    return instr.inputs[0] if not axes or any(sizes[a] > 1 for a in axes) else None


def _still(instr: Node, program: Program) -> Value | None:
    """The layout stays as it was, so that only the values tell."""
    return instr.inputs[0] if isinstance(instr.op, ShiftAcross) else None


def _axis(instr: Node, program: Program) -> list[Node] | None:
    op = instr.op
    if not isinstance(op, (AllReduce, ReduceScatter)):
        return None
    others = [a.name for a in program.axes if a.kind == "mesh" and a.size > 1 and a.name not in op.axes]
    return [replace(instr, op=replace(op, axes=(others[0],)))] if others else None


def _unreduced(instr: Node, program: Program) -> list[Node] | None:
    op = instr.op
    if not isinstance(op, ReduceScatter) or all(program.sizes[a] == 1 for a in op.axes):
        return None
    return [replace(instr, op=Shard(op.dim, op.axes))]


def _gather(instr: Node, program: Program) -> list[Node] | None:
    op = instr.op
    if not isinstance(op, (AllReduce, ReduceScatter)) or all(program.sizes[a] == 1 for a in op.axes):
        return None
    dims = instr.outputs[0].type.names
    dim = op.dim if isinstance(op, ReduceScatter) else dims[0] if dims else ""
    return [replace(instr, op=AllGather(dim, op.axes))] if dim else None


def _join(instr: Node, program: Program) -> Value | None:
    return instr.inputs[0] if isinstance(instr.op, StageReduce) and len(instr.op.groups) > 1 else None


def _peer(instr: Node, program: Program) -> list[Node] | None:
    if isinstance(instr.op, Send):
        return [replace(instr, op=replace(instr.op, to=-instr.op.to))]
    if isinstance(instr.op, Recv):
        return [replace(instr, op=replace(instr.op, source=-instr.op.source))]
    return None


def _lost(instr: Node, program: Program) -> list[Node] | None:
    return [] if isinstance(instr.op, (Save, Accumulate)) else None


def _stale(instr: Node, program: Program) -> list[Node] | None:
    return [] if isinstance(instr.op, Write) else None


def _scale(instr: Node, program: Program) -> Value | None:
    """A factor that is not 1, of a value (not of a literal)."""
    op = instr.op
    if isinstance(op, Map) and op.fn in ("mul", "div") and len(instr.inputs) == 1:
        literal = next((s for s in op.slots if s is not None), 1)
        if literal != 1 and (op.fn == "mul" or op.slots[0] is None):
            return instr.inputs[0]
    return None


def _max(instr: Node, program: Program) -> list[Node] | None:
    op: Op = instr.op
    if isinstance(op, (Reduce, AllReduce, ReduceScatter, StageReduce)) and op.fn == "sum":
        return [replace(instr, op=replace(op, fn="max"))]
    return None


_EDITS: tuple[Edit, ...] = (
    ("drop", _drop),
    ("still", _still),
    ("axis", _axis),
    ("unreduced", _unreduced),
    ("gather", _gather),
    ("join", _join),
    ("peer", _peer),
    ("lost", _lost),
    ("stale", _stale),
    ("scale", _scale),
    ("max", _max),
)

# --- edits of more than one ----------------------------------------------------------------------


def _swapped_loads(program: Program, c: int, f: int, function: Function) -> Iterator[tuple[str, Program]]:
    """Neighbouring loads of equal type and layout change places."""
    instrs = function.body.nodes
    loads = [i for i, n in enumerate(instrs) if isinstance(n.op, Load)]
    for i, j in pairwise(loads):
        a, b = instrs[i], instrs[j]
        assert isinstance(a.op, Load) and isinstance(b.op, Load)
        u, v = a.outputs[0], b.outputs[0]
        if (u.type, u.layout) == (v.type, v.layout) and a.op.name != b.op.name:
            changed = [*instrs]
            changed[i], changed[j] = replace(a, op=b.op), replace(b, op=a.op)
            name = f"swap: {a.op.name} and {b.op.name} (class {c}, {function.phase}.{function.chunk})"
            yield name, _with(program, c, f, replace(function.body, nodes=tuple(changed)))


def _stale_writes(program: Program, c: int, f: int, function: Function) -> Iterator[tuple[str, Program]]:
    """A write moves in front of another reader of what it overwrites."""
    instrs = function.body.nodes
    made = {v: i for i, n in enumerate(instrs) for v in n.outputs}
    reads = {n.op.name: n.outputs[0] for n in instrs if isinstance(n.op, Read)}
    for i, n in enumerate(instrs):
        if not isinstance(n.op, Write) or n.op.name not in reads:
            continue
        alias, at = reads[n.op.name], made[n.inputs[0]] + 1
        if any(alias in later.inputs for later in instrs[at:i]):
            changed = (*instrs[:at], n, *instrs[at:i], *instrs[i + 1 :])
            yield (
                f"stale: {n.op.name} is written too early (class {c})",
                _with(program, c, f, replace(function.body, nodes=changed)),
            )


def _skipped(program: Program, c: int, cls: DeviceClass) -> Iterator[tuple[str, Program]]:
    """One element of the schedule runs one micro-batch less."""
    for i, e in enumerate(cls.schedule):
        if isinstance(e, Run):
            less: Run | For = replace(e, high=Affine(e.high.base - 1, e.high.slope))
        elif isinstance(e, For):
            less = replace(e, count=Affine(e.count.base - 1, e.count.slope))
        else:
            continue
        schedule = (*cls.schedule[:i], less, *cls.schedule[i + 1 :])
        yield f"skip: element {i} of the schedule (class {c})", _with_class(program, c, replace(cls, schedule=schedule))


def _apart(program: Program) -> Iterator[tuple[str, Program]]:
    """All stages alike do without a reduction between them."""
    update = [i.op for cls in program.classes for f in cls.functions for i in f.body.nodes]
    for key in dict.fromkeys(op.key for op in update if isinstance(op, StageReduce) and len(op.groups) > 1):
        broken = program
        for c, cls in enumerate(program.classes):
            for f, function in enumerate(cls.functions):
                for i, instr in enumerate(function.body.nodes):
                    if isinstance(instr.op, StageReduce) and instr.op.key == key:
                        broken = _with(broken, c, f, _edited(function.body, (i,), instr.inputs[0]))
        yield f"apart: stage_reduce {key} (all classes)", broken
