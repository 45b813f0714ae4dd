"""Work that several devices do alike (E0559): stages, where each makes for itself what it reads; and devices along an
axis that splits nothing of a product (`alike`). And scans, which go through all positions on every device, those of
other pieces too (E0560)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from compiler.cost.kernels.alike import alike, free_dims, rule_on
from compiler.cost.kernels.flops import flops_of, model_flops
from compiler.driver import Compiled
from compiler.graph import Graph, Value
from compiler.layout import TIME
from compiler.loop_pieces import in_words
from compiler.ops.comm import Relayout
from compiler.ops.repeat import Repeat
from compiler.passes.readers import users_of
from compiler.passes.stage import Stage, Staged
from compiler.walk import graph_values
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, Note

WORTH = 0.01
"""Of the model's FLOPs: what is repeated below that is not told."""

WORTH_ALONG = 0.1
"""The same of what the devices along an axis repeat. Small ones are whole on purpose: routers, keys of few heads."""

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Repeated:
    """Stages that make the same value, and the FLOPs of its products in one of them, per step."""

    value: Value
    stages: frozenset[int]
    flops: float

    @property
    def more(self) -> float:
        """FLOPs that would not be there if one stage made it for all."""
        return self.flops * (len(self.stages) - 1)


def repeated_work(compiled: Compiled) -> tuple[Diagnostic, ...]:
    """Warnings: of scans over split dims, and where stages repeat products of more than `WORTH` of what the model
    needs, or devices along an axis of more than `WORTH_ALONG`."""
    scans = tuple(_gathered_scans(compiled.placed.forward))
    found = (*scans, *_by_stages(compiled), *_along_axes(compiled))
    return tuple(in_words(d, compiled.job.model.pieces) for d in found)


def _along_axes(compiled: Compiled) -> tuple[Diagnostic, ...]:
    found = alike(compiled.program)
    needed = model_flops(compiled.training) if found else 0.0
    warnings = []
    for a in found.values():
        span = rule_on(compiled.job.strategy, a.axis)
        if span is None or a.more <= WORTH_ALONG * needed:
            continue  # an axis that no rule names is told as such
        largest = a.largest()
        first, *_ = names = [n.output.name for n in largest if n.output.origin.phase is largest[0].output.origin.phase]
        told = ", ".join(f"`{n}`" for n in names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")
        share = f"{a.more / needed:.0%} of the model's products on top"
        message = f"the {a.size} devices along `{a.axis}` compute {told} alike: {share}"
        dims = free_dims(largest[0], a)
        spans = {v.name: v.span for v in graph_values(compiled.job.model.graph)}
        notes: list[Note] = [(f"`{first}` is made here", spans[first])] if first in spans else []
        free = f"it could be one of {', '.join(f'`{d}`' for d in dims)}" if dims else "and none that is whole divides"
        help = f"no rule splits a dim of `{first}` on `{a.axis}`: {free}"
        warnings.append(Diagnostic("E0559", message, span, notes=tuple(notes), help=help, severity="warning"))
    return tuple(warnings)


def _by_stages(compiled: Compiled) -> tuple[Diagnostic, ...]:
    found = sorted(repeated(compiled), key=lambda r: -r.more)
    if not found:
        return ()
    more, needed = sum(r.more for r in found), model_flops(compiled.training)
    if more <= WORTH * needed:
        return ()
    strategy = compiled.job.strategy
    span = (*(r.span for r in strategy.pipelines), *(r.span for r in strategy.places))[0]
    names = ", ".join(f"`{r.value.name}`" for r in found[:SHOWN]) + (" and others" if len(found) > SHOWN else "")
    stages = max(len(r.stages) for r in found)
    message = f"{stages} stages compute {names} alike: {more / needed:.0%} of the model's products on top"
    notes: list[Note] = [(f"`{r.value.name}` is made here", r.value.span) for r in found[:SHOWN]]
    each = next((r for r in strategy.places if r.index is None), None)
    if strategy.pipelines and each is not None:
        help = f"`place {each.scope} on {each.axis}` says so: without it one stage makes it for all that read it"
    elif strategy.pipelines:
        help = "a variable that the loop assigns is made once, and goes from stage to stage"
    else:
        help = "`place` its scope on the axis as well: then the others get what it makes"
    return (Diagnostic("E0559", message, span, notes=tuple(notes), help=help, severity="warning"),)


def _gathered_scans(graph: Graph) -> Iterator[Diagnostic]:
    """Of each scan whose slices are pieces that had to be gathered; those in loops, too."""
    made = {v: node for node in graph.nodes for v in node.outputs}
    for node in graph.nodes:
        if not isinstance(node.op, Repeat):
            continue
        yield from _gathered_scans(node.op.body)
        axes: dict[str, None] = {}
        for v in node.inputs[node.op.carries : node.op.carries + node.op.stacks] if node.op.scan else ():
            maker = made.get(v)
            if maker is not None and isinstance(maker.op, Relayout):
                axes |= dict.fromkeys(a for a in maker.inputs[0].layout.dims[0] if a != TIME)
        if axes:
            named = ", ".join(f"`{a}`" for a in axes)
            where = f"goes through all positions on every device along {named}"
            message = f"`scan … as {node.op.label}` {where}: its pieces are gathered"
            help = "positions wait for one another: split another dim that it works on, such as the batch or the width"
            yield Diagnostic("E0560", message, node.span, help=help, severity="warning")


def repeated(compiled: Compiled) -> list[Repeated]:
    """What several stages make, of all that takes products; loops as a whole."""
    placed, staged = compiled.split
    if staged.stages == 1:
        return []
    results = placed.training.results
    saved = placed.forward.outputs[results:]
    loads = (staged.loads[k.name] | staged.late_loads.get(k.name, frozenset()) for k in placed.kept)
    ends = [(v, staged.stages_of(v, staged.forward)) for v in placed.forward.outputs[:results]]
    found = _of(placed.forward, staged, staged.forward, [*ends, *zip(saved, loads, strict=True)], True)
    gradients = [v for parts in staged.addends for v in parts]
    crossing = [(v, staged.late_loads[v.name]) for v in placed.crossing]
    late = placed.late.outputs if placed.late is not None else ()
    here = [(v, staged.stages_of(v, staged.backward)) for v in gradients]
    first = [*((v, at) for v, at in here if v not in late), *crossing]
    found += _of(placed.backward, staged, staged.backward, first, False)
    if placed.late is not None:
        found += _of(placed.late, staged, staged.backward, [(v, at) for v, at in here if v in late], False)
    return found


def _of(
    graph: Graph,
    staged: Staged,
    where: Mapping[str, Stage],
    ends: Iterable[tuple[Value, frozenset[int]]],
    forward: bool,
) -> list[Repeated]:
    """Of a graph. ends: what is wanted of it, in which stages; forward: whether it is the forward pass."""
    _, movable = users_of(graph, staged, where, ((v.name, stages) for v, stages in ends), forward)
    return [Repeated(n.outputs[0], at, flops) for n, at in movable if len(at) > 1 and (flops := flops_of(n))]
