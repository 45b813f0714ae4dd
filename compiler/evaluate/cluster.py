"""`cluster`: levels and memories; numbers with units become bytes and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.evaluate import limits, static
from compiler.evaluate.calls import bind, built
from compiler.evaluate.devices import build_device, positive, quantity
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import Session, listed
from compiler.evaluate.software import check_stack, foreign_stack
from compiler.evaluate.statics import static_scope
from compiler.evaluate.values import Defined, Skip
from compiler.memory.tiers import EXAMPLES, HOST, Memory
from compiler.model import TOPOLOGIES, Cluster, Device, Level
from dsl import ast, units
from dsl.diagnostics import ParcError, did_you_mean, fail

_OTHERS = ("device", "level", "topology", "stack")


def build_cluster(session: Session, module: Module, use: ast.Call) -> Cluster:
    """The cluster of `on pod(servers = 2)`. Raises ParcError or Skip."""
    entry = module.find("cluster", use.function)
    outer = static_scope(module)
    arguments = bind(use, entry.item.parameters, f"the cluster `{entry.name}`", lambda e: evaluate(e, outer))
    return built(session, entry, use.span, arguments, static_scope(entry.module), _cluster)


def _cluster(session: Session, entry: Defined, scope: Scope) -> Cluster:
    device: tuple[str, Device | None] | None = None  # None: erroneous, which is reported
    levels: list[Level] = []
    memories: list[Memory] = []
    processors: list[tuple[float, ast.Setting]] = []
    stack: tuple[ast.Setting, str] | None = None
    broken = False
    before = session.failures
    for statement in entry.item.body:
        try:
            match statement:
                case ast.DeviceUse():
                    if device is not None:
                        raise fail("E0313", "a cluster has one kind of devices", statement.span)
                    device = statement.name.id, None
                    device = statement.name.id, build_device(session, entry.module, statement.device)
                case ast.Level():
                    below = levels[-1].name if levels else device[0] if device else None
                    if broken:  # what the level before was to be is not known: this one is not wrong, too
                        below, broken = statement.of.id, False
                    levels.append(_level(statement, below, levels, scope))
                case ast.Setting(keyword=ast.Name(id="stack")):
                    if stack is not None:
                        raise fail("E0102", "there are two stacks", statement.span)
                    help = "`stack megatron_2021`"
                    if any(w.id == "like" for w in (*statement.words, *statement.values) if isinstance(w, ast.Name)):
                        named, of = next((w.id for w in statement.words), "mine"), device[0] if device else "…"
                        help = f"`like` stands in the device, `device {of} {{ … }}`; the cluster has `stack {named}`"
                    stack = statement, _names(statement, 1, help)[0]
                case ast.Setting(keyword=ast.Name(id="topology")):
                    _topology(statement, levels)
                case ast.Setting(keyword=ast.Name(id="host")) if [w.id for w in statement.words] == ["compute"]:
                    if processors:
                        raise fail("E0102", "what the hosts compute is said twice", statement.span)
                    processors.append(_processors(statement, scope))
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
    if stack is not None:
        check_stack(*stack, device[1], entry.module)
    software = stack[1] if stack else ""
    span = stack[0].span if stack else entry.item.span
    for compute, said in processors:
        if not any(m.name == HOST for m in memories):
            help = f"describe their memory, too: {EXAMPLES[HOST]}"
            raise fail("E0313", "hosts that compute have memory", said.span, help=help)
        memories = [replace(m, compute=compute) if m.name == HOST else m for m in memories]
    shared = tuple(replace(m, sharing=levels[0].count) for m in memories)  # one per server: the innermost level
    cluster = Cluster(name.id, device[1], tuple(levels), shared, entry.item.span, software, span)
    for warning in foreign_stack(cluster):
        session.diagnostics.add(warning)
    if cluster.devices > limits.MAX_DEVICES:
        raise limits.beyond(f"the cluster has {cluster.devices} devices, the most is 10^9", name.span)
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
    bandwidth = positive(statement.bandwidth, units.BYTES_PER_SECOND, "the bandwidth", scope)
    latency = quantity(statement.latency, units.SECONDS, "the latency", scope)
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


def _processors(statement: ast.Setting, scope: Scope) -> tuple[float, ast.Setting]:
    """`host compute 3 TFLOP/s`: of all processors of a server."""
    if len(statement.values) != 1 or statement.clauses:
        help = "`host compute 3 TFLOP/s`, of all processors of a server"
        raise fail("E0313", "this does not say what hosts compute", statement.span, help=help)
    return positive(statement.values[0], units.FLOP_PER_SECOND, "what hosts compute", scope), statement


def _memory(statement: ast.Setting, memories: Sequence[Memory], scope: Scope) -> Memory:
    """A memory as one of `EXAMPLES` describes it: its capacity, perhaps its bandwidth, and the link to a device."""
    kind, words = statement.keyword.id, tuple(w.id for w in statement.words)
    if kind not in EXAMPLES:
        help = did_you_mean(kind, (*_OTHERS, *EXAMPLES)) or f"there are {listed((*_OTHERS, *EXAMPLES))}"
        raise fail("E0313", f"a cluster has no `{kind}`", statement.keyword.span, help=help)
    word = EXAMPLES[kind].split()[1]
    if words not in ((), (word,)) or not 1 <= len(statement.values) <= 2 or len(statement.clauses) != 1:
        raise fail("E0313", f"this does not describe `{kind}` memory", statement.span, help=EXAMPLES[kind])
    if any(m.name == kind for m in memories):
        raise fail("E0102", f"there are two `{kind}` memories", statement.span)
    ((_, over),) = statement.clauses
    capacity = positive(statement.values[0], units.BYTES, "the capacity", scope)
    link = positive(over[0], units.BYTES_PER_SECOND, "the link", scope)
    bandwidth = link
    if len(statement.values) == 2:
        bandwidth = positive(statement.values[1], units.BYTES_PER_SECOND, "the bandwidth", scope)
    return Memory(kind, capacity, bandwidth, link=link)
