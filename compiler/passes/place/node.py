"""Placing one op: choose its loops' axes, pull the operands into the layouts that follow, state the result's layout."""

from __future__ import annotations

from math import inf

from compiler.graph import RANGES, Node, Type, Value
from compiler.layout import TIME, Layout, in_order
from compiler.ops.base import Loop
from compiler.ops.comm import MaskPad
from compiler.ops.contract import Contract
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast, Map
from compiler.ops.neighbours import Halo, HaloAdd
from compiler.ops.packed import Integers
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.passes.copying import renamed
from compiler.passes.place.chosen import chosen
from compiler.passes.place.questions import gaps, padded
from compiler.passes.place.region import GraphPlacer, LoopAxes


def place_node(region: GraphPlacer, node: Node) -> None:
    """Append the node (and what it needs) to the region."""
    constant = all(v.name in region.constants for v in node.inputs)
    if constant and len(node.outputs) == 1 and not isinstance(node.op, Repeat):
        region.constants.add(node.output.name)
        region.lazy[node.output.name] = node
        return
    region.reader, region.span = node.outputs[0].name, node.span
    node = _apart(region, node)
    if isinstance(node.op, Cast) and node.inputs[0].name in region.weights:
        _place_weight_cast(region, node)
        return
    plan = chosen(region, node)
    if plan.plain:
        inputs = tuple([region.demand(v, _needed(region, plan, v, i)) for i, v in enumerate(node.inputs)])
        region.nodes.append(Node(node.op, inputs, node.outputs, node.span))
        for j, out in enumerate(node.outputs):
            region.define(out, _made(region, plan, out, j))
    else:
        _emit(region, node, plan, tuple([_operand(region, node, plan, i) for i in range(len(node.inputs))]))
    if node.op.unpacks and all(v.name in region.weights for v in node.inputs):
        region.weights[node.output.name] = _made(region, plan, node.output, 0)
    elif node.op.unpacks and isinstance(node.op, Integers):
        region.unpacked[node.output.name] = node
    _note_sums(region, node)
    stated = region.rules.override(node.outputs[0].name, node.outputs[0].type, region.cls)
    if stated is not None and stated != region.natural(node.outputs[0]):
        got = region.demand(node.outputs[0], stated)
        versions = region.changing(node.outputs[0].name)
        versions[:] = [v for v in versions if v.value is got]


def _note_sums(region: GraphPlacer, node: Node) -> None:
    """Remember what is a sum of integers: a product of these, as floats, and scaled."""
    op, out = node.op, node.outputs[0]
    made = isinstance(op, Contract) and out.type.dtype == "int32"
    scaled = isinstance(op, Cast) or (isinstance(op, Map) and op.fn == "mul")
    if made or (scaled and any(v.name in region.sums for v in node.inputs)):
        region.sums.add(out.name)


def _apart(region: GraphPlacer, node: Node) -> Node:
    """`1 - x` with the number as an operand, where x is a sum over micro-batches: the number counts in one of them."""
    op = node.op
    if not isinstance(op, Map) or op.fn not in ("add", "sub") or len(node.inputs) != 1:
        return node
    (number,) = (s for s in op.slots if s is not None)
    (x,) = node.inputs
    held = region.layouts(x)
    if number == 0 or not held or not all(layout.pending_on(TIME) == "sum" for layout, _ in held):
        return node
    full = Full(number, x.type.dtype, ())
    name = region.shared.names.fresh(f"{node.output.name}.constant")
    constant = Value(name, Type(x.type.dtype), origin=node.output.origin)
    region.constants.add(constant.name)
    region.lazy[constant.name] = Node(full, (), (constant,), node.span)
    operands = tuple(x if s is None else constant for s in op.slots)
    return Node(Map(op.fn, (None, None)), operands, node.outputs, node.span)


def _place_weight_cast(region: GraphPlacer, node: Node) -> None:
    """A cast weight stays in the storage layout (so that it is gathered in the smaller type) and remains a weight."""
    source = region.versions[node.inputs[0].name][0]
    region.nodes.append(Node(node.op, (source.value,), node.outputs, node.span))
    region.weights[node.output.name] = region.weights[node.inputs[0].name]
    region.define(node.output, source.layout)


def walked(
    loops: tuple[Loop, ...], axes: list[list[str]], value: Value, operand: int | None, out: int = 0
) -> list[tuple[str, ...]]:
    """Axes of each dim of an operand (or of result `out`), as its loops are split."""
    found: dict[str, tuple[str, ...]] = {}
    for loop, split in zip(loops, axes, strict=True):
        if split:
            name = loop.outs[out] if operand is None else loop.ins[operand]
            if name is not None:
                found[name] = (*found.get(name, ()), *split)  # parts of a dim, major first
    return [found.get(name, ()) for name in value.type.names]


def _needed(region: GraphPlacer, plan: LoopAxes, value: Value, i: int) -> Layout:
    """The layout that the plan asks for of operand `i`."""
    found = plan.operands.get(i)
    if found is None:
        pending = in_order([(a, "sum") for a, group in plan.passing.items() if i in group], region.sizes)
        found = plan.operands[i] = Layout(tuple(walked(plan.loops, plan.axes, value, i)), pending)
    return found


def _made(region: GraphPlacer, plan: LoopAxes, value: Value, j: int) -> Layout:
    """The layout of result `j`, borders aside."""
    found = plan.results.get(j)
    if found is None:
        pending = {a: "sum" for a in plan.passing}
        for loop, axes in zip(plan.loops, plan.axes, strict=True):
            if loop.kind in ("sum", "max"):
                pending.update(dict.fromkeys(axes, loop.kind))
        dims = tuple(walked(plan.loops, plan.axes, value, None, j))
        found = plan.results[j] = Layout(dims, in_order(pending.items(), region.sizes))
    return found


def _operand(region: GraphPlacer, node: Node, plan: LoopAxes, i: int) -> Value:
    """The operand in the layout that the plan asks for, with halos fetched and padding masked."""
    value = node.inputs[i]
    layout = _needed(region, plan, value, i)
    got = region.demand(value, layout)
    for loop, axes in zip(plan.loops, plan.axes, strict=True):
        name = loop.ins[i]
        if not axes or name is None:
            continue
        d = value.type.index(name)
        if loop.kind == "halo" and not loop.gives and loop.halo != (0, 0):
            got, layout = _fetch_halo(region, got, layout, d, loop, tuple(axes))
        elif (
            (loop.kind in ("sum", "max") or (loop.kind == "halo" and loop.halo != (0, 0)))
            and region.rules.ask(padded, value.type.dims[d], tuple(axes))
            and (node.op.sees_padding(i) or (loop.placed and region.rules.ask(gaps, value.type.dims[d], tuple(axes))))
        ):
            masked = renamed(value, region.shared.names.fresh(f"{value.name}.masked"), Phase.MOVED)
            lowest = -inf if value.type.is_float else float(RANGES[value.type.dtype][0])
            neutral = lowest if loop.kind == "max" else 0.0
            region.nodes.append(Node(MaskPad(name, neutral), (got,), (masked,), node.span))
            region.shared.layouts[masked.name] = layout
            got = masked
    return got


def _fetch_halo(
    region: GraphPlacer, got: Value, layout: Layout, d: int, loop: Loop, axes: tuple[str, ...]
) -> tuple[Value, Layout]:
    left, right = loop.halo
    wide = Layout(layout.dims, layout.pending, (*layout.halo, (d, left, right)))
    out = renamed(got, region.shared.names.fresh(f"{got.name}.halo"), Phase.MOVED)
    region.nodes.append(Node(Halo(got.type.names[d], axes, left, right, loop.fill), (got,), (out,), region.span))
    region.shared.layouts[out.name] = wide
    return out, wide


def _emit(region: GraphPlacer, node: Node, plan: LoopAxes, inputs: tuple[Value, ...]) -> None:
    """Append the op and define its results' layouts: split loops, pending sums, borders to give back."""
    borders: list[tuple[int, int, int, Loop, tuple[str, ...]]] = []
    outputs, moved = node.outputs, None
    for loop, axes in zip(plan.loops, plan.axes, strict=True):
        if not axes:
            continue
        if loop.kind == "move":
            moved = moved or axes
        elif loop.kind == "halo" and loop.gives and loop.halo != (0, 0) and loop.outs[0] is not None:
            borders.append((node.output.type.index(loop.outs[0]), *loop.halo, loop, tuple(axes)))
    if borders:
        outputs = (renamed(node.output, region.shared.names.fresh(f"{node.output.name}.wide")),)
    op = node.op.between(tuple(moved)) if moved else node.op
    region.nodes.append(Node(op, inputs, outputs, node.span))
    for j, (out, made) in enumerate(zip(node.outputs, outputs, strict=True)):
        layout = _made(region, plan, out, j)
        if not borders:
            region.define(out, layout)
            continue
        halo = tuple((d, left, right) for d, left, right, _, _ in borders)
        region.shared.layouts[made.name] = Layout(layout.dims, layout.pending, halo)
        for k, (d, left, right, _, along) in enumerate(borders):
            last = k == len(borders) - 1
            after = out if last else renamed(out, region.shared.names.fresh(f"{out.name}.wide"))
            op = HaloAdd(out.type.dims[d].name, along, left, right)
            region.nodes.append(Node(op, (made,), (after,), node.span))
            rest = halo[k + 1 :]
            region.shared.layouts[after.name] = Layout(layout.dims, layout.pending, rest)
            made = after
        region.define(out, layout)
