"""Which loop of an op each axis splits (design, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from compiler.graph import Node, Type, Value
from compiler.layout import TIME, Layout
from compiler.ops.base import Loop, behind, majors
from compiler.origin import Phase
from compiler.passes.place.moves import WHOLE, State, move_cost
from compiler.passes.place.questions import Held, Piece, Sizes, as_a_whole, bytes_of, has_room, largest
from compiler.passes.place.region import Choice, GraphPlacer, LoopAxes, Reason
from compiler.passes.place.rules import Wish

Option = tuple[int, int, tuple[tuple[State, tuple[tuple[State, Piece], ...]], ...], State, State]
"""A loop that an axis can split: its index, its rank among the rules' wishes; per operand what it needs of it, and what
there is; how the axis stands in the result, and how it is to."""


def state(value: Value, layout: Layout, axis: str) -> State:
    """How `axis` stands in a layout of the value."""
    fn = layout.pending_on(axis)
    if fn is not None:
        return ("pending", fn)
    i = layout.dim_of(axis)
    return WHOLE if i is None else ("split", value.type.dims[i].name)


def _split_by(value: Value, held: list[Held], axis: str) -> list[str]:
    """The dims that the axis splits in the layouts in which the value is there."""
    dims = [layout.dim_of(axis) for layout, _ in held]
    return [value.type.names[i] for i in dims if i is not None]


def choose(
    region: GraphPlacer, node: Node, loops: tuple[Loop, ...], held: list[list[Held]], wishes: dict[str, dict[str, Wish]]
) -> LoopAxes:
    """Decide every axis by itself, in mesh order; deterministic. held: of each operand; wishes: of its result."""
    plan, out = LoopAxes(loops, [[] for _ in loops]), node.outputs[0]
    declared, path = region.declared(out), region.path or out.origin.path
    forward = out.origin.phase in (Phase.FORWARD, Phase.AGAIN)
    by_hand = region.rules.by_hand(path, region.cls) if forward else frozenset[str]()
    crossing = region.rules.crossing(out) if by_hand else {}
    head = out.name in region.shared.head
    sums = any([of and all([layout.pending for layout, _ in of]) for of in held])
    fixed = out.name in region.shared.gradients or any([v.name in region.weights for v in node.inputs])
    if sums or fixed or region.shared.before is not None:  # (who has that has it from there)
        key = None
    else:  # all that is looked at: the update does the same for each weight
        types = tuple([v.type for v in (*node.inputs, *node.outputs)])
        there, hand = tuple(map(tuple, held)), (by_hand, *crossing.items())
        key = (id(loops), region.cls, region.axes, types, there, declared, id(wishes), head, hand)
        known = region.shared.plans.get(key)
        if known is not None:
            region.shared.choices += [Choice(out.name, c.axis, c.loop, c.reason, c.candidates) for c in known.choices]
            return known
    reported, made = len(region.shared.diagnostics), len(region.shared.choices)
    for axis in region.axes:
        if axis in _devices(region, out, plan) or axis in by_hand:
            if axis in crossing:
                _by_type(region, out, plan, axis, crossing[axis])
            continue
        carriers = _passing(region, node, held, axis) if sums else frozenset()
        if carriers:
            plan.passing[axis] = carriers
            region.shared.choices.append(Choice(out.name, axis, (), Reason.PASSES))
            continue
        loop = _by_weight(region, node, plan, axis) if fixed else None
        if loop is not None:
            plan.axes[loop].append(axis)
            region.shared.choices.append(Choice(out.name, axis, loops[loop].names, Reason.WEIGHT))
            continue
        if head and axis == TIME:
            continue
        if (follows := node.op.follows) is not None:
            loop = _following(region, node, plan, held, axis, follows)
            if loop is not None:
                plan.axes[loop].append(axis)
                region.shared.choices.append(Choice(out.name, axis, loops[loop].names, Reason.STAYS))
            if loop is not None or node.op.renews == follows:
                continue
        _by_cost(region, node, plan, held, declared, axis, wishes[axis])
    _devices(region, out, plan)
    _order(region, node, plan, held)
    if key is not None and len(region.shared.diagnostics) == reported:
        plan.choices = tuple(region.shared.choices[made:])
        region.shared.plans[key] = plan
    return plan


def _by_type(region: GraphPlacer, out: Value, plan: LoopAxes, axis: str, dim: str) -> None:
    """On the way between a whole and pieces in several dims: those of a dim that is not cut or joined here stay."""
    k = next(k for k, loop in enumerate(plan.loops) if loop.outs[0] == dim)
    plan.axes[k].append(axis)
    region.shared.choices.append(Choice(out.name, axis, plan.loops[k].names, Reason.WRITTEN))


def _devices(region: GraphPlacer, out: Value, plan: LoopAxes) -> set[str]:
    """The axes whose devices the op has in a dim of their own: they split that, and nothing else. Behind other parts of
    a dim it is split as soon as these are as a whole (if they never are, the next op takes its pieces)."""
    found = set()
    for k, loop in enumerate(plan.loops) if region.rules.device_dims else ():
        for name in loop.names:
            axis = region.rules.device_dims.get(name)
            if axis is not None and axis in region.axes and axis not in found:
                found.add(axis)
                if axis not in plan.axes[k] and region.rules.ask(as_a_whole, _before(plan, k)):
                    plan.axes[k].append(axis)
                    region.shared.choices.append(Choice(out.name, axis, loop.names, Reason.WRITTEN))
    return found


def _passing(region: GraphPlacer, node: Node, held: list[list[Held]], axis: str) -> frozenset[int]:
    """Operands whose pending sum on `axis` may stay pending through this op; empty if it must be resolved."""
    pending = frozenset(
        [i for i, versions in enumerate(held) if versions and all([v.pending_on(axis) == "sum" for v, _ in versions])]
    )
    if not pending:
        return frozenset()
    found = _group(region, node, held, axis, pending)
    if not found and axis == TIME:  # sums of data can be had before the first micro-batch: the others pass
        others = frozenset(i for i in pending if node.inputs[i].name not in region.shared.of_data)
        if others and others != pending:
            return _group(region, node, held, axis, others)
    return found


def _group(
    region: GraphPlacer, node: Node, held: list[list[Held]], axis: str, pending: frozenset[int]
) -> frozenset[int]:
    """Operands that the op is jointly linear in, if these pending ones may pass through it with them."""
    scalar = all(not v.type.dims for v in node.outputs)
    for group in node.op.linear(len(node.inputs)):
        if not pending <= group:
            continue
        added = all(node.inputs[i].name in region.zeros for i in group - pending)
        joins = pending == group or ((axis == TIME or scalar or added) and _can_join(held, group - pending, axis))
        if not joins or (axis == TIME and _split(held, frozenset(range(len(held))) - group, axis)):
            continue
        if axis == TIME or scalar:
            return group
        if _travels(region, node, held, axis, group):
            return group
    return frozenset()


def _travels(region: GraphPlacer, node: Node, held: list[list[Held]], axis: str, group: frozenset[int]) -> bool:
    """Whether it pays to reduce later: the result is not larger, and no other tensor would have to be whole for it.
    Sums of integers are scaled first, where the scales are whole: behind that they are as narrow as others."""
    out = node.outputs[0].type
    if (
        out.bytes > max(node.inputs[i].type.bytes for i in group)
        and node.outputs[0].name not in region.shared.gradients
    ):
        return False  # a product of matrices, a broadcast, a cast to a wider type
    others = frozenset(range(len(node.inputs))) - group
    if all(not node.inputs[i].type.dims for i in others):
        return True
    return any(node.inputs[i].name in region.sums for i in group) and _can_join(held, others, axis)


def _can_join(held: list[list[Held]], others: frozenset[int], axis: str) -> bool:
    """True if the other addends are replicated on the axis, so that all but the first device may count them as zero."""
    return all(any(axis not in v.axes for v, _ in held[i]) or not held[i] for i in others)


def _split(held: list[list[Held]], others: frozenset[int], axis: str) -> bool:
    """Whether any of these operands is there in pieces only."""
    return any(held[i] and all(v.dim_of(axis) is not None for v, _ in held[i]) for i in others)


def _room(region: GraphPlacer, node: Node, plan: LoopAxes, index: int, axis: str, padded_ok: bool) -> bool:
    """True if `axis` can split the loop besides the axes that it has already."""
    loop = plan.loops[index]
    if not region.rules.device_dims.keys().isdisjoint(loop.names):
        return False
    if loop.kind == "whole" or (loop.kind in ("halo", "move") and axis == TIME):
        return False
    axes, others = (*plan.axes[index], axis), frozenset[int]()
    before = _before(plan, index)
    if region.rules.questions is not None or loop.size % prod([region.sizes[a] for a in axes]):
        others = frozenset(behind(plan.loops, index, [size for _, size in _walked(node, loop)]) - {loop.size})
    return region.rules.ask(has_room, loop.size, axes, padded_ok, others, before)


def _before(plan: LoopAxes, index: int) -> tuple[tuple[tuple[str, ...], int], ...]:
    """The axes and sizes of the parts of a dim before the one that the loop walks."""
    found = majors(plan.loops, index) if plan.loops[index].kind == "minor" else ()
    return tuple([(tuple(plan.axes[k]), plan.loops[k].size) for k in found])


def _room_behind(region: GraphPlacer, node: Node, plan: LoopAxes, index: int, axis: str, pad: bool) -> bool:
    """Whether the axis can split a later part of the dim of which this is one."""
    later = [k for k, of in enumerate(plan.loops) if of.kind == "minor" and index in majors(plan.loops, k)]
    return any([_room(region, node, plan, k, axis, pad) for k in later])


def _walked(node: Node, loop: Loop) -> list[tuple[str, int]]:
    """The dims that the loop walks, with their sizes."""
    values, names = (*node.inputs, *node.outputs), (*loop.ins, *loop.outs)
    return [(n, v.type.size(n)) for v, n in zip(values, names, strict=True) if n]


def _of_its_size(node: Node, loop: Loop) -> str:
    """The dim that the loop walks as a whole: where dims are merged, that is not the result's."""
    return next((n for n, size in _walked(node, loop) if size == loop.size), loop.names[0])


def _by_weight(region: GraphPlacer, node: Node, plan: LoopAxes, axis: str) -> int | None:
    """Rule 1: an operand that is a weight, or a result that is a weight's gradient, fixes the loop."""
    for i, v in enumerate(node.inputs):
        compute = region.weights.get(v.name)
        if compute is not None and (d := compute.dim_of(axis)) is not None:
            name = v.type.dims[d].name
            for k, loop in enumerate(plan.loops):
                if loop.ins[i] == name and _room(region, node, plan, k, axis, True):
                    return k
    mark = region.shared.gradients.get(node.outputs[0].name)
    if mark is not None:
        for k, loop in enumerate(plan.loops):
            if (
                loop.outs[0] is not None
                and axis in mark.dims.get(loop.outs[0], ())
                and _room(region, node, plan, k, axis, True)
            ):
                return k
    return None


def _following(
    region: GraphPlacer, node: Node, plan: LoopAxes, held: list[list[Held]], axis: str, operand: int
) -> int | None:
    """The loop that walks the dim that the axis splits in the operand as it is there: of several, one that walks no
    dims of others that the axis does not split."""
    splits = [next(iter(_split_by(v, of[:1], axis)), None) for v, of in zip(node.inputs, held)]
    name = splits[operand]
    found = [k for k, loop in enumerate(plan.loops) if name is not None and loop.ins[operand] == name]
    return next(
        (k for k in found if all(n in (None, s) for n, s in zip(plan.loops[k].ins, splits))), next(iter(found), None)
    )


def _by_cost(
    region: GraphPlacer,
    node: Node,
    plan: LoopAxes,
    held: list[list[Held]],
    declared: Layout,
    axis: str,
    wishes: dict[str, Wish],
) -> None:
    """Rule 2: split rather than replicated work, then fewest bytes moved, then the declared order."""
    out = node.outputs[0]
    split = [_split_by(v, of, axis) for v, of in zip(node.inputs, held)]
    if not wishes and not any(split):
        return
    n = region.sizes[axis]
    found: list[tuple[float, int, int]] = []
    states: list[list[tuple[State, int]]] = []
    for k, loop in enumerate(plan.loops):
        named = [wishes[name] for name in loop.names if name in wishes] if wishes else []
        here = any([name in of for name, of in zip(loop.ins, split)])
        if not named and not here:
            continue
        rule = min(named, key=lambda w: w.rank).rule if named else None
        pad = (rule is not None and rule.pad) or here
        if not _room(region, node, plan, k, axis, pad):
            # In the update, `shard` rules may have used the dim up: then the axis repeats work.
            ours = (
                region.cls != "optimizer"
                and axis != TIME
                and not here
                and not _room_behind(region, node, plan, k, axis, pad)
            )
            if rule is not None and loop.kind in ("pass", "sum", "max") and ours:
                counted = _of_its_size(node, loop)
                region.rules.indivisible(counted, loop.size, (*plan.axes[k], axis), rule, out.name)
            continue
        if not states:
            states = [
                [(state(v, layout, axis), bytes_of(region.sizes, _piece(layout, type))) for layout, type in of]
                for v, of in zip(node.inputs, held)
            ]
        needs: list[State] = [WHOLE if name is None else ("split", name) for name in loop.ins]
        operands = [(need, versions) for need, versions in zip(needs, states) if versions]
        cost = _moved(n, out.type.bytes, operands, *_made(out, declared, loop, axis))
        found.append((cost, min([w.rank for w in named], default=len(wishes)), k))
    if not found:
        return
    found.sort()
    if len(found) > 1 and region.rules.questions is not None:
        _keep(region, node, plan, held, declared, axis, found)
    plan.axes[found[0][2]].append(axis)
    if not region.shared.told:
        return
    candidates = tuple([(plan.loops[k].names[0], cost) for cost, _, k in found])
    reason = Reason.ONLY if len(found) == 1 else Reason.FEWEST
    region.shared.choices.append(Choice(out.name, axis, plan.loops[found[0][2]].names, reason, candidates))


def _keep(
    region: GraphPlacer,
    node: Node,
    plan: LoopAxes,
    held: list[list[Held]],
    declared: Layout,
    axis: str,
    found: list[tuple[float, int, int]],
) -> None:
    """The choice as a question that may be asked of other sizes."""
    out, options = node.outputs[0], []
    for _, rank, k in sorted(found, key=lambda f: f[2]):
        loop, operands = plan.loops[k], []
        for v, name, versions in zip(node.inputs, loop.ins, held):
            need: State = WHOLE if name is None else ("split", name)
            haves = tuple([(state(v, layout, axis), _piece(layout, type)) for layout, type in versions])
            if haves:
                operands.append((need, haves))
        options.append((k, rank, tuple(operands), *_made(out, declared, loop, axis)))
    region.rules.ask(cheapest, axis, out.type.bytes, tuple(options))


def _piece(layout: Layout, type: Type | None) -> Piece:
    """What a device has of an operand, as far as it counts."""
    return None if type is None else (type, layout)


def _made(out: Value, declared: Layout, loop: Loop, axis: str) -> tuple[State, State]:
    """How the axis stands in what the loop gives, and how it is to."""
    if loop.outs[0] is not None:
        made: State = ("split", loop.outs[0])
    else:
        made = ("pending", "max" if loop.kind == "max" else "sum")
    return made, state(out, declared, axis)


def cheapest(sizes: Sizes, axis: str, size: int, options: Sequence[Option]) -> int:
    """Of loops that an axis can split the one for which fewest bytes move. size: of the whole result."""
    found = []
    for k, rank, operands, made, wanted in options:
        there = [(need, [(have, bytes_of(sizes, piece)) for have, piece in haves]) for need, haves in operands]
        found.append((_moved(sizes[axis], size, there, made, wanted), rank, k))
    return min(found)[2]


def _moved(
    n: int, size: int, operands: Sequence[tuple[State, Sequence[tuple[State, int]]]], made: State, wanted: State
) -> float:
    """Bytes that move over an axis of n devices for a loop that it splits: per operand what is needed of it, and what
    there is, with its bytes; size: of the whole result."""
    cost = 0.0
    for need, versions in operands:
        cost += min([move_cost(have, need, n, own) for have, own in versions])
    return cost + move_cost(made, wanted, n, size / (n if made[0] == "split" else 1))


def _order(region: GraphPlacer, node: Node, plan: LoopAxes, held: list[list[Held]]) -> None:
    """Where several axes split one loop: the order that the largest operand has already, new axes as the minor ones."""
    mark = region.shared.gradients.get(node.outputs[0].name)
    for k, axes in enumerate(plan.axes):
        if len(axes) < 2:
            continue
        if mark is not None and not any(plan.loops[k].ins):  # only the result has that dim
            known = mark.dims[plan.loops[k].outs[0] or ""]  # axes that do not split it there come as minor ones
            plan.axes[k] = sorted(axes, key=lambda a: known.index(a) if a in known else len(known))
            continue
        operands: list[tuple[int, Piece]] = []
        prefixes: list[tuple[str, ...]] = []
        for i, v in enumerate(node.inputs):
            name = plan.loops[k].ins[i]
            if name is None:
                continue
            for layout, type in held[i]:
                have = layout.dims[v.type.index(name)]
                first = TIME not in axes or have[:1] == (TIME,)  # pieces of micro-batches, never the other way round
                if have and first and set(have) <= set(axes):
                    operands.append((len(have), _piece(layout, type)))
                    prefixes.append(have)
        prefix = prefixes[0] if prefixes else ()
        if any([p != prefix for p in prefixes]):
            prefix = prefixes[region.rules.ask(largest, tuple(operands))]
        plan.axes[k] = [*prefix, *(a for a in axes if a not in prefix)]
