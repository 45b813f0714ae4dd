"""Parts of a model that do not need each other, such as the towers of several kinds of data: each can have devices of
its own. Names mean nothing: what needs what is read off the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from compiler.graph import Node, Value
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from dsl.data import dataclass
from parc.planning.space import DATA, EXPERTS, STAGES, MeshChoice, PlanChoice, PlanSpace

LITTLE = 0.02
"""Of all products' work: a part that has less needs no devices of its own."""

MOST = 6
"""Branches that are placed."""


@dataclass(frozen=True, slots=True)
class PlacedBranches:
    """Scopes that lie at each coordinate of an axis of places, which takes a factor of the devices along another one;
    and how many micro-batches there are then."""

    groups: tuple[tuple[str, ...], ...]
    along: str
    microbatches: int


def branches(job: Job) -> tuple[tuple[str, float], ...]:
    """Scopes of which none needs another, each with its products' operations, the largest first; none where there are
    fewer than two."""
    needs: dict[Value, frozenset[str]] = {}
    of_scope: dict[str, frozenset[str]] = {}
    work: dict[str, float] = {}
    for node in job.model.graph.nodes:
        scope = _scope(node)
        before = frozenset[str]().union(*(needs.get(v, frozenset()) for v in node.inputs))
        if scope:
            of_scope[scope] = of_scope.get(scope, frozenset()) | before
            work[scope] = work.get(scope, 0.0) + sum(_operations(node))
        for value in node.outputs:
            needs[value] = before | ({scope} if scope else set())
    enough = LITTLE * sum(work.values())
    found: list[str] = []
    for scope in sorted(work, key=lambda s: -work[s]):
        apart = all(scope not in of_scope[other] and other not in of_scope[scope] for other in found)
        if work[scope] > enough and apart and len(found) < MOST:
            found.append(scope)
    return tuple((scope, work[scope]) for scope in found) if len(found) > 1 else ()


def _scope(node: Node) -> str:
    """The outermost around what a node makes, or the loop that it is; empty for what stands in none."""
    if isinstance(node.op, Repeat):
        return node.op.body.name.partition(".")[0]
    path = node.outputs[0].origin.path if node.outputs else ""
    return path.partition(".")[0] if "." in path else ""


def _operations(node: Node) -> Iterator[float]:
    """Of products, multiplications."""
    if isinstance(node.op, Repeat):
        for each in node.op.body.nodes:
            for number in _operations(each):
                yield node.op.count * number
    elif isinstance(node.op, Contract):
        sizes = {d.name: d.size for value in node.inputs for d in value.type.dims}
        yield float(prod(sizes.values()))


def grouped(found: tuple[tuple[str, float], ...], number: int) -> tuple[tuple[str, ...], ...]:
    """So many groups of about as much work each: the largest branch that is left goes to where there is least."""
    groups: list[list[str]] = [[] for _ in range(number)]
    sums = [0.0] * number
    for scope, work in found:
        at = sums.index(min(sums))
        groups[at].append(scope)
        sums[at] += work
    return tuple(map(tuple, groups))


def ways(
    space: PlanSpace, found: tuple[tuple[str, float], ...], of: PlanChoice
) -> Iterator[tuple[PlacedBranches, ...]]:
    """The branches of a plan without stages on places of their own: as many groups as there may be first, by each axis
    that has such a factor; of each with as many micro-batches, and with as many rows to a device."""
    if of.mesh.size(STAGES) > 1 or of.rules.by or of.rules.offload:
        return
    for number in range(len(found), 1, -1):
        for role, size in of.axes:
            if size % number == 0:
                made = PlacedBranches(grouped(found, number), role.name, of.mesh.microbatches)
                more = made.microbatches * number
                can = space.batch % (more * _pieces(placed(of, made))) == 0
                yield (made, replace(made, microbatches=more)) if can else (made,)


def _pieces(of: PlanChoice) -> int:
    return of.mesh.size(DATA) * of.mesh.size(EXPERTS)


def placed(of: PlanChoice, by: PlacedBranches) -> PlanChoice:
    """What each place does: the plan on its part of the devices."""
    number = len(by.groups)
    axes = ((role, size // number if role.name == by.along else size) for role, size in of.mesh.axes)
    return replace(of, mesh=MeshChoice(tuple((role, n) for role, n in axes if n > 1), by.microbatches))


def axis_name(space: PlanSpace) -> str:
    """Of the axis of places: no other is called so."""
    name = "at"
    while name in {role.name for role in space.roles}:
        name += "_"
    return name


def placed_lines(space: PlanSpace, by: PlacedBranches, lines: list[str]) -> list[str]:
    """The statements of a plan (`placed`) with the places."""
    axis = axis_name(space)
    own, rest = (lines[0], lines[1:]) if lines and lines[0].startswith("mesh (") else ("mesh ()", lines)
    inside = own.removeprefix("mesh (").removesuffix(")")
    mesh = f"mesh ({', '.join([f'{axis} = {len(by.groups)}', *([inside] if inside else [])])})"
    places = [f"place {scope} on {axis}[{at}]" for at, group in enumerate(by.groups) for scope in group]
    last = [line for line in rest if line.startswith("microbatches ")]
    return [mesh, *(line for line in rest if line not in last), *places, *last]
