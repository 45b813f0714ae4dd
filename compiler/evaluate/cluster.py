"""`device` and `cluster`: numbers with units become bytes, seconds, FLOP/s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from compiler.evaluate import dtypes, limits, static
from compiler.evaluate.calls import bind, bind_defaults
from compiler.evaluate.expressions import evaluate, static_of
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import Call, Session, listed
from compiler.evaluate.statics import static_scope
from compiler.evaluate.values import Entry, Skip, Static
from compiler.graph import DTYPES
from compiler.model import TOPOLOGIES, Cluster, Device, Level, Memory
from dsl import ast, units
from dsl.diagnostics import ParcError, did_you_mean, fail, suggest

_KNOWN = (
    "compute",
    "memory",
    "launch",
    "cores",
    "tile",
    "cube",
    "efficiency",
    "overlap",
    "clock",
    "cache",
    "vector",
    "kernel",
)
_OTHERS = ("device", "level", "topology", "stack")


def build_cluster(session: Session, module: Module, use: ast.Call) -> Cluster:
    """The cluster of `on pod(servers = 2)`. Raises ParcError or Skip."""
    entry = module.find("cluster", use.function)
    outer = static_scope(module)
    arguments = bind(use, entry.item.parameters, f"the cluster `{entry.name}`", lambda e: evaluate(e, outer))
    scope = static_scope(entry.module)
    session.stack.append(Call(entry, use.span))
    try:
        bind_defaults(entry.item.parameters, arguments, scope)
        return _cluster(session, entry, scope)
    except ParcError as error:
        session.failed(error)
        raise Skip from None
    finally:
        session.stack.pop()


def _cluster(session: Session, entry: Entry, scope: Scope) -> Cluster:
    device: tuple[str, Device | None] | None = None  # None: erroneous, which is reported
    levels: list[Level] = []
    memories: list[Memory] = []
    stack, broken = "", False
    before = session.failures
    for statement in entry.item.body:
        try:
            match statement:
                case ast.DeviceUse():
                    if device is not None:
                        raise fail("E0313", "a cluster has one kind of devices", statement.span)
                    device = statement.name.id, None
                    device = statement.name.id, _device(session, entry.module, statement.device)
                case ast.Level():
                    below = levels[-1].name if levels else device[0] if device else None
                    if broken:  # what the level before was to be is not known: this one is not wrong, too
                        below, broken = statement.of.id, False
                    levels.append(_level(statement, below, levels, scope))
                case ast.Setting(keyword=ast.Name(id="stack")):
                    (stack,) = _names(statement, 1, "`stack megatron_2021`")
                case ast.Setting(keyword=ast.Name(id="topology")):
                    _topology(statement, levels)
                case ast.Setting():
                    memories.append(_memory(statement, memories, scope))
        except (ParcError, Skip) as error:
            session.failed(error)
            broken = broken or isinstance(statement, ast.Level)
    if session.failures > before:
        raise Skip
    name = entry.item.name
    if device is None:
        raise fail("E0313", f"the cluster `{name.id}` has no device", name.span, help="`device npu = …`")
    if not levels:
        help = f"`level server = 8 {device[0]} over 30 GB/s, 1 us`"
        raise fail("E0313", f"the cluster `{name.id}` has no level", name.span, help=help)
    assert device[1] is not None
    cluster = Cluster(name.id, device[1], tuple(levels), tuple(memories), entry.item.span, stack)
    if cluster.devices > limits.MAX_DEVICES:
        raise fail("E0908", f"the cluster has {cluster.devices} devices, the most is 10^9", name.span)
    return cluster


def _level(statement: ast.Level, below: str | None, levels: Sequence[Level], scope: Scope) -> Level:
    name = statement.name.id
    if below is None:
        raise fail("E0313", "the device stands before the levels", statement.span, help="`device npu = …`")
    if statement.of.id != below:
        message = f"a level consists of what stands before it, `{below}`, not of `{statement.of.id}`"
        raise fail("E0313", message, statement.of.span, help=f"`level {name} = … {below} over …`")
    if any(level.name == name for level in levels):
        raise fail("E0102", f"there are two levels `{name}`", statement.name.span)
    count = static.integer(evaluate(statement.count, scope), f"the count of `{below}`", statement.count.span, 1)
    bandwidth = _positive(statement.bandwidth, units.BYTES_PER_SECOND, "the bandwidth", scope)
    latency = _quantity(statement.latency, units.SECONDS, "the latency", scope)
    return Level(name, count, bandwidth, latency)


def _names(s: ast.Setting, count: int, help: str) -> tuple[str, ...]:
    """The bare names behind a keyword, which are not looked up."""
    found = [w.id for w in s.words] + [v.id for v in s.values if isinstance(v, ast.Name)]
    if len(found) != count or len(found) != len(s.words) + len(s.values) or s.clauses:
        raise fail("E0313", f"this is no `{s.keyword.id}`", s.span, help=help)
    return tuple(found)


def _topology(s: ast.Setting, levels: list[Level]) -> None:
    """`topology server full_mesh`: how the links of a level that stands before it run."""
    name, kind = _names(s, 2, "`topology server full_mesh`, after the level `server`")
    at = next((i for i, level in enumerate(levels) if level.name == name), None)
    if at is None:
        known = [level.name for level in levels]
        help = did_you_mean(name, known) or "levels stand before what is said of them"
        raise fail("E0313", f"there is no level `{name}` here", s.span, help=help)
    if kind not in TOPOLOGIES:
        help = did_you_mean(kind, TOPOLOGIES) or f"there are {listed(TOPOLOGIES)}"
        raise fail("E0313", f"there is no topology `{kind}`", s.span, help=help)
    levels[at] = replace(levels[at], topology=kind)


def _memory(statement: ast.Setting, memories: Sequence[Memory], scope: Scope) -> Memory:
    """`host memory 768 GiB, 200 GB/s over 32 GB/s`, `nvme capacity 3.2 TB over 6 GB/s`."""
    kind, words = statement.keyword.id, tuple(w.id for w in statement.words)
    forms = {"host": "memory", "nvme": "capacity"}
    if kind not in forms:
        help = did_you_mean(kind, (*_OTHERS, *forms)) or f"there are {listed((*_OTHERS, *forms))}"
        raise fail("E0313", f"a cluster has no `{kind}`", statement.keyword.span, help=help)
    if words not in ((), (forms[kind],)) or not 1 <= len(statement.values) <= 2 or len(statement.clauses) != 1:
        help = (
            "`host memory 768 GiB, 200 GB/s over 32 GB/s`" if kind == "host" else "`nvme capacity 3.2 TB over 6 GB/s`"
        )
        raise fail("E0313", f"this does not describe `{kind}` memory", statement.span, help=help)
    if any(m.kind == kind for m in memories):
        raise fail("E0102", f"there are two `{kind}` memories", statement.span)
    ((_, over),) = statement.clauses
    capacity = _positive(statement.values[0], units.BYTES, "the capacity", scope)
    link = _positive(over[0], units.BYTES_PER_SECOND, "the link", scope)
    bandwidth = link
    if len(statement.values) == 2:
        bandwidth = _positive(statement.values[1], units.BYTES_PER_SECOND, "the bandwidth", scope)
    return Memory(kind, capacity, bandwidth, link)


def _device(session: Session, module: Module, name: ast.Name) -> Device:
    entry = module.find("device", name)
    scope = static_scope(entry.module)
    arguments = bind(ast.Call(name, (), span=name.span), entry.item.parameters, f"the device `{name.id}`", _never)
    session.stack.append(Call(entry, name.span))
    try:
        bind_defaults(entry.item.parameters, arguments, scope)
        return _settings(session, entry, scope)
    except ParcError as error:
        session.failed(error)
        raise Skip from None
    finally:
        session.stack.pop()


def _never(expr: ast.Expr) -> Static:
    raise AssertionError(expr)


def _settings(session: Session, entry: Entry, scope: Scope) -> Device:
    compute: dict[str, float] = {}
    memory: tuple[float, float] | None = None
    settings: list[tuple[str, tuple[Any, ...]]] = []
    before = session.failures
    for s in entry.item.body:
        assert isinstance(s, ast.Setting)
        try:
            keyword = s.keyword.id
            if keyword == "compute":
                unit, peak = _peak(s, scope)
                if unit in compute:
                    raise fail("E0102", f"there are two peaks for `{unit}`", s.span)
                compute[unit] = peak
            elif keyword == "memory":
                if len(s.values) != 2 or s.words or s.clauses:
                    raise fail("E0313", "memory has a size and a bandwidth", s.span, help="`memory 32 GB, 1.2 TB/s`")
                size = _positive(s.values[0], units.BYTES, "the size of the memory", scope)
                memory = size, _positive(s.values[1], units.BYTES_PER_SECOND, "the bandwidth of the memory", scope)
            else:
                meant = suggest(keyword, _KNOWN) if keyword not in _KNOWN else None
                if meant:
                    raise fail("E0313", f"a device has no `{keyword}`", s.keyword.span, help=f"did you mean `{meant}`?")
                settings.append((keyword, _written(s, scope)))
        except (ParcError, Skip) as error:
            session.failed(error)
    if session.failures > before:
        raise Skip
    name = entry.item.name
    if not compute:
        help = "`compute bf16 256 TFLOP/s`"
        raise fail("E0313", f"the device `{name.id}` has no compute", name.span, help=help)
    if memory is None:
        raise fail("E0313", f"the device `{name.id}` has no memory", name.span, help="`memory 32 GB, 1.2 TB/s`")
    return Device(name.id, tuple(compute.items()), memory[0], memory[1], tuple(settings))


def _peak(s: ast.Setting, scope: Scope) -> tuple[str, float]:
    words = [w.id for w in s.words]
    if not 1 <= len(words) <= 2 or len(s.values) != 1 or s.clauses:
        help = "`compute bf16 256 TFLOP/s`, or with a unit `compute vector f32 8 TFLOP/s`"
        raise fail("E0313", "compute has a dtype and a peak", s.span, help=help)
    if words[-1] not in DTYPES:
        help = dtypes.meant(words[-1], DTYPES)
        raise fail("E0207", f"there is no dtype `{words[-1]}`", s.words[-1].span, help=help)
    return ".".join(words), _positive(s.values[0], units.FLOP_PER_SECOND, "the peak", scope)


def _written(s: ast.Setting, scope: Scope) -> tuple[Any, ...]:
    """Words, then values (quantities keep their dimension), then clauses as (keyword, values)."""
    values = [static_of(evaluate(v, scope), v.span) for v in s.values]
    clauses = [(k.id, tuple(static_of(evaluate(v, scope), v.span) for v in vs)) for k, vs in s.clauses]
    return (*(w.id for w in s.words), *values, *clauses)


def _quantity(expr: ast.Expr, dimension: units.Dimension, what: str, scope: Scope) -> float:
    value = static.quantity(evaluate(expr, scope), dimension, what, expr.span)
    if value < 0:
        raise fail("E0206", f"{what} must not be negative", expr.span)
    return value


def _positive(expr: ast.Expr, dimension: units.Dimension, what: str, scope: Scope) -> float:
    value = _quantity(expr, dimension, what, scope)
    if value <= 0:
        raise fail("E0206", f"{what} must be above 0", expr.span)
    return value
