"""Declarations: which data come in, what buffers begin with, and that a tensor is declared in one way wherever it is.

What executors take for granted: they make data of the ranges, fill each lasting buffer by its initialiser, and put
together by logical names what the stages hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.declared import logical, logical_type
from compiler.graph import RANGES, Type
from compiler.initial import KINDS, misfit, wrong_init
from compiler.layout import TIME
from compiler.model import Init
from compiler.origin import Role
from compiler.program import LASTING, DeviceClass, InputDecl, Program, StateDecl
from compiler.text.attrs import show_within
from compiler.text.locations import HEAD, Site
from compiler.verify.report import Report
from compiler.verify.sizes import wrong_type
from dsl.diagnostics import did_you_mean

NUMBERS = (Role.LOSS, Role.METRIC, Role.REPORT)
"""Roles of buffers that hold a single number."""

_MADE_UP = 2
"""So many integers are in the range of data of which only the lower end is stated, or none."""


def check_declarations(program: Program, report: Report) -> None:
    """Inputs and buffers of a program whose frame is fine."""
    for k, i in enumerate(program.inputs):
        site = Site(HEAD, "input", k)
        for code, message, help in wrong_type(i.type):
            report.error(code, site, f"input {i.name}: {message}", help)
        problem = _range(i)
        if problem is not None:
            report.error("E0671", site, f"input {i.name}: {problem}", "`in LOW..HIGH` are integers of its type")
    for c, cls in enumerate(program.classes):
        for at, s in enumerate(cls.states):
            site = Site(c, "state", at)
            for code, message, help in (*wrong_type(s.type), *_state(s)):
                report.error(code, site, f"{s.role} {s.name}: {message}", help)
            if s.numbers and (problem := _list(s, cls)) is not None:
                report.error("E0674", site, f"{s.role} {s.name}: {problem}", _LIST)
    if not report.failed:
        _check_alike(program, report)


def _range(i: InputDecl) -> str | None:
    if i.low is None and i.high is None:
        return None
    low = 0 if i.low is None else i.low
    return _outside(i.type, low, low + _MADE_UP if i.high is None else i.high)


def _outside(type: Type, low: int, high: int) -> str | None:
    """Why there is no such range of a type's integers."""
    if type.dtype not in RANGES:
        return f"{type.dtype} has no range of integers"
    least, most = RANGES[type.dtype]
    if low >= high:
        return f"no integer is in {low}..{high}"
    if low < least or high - 1 > most:
        return f"{low}..{high} is beyond {type.dtype}, which reaches from {least} to {most}"
    return None


def _state(s: StateDecl) -> Iterator[tuple[str, str, str | None]]:
    """What is wrong with a buffer by itself: code, message, help."""
    if s.role in LASTING:
        problem = "it does not say how it begins" if s.init is None else _init(s.init, s.type)
        if problem is not None:
            near = None if s.init is None or s.init.kind in KINDS else did_you_mean(s.init.kind, KINDS)
            yield "E0670", problem, near or "`= normal(0.02)`; also zeros, ones, constant(x), uniform(low, high)"
        if s.within is not None and (wrong := _outside(s.type, *s.within)) is not None:
            yield "E0671", wrong, "`within 0..49`: integers of its type"
        if (wrong := _iterations(s)) is not None:
            yield "E0650", wrong, "`part of block.w iteration 2 of block 3`: its tensor has that dim in front"
        if s.layout.halo:
            yield "E0613", "it lives across steps, and has borders", "`halo` fetches borders where they are needed"
    elif s.init is not None or s.within is not None:
        begins = "an initialiser" if s.init is not None else "a range"
        yield "E0670", "it begins a step with nothing", f"only {', '.join(LASTING)} have {begins}"
    if s.role in NUMBERS and s.type.dims:
        yield "E0674", f"it is {s.type}", f"{', '.join(NUMBERS)} are single numbers"


def _iterations(s: StateDecl) -> str | None:
    """What is wrong with the iterations that a buffer is of."""
    labels = [i.label for i in s.iterations]
    for i in s.iterations:
        if not i.first < i.total:
            return f"there is no iteration {i.first} of {i.label}, which has {i.total}"
        if s.type.has(i.label) or labels.count(i.label) > 1:
            return f"it is of one iteration of {i.label}, and has that dim besides"
    return "it is of one iteration, and part of nothing" if labels and not s.whole else None


_LIST = (
    "`gradient t.grad: f32[b=8, e=4] of t at t.index`: rows of `t`, with as many numbers in `rows t.index: int32[b=8]`"
)


def _list(s: StateDecl, cls: DeviceClass) -> str | None:
    """What is wrong with a list of rows."""
    index = next((o for o in cls.states if o.name == s.numbers and o.role is Role.ROWS), None)
    if index is None:
        return f"there are no {Role.ROWS} {s.numbers} here"
    weight = next((o for o in cls.states if o.role is Role.WEIGHT and o.logical == s.logical), None)
    if weight is None or s.role is not Role.GRADIENT:
        return "it is no gradient of a weight that is here"
    own = [d for d in s.type.dims if d not in index.type.dims]
    others = [d for d in weight.type.dims if not s.type.has(d.name)]
    rows = {*own, *others} == set(weight.type.dims) and len(others) == 1
    at = {n: axes for n, axes in zip(index.type.names, index.layout.dims, strict=True)}
    laid = all(axes == at.get(n, axes) for n, axes in zip(s.type.names, s.layout.dims, strict=True))
    if index.type.dtype != "int32" or len(own) + len(index.type.dims) != len(s.type.dims) or not rows:
        return f"{s.type} are no rows of {weight.type}, by {index.type}"
    return None if laid and index.chunk == s.chunk else f"its rows and their numbers in {s.numbers} do not correspond"


def _init(init: Init, type: Type) -> str | None:
    if init.kind not in KINDS:
        return f"`{init.kind}` is no initialiser"
    if (wrong := wrong_init(init)) is not None:
        return wrong
    unfit = misfit(init, type.dtype)
    return None if unfit is None else unfit[1]


def _check_alike(program: Program, report: Report) -> None:
    """Buffers of one logical name are parts or copies of one tensor."""
    known: dict[tuple[str, str], tuple[object, StateDecl, DeviceClass]] = {}
    loss: str | None = None
    for c, cls in enumerate(program.classes):
        for at, s in enumerate(cls.states):
            if s.role in (Role.SAVED, Role.STATISTIC, Role.ROWS) or s.numbers:
                continue
            lasting = s.role in LASTING
            kind, meaning = ("", _meaning(s, cls)) if lasting else (s.role, logical_type(s, cls))
            first, other, there = known.setdefault((kind, logical(s)), (meaning, s, cls))
            if first != meaning:
                report.error("E0674", Site(c, "state", at), _difference(s, cls, other, there), _ALIKE)
            if s.role is Role.LOSS:
                loss = loss or logical(s)
                if logical(s) != loss:
                    help = "a program has one; others are metrics"
                    report.error("E0674", Site(c, "state", at), f"a second loss, {logical(s)} beside {loss}", help)


_ALIKE = "copies and parts of a tensor, in whichever stages they are, have one role, one type and one initialiser"


def _meaning(s: StateDecl, cls: DeviceClass) -> object:
    parted = s.role is Role.STATE and TIME in s.layout.split_axes
    return s.role, logical_type(s, cls), s.init, s.within, s.frozen, parted


def _difference(s: StateDecl, cls: DeviceClass, other: StateDecl, there: DeviceClass) -> str:
    def told(s: StateDecl, cls: DeviceClass) -> str:
        begins = f" = {s.init}" if s.init is not None else ""
        begins += show_within(s.within)
        return f"{s.role} of {logical_type(s, cls)}{begins}{' frozen' if s.frozen else ''}"

    here, elsewhere = told(s, cls), told(other, there)
    how = f"{here} here, {elsewhere}" if here != elsewhere else "split over the micro-batches here, but not"
    return f"{logical(s)} is {how} elsewhere"
