"""The moment at which a device's memory is fullest: in which action, and everything that is alive then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.graph import Type
from compiler.layout import Layout, local_type
from compiler.memory.action import Where, declared
from compiler.memory.lifetimes import TracedMemory
from compiler.memory.occupancy import summit
from compiler.origin import Role
from compiler.program import FunctionKey, Program
from compiler.schedules import Action, ActionLoop
from compiler.text.printer import show_type
from compiler.walk import walk
from dsl.data import dataclass

Item = tuple[str, str, int, int]
"""(name, role, bytes of one, how many)."""


@dataclass(frozen=True, slots=True)
class Alive:
    """A value by its path in the model: its role, the bytes of all that there are of it, how many (one for each
    micro-batch in flight, if it is saved), and the type of a device's piece of it ("" if nothing tells it)."""

    name: str
    role: str
    bytes: int
    count: int
    type: str


@dataclass(frozen=True, slots=True)
class Fullest:
    """One memory of the devices of a group. action: None if it is fullest before the first; where: the place in the
    program ("B in block at q.grad"); alive: all that there is, the largest first: their bytes are the peak."""

    group: int
    memory: str
    peak: int
    roles: Mapping[str, int]
    action: Action | None
    where: Where
    alive: tuple[Alive, ...]


def traced(program: Program, group: int) -> TracedMemory:
    """The memory of the class of a group."""
    return TracedMemory(program, next(c for c in program.classes if group in c.groups))


def fullest(memory: TracedMemory, group: int, kind: str) -> Fullest:
    """The first moment at which the devices of a group of the class need most of a memory."""
    top = summit(memory, group, kind)
    items = [(name, r, n, 1) for (m, r), things in memory.static.items() if m == kind for name, n in things]
    action, before = top.action, top.before
    if action is not None:
        items += _of_others(memory, group, kind, before, action)
        items += _own(memory, kind, before, action, bool(top.where))
    types = _types(memory, action)
    sizes = memory.program.sizes
    there = [item for item in items if item[2]]
    alive = [
        Alive(n, role, count * size, count, _shown(types, sizes, n, size, memory.narrow))
        for n, role, size, count in there
    ]
    alive.sort(key=lambda a: -a.bytes)
    return Fullest(group, kind, top.peak, top.roles, action, top.where, tuple(alive))


def _of_others(
    memory: TracedMemory, group: int, kind: str, before: tuple[ActionLoop, ...], action: Action
) -> Iterator[Item]:
    """What earlier actions have accumulated or put out, and what is saved for other micro-batches than the action's."""
    for name in sorted(_accumulated(memory, before)):
        if memory.states[name].memory == kind:
            yield name, memory.states[name].role, *declared(memory.states[name], memory.sizes)
    shown: set[str] = set()  # what is saved and put out as well
    for variant in dict.fromkeys(v[:2] for v in memory.replays):
        lives = memory.lives(next(v for v in memory.replays if v[:2] == variant))
        made = _runs(before, variant)
        for b in lives.outputs:
            shown |= {name for name, saved in lives.saved.items() if saved is b}
            if b.memory == kind and made:
                yield b.name, Role.OUTPUT, b.bytes, made
    for bundle in memory.bundles(group):
        if bundle.memory == kind and not bundle.names & shown:
            flying = _runs(before, bundle.origin) - _runs(before, bundle.death)
            if action.chunk == bundle.origin[1]:  # the action's own is not one of the others
                flying -= _ran(before, bundle.origin, action.mb) and not _ran(before, bundle.death, action.mb)
            if flying:
                yield min(bundle.names), Role.SAVED, bundle.bytes, flying


def _runs(before: tuple[ActionLoop, ...], key: FunctionKey) -> int:
    """How often a function has run."""
    return sum(loop.count * loop.keys.count(key) for loop in before)


def _ran(before: tuple[ActionLoop, ...], key: FunctionKey, mb: int) -> bool:
    """Whether it has run on a micro-batch."""
    return any(a[:2] == key and loop.runs(a, mb) for loop in before for a in loop.steps)


def _own(
    memory: TracedMemory, kind: str, before: tuple[ActionLoop, ...], action: Action, inside: bool
) -> Iterator[Item]:
    """What the action's micro-batch holds: at the action's fullest moment, or (not `inside`) as it begins."""
    accumulated = _accumulated(memory, before)
    effect = memory.effect(action.kind, action.chunk, accumulated)
    if inside:
        yield from ((name, role, size, 1) for name, role, size in effect.peaks[kind].alive)
        return
    lives = memory.lives((action.kind, action.chunk, _first_to_set(memory, before, action)))
    mine = (b for b in lives.given if b.memory == kind and not b.static and not b.accumulator)
    yield from ((b.name, Role.SAVED, b.bytes, 1) for b in mine)


def _first_to_set(memory: TracedMemory, before: tuple[ActionLoop, ...], action: Action) -> frozenset[str]:
    """The accumulators that the action sets."""
    return memory.touched[action.kind, action.chunk] - _accumulated(memory, before)


def _accumulated(memory: TracedMemory, before: tuple[ActionLoop, ...]) -> set[str]:
    kinds = {key for loop in before if loop.count for key in loop.keys}
    return {name for key in kinds for name in memory.touched[key]}


def _types(memory: TracedMemory, action: Action | None) -> dict[str, list[tuple[Type, Layout]]]:
    """What a name may stand for: a value of the action, a buffer of the device, a value of another function."""
    functions = list(memory.functions.values())
    if action is not None:
        functions.sort(key=lambda f: f.key != (action.kind, action.chunk))
    found: dict[str, list[tuple[Type, Layout]]] = {}
    for i, function in enumerate(functions):
        for instr, _ in walk(function.body):
            for var in instr.outputs:
                found.setdefault(var.name, []).append((var.type, var.layout))
        for decl in memory.states.values() if not i else ():
            found.setdefault(decl.name, []).append((decl.type, decl.layout))
    return found


def _shown(
    types: Mapping[str, list[tuple[Type, Layout]]], sizes: Mapping[str, int], name: str, size: int, narrow: str
) -> str:
    """The first type of the name that has these bytes on a device, as it is or narrowed."""
    for type, layout in types.get(name, ()):
        if local_type(type, layout, sizes).bytes == size:
            return show_type(type, layout, sizes)
    for type, layout in types.get(name, ()) if narrow else ():
        narrowed = Type(narrow, type.dims)
        if type.is_float and local_type(narrowed, layout, sizes).bytes == size:
            return show_type(narrowed, layout, sizes)
    return ""
