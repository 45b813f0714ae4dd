"""`program_axes`: the axes of a program, of a strategy's sizes."""

from __future__ import annotations

from compiler.layout import TIME
from compiler.passes.place.place import Placed
from compiler.passes.place.rules import place_axes
from compiler.program import Axis


def program_axes(placed: Placed) -> tuple[Axis, ...]:
    """The time axis, if there is one, and those of the mesh."""
    count, strategy = placed.sizes.get(TIME, 1), placed.training.job.strategy
    places = place_axes(strategy)
    mesh = (Axis(a.name, a.size, "place" if a.name in places else "mesh") for a in strategy.mesh if a.size > 1)
    return (*([Axis(TIME, count, "time")] if count > 1 else []), *mesh)
