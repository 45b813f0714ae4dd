"""What the buffers of a loop's pieces are in the serial program, where a strategy has cut the loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from compiler.graph import Graph
from compiler.loop_pieces import apart_in, by_path, whole_path
from compiler.model import LoopPiece, Model
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, Affine, DeviceClass, LoopRange, StateDecl, WholeLoop
from compiler.walk import bodies


def in_whole_loops(cls: DeviceClass, model: Model) -> DeviceClass:
    """The class, whose buffers and loops say of which tensors and loops of the serial program they are parts."""
    if not model.pieces:
        return cls
    pieces, whole = {p.label: p for p in model.pieces if not p.apart}, by_path(model.pieces)
    inner = {i.label: i.of for p in model.pieces for i in p.inner}
    ranges = [_within(r, pieces[r.dim]) if r.dim in pieces else r for r in cls.ranges]
    ranges = [_of(r, inner[r.dim]) if r.dim in inner else r for r in ranges]
    known = {(r.dim, r.chunk) for r in ranges}
    for chunk in sorted({*(s.chunk for s in cls.states), *(f.phase.at(f.chunk) for f in cls.functions)}):
        for label in _labels(cls, chunk, pieces):
            if (label, chunk) not in known:
                count = pieces[label].count
                ranges.append(_within(LoopRange(label, chunk, Affine(0), count, count), pieces[label]))
        for label, count in _counts(cls, chunk, inner).items():
            if (label, chunk) not in known:
                ranges.append(_of(LoopRange(label, chunk, Affine(0), count, count), inner[label]))
    return replace(cls, ranges=tuple(ranges), states=tuple(_named(s, whole) for s in cls.states))


def _within(r: LoopRange, piece: LoopPiece) -> LoopRange:
    return replace(r, within=WholeLoop(piece.of, piece.first, piece.total))


def _of(r: LoopRange, label: str) -> LoopRange:
    """Of a loop in an iteration by itself: all of the inner loop that has this label in the model."""
    return replace(r, within=WholeLoop(label, 0, r.total))


def _named(decl: StateDecl, pieces: Mapping[str, LoopPiece]) -> StateDecl:
    if decl.role not in (*LASTING, Role.GRADIENT):
        return decl
    whole = whole_path(decl.logical, pieces)
    if whole == decl.logical:
        return decl
    apart = tuple(WholeLoop(p.of, p.first, p.total) for p in apart_in(decl.logical, pieces))
    return replace(decl, whole=whole, iterations=apart)


def _labels(cls: DeviceClass, chunk: int, pieces: Collection[str]) -> Iterator[str]:
    """The loops of which a chunk has iterations, in their order."""
    there = {n for s in cls.states if s.chunk == chunk for n in s.type.names}
    there |= {label for f in cls.functions if f.phase.at(f.chunk) == chunk for label in _loops(f.body)}
    return (label for label in pieces if label in there)


def _counts(cls: DeviceClass, chunk: int, labels: Collection[str]) -> dict[str, int]:
    """How many iterations a chunk has of these loops, of those that are there."""
    found = {d.name: d.size for s in cls.states if s.chunk == chunk for d in s.type.dims if d.name in labels}
    for f in cls.functions:
        if f.phase.at(f.chunk) == chunk:
            loops = [n.op for g in bodies(f.body) for n in g.nodes if isinstance(n.op, Repeat)]
            found |= {op.label: op.count for op in loops if op.label in labels}
    return found


def _loops(body: Graph) -> Iterator[str]:
    return (n.op.label for g in bodies(body) for n in g.nodes if isinstance(n.op, Repeat))
