"""`check_effects`: the rules about layouts that change nothing.

Whether one does depends on the sizes of axes only for `shard`, where nothing divides, and for `reduce`, where an axis
of size 1 has nothing to sum over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from compiler.graph import Graph
from compiler.layout import Layout, nested
from compiler.model import Training, Weight
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.origin import within
from compiler.passes.idle import Idle, Rule, report_idle
from compiler.passes.offload import Resting, resting
from compiler.passes.place.rules import ByScope, Rules
from compiler.strategy import CLASSES, LayoutRule, OffloadRule, ReduceRule, RunRule, ShardRule, SplitRule, Strategy
from compiler.walk import walk
from dsl.data import dataclass
from dsl.diagnostics import Note
from dsl.source import Span

_WORDS = {"weights": "weight", "activations": "activation", "gradients": "gradient", "optimizer": "value of the update"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What split rules may speak of: the dims that it has, and those that the op which makes it walks over."""

    path: str
    cls: str
    dims: frozenset[str]


def check_effects(training: Training, rules: Rules, compute: dict[str, Layout]) -> None:
    """Report the rules without effect (E0542). `compute`: layouts of the weights; all values must have been placed."""
    strategy = training.job.strategy
    rows: list[tuple[Rule, object, Idle | None]] = []
    rows += [(r, ("split", r.axis), idle) for r, idle in _splits(training, strategy)]
    rows += [(r, ("shard", r.axis), idle) for r, idle in _shards(training, rules, compute)]
    rows += [(r, ("reduce", r.axis), idle) for r, idle in _reductions(training, rules, compute)]
    rows += [(r, ("layout", r.tensor), _layout(r, rules)) for r in strategy.layouts]
    rows += [(r, ("offload", r.memory), idle) for r, idle in _offloads(training, strategy)]
    rows += [(r, ("run", r.place), idle) for r, idle in _runs(training, strategy)]
    report_idle(rows, rules.diagnostics)


# --- split -------------------------------------------------------------------------------------------------


def _splits(training: Training, strategy: Strategy) -> Iterator[tuple[SplitRule, Idle | None]]:
    for axis in dict.fromkeys(r.axis for r in strategy.splits):
        rules = [r for r in strategy.splits if r.axis == axis]
        waiting = dict(enumerate(rules))
        met: dict[int, set[int]] = {i: set() for i in waiting}  # rules that speak of the same dims before
        there: dict[int, set[str]] = {i: set() for i in waiting}  # dims of all tensors that the rule is for
        scopes = ByScope((r.scope, r) for r in rules)
        for t in _tensors(training):
            named: dict[str, int] = {}
            for i, r in scopes.around(t.path):
                if t.cls not in r.classes:
                    continue
                there[i] |= t.dims
                for dim in r.dims:
                    first = named.setdefault(dim, i)
                    if dim in t.dims and first == i:
                        waiting.pop(i, None)
                    elif dim in t.dims:
                        met[i].add(first)
            if not waiting:
                break
        for i, r in enumerate(rules):
            yield r, _idle_split(r, [rules[k].span for k in sorted(met[i])], there[i]) if i in waiting else None


def _idle_split(rule: SplitRule, before: list[Span], there: set[str]) -> Idle:
    text = f"`split {', '.join(rule.dims)} on {rule.axis}`"
    if before:
        help = "leave it out, or move it up: of several rules for an axis the first that names a dim counts"
        notes = tuple[Note, ...](("this rule says so before", span) for span in before)
        return Idle(f"{text} changes nothing: its dims are split on `{rule.axis}` by earlier rules", help, notes, True)
    where = f" in `{rule.scope}`" if rule.scope else ""
    if rule.classes == ("gradients",):
        help = f"`shard gradients on {rule.axis}` splits what is kept of them"
        return Idle(f"{text} changes nothing: a gradient is split as its weight is", help)
    words = "tensor" if set(rule.classes) == set(CLASSES) else " or ".join(_WORDS[c] for c in rule.classes)
    if not there:
        help = "leave out `in …`" if where else "leave the rule out"
        return Idle(f"{text} splits nothing: there is no {words}{where}", help)
    dims = " or ".join(f"`{d}`" for d in rule.dims)
    help = f"the dims there are {', '.join(f'`{d}`' for d in islice(sorted(there), 12))}"
    return Idle(f"{text} splits nothing: no {words}{where} has a dim {dims}", help)


def _tensors(training: Training) -> Iterator[Tensor]:
    for w in training.model.weights:
        yield Tensor(w.name, "weights", frozenset(w.value.type.names[len(w.loops) :]))
    for i in training.model.inputs:
        yield Tensor(i.value.name, "activations", frozenset(i.value.type.names))
    for r in training.rounds:
        yield from _made(r.graph, "activations")
    yield from _made(training.forward, "activations")
    yield from _made(training.backward, "activations")
    yield from _made(training.update, "optimizer")


def _made(graph: Graph, cls: str) -> Iterator[Tensor]:
    functions: dict[int, list[Tensor]] = {}
    for node, _ in walk(graph, calls=False):
        if isinstance(node.op, Repeat):
            continue
        if isinstance(node.op, Call):
            if id(node.op.body) not in functions:
                functions[id(node.op.body)] = list(_made(node.op.body, cls))
            yield from (Tensor(node.op.at, cls, t.dims) for t in functions[id(node.op.body)])
            continue
        loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        walked = {n for loop in loops for n in loop.names}
        for v in node.outputs:
            yield Tensor(v.origin.path, cls, frozenset(walked.union(v.type.names)))


# --- shard -------------------------------------------------------------------------------------------------


def _shards(training: Training, rules: Rules, compute: dict[str, Layout]) -> Iterator[tuple[ShardRule, Idle | None]]:
    said: dict[tuple[str, str, str], Span] = {}  # (axis, class, weight) -> the rule that spoke of it first
    for r in rules.strategy.shards:
        text = f"`shard {', '.join(r.classes)} on {r.axis}{' pad' if r.pad else ''}`"
        inside = [w for w in training.model.weights if within(w.name, r.scope)]
        of = {c: [w for w in inside if w.trained or c == "weights"] for c in r.classes}
        weights = list(dict.fromkeys(w for found in of.values() for w in found))
        pairs = [(r.axis, c, w.name) for c in r.classes for w in of[c]]
        before = [said[p] for p in pairs if p in said]
        said.update((p, r.span) for p in pairs if p not in said)
        if not weights:
            help = "leave out `in …`" if r.scope else "leave the rule out"
            where = f" in `{r.scope}`" if r.scope else ""
            trained = " that is trained" if inside else ""
            yield r, Idle(f"{text} splits nothing: there is no weight{trained}{where}", help)
        elif len(before) == len(pairs):
            notes = tuple[Note, ...](("this rule says so before", span) for span in dict.fromkeys(before))
            yield r, Idle(f"{text} changes nothing: earlier rules say all of it", "leave it out", notes, True)
        elif not any(
            r.axis in rules.storage(w.name, w.value.type, compute[w.name], c, w.loops).axes
            for c in r.classes
            for w in of[c]
        ):
            yield r, _indivisible(text, r, weights, compute, rules.sizes) if r.axis in rules.sizes else None
        else:
            yield r, None


def _indivisible(
    text: str, rule: ShardRule, weights: Sequence[Weight], compute: dict[str, Layout], sizes: Mapping[str, int]
) -> Idle:
    """Of the weights' dims it is their parts on a device that must divide."""
    parts: dict[str, int] = {}
    for w in weights:
        for d, axes in zip(w.value.type.dims, compute[w.name].dims, strict=True):
            if d.name not in w.loops:
                parts[d.name] = nested(d.size, (sizes[a] for a in axes))[-1]
    if not parts:
        return Idle(f"{text} splits nothing: its weights have no dims", "leave the rule out")
    legal = [k for k in range(1, min(max(parts.values()), 4096) + 1) if any(n % k == 0 for n in parts.values())]
    help = f"legal degrees of {rule.axis}: {', '.join(map(str, legal[:12]))}{', …' if len(legal) > 12 else ''}"
    if not rule.pad:
        help += f"; or allow uneven pieces: {text[:-1]} pad`"
    there = ", ".join(f"`{d}` = {n}" for d, n in islice(parts.items(), 8))
    pieces = f"{sizes[rule.axis]} {'' if rule.pad else 'equal '}parts"
    return Idle(f"{text} splits nothing: no dim of a weight has {pieces} (on a device, {there})", help)


# --- reduce ------------------------------------------------------------------------------------------------


def _reductions(
    training: Training, rules: Rules, compute: dict[str, Layout]
) -> Iterator[tuple[ReduceRule, Idle | None]]:
    said: dict[tuple[str, str], Span] = {}  # (weight, axis) -> the rule that spoke of it first
    for r in rules.strategy.reductions:
        text = f"`reduce gradients on {r.axis} per {r.per}`"
        inside = [w for w in training.trained if within(w.name, r.scope)]
        pairs = [(w.name, r.axis) for w in inside if (w.name, r.axis) in rules.sums]
        before = [said[p] for p in pairs if p in said]
        said.update((p, r.span) for p in pairs if p not in said)
        if pairs and len(before) == len(pairs):
            notes = tuple[Note, ...](("this rule says so before", span) for span in dict.fromkeys(before))
            yield r, Idle(f"{text} changes nothing: earlier rules say all of it", "leave it out", notes, True)
        elif pairs or r.axis not in rules.sizes:
            yield r, None
        else:
            where = f" in `{r.scope}`" if r.scope else ""
            stored = (rules.storage(w.name, w.value.type, compute[w.name], "gradients", w.loops) for w in inside)
            split = inside and all(r.axis in layout.split_axes for layout in stored)
            why = f"all gradients{where} are split on it" if split else f"no gradient{where} is a sum over it"
            help = "what is split is summed as it comes: leave the rule out"
            yield r, Idle(f"{text} changes nothing: {why}", help if split else "leave the rule out")


# --- layout ------------------------------------------------------------------------------------------------


def _layout(rule: LayoutRule, rules: Rules) -> Idle | None:
    if rule.tensor in rules.asked:
        return None
    message = f"`layout {rule.tensor}[…]` changes nothing: the tensor is made in whatever layout it is read"
    return Idle(message, "give the layout of its reader, or of the weight of which this is a copy in another type")


# --- offload -----------------------------------------------------------------------------------------------


def _offloads(training: Training, strategy: Strategy) -> Iterator[tuple[OffloadRule, Idle | None]]:
    """A rule moves what it speaks of first. (Another entry than the training may have nothing that it could move.)"""
    if not training.trains:
        return
    of = resting(training)
    there = of.paths
    said: dict[tuple[str, str], Span] = {}  # (class, tensor) -> the rule that spoke of it first
    for r in strategy.offloads:
        text = f"`offload {', '.join(r.classes)} to {r.memory}`"
        pairs = [
            (of.kind(c, name), name) for c in r.classes for name, path in there[c].items() if within(path, r.scope)
        ]
        before = [said[p] for p in pairs if p in said]
        said.update((p, r.span) for p in pairs if p not in said)
        if not pairs:
            where = f" in `{r.scope}`" if r.scope else ""
            kept = {"optimizer": "the optimizer has no states", "activations": "nothing is saved"}
            kept["rows"] = "no weight is read by `take` alone"
            why = " and ".join(kept.get(c, f"there are no {c}") for c in r.classes)
            help = "leave out `in …`" if r.scope and any(there[c] for c in r.classes) else "leave the rule out"
            yield r, Idle(f"{text} moves nothing: {why}{where}", help)
        elif len(before) == len(pairs):
            notes = tuple[Note, ...](("this rule says so before", span) for span in dict.fromkeys(before))
            help = "leave it out, or move it up: of several rules for a tensor the first counts"
            yield r, Idle(f"{text} changes nothing: earlier rules say where all of it rests", help, notes, True)
        else:
            yield r, None


# --- run -----------------------------------------------------------------------------------------------------


def _runs(training: Training, strategy: Strategy) -> Iterator[tuple[RunRule, Idle | None]]:
    """Updates of weights that are trained, and `take` of rows that rest where it is to run."""
    if not training.trains:
        return
    of = resting(training)
    said: dict[tuple[str, str], Span] = {}  # (kind, weight) -> the rule that spoke of it first
    for r in strategy.runs:
        text = f"`run {', '.join(r.kinds)} on {r.place}`"
        there = {"update": [w.name for w in training.trained], "take": _taken(strategy, of, r.place)}
        pairs = [(k, name) for k in r.kinds for name in there[k] if within(name, r.scope)]
        before = [said[p] for p in pairs if p in said]
        said.update((p, r.span) for p in pairs if p not in said)
        where = f" in `{r.scope}`" if r.scope else ""
        if pairs and len(before) == len(pairs):
            notes = tuple[Note, ...](("this rule says so before", span) for span in dict.fromkeys(before))
            yield r, Idle(f"{text} changes nothing: earlier rules say all of it", "leave it out", notes, True)
        elif pairs:
            yield r, None
        elif "take" in r.kinds:
            message = f"{text} changes nothing: no rows are taken of what rests there{where}"
            tables = [name for name in of.paths["rows"] if name not in of.owner]
            if not tables:
                help = "leave the rule out: the model reads no weight by `take` alone"
            elif any(within(name, r.scope) for name in tables):
                help = f"`offload rows to {r.place}{f' in {r.scope}' if r.scope else ''}`"
            else:
                help = "leave out `in …`" + (
                    "" if there["take"] else f", and let rows rest there: `offload rows to {r.place}`"
                )
            yield r, Idle(message, help)
        else:
            yield r, Idle(f"{text} changes nothing: no weight is trained{where}", "leave the rule out")


def _taken(strategy: Strategy, of: Resting, place: str) -> list[str]:
    """The tables that rest in a memory: of several rules the first counts."""
    found: dict[str, str] = {}
    for r in reversed(strategy.offloads):
        for kind in r.classes:
            mine = of.paths["rows"] if kind in ("weights", "rows") else {}
            found.update((name, r.memory) for name in mine if name not in of.owner and within(name, r.scope))
    return [name for name, memory in found.items() if memory == place]
