"""Loops that are parts of others, where a strategy speaks of some iterations of a loop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from compiler.origin import scopes, within
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic


@dataclass(frozen=True, slots=True)
class InnerLoop:
    """A loop in an iteration that stands by itself. label, path: its own; of, of_path: those in the model."""

    label: str
    path: str
    of: str
    of_path: str


@dataclass(frozen=True, slots=True)
class LoopPiece:
    """A loop that is a part of one that the model has: its `count` iterations are those from `first` on of `total`.

    label, path: its own; of, of_path: those of the whole. apart: there is no loop: its one iteration stands by itself,
    and so do the loops in it, `inner`. What is stacked over the whole lacks its dim there.
    """

    label: str
    path: str
    of: str
    of_path: str
    first: int
    count: int
    total: int
    apart: bool = False
    inner: tuple[InnerLoop, ...] = ()


def by_path(pieces: Iterable[LoopPiece]) -> dict[str, LoopPiece]:
    """The pieces by their own paths."""
    return {p.path: p for p in pieces}


def _around(path: str, pieces: Mapping[str, LoopPiece]) -> LoopPiece | None:
    """The piece in which a path is."""
    return next((pieces[s] for s in (path, *scopes(path)) if s in pieces), None) if pieces else None


def whole_path(path: str, pieces: Mapping[str, LoopPiece]) -> str:
    """A path as it is without the pieces (`by_path`): in the loops of which they are parts."""
    piece = _around(path, pieces)
    return path if piece is None else piece.of_path + path[len(piece.path) :]


def apart_in(path: str, pieces: Mapping[str, LoopPiece]) -> tuple[LoopPiece, ...]:
    """The iterations by themselves that a path is in, outermost first: what is there lacks the dims of their loops."""
    around = _around(path, pieces)
    return (around,) if around is not None and around.apart else ()


def parts_of(text: str, pieces: Iterable[LoopPiece]) -> list[str]:
    """The paths of what there is of a loop, by its label or path in the model, or of a scope in one that is apart;
    the text itself if it is not cut."""
    known = tuple(pieces)
    found = [p.path for p in known if text in (p.of, p.of_path)]
    found = found or [i.path for p in known for i in p.inner if text in (i.of, i.of_path)]
    inside = (p.path + text[len(p.of_path) :] for p in known if p.apart and within(text, p.of_path))
    return found or [*inside] or [text]


def with_numbers(path: str, pieces: Mapping[str, LoopPiece]) -> str:
    """A path as a strategy writes it: `block[0..4].mlp`, `block[4].mlp`, where the loop is cut (`by_path`)."""
    piece = _around(path, pieces)
    return path if piece is None else _numbered(piece.of_path, piece) + path[len(piece.path) :]


def with_one_number(path: str) -> str:
    """A path as `with_numbers` gives it: of `block[4..5]` it is `block[4]`."""
    return re.sub(r"\[(\d{1,10})\.\.(\d{1,10})\]", lambda m: f"[{m[1]}]" if int(m[2]) == int(m[1]) + 1 else m[0], path)


def _numbered(of: str, piece: LoopPiece) -> str:
    last = piece.first + piece.count
    return f"{of}[{piece.first}]" if piece.count == 1 else f"{of}[{piece.first}..{last}]"


def in_words(found: Diagnostic, pieces: Sequence[LoopPiece]) -> Diagnostic:
    """A finding in which paths in pieces are written as in strategies."""
    if not pieces:
        return found
    own = {p.label: _numbered(p.of, p) for p in pieces} | {p.path: _numbered(p.of_path, p) for p in pieces}
    own |= {i.label: _numbered(p.of_path, p) + i.path[len(p.path) :] for p in pieces for i in p.inner}
    names = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, own))})(?!\w)")

    def told(text: str) -> str:
        return names.sub(lambda m: own[m[1]], text)

    notes = tuple((told(text), span) for text, span in found.notes)
    help = told(found.help) if found.help is not None else None
    return replace(found, message=told(found.message), help=help, notes=notes)


def together(path: str, scope: str | None, pieces: Iterable[LoopPiece]) -> bool:
    """Whether one rule can speak of both: not where they are in two parts of one loop."""
    of = {p.of: p.path for p in pieces if within(path, p.path)}
    return not any(of.get(p.of, p.path) != p.path for p in pieces if scope is not None and within(scope, p.path))
