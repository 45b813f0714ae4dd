"""Work that several stages do alike: what is made from data and weights alone is made where it is read (E0559)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compiler.cost.kernels.flops import flops_of, model_flops
from compiler.driver import Compiled
from compiler.graph import Graph, Value
from compiler.ops.repeat import Repeat
from compiler.passes.stage import ALL, Stage, Staged
from dsl.diagnostics import Diagnostic, Note

WORTH = 0.01
"""Of the model's FLOPs: what is repeated below that is not told."""

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
    """A warning where stages repeat products of more than `WORTH` of what the model needs."""
    found = sorted(repeated(compiled), key=lambda r: -r.more)
    if not found:
        return ()
    more, needed = sum(r.more for r in found), model_flops(compiled.job.model)
    if more <= WORTH * needed:
        return ()
    strategy = compiled.job.strategy
    span = (*(r.span for r in strategy.pipelines), *(r.span for r in strategy.places))[0]
    names = ", ".join(f"`{r.value.name}`" for r in found[:SHOWN]) + (" and others" if len(found) > SHOWN else "")
    stages = max(len(r.stages) for r in found)
    message = f"{stages} stages compute {names} alike: {more / needed:.0%} of the model's products on top"
    notes: list[Note] = [(f"`{r.value.name}` is made here", r.value.span) for r in found[:SHOWN]]
    help = (
        "a variable that the loop assigns is made once, and goes from stage to stage: `x = x + 0.0` in the loop makes "
        "one of what it reads"
        if strategy.pipelines
        else "`place` its scope on the axis as well: then the others get what it makes"
    )
    return (Diagnostic("E0559", message, span, notes=tuple(notes), help=help, severity="warning"),)


def repeated(compiled: Compiled) -> list[Repeated]:
    """What several stages make, of all that takes products; loops as a whole."""
    placed, staged = compiled.placed, compiled.staged
    if staged.stages == 1:
        return []
    results = placed.training.results
    saved = placed.forward.outputs[results:]
    loads = (staged.loads[k.name] | staged.late_loads.get(k.name, frozenset()) for k in placed.kept)
    ends = [(v, _at(staged, staged.counts_at(v, staged.forward))) for v in placed.forward.outputs[:results]]
    found = _of(placed.forward, staged, staged.forward, [*ends, *zip(saved, loads, strict=True)], 0)
    gradients = [v for parts in staged.addends for v in parts]
    crossing = [(v, staged.late_loads[v.name]) for v in placed.crossing]
    late = placed.late.outputs if placed.late is not None else ()
    here = [(v, _at(staged, staged.counts_at(v, staged.backward))) for v in gradients]
    first = [*((v, at) for v, at in here if v not in late), *crossing]
    found += _of(placed.backward, staged, staged.backward, first, staged.stages - 1)
    if placed.late is not None:
        found += _of(placed.late, staged, staged.backward, [(v, at) for v, at in here if v in late], staged.stages - 1)
    return found


def _of(
    graph: Graph,
    staged: Staged,
    where: Mapping[str, Stage],
    ends: Iterable[tuple[Value, frozenset[int]]],
    begin: int,
) -> list[Repeated]:
    """Of a graph. ends: what is wanted of it, in which stages; begin: the stage in which the cut loop begins."""
    everyone = frozenset(range(staged.stages))
    users: dict[str, frozenset[int]] = {}

    def use(v: Value, stages: frozenset[int]) -> None:
        users[v.name] = users.get(v.name, frozenset()) | stages

    for v, stages in ends:
        use(v, stages)
    found = []
    for node in reversed(graph.nodes):
        place = where.get(node.outputs[0].name)
        here = frozenset[int]().union(*(users.get(v.name, frozenset()) for v in node.outputs))
        cut = staged.is_cut(node)
        if cut:
            here = everyone
        elif not here:
            continue
        elif place is not None:
            here = _at(staged, place)
        elif len(here) > 1 and (flops := flops_of(node)):
            found.append(Repeated(node.outputs[0], here, flops))
        for i, v in enumerate(node.inputs):
            enters = cut and isinstance(node.op, Repeat) and i < node.op.carries
            use(v, frozenset((begin,)) if enters else here)
    return found


def _at(staged: Staged, place: Stage) -> frozenset[int]:
    return frozenset(range(staged.stages)) if place == ALL else frozenset((place or 0,))
