"""The order of the update: what is made for a weight is there only while it is updated, and new contents replace old
ones as soon as nobody needs these. So the memory for it is that of one weight at a time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from compiler.graph import Node, names_of
from compiler.ops.effects import Read, Write
from compiler.ops.elementwise import Map


def late_values(instrs: Sequence[Node]) -> list[Node]:
    """The same instructions; element-wise ones of buffers and scalars alone stand before their first reader: buffers
    are there anyway, and clipped gradients of all weights need not be."""
    held: dict[str, Node] = {}
    found: list[Node] = []
    scalars = {v.name for i in instrs for v in i.outputs if not v.type.dims}
    known = set(scalars)
    for instr in instrs:
        if isinstance(instr.op, Read):
            known.add(instr.outputs[0].name)
        elif (
            isinstance(instr.op, Map)
            and instr.outputs[0].name not in scalars
            and all([v.name in known for v in instr.inputs])
        ):
            held[instr.outputs[0].name] = instr
            continue
        if held:
            found += [held.pop(name) for name in dict.fromkeys(names_of(instr.inputs)) if name in held]
        found.append(instr)
    return found + list(held.values())


def early_writes(instrs: Sequence[Node], together: Mapping[str, Hashable]) -> list[Node]:
    """The same instructions; the writes of buffers that go `together` (name -> group; a weight and its states) stand
    behind the last one that makes their values or reads what is in the buffers. Other writes stay at the end."""
    last: dict[Hashable, int] = {}  # group -> index of the instruction that its writes follow
    alias: dict[str, Hashable] = {}  # a value that is the buffer itself -> group
    wanted: dict[str, Hashable] = {}  # a value that is written -> group
    writes: dict[Hashable, list[Node]] = {}
    for instr in instrs:
        if isinstance(instr.op, Write) and instr.op.name in together:
            group = together[instr.op.name]
            wanted[instr.inputs[0].name] = group
            writes.setdefault(group, []).append(instr)
        elif isinstance(instr.op, Read) and instr.op.name in together:
            alias[instr.outputs[0].name] = together[instr.op.name]
    rest = [i for i in instrs if not (isinstance(i.op, Write) and i.op.name in together)]
    for at, instr in enumerate(rest):
        for v in instr.outputs:
            if v.name in wanted:
                last[wanted[v.name]] = at
        for v in instr.inputs:
            if v.name in alias:
                last[alias[v.name]] = at
    behind: dict[int, list[Node]] = {}
    for group, found in writes.items():
        behind.setdefault(last.get(group, len(rest) - 1), []).extend(found)
    return [x for at, instr in enumerate(rest) for x in (instr, *behind.get(at, ()))]
