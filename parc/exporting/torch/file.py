"""`export_torch`: the file as a whole: head, mesh, library, functions and buffers of each class, and what runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import parc.exporting.torch.comm
import parc.exporting.torch.emitters
import parc.exporting.torch.packed  # noqa: F401 (all enter their emitters)
from compiler.declared import bounded, logical, logical_type, range_of
from compiler.graph import Node, Type
from compiler.layout import TIME
from compiler.numbering import Ranks
from compiler.ops.comm import Comm
from compiler.ops.effects import Send, StageReduce
from compiler.origin import Role
from compiler.program import (
    ALL_CHUNKS,
    LASTING,
    Affine,
    DeviceClass,
    For,
    Function,
    FunctionPhase,
    Program,
    Run,
    StateDecl,
)
from compiler.walk import bodies
from parc.exporting.torch import running
from parc.exporting.torch.both import fused_both
from parc.exporting.torch.derived import Derived, derived
from parc.exporting.torch.entries import namespace
from parc.exporting.torch.function import FunctionWriter, Written, called_body, listed_buffers
from parc.exporting.torch.library import library
from parc.exporting.torch.writer import DTYPES, Identifiers, Writer, number, prose, quoted, string, tuple_of

RESULTS = (Role.LOSS, Role.METRIC, Role.REPORT)
"""Roles of buffers that a step tells of."""


def export_torch(program: Program) -> str:
    """The program as a file that needs PyTorch alone: it runs the first entry, and can be asked for the others.

    On several devices one process runs for each (`torchrun`), and all run this text: where there are several classes of
    devices, each has functions of its own.
    """
    helpers: dict[str, None] = {}
    found: dict[str, list[_Class]] = {}
    for entry in program.entries:
        alone, several = program.only(entry.name), len(entry.classes) > 1
        space = namespace(entry.name) if found else ""
        found[entry.name] = [_Class(alone, cls, helpers, several, space) for cls in entry.classes]
    texts = [c.text() for classes in found.values() for c in classes]
    first, *others = ([(c.name, c.cls) for c in classes] for classes in found.values())
    further = dict(zip([*found][1:], others))
    run = running.text(program, first, _results(program), further)
    used = library([*helpers, *run.helpers])
    parts = [_head(program, used), _mesh(program), *used, *texts, *run.parts]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _results(program: Program) -> dict[str, str]:
    """Buffers of losses, metrics and reports, and what they are called."""
    states = (s for e in program.entries for c in e.classes for s in c.states if s.role in RESULTS)
    return {s.name: logical(s) for s in states}


def _head(program: Program, used: Sequence[str]) -> str:
    n = program.devices
    how = f"torchrun --nproc-per-node {n} FILE" if n > 1 else "python FILE"
    several = n > 1
    title = f"{program.name.capitalize()}: a program that parc lowered, for PyTorch alone, on {n} device"
    mesh = ", ".join(f"{a.name}={a.size}" for a in program.axes if a.kind != "time")
    lines = [
        f'"""{prose(title)}{"s" * several}.',
        *(("", f"Mesh: {prose(mesh)}.") if several else ()),
        "",
        f"    {how} --steps 10",
        "",
        "Each function is one of the program, with its names; behind each value stand the type and the layout of the",
        "piece that a device has: `b=4/dp` is a dim of which each along `dp` has 4. Replace `batches` by your own.",
        '"""',
        "",
        "import argparse",
        *(["import functools"] if any("functools." in text for text in used) else ()),
        *("import math", "import os", "", "import torch"),
        *(("import torch.distributed as dist", "import torch.distributed._functional_collectives as funcol") * several),
        "import torch.nn.functional as functional",
        *_renamed(used),
    ]
    return "\n".join(lines)


def _renamed(used: Sequence[str]) -> list[str]:
    """Functions of PyTorch under the names that they have since 2.13."""
    names = {"all_gather_single": "all_gather_tensor", "reduce_scatter_single": "reduce_scatter_tensor"}
    lines = [
        f'{new} = getattr(funcol, "{new}", None) or funcol.{old}  # before 2.13'
        for new, old in names.items()
        if any(f"{new}(" in text for text in used)
    ]
    return ["", *lines] if lines else []


def _mesh(program: Program) -> str:
    ranks = Ranks.of(program)
    sizes = ", ".join(f"{string(a.name)}: {a.size}" for a in program.axes)
    lines = [f"SEED = {program.seed}", f"TIME = {string(TIME)}", f"SIZES = {{{sizes}}}"]
    local = 'int(os.environ.get("LOCAL_RANK", 0))'
    cpu = 'torch.device("cpu")'
    lines.append(f'DEVICE = torch.device("cuda", {local}) if torch.cuda.is_available() else {cpu}')
    if program.devices == 1:
        return "\n".join([*lines, "AT, GROUP = {}, 0"])
    strides = ", ".join(f"{string(a.name)}: {ranks.strides[a.name]}" for a in ranks.axes)
    lines += [
        f"WORLD, STRIDES, PLACES = {program.devices}, {{{strides}}}, {quoted(ranks.places) if ranks.places else '()'}",
        'RANK = int(os.environ.get("RANK", 0))',
        "AT = {axis: RANK // stride % SIZES[axis] for axis, stride in STRIDES.items()}",
        "GROUP = 0",
        "for _axis in PLACES:",
        "    GROUP = GROUP * SIZES[_axis] + AT[_axis]",
        f"AXES = [{', '.join(map(quoted, _axes(program)))}]  # along which devices send",
        f"STAGE_GROUPS = [{', '.join(map(_groups, _between(program)))}]  # that reduce with each other",
        f"CHANNELS = [{', '.join(map(string, _channels(program)))}]  # messages between stages",
        "GROUPS, BETWEEN, CHANNEL = {}, {}, {}",
    ]
    if program.groups > 1:
        lines.append(f"HOMES = {tuple_of(map(str, program.homes.groups))}  # the group of each stage")
    return "\n".join(lines)


def _nodes(program: Program) -> Iterator[Node]:
    for cls in (c for e in program.entries for c in e.classes):
        for f in cls.functions:
            for body in bodies(f.body):
                yield from body.nodes
                for inner in map(called_body, (n.op for n in body.nodes)):
                    yield from (n for b in bodies(inner) for n in b.nodes) if inner is not None else ()


def _axes(program: Program) -> list[tuple[str, ...]]:
    found = (n.op.over() for n in _nodes(program) if isinstance(n.op, Comm) and n.op.message)
    return sorted(set(found))


def _groups(groups: Sequence[int]) -> str:
    return tuple_of(map(str, groups))


def _between(program: Program) -> list[tuple[int, ...]]:
    found = {n.op.groups for n in _nodes(program) if isinstance(n.op, StageReduce)}
    return sorted(found | set(running.summed_results(program).values()))


def _channels(program: Program) -> list[str]:
    return sorted({n.op.name for n in _nodes(program) if isinstance(n.op, Send)})


class _Class:
    """Of the devices of one class: buffers, functions and schedule, in a namespace of their own if there are others.

    A name in the file is that of the program: `F`, `B`, `U`; `F_1` of the second chunk. space: the namespace of another
    entry than the first.
    """

    def __init__(
        self, program: Program, cls: DeviceClass, helpers: dict[str, None], several: bool, space: str = ""
    ) -> None:
        self.own = derived(program, cls)
        self.program, self.cls, self.helpers = program, cls if self.own is not None else fused_both(cls), helpers
        self.functions, self.called = Identifiers(), dict[int, str]()
        stage = "stage_" + "_".join(map(str, (cls.groups[0], cls.groups[-1])[: len(cls.groups)])) if several else ""
        self.name = "_".join(part for part in (space, stage) if part)
        self.tells = bool(space) or bool(_results(program))

    def text(self) -> str:
        """Everything of the class."""
        parts = [self._buffers()]
        written = {}
        listed = listed_buffers(self.cls.functions)
        own = self.own
        for f in self.cls.functions:
            space = f"{self.name}." if self.name else ""
            writer = Writer(
                self.program,
                self.cls,
                f.phase.at(f.chunk),
                self.helpers,
                own is not None,
                space,
                self.functions,
                self.called,
            )
            writer.trained = set(own.gradients.values()) if own is not None else ()
            name = action(f)
            if own is not None and f.phase is FunctionPhase.BACKWARD:
                written[name] = _derivative(own, space)
            elif own is not None and f.phase is FunctionPhase.FORWARD:
                written[name] = FunctionWriter(writer, set(), own.loss).write(own.forward, name)
            else:
                written[name] = FunctionWriter(writer, listed).write(f, name)
            parts.append("\n".join(written[name].lines))
        trained = ", ".join(f"{string(g)}: {string(w)}" for g, w in own.gradients.items()) if own is not None else ""
        parts.append(f"TRAINED = {{{trained}}}  # gradients that PyTorch derives, and of what")
        parts += [self._outputs()] if not self.tells else []
        parts += [self._within()] if any(map(bounded, (c for e in self.program.entries for c in e.classes))) else []
        parts += [self._asks(written), self._schedule()]
        if not self.name:
            return "\n\n\n".join(parts)
        groups = ", ".join(map(str, self.cls.groups))
        each = [part for text in parts for part in text.split("\n\n\n")]
        body = "\n\n".join("    @staticmethod\n" * p.startswith("def") + _indented(p) for p in each)
        what = f"What device groups {groups} run for `{self.program.entries[0].name}`."
        return f'class {self.name}:\n    """{prose(what)}"""\n\n{body}'

    def _buffers(self) -> str:
        lines = [
            "BUFFERS = {  # what lives across steps: name, its hash, whole shape, the axes that split it, how it begins"
        ]
        lines += [f"    {string(s.name)}: ({self._buffer(s)})," for s in self.cls.states if s.role in LASTING]
        return "\n".join([*lines, "}"])

    def _within(self) -> str:
        """The states of integers that stay in a range."""
        own = [f"{string(s.name)}: ({s.within[0]}, {s.within[1]})" for s in self.cls.states if s.within is not None]
        return f"WITHIN = {{{', '.join(own)}}}  # where the integers of states stay: beyond, a step means nothing"

    def _outputs(self) -> str:
        """What the model puts out: names, whole shapes, the axes that split them, of a loop's iterations those that are
        here, and whether each micro-batch has a part of its own."""
        lines = [
            "OUTPUTS = {  # what the model puts out, as `BUFFERS`, and whether each micro-batch has a part of its own"
        ]
        for s in self.cls.states:
            if s.role is Role.OUTPUT:
                r = range_of(s, self.cls)
                loop = f"({s.type.index(r.dim)}, {affine(r.start)}, {r.count})" if r is not None else "None"
                own, axes, whole = TIME in s.layout.split_axes, _axes_of(s.layout.dims), logical_type(s, self.cls)
                name = string(logical(s))
                lines.append(f"    {string(s.name)}: ({name}, {_shape(whole)}, {axes}, {loop}, {own}),")
        return "\n".join([*lines, "}"])

    def _buffer(self, s: StateDecl) -> str:
        r = range_of(s, self.cls)
        type = logical_type(s, self.cls)
        kind, args = (s.init.kind, s.init.args) if s.init is not None else ("zeros", ())
        name = logical(s)
        axes = tuple_of([quoted(a) if a else "()" for a in s.layout.dims]) if s.layout.dims else "()"
        init = f"{string(kind)}, {tuple_of(map(number, args)) if args else '()'}"
        text = f"{string(name)}, {crc32(name.encode())}, {_shape(type)}, {axes}, {DTYPES[s.type.dtype]}, {init}"
        if r is not None:
            text += f", ({s.type.index(r.dim)}, {affine(r.start)}, {r.count})"
        if s.iterations:
            text += f"{', None' if r is None else ''}, {tuple_of([str(i.first) for i in s.iterations])}"
        return text

    def _asks(self, written: dict[str, Written]) -> str:
        """What each function takes: whole inputs with the axes that split them, saved values, messages."""
        lines = ["ASKS = {  # of each function: inputs, what was saved (and whether this is its last use), messages"]
        for name, w in written.items():
            known = {i.name for i in self.program.inputs}
            inputs = [
                f"{string(k)}: ({string(n)}, {_axes_of(v.layout.dims)})" for k, (n, v) in w.inputs.items() if n in known
            ]
            inputs += [f"{string(k)}: ({string(n)}, None)" for k, (n, _) in w.inputs.items() if n not in known]
            loads = [f"{string(k)}: {last}" for k, last in w.loads.items()]
            local = Writer(self.program, self.cls, 0, self.helpers)
            receives = [
                f"{string(k)}: ({string(n)}, {source}, {local.shape(v)}, {DTYPES[v.type.dtype]})"
                for k, (n, source, v) in w.receives.items()
            ]
            highest = f"[{', '.join(map(string, w.highest))}]"
            lines.append(f"    {string(name)}: (")
            for part in (inputs, loads, receives):
                lines += ["        {}," if not part else "        {" + ", ".join(part) + "},"]
            lines.append(f"        {highest},")
            lines.append("    ),")
        return "\n".join([*lines, "}"])

    def _schedule(self) -> str:
        chunks = len({f.chunk for f in self.cls.functions if f.phase.of_chunk})
        lines = ["def schedule(run):", '    """The order of a step: which function runs on which micro-batch."""']
        for element in self.cls.schedule:
            if isinstance(element, Run):
                once = element.high == Affine(element.low.base + 1, element.low.slope)
                call = _call(element.action, element.chunk, affine(element.low) if once else "i", chunks)
                if once:
                    lines.append(f"    {call}")
                else:
                    lines += [f"    for i in range({affine(element.low)}, {affine(element.high)}):", f"        {call}"]
            elif isinstance(element, For):
                lines.append(f"    for i in range({affine(element.count)}):")
                for step, chunk, offset in element.steps:
                    at = "i" if element.stride == 1 else f"{element.stride} * i"
                    at += "" if offset == Affine(0) else f" + {affine(offset)}"
                    lines.append(f"        {_call(step, chunk, at, chunks)}")
            else:
                lines.append('    run("U", 0)')
        return "\n".join(lines)


def _derivative(own: Derived, space: str) -> Written:
    factor = f" * {number(own.factor)}" if own.factor != 1.0 else ""
    lines = [
        "def B(i, given, state, saved):",
        '    """Backward pass, of micro-batch i: what PyTorch derives of the forward pass."""',
        f"    weights = [state[name] for name in {space}TRAINED.values()]",
        f'    found = torch.autograd.grad(saved["loss"]{factor}, weights, materialize_grads=True)',
        f"    return dict(add=dict(zip({space}TRAINED, found)))",
    ]
    return Written(lines, loads={"loss": True})


def action(f: Function) -> str:
    """`F`, `F_1`."""
    return f.phase.value + (f"_{f.chunk}" if f.chunk else "")


def _call(phase: str, chunk: int, at: str, chunks: int) -> str:
    if chunk == ALL_CHUNKS:
        return f'run(*turn("{phase}", {at}, {chunks}))'
    return f'run("{phase}{f"_{chunk}" if chunk else ""}", {at})'


def affine(a: Affine) -> str:
    """A number that depends on the group of the device."""
    if not a.slope:
        return str(a.base)
    return f"{a.base} + {a.slope} * GROUP" if a.base else f"{a.slope} * GROUP"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())


def _axes_of(dims: Sequence[Sequence[str]]) -> str:
    return tuple_of([quoted(a) if a else "()" for a in dims]) if dims else "()"


def _shape(type: Type) -> str:
    return tuple_of(map(str, type.shape)) if type.dims else "()"
