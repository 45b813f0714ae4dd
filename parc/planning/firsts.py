"""Where a search begins: at what of the space is most like the file's own strategy, and at the plainest that there is.

With a price known, all that bounds speak against is left out; and a plan is never worse than what was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from compiler.strategy import SplitRule, Strategy
from parc.planning.recomputes import Again
from parc.planning.space import (
    DATA,
    EXPERTS,
    INNER,
    POSITIONS,
    STAGES,
    AxisRole,
    MeshChoice,
    PlanChoice,
    PlanRules,
    PlanSpace,
)

T = TypeVar("T")


def firsts(space: PlanSpace, own: Strategy) -> tuple[PlanChoice, ...]:
    """The candidates to be priced before all others. own: the file's strategy."""
    return tuple(dict.fromkeys(f for f in (_alike(space, own), _plainest(space)) if f is not None))


def _plainest(space: PlanSpace) -> PlanChoice | None:
    """All devices share the batch, and the optimizer's states."""
    data = next(role for role in space.roles if role.kind == DATA)
    if space.devices == 1 or space.batch % space.devices:
        return None
    return _legal(space, MeshChoice(((data, space.devices),), 1), PlanRules(DATA, 1))


def _alike(space: PlanSpace, own: Strategy) -> PlanChoice | None:
    """What of the space the strategy is, or is most like; None where its axes are none of the space's."""
    splits = {rule.axis: rule for rule in own.splits if rule.scope is None}
    stages = {rule.axis: rule for rule in own.pipelines}
    order: list[AxisRole] = []
    sizes: dict[AxisRole, int] = {}
    chosen = PlanRules()
    for axis in own.mesh:
        if axis.size == 1:
            continue
        role = _role(space, splits.get(axis.name), axis.name in stages)
        if role is None:
            return None
        order.append(role)
        sizes[role] = sizes.get(role, 1) * axis.size
        if axis.name in stages:
            schedule = stages[axis.name]
            chosen = replace(chosen, schedule=schedule.schedule, chunks=schedule.chunks)
        elif role.kind in (DATA, EXPERTS, POSITIONS):
            classes = {c for rule in own.shards if rule.axis == axis.name for c in rule.classes}
            chosen = replace(chosen, zero=max(chosen.zero, sum(c in classes for c in SHARDED)))
        dims = splits[axis.name].dims if axis.name in splits else ()
        if role.kind == INNER:
            chosen = replace(chosen, along=next((d for d in dims if d in space.split.positions), ""))
        elif role.kind == DATA:
            chosen = replace(chosen, rows=tuple(d for d in space.split.rows if d in dims))
        elif role.kind == POSITIONS:
            chosen = replace(chosen, heads=bool(set(dims) & set(space.split.heads)), by=_by_hand(space, own))
    mesh = MeshChoice(tuple((role, sizes[role]) for role in space.roles if role in sizes), own.microbatches)
    first = order[0].kind if order else STAGES
    return _legal(space, mesh, replace(chosen, first=first, recompute=_again(space, chosen, own.recomputes)))


SHARDED = ("optimizer", "gradients", "weights")


def _role(space: PlanSpace, rule: SplitRule | None, staged: bool) -> AxisRole | None:
    """What an axis is for, by what it splits."""
    split = space.split
    if staged:
        return next((r for r in space.roles if r.kind == STAGES), None)
    dims = set(rule.dims) if rule is not None else set()
    kind = POSITIONS
    if split.batch in dims:
        kind = EXPERTS if dims & set(split.experts) else DATA
    elif dims & set(split.inner) and not (dims & set(split.positions) and rule and "weights" not in rule.classes):
        kind = INNER
    return next((r for r in space.roles if r.kind == kind and (not r.dim or r.dim in dims)), None)


def _by_hand(space: PlanSpace, own: Strategy) -> int:
    """Which function it has in the place of scopes, counted from 1; 0 for none, or for one that is not tried."""
    scopes, zigzag = {rule.scope for rule in own.implementations}, bool(own.zigzags)
    return next(
        (n for n, of in enumerate(space.implementations, 1) if {*of.scopes} == scopes and of.zigzag == zigzag), 0
    )


def _again(space: PlanSpace, of: PlanRules, own: Again) -> int:
    """The choice of what is computed again: the same, or all layers if there is any."""
    wanted = {(rule.scope, rule.keep) for rule in own}
    choices = (space.again(replace(of, recompute=i)) for i in range(len(space.recomputes)))
    same = (i for i, rules in enumerate(choices) if {(rule.scope, rule.keep) for rule in rules} == wanted)
    return next(same, len(space.recomputes) - 1 if own else 0)


def _left(wanted: int, there: Sequence[int]) -> int:
    """It, if it is there, else the last that is, for something is computed again."""
    return wanted if wanted in there else there[-1]


def _legal(space: PlanSpace, mesh: MeshChoice, rules: PlanRules) -> PlanChoice | None:
    """With what the space has of such in the place of what it has not; None if the mesh cannot be."""
    if not space.has(mesh):
        return None
    ways = space.ways(mesh)
    order = (rules.schedule, rules.chunks), ("one_f_one_b", 1)
    schedule, chunks = next((s for s in order if s in ways.schedules), ways.schedules[0])
    heads, by = _nearest(rules.inside, ways.inside)
    near = replace(
        rules,
        first=_nearest(rules.first, ways.first),
        zero=_nearest(rules.zero, ways.zero),
        recompute=_left(rules.recompute, ways.recompute),
        schedule=schedule,
        chunks=chunks,
        along=_nearest(rules.along, ways.along),
        heads=heads,
        by=by,
        rows=ways.rows[-1] if rules.rows else (),
        offload=_nearest(rules.offload, ways.offload),
    )
    return PlanChoice(mesh, near)


def _nearest(wanted: T, there: Sequence[T]) -> T:
    """It, if it is there, else the first that is."""
    return wanted if wanted in there else there[0]
