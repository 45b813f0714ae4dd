"""Prints lowered programs: one op per line, local types, devices by class, schedules rolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.homes import Homes
from compiler.layout import Layout
from compiler.memory.tiers import FIRST
from compiler.numbering import Ranks
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.program import (
    ALL_CHUNKS,
    Affine,
    DeviceClass,
    Entry,
    For,
    Function,
    FunctionPhase,
    InputDecl,
    LoopRange,
    Program,
    Run,
    Schedule,
    StateDecl,
    phase_in,
)
from compiler.regions.fused import stretches
from compiler.text.attrs import (
    quote,
    runs,
    show_attributes,
    show_axis,
    show_dims,
    show_number,
    show_run,
    show_value,
    show_within,
)
from compiler.text.regions import FUSE, show_regions
from compiler.text.sharing import with_code_of
from compiler.walk import called

Sizes = Mapping[str, int]


def show(program: Program) -> str:
    """The text of a program; ends with a line end."""
    lines = [f"program {quote(program.name)}"]
    kinds = {"mesh": "", "place": " place", "time": " time"}
    axes = (f"{show_axis(a.name)}={a.size}{kinds.get(a.kind, ' ' + quote(a.kind))}" for a in program.axes)
    lines.append(f"mesh ({', '.join(axes)})")
    if program.homes != Homes():
        lines.append(f"stages {show_homes(program)}")
    if program.seed:
        lines.append(f"seed {program.seed}")
    lines += [show_input(i) for i in program.inputs]
    for entry in program.entries:
        if len(program.entries) > 1 or entry.name != "train_step":
            lines += ["", show_entry(entry)]
        lines += _classes(program, entry.classes)
    return "\n".join(lines) + "\n"


def show_homes(program: Program) -> str:
    """`4`, or, where they are not dealt round and round, `on (0, 1, 1, 0)`: the group of each; of several ways
    `on (0, 1), (1, 0)`."""
    homes = program.homes
    if homes == Homes.dealt(program.groups, len(homes)):
        return str(len(homes))
    ways = (", ".join(map(str, homes.groups[at : at + homes.way])) for at in range(0, len(homes), homes.way))
    return f"on {', '.join(f'({way})' for way in ways)}"


def show_entry(entry: Entry) -> str:
    """`entry evaluate(x, labels) -> loss, accuracy`."""
    given = f" -> {', '.join(map(quote, entry.outputs))}" if entry.outputs else ""
    return f"entry {quote(entry.name)}({', '.join(map(quote, entry.inputs))}){given}"


def _classes(program: Program, classes: Sequence[DeviceClass]) -> list[str]:
    sizes, lines = program.sizes, list[str]()
    shown: list[tuple[DeviceClass, list[str]]] = []
    for cls in classes:
        code = _code(cls, sizes)
        model = next((c for c, text in shown if _is_as(cls, code, c, text, sizes)), None)
        if model is None:
            shown.append((cls, code))
        lines.append("")
        lines += _class(program, cls, code, model)
    return lines


def show_input(decl: InputDecl) -> str:
    """`input tokens: int32[b=8, s=16] in 0..50`."""
    text = f"input {quote(decl.name)}: {decl.type.dtype}[{show_dims(decl.type.dims)}]"
    if decl.low is None and decl.high is None:
        return text
    return f"{text} in {'' if decl.low is None else decl.low}..{'' if decl.high is None else decl.high}"


# --- classes -------------------------------------------------------------------------------------


def _class(program: Program, cls: DeviceClass, code: Sequence[str], model: DeviceClass | None) -> list[str]:
    """`model`: an earlier class whose code this one has, but for the iterations of its loops."""
    given = "" if model is None else f" as {_stages(model)}"
    lines = [f"stage {_stages(cls)}: devices {show_devices(program, cls.groups)}{given} {{"]
    lines += [f"  {_range(r)}" for r in cls.ranges]
    lines += code if model is None else ()
    lines.append("  schedule {")
    lines += [f"    {line}" for line in _schedule(cls.schedule)]
    lines += ["  }", "}"]
    return lines


def _stages(cls: DeviceClass) -> str:
    return ", ".join(show_run(*r) for r in runs(cls.groups))


def _code(cls: DeviceClass, sizes: Sizes) -> list[str]:
    """States and functions."""
    lines = [f"  {_state(s, sizes)}" for s in cls.states]
    for function in cls.functions:
        lines += _function(function, sizes)
    return lines


def _is_as(cls: DeviceClass, code: list[str], other: DeviceClass, text: list[str], sizes: Sizes) -> bool:
    """Whether the code of a class is that of the other one, but for iterations. Texts are compared: -0.0 is not 0.0."""
    if len(code) != len(text) or not code:
        return False
    same = with_code_of(cls, other)
    return same is not None and code == (text if same.functions is other.functions else _code(same, sizes))


def show_devices(program: Program, groups: Sequence[int]) -> str:
    """The devices of the groups: numbers count mesh and place axes major to minor, time left out.

    Ranges include both ends. Where the place axes are not the major ones a group is a row of equal blocks:
    `0..3 + 8*(0..63)`.
    """
    ranks = Ranks.of(program)
    meshes = [(a.size, ranks.strides[a.name]) for a in ranks.axes if a.kind != "place"]
    starts = [ranks.base(g) for g in groups]
    block = 1
    while meshes and meshes[-1][1] == block:
        block *= meshes.pop()[0]
    blocks = ", ".join(show_run(first, last + block - 1) for first, last in _joined(starts, block))
    factors = [f"{stride}*({show_run(0, size - 1)})" for size, stride in meshes if size > 1]
    return " + ".join([blocks, *factors])


def _joined(starts: Sequence[int], block: int) -> list[tuple[int, int]]:
    """(first, last) starts of rows of blocks that lie side by side."""
    found: list[tuple[int, int]] = []
    for s in starts:
        if found and s == found[-1][1] + block:
            found[-1] = (found[-1][0], s)
        else:
            found.append((s, s))
    return found


def _range(r: LoopRange) -> str:
    chunk, w = f" chunk {r.chunk}" if r.chunk else "", r.within
    inside = "" if w is None else f" in {quote(w.label)} {w.total} from {w.first}"
    return f"loop {quote(r.dim)}: {r.count} of {r.total} from {show_affine(r.first)}{inside}{chunk}"


def _state(s: StateDecl, sizes: Sizes) -> str:
    text = f"{s.role} {quote(s.name)}: {show_type(s.type, s.layout, sizes)}"
    if s.init is not None:
        args = f"({', '.join(map(show_number, s.init.args))})" if s.init.args else ""
        text += f" = {quote(s.init.kind)}{args}"
    text += show_within(s.within)
    if s.memory != FIRST:
        text += f" in {quote(s.memory)}"
    if s.cache is not None:
        text += f" cache {s.cache.rows}" + ("" if s.cache.hits is None else f" hits {show_number(s.cache.hits)}")
    if s.logical != s.name:
        text += f" of {quote(s.logical)}"
    if s.whole:
        text += f" part of {quote(s.whole)}"
    for i in s.iterations:
        text += f" iteration {i.first} of {quote(i.label)} {i.total}"
    if s.numbers:
        text += f" at {quote(s.numbers)}"
    if s.chunk:
        text += f" chunk {s.chunk}"
    return f"{text} frozen" if s.frozen else text


def _function(f: Function, sizes: Sizes) -> list[str]:
    """A function, behind those that it calls."""
    shown = in_function(sizes, f.phase)
    before = [f"  {line}" for g in called(f.body.nodes) for line in show_graph(g, shown, f"fn {quote(g.name)}")]
    return [*before, f"  fn {_action(f.phase, f.chunk)} {{", *_instrs(f.body, "    ", shown), "  }"]


def _action(phase: FunctionPhase, chunk: int) -> str:
    return f"{phase}.{'*' if chunk == ALL_CHUNKS else chunk}" if chunk else phase


# --- instructions --------------------------------------------------------------------------------

Show = Callable[[Value, Op | None], str]
"""A value where it is defined: by an op, or (None) as a parameter."""


def in_function(sizes: Sizes, function: FunctionPhase) -> Show:
    """Values of a function of a program: local sizes, and the phase where it is not that of the function."""
    return lambda v, op: show_var(v, sizes, phase_in(function, op))


def show_body(body: Graph, sizes: Sizes, function: FunctionPhase = FunctionPhase.FORWARD) -> str:
    """The instructions of a body of a function, one per line."""
    return "\n".join(_instrs(body, "", in_function(sizes, function)))


def show_instr(instr: Node, sizes: Sizes, function: FunctionPhase = FunctionPhase.FORWARD) -> str:
    """One instruction of a function; a loop is shown with its body."""
    return "\n".join(_instr(instr, "", in_function(sizes, function)))


def show_var(var: Value, sizes: Sizes, phase: Phase = Phase.FORWARD) -> str:
    """`%name: type` with local sizes, where it lies, and what it is for if that is not `phase`."""
    where = "" if var.memory == FIRST else f" in {quote(var.memory)}"
    text = f"%{quote(var.name)}: {show_type(var.type, var.layout, sizes)}{where}"
    return text if var.origin.phase is phase else f"{text} {var.origin.phase}"


def show_graph(graph: Graph, shown: Show, title: str) -> list[str]:
    """Lines of a graph by itself: parameters, nodes, results."""
    lines = [f"{title} ("]
    lines += [f"  {shown(v, None)}," for v in graph.inputs]
    lines += [") {", *_instrs(graph, "  ", shown), f"  yield {_names(graph.outputs)}".rstrip(), "}"]
    return lines


def show_type(type: Type, layout: Layout, sizes: Sizes) -> str:
    """Local sizes and axes: `f32[b=4/mb/dp, s=16/tp, d=64] pending(tp sum)`; `v=13/tp of 50` where padded."""
    return _show_type(type, layout, tuple([sizes.get(a, 1) for axes in layout.dims for a in axes]))


@lru_cache(1 << 12)
def _show_type(type: Type, layout: Layout, parts: tuple[int, ...]) -> str:
    """`parts`: into how many each axis of the layout splits its dim."""
    if not layout.axes and not layout.halo:
        return f"{type.dtype}[{show_dims(type.dims)}]"
    borders = {i: (left, right) for i, left, right in layout.halo}
    sizes = dict(zip((a for axes in layout.dims for a in axes), parts, strict=True))
    shown = [
        _dim(dim, axes, borders.get(i), sizes) for i, (dim, axes) in enumerate(zip(type.dims, layout.dims, strict=True))
    ]
    text = f"{type.dtype}[{', '.join(shown)}]"
    if layout.pending:
        text += f" pending({', '.join(f'{show_axis(a)} {quote(fn)}' for a, fn in layout.pending)})"
    return text


def _dim(dim: Dim, axes: Sequence[str], border: tuple[int, int] | None, sizes: Sizes) -> str:
    n = prod([sizes[a] for a in axes])
    local = -(-dim.size // n)
    text = f"{quote(dim.name)}={local + sum(border or ())}" + "".join([f"/{show_axis(a)}" for a in axes])
    if local * n != dim.size:
        text += f" of {dim.size}"
    if border is not None:
        text += f" halo({border[0]}, {border[1]})"
    return text


def _instrs(body: Graph, indent: str, shown: Show) -> list[str]:
    lines: list[str] = []
    at = 0
    for first, last in stretches(body) if body.regions else ():
        for instr in body.nodes[at:first]:
            lines += _instr(instr, indent, shown)
        lines.append(f"{indent}{FUSE} {{")
        for instr in body.nodes[first : last + 1]:
            lines += _instr(instr, indent + "  ", shown)
        lines.append(indent + "}")
        at = last + 1
    for instr in body.nodes[at:]:
        lines += _instr(instr, indent, shown)
    return lines + [indent + line for line in show_regions(body)]


def _instr(instr: Node, indent: str, shown: Show) -> list[str]:
    op = instr.op
    results = ", ".join([shown(v, op) for v in instr.outputs])
    head = f"{indent}{results} = " if results else indent
    if isinstance(op, Repeat):
        return _repeat(op, instr, head, indent, shown)
    if isinstance(op, Call):
        given = f"{_names(instr.inputs)} " if instr.inputs else ""
        return [f"{head}call {quote(op.body.name)} {given}at {quote(op.at)}"]
    if isinstance(op, Map):
        if sum(s is None for s in op.slots) != len(instr.inputs):
            raise ValueError(f"{op.fn} has {len(instr.inputs)} operands for its slots {op.slots}")
        operands = iter(instr.inputs)
        slots = (f"%{quote(next(operands).name)}" if s is None else show_value(s) for s in op.slots)
        return [f"{head}{quote(op.fn)} {', '.join(slots)}".rstrip()]
    given = _names(instr.inputs)
    return [f"{head}{op.mnemonic}{' ' if given else ''}{given}{show_attributes(op, instr.outputs)}"]


def _names(values: Sequence[Value]) -> str:
    return ", ".join([f"%{quote(v.name)}" for v in values])


def _repeat(op: Repeat, instr: Node, head: str, indent: str, shown: Show) -> list[str]:
    flag = (" scan" if op.scan else "") + (" reverse" if op.reverse else "")
    path = f" as {quote(op.body.name)}" if op.body.name != op.label else ""
    lines = [f"{head}repeat {quote(op.label)} {op.count}{flag}{path} ("]
    for i, (param, source) in enumerate(zip(op.body.inputs, instr.inputs)):
        how = "=" if i < op.carries else "each" if i < op.carries + op.stacks else "with"
        lines.append(f"{indent}  {shown(param, None)} {how} %{quote(source.name)},")
    lines.append(f"{indent}) {{")
    lines += _instrs(op.body, indent + "  ", shown)
    lines.append(f"{indent}  yield {_names(op.body.outputs)}".rstrip())
    lines.append(f"{indent}}}")
    return lines


# --- schedule ------------------------------------------------------------------------------------


def show_affine(a: Affine) -> str:
    """`3`, `4*g`, `3 - g`."""
    if a.slope == 0:
        return str(a.base)
    times = "" if abs(a.slope) == 1 else f"{abs(a.slope)}*"
    if a.base == 0:
        return f"{'-' if a.slope < 0 else ''}{times}g"
    return f"{a.base} {'-' if a.slope < 0 else '+'} {times}g"


def show_schedule(schedule: Schedule) -> str:
    """A rolled schedule, one element per line; ranges exclude their end."""
    return "\n".join(_schedule(schedule))


def _schedule(schedule: Schedule) -> list[str]:
    lines = []
    for element in schedule:
        if isinstance(element, Run):
            index = show_affine(element.low)
            if element.high != Affine(element.low.base + 1, element.low.slope):
                index += f"..{show_affine(element.high)}"
            lines.append(f"{_action(element.action, element.chunk)}[{index}]")
        elif isinstance(element, For):
            steps = " ".join(
                f"{_action(name, chunk)}[{_step(element.stride, offset)}]" for name, chunk, offset in element.steps
            )
            lines.append(f"for i in 0..{show_affine(element.count)} {{ {steps} }}")
        else:
            lines.append(FunctionPhase.UPDATE)
    return lines


def _step(stride: int, offset: Affine) -> str:
    text = "i" if stride == 1 else f"{stride}*i"
    if offset == Affine(0):
        return text
    shown = show_affine(offset)
    return f"{text} - {shown[1:]}" if shown.startswith("-") else f"{text} + {shown}"
