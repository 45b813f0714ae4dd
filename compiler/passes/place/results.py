"""What a step gives, as the forward pass puts it out: scalars, parts of other metrics, outputs of the model."""

from __future__ import annotations

from compiler.graph import Value
from compiler.layout import TIME, Layout
from compiler.passes.place.region import GraphPlacer


def scalar(region: GraphPlacer, value: Value, metric: bool) -> Value:
    """The loss or a metric that is a sum over the micro-batches (or, a metric, a maximum).

    With one micro-batch it is whole on every device. Of several each device adds up its own parts, and nobody sends
    anything before the last is in; unless it is already there, because something of the pass reads it.
    """
    region.reader = value.name
    made = region.natural(value).pending_on(TIME)
    fn = (made if metric else None) or "sum"
    wanted = Layout(tuple(() for _ in value.type.dims), ((TIME, fn),) if TIME in region.axes else ())
    if TIME not in region.axes or made not in (None, fn) or any(at == wanted for at, _ in region.layouts(value)):
        return region.demand(value, wanted)
    return as_made(region, value)


def as_made(region: GraphPlacer, value: Value) -> Value:
    """What becomes whole when all micro-batches are in: as it was made, always a sum or maximum over them."""
    region.reader = value.name
    layout = region.natural(value)
    if TIME in region.axes and layout.pending_on(TIME) is None:
        dims = tuple(tuple(a for a in axes if a != TIME) for axes in layout.dims)
        layout = Layout(dims, ((TIME, "sum"), *layout.pending))
    return region.demand(value, layout)


def waits(layout: Layout) -> bool:
    """Whether what was put out so is no result of the step yet when all micro-batches are in."""
    return bool(untimed(layout).axes)


def output(region: GraphPlacer, value: Value) -> Value:
    """Each micro-batch's own part, or what all of them add up to; what is the same in all of them counts once."""
    region.reader = value.name
    natural = region.natural(value)
    fn = natural.pending_on(TIME)
    if TIME not in region.axes or (fn is None and TIME in natural.split_axes):
        return region.demand(value, natural.resolved()) if natural.pending else region.resolved(value)
    layout = whole(natural) if fn is None else whole(region.declared(value))
    return region.demand(value, Layout(layout.dims, ((TIME, fn or "sum"),)))


def whole(layout: Layout) -> Layout:
    """The layout of what is whole: over the micro-batches, and without pending sums."""
    return Layout(tuple(tuple(a for a in axes if a != TIME) for axes in layout.dims))


def untimed(layout: Layout) -> Layout:
    """The same when all micro-batches are in."""
    return Layout(layout.dims, tuple(p for p in layout.pending if p[0] != TIME))
