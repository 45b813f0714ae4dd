"""`fused`: the functions of a class of devices with one op for each part that PyTorch has one kernel for.

Forms are looked for in each body, their derivatives in the bodies that know what is kept of them. A form that leaves
behind what it was to replace, since something else needs that, is let be: it would only add work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Node, Value
from compiler.ops.base import Op
from compiler.ops.effects import Load
from compiler.origin import Role
from compiler.program import MODEL_PASSES, DeviceClass, Function, FunctionPhase, StateDecl
from compiler.regions.reading import Reading
from compiler.walk import bodies
from runtime.straight_line import without_calls
from runtime.torch.fusing.activation import activations
from runtime.torch.fusing.attention import attentions
from runtime.torch.fusing.bodies import Body, Chunk, Step, finished
from runtime.torch.fusing.forward import placed_attentions, tanh_gelus
from runtime.torch.fusing.found import Candidate, Fresh, Put
from runtime.torch.fusing.loss import losses
from runtime.torch.fusing.norm import norms
from runtime.torch.fusing.ops import FusedOp
from runtime.torch.fusing.sums import summed
from runtime.torch.fusing.update import updated

Finder = Callable[[Reading, Reading, Sequence[Node], Fresh], Iterator[Candidate]]
"""From a body as it is read, all of a chunk's bodies, and the body's nodes."""

FINDERS: tuple[Finder, ...] = (norms, activations, attentions, losses)

FORWARD: tuple[Finder, ...] = (placed_attentions, tanh_gelus)
"""Of chunks without a backward pass, besides."""

CPU_ONLY = (attentions, placed_attentions)


def fused(cls: DeviceClass, device: str) -> DeviceClass:
    """The class with fused ops. device: the kind of torch device, for what not all have."""
    cls = with_fused_passes(cls, device)
    updates = [replace(f, body=updated(f.body, cls)) for f in cls.functions if f.phase is FunctionPhase.UPDATE]
    found = {f.key: f for f in updates}
    functions = [found.get(f.key, f) for f in cls.functions]
    return replace(cls, functions=tuple(replace(f, body=summed(without_calls(f.body))) for f in functions))


def with_fused_passes(cls: DeviceClass, device: str) -> DeviceClass:
    """The class with fused ops in the passes of each chunk, but not in the update; sums of products are written out."""
    derived = any(f.phase is FunctionPhase.BACKWARD for f in cls.functions)
    finders = [f for f in (*FINDERS, *(() if derived else FORWARD)) if device == "cpu" or f not in CPU_ONLY]
    found: dict[tuple[object, int], Function] = {}
    states = list(cls.states)
    for chunk in sorted({f.chunk for f in cls.functions if f.phase in MODEL_PASSES}):
        mine = [f for phase in MODEL_PASSES for f in cls.functions if f.key == (phase, chunk)]
        mine = [replace(f, body=without_calls(f.body)) for f in mine]
        loaded = {n.op.name for f in mine for n in f.body.nodes if isinstance(n.op, Load)}
        saved = {s.name: s for s in cls.states if s.role is Role.SAVED and s.name in loaded}
        made, added = _chunk(mine, saved, finders)
        found.update({f.key: f for f in made})
        states += added
    return replace(cls, functions=tuple(found.get(f.key, f) for f in cls.functions), states=tuple(states))


def _chunk(
    functions: Sequence[Function], saved: Mapping[str, StateDecl], finders: Sequence[Finder]
) -> tuple[tuple[Function, ...], list[StateDecl]]:
    """The functions of a chunk, and what they keep besides."""
    left_out: set[str] = set()
    while True:
        chunk = Chunk.of(functions, saved)
        put = [c for c in candidates(chunk, finders) if c.name not in left_out]
        if not put:
            return tuple(functions), []
        renamed: dict[Value, Value] = {}
        failed = {c.name for c in put if not _apply(chunk, c, renamed)}
        if not failed:
            made = finished(chunk, functions, {*saved, *(s.name for s in chunk.states)})
            there = {v for f in made for body in bodies(f.body) for n in body.nodes for v in n.outputs}
            failed = {c.name for c in put if any(v in there for v in c.inside)}
            if not failed:
                return made, chunk.states
        left_out |= failed


class Yield(Op):
    """What a body gives."""


def all_bodies(body: Body) -> list[Body]:
    """The body and those of its loops."""
    inner = [b for s in body.steps if s.inner is not None for b in all_bodies(s.inner)]
    return [body, *inner]


def candidates(chunk: Chunk, finders: Sequence[Finder]) -> list[Candidate]:
    """All forms, by the values that they begin with: what is kept of a value is that value."""
    found: list[Candidate] = []
    by_body = {}
    everything: list[Node] = []
    for top in chunk.tops.values():
        for body in all_bodies(top):
            nodes = [Node(s.of.op, tuple(map(chunk.canonical, s.inputs)), tuple(s.outputs)) for s in body.steps]
            by_body[body] = nodes
            everything += nodes
            everything.append(Node(Yield(), tuple(map(chunk.canonical, body.outputs)), ()))
    joint = Reading.of(everything)
    for nodes in by_body.values():
        of = Reading.of(nodes)
        for finder in finders:
            found += finder(of, joint, nodes, chunk.fresh)
    return found


# --- putting them in ------------------------------------------------------------------------------------


def _apply(chunk: Chunk, candidate: Candidate, renamed: dict[Value, Value]) -> bool:
    """Put a form and its derivatives in their places; whether all they take in is there."""
    return all(_put(chunk, put, renamed) for put in (candidate.forward, *candidate.backward))


def _put(chunk: Chunk, put: Put, renamed: dict[Value, Value]) -> bool:
    body = chunk.home[put.outputs[0]]
    for v in put.outputs:
        if chunk.home.setdefault(v, body) is not body:
            return False
    given: list[Value] = []
    for v in put.inputs:
        while v in renamed:
            v = renamed[v]
        found = chunk.available(v, body)
        if found is None:
            return False
        given.append(found)
    taken = {v for s in body.steps if isinstance(s.of.op, FusedOp) for v in s.outputs}  # norms may share a derivative
    outputs = tuple(chunk.place(chunk.fresh(v, "too"), body) if v in taken else v for v in put.outputs)
    gone = {*outputs, *(old for old, _ in put.alias)}
    body.steps = [s for s in body.steps if not gone.intersection(s.outputs)]
    made = {v: i for i, s in enumerate(body.steps) for v in s.outputs}
    at = 1 + max((made.get(v, -1) for v in given), default=-1)
    if any(v in outputs for s in body.steps[:at] for v in s.inputs):
        return False
    body.steps.insert(at, Step(Node(put.op, tuple(given), outputs), given, list(outputs)))
    for old, new in put.alias:
        renamed[old] = new
        for s in body.steps:
            s.inputs = [new if v is old else v for v in s.inputs]
        body.outputs = [new if v is old else v for v in body.outputs]
    return True
