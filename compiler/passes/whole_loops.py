"""What the buffers of a loop's pieces are in the serial program, where a strategy has cut the loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from compiler.graph import Graph
from compiler.loop_pieces import by_path, whole_path
from compiler.model import LoopPiece, Model
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, Affine, DeviceClass, LoopRange, StateDecl, WholeLoop
from compiler.walk import bodies


def in_whole_loops(cls: DeviceClass, model: Model) -> DeviceClass:
    """The class, whose buffers and loops say of which tensors and loops of the serial program they are parts."""
    if not model.pieces:
        return cls
    pieces, whole = {p.label: p for p in model.pieces}, by_path(model.pieces)
    ranges = [_within(r, pieces[r.dim]) if r.dim in pieces else r for r in cls.ranges]
    known = {(r.dim, r.chunk) for r in ranges}
    for chunk in sorted({*(s.chunk for s in cls.states), *(f.chunk for f in cls.functions)}):
        for label in _labels(cls, chunk, pieces):
            if (label, chunk) not in known:
                count = pieces[label].count
                ranges.append(_within(LoopRange(label, chunk, Affine(0), count, count), pieces[label]))
    return replace(cls, ranges=tuple(ranges), states=tuple(_named(s, whole) for s in cls.states))


def _within(r: LoopRange, piece: LoopPiece) -> LoopRange:
    return replace(r, within=WholeLoop(piece.of, piece.first, piece.total))


def _named(decl: StateDecl, pieces: Mapping[str, LoopPiece]) -> StateDecl:
    if decl.role not in (*LASTING, Role.GRADIENT):
        return decl
    whole = whole_path(decl.logical, pieces)
    return decl if whole == decl.logical else replace(decl, whole=whole)


def _labels(cls: DeviceClass, chunk: int, pieces: Collection[str]) -> Iterator[str]:
    """The loops of which a chunk has iterations, in their order."""
    there = {n for s in cls.states if s.chunk == chunk for n in s.type.names}
    there |= {label for f in cls.functions if f.chunk == chunk for label in _loops(f.body)}
    return (label for label in pieces if label in there)


def _loops(body: Graph) -> Iterator[str]:
    return (n.op.label for g in bodies(body) for n in g.nodes if isinstance(n.op, Repeat))
