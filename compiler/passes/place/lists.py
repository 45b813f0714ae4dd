"""Placing gradients that are lists of rows: what backward passes put out, and what the update makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.graph import Type, Value
from compiler.layout import TIME, Layout
from compiler.lists import row_lists
from compiler.model import Training
from compiler.passes.place.region import GradMark, GraphPlacer
from compiler.passes.sparse import Unlisted

Listed = tuple[str, Value, Value]
"""The weight, its rows, their numbers."""


def lists_of(training: Training) -> dict[int, Listed]:
    """Outputs of the backward pass that belong to lists, by their positions."""
    if not training.beside:
        return {}
    positions = {v.name: i for i, v in enumerate(training.update.inputs)}
    names, outputs = [name for name, _ in training.added], training.backward.outputs
    found: dict[int, Listed] = {}
    for _, _, operands in row_lists(training.update):
        at = [positions[name] for name in operands]
        for rows, index in zip(at[::2], at[1::2], strict=True):
            found[rows] = found[index] = names[rows], outputs[rows], outputs[index]
    return found


def mark_lists(training: Training, optimizer: Mapping[str, Layout], marks: dict[str, GradMark]) -> None:
    """The slots of a table lie as its optimizer's states do."""
    types = {w.name: w.value.type for w in training.trained}
    owners = {v.name: name for v, (name, _) in zip(training.update.inputs, training.added)}
    for op, made, operands in row_lists(training.update):
        name = owners[operands[0]]
        dims = dict(zip(types[name].names, optimizer[name].dims, strict=True))
        dims[op.slot.name] = dims.pop(op.dim.name)
        marks[made.name] = GradMark(name, dims)


def listed(region: GraphPlacer, value: Value, weight: str, rows: Value, index: Value) -> Value:
    """The rows of a list, or their numbers: as the rows were made, each micro-batch its own."""
    region.reader = value.name
    held = region.layouts(rows) or region.layouts(index)
    whole = [layout for layout, _ in held if not layout.pending]
    if any(layout.pending_on(TIME) for layout, _ in held):
        raise Unlisted({weight: "micro-batches add up what it takes"})
    if not whole:  # a sum over other axes
        whole = [region.shared.layouts[region.resolved(rows).name]]
    layout = whole[0]
    source = rows if region.layouts(rows) else index
    axes = dict(zip(source.type.names, layout.dims, strict=True))
    if TIME in region.axes and not any(axes.get(n, ())[:1] == (TIME,) for n in index.type.names):
        raise Unlisted({weight: "what it takes is the same in all micro-batches"})
    for axis in {a for n in index.type.names for a in axes.get(n, ())} - {TIME}:
        region.rules.waits(weight, axis)  # the list is whole in the update: a sum over the axis, as any gradient
    return region.demand(value, Layout(tuple(axes.get(n, ()) for n in value.type.names)))


def check_lists(training: Training, gradients: Sequence[Value], layouts: Mapping[str, Layout]) -> None:
    """Micro-batches divide a list as the update takes it in. Raises Unlisted."""
    inputs = training.update.inputs
    for i, (weight, _, _) in lists_of(training).items():
        made, taken = gradients[i], inputs[i]
        at = layouts[made.name].dim_of(TIME)
        want = made.type.dims if at is None else taken.type.dims[1:]
        parts = [k for k, (a, b) in enumerate(zip(made.type.dims, want, strict=True)) if a != b]
        if len(taken.type.dims) - len(made.type.dims) != (at is not None) or parts not in ([], [at]):
            raise Unlisted({weight: "micro-batches divide another dim of what it takes"})


def mark_counts(training: Training, compute: Mapping[str, Layout], marks: dict[str, GradMark]) -> None:
    """How often rows are taken is counted where they are."""
    types = {w.name: w.value.type for w in training.trained}
    listed = training.listed
    for name, v in training.beside:
        if name not in listed:
            dims = dict(zip(types[name].names, compute[name].dims, strict=True))
            marks[v.name] = GradMark(name, {n: dims[n] for n in v.type.names})


def of_dims(type: Type, whole: Type, layout: Layout) -> Layout:
    """The layout of a tensor that has some of the dims of another one."""
    axes = dict(zip(whole.names, layout.dims, strict=True))
    return Layout(tuple(axes.get(n, ()) for n in type.names))
