"""Mesh axes: each holds either places or pieces of tensors; one that no rule names is told."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.strategy import Strategy
from dsl.diagnostics import Diagnostic, fail
from dsl.source import Span


def check_axes(strategy: Strategy) -> None:
    """An axis holds either stages (places) or pieces of tensors. Raises ParcError (E0407)."""
    places = dict(_placing(strategy))
    for axis, span in _splitting(strategy):
        if axis in places:
            notes = [("it is used for places here", places[axis])]
            message = f"axis `{axis}` holds places: its devices run different parts, so it cannot split tensors"
            raise fail("E0407", message, span, notes=notes, help="give the mesh an axis of its own for this")


def idle_axes(strategy: Strategy) -> tuple[Diagnostic, ...]:
    """Warnings of the axes whose devices all do the same. Legal: a mesh names all devices of its cluster."""
    named = {axis for axis, _ in (*_placing(strategy), *_splitting(strategy))}
    return tuple(
        Diagnostic(
            "E0416",
            f"no rule names the mesh axis `{a.name}`: its {a.size:,} devices all do the same",
            a.span,
            help=f"give it something to split (`split … on {a.name}`), or leave it out",
            severity="warning",
        )
        for a in strategy.mesh
        if a.size > 1 and a.name not in named
    )


def _placing(strategy: Strategy) -> Iterator[tuple[str, Span]]:
    yield from ((r.axis, r.span) for r in strategy.pipelines)
    yield from ((r.axis, r.span) for r in strategy.places)


def _splitting(strategy: Strategy) -> Iterator[tuple[str, Span]]:
    yield from ((r.axis, r.span) for r in strategy.splits)
    yield from ((r.axis, r.span) for r in strategy.shards)
    yield from ((r.axis, r.span) for r in strategy.reductions)
    yield from ((a, r.span) for r in strategy.layouts for _, axes in r.dims for a in axes)
    yield from ((a, r.span) for r in strategy.implementations for a, _ in r.axes)
