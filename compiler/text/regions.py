"""The marks of a body as text, behind its instructions: `region attention kept 0.5: %scores.z..%softmax.out, %p`.

A region's nodes are named by their first results, and runs of neighbours by the first and the last of them. Fused
regions are told otherwise: `fuse { … }` is around their instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.graph import Graph, Node
from compiler.regions.region import Region, RegionKind
from compiler.text.attrs import quote, runs, show_number
from compiler.text.cursor import Cursor

WORD = "region"

FUSE = "fuse"
"""Before the `{` of instructions that run as one (`regions.fused`)."""

MARKS = tuple(k for k in RegionKind if k is not RegionKind.FUSED)
"""Kinds that are told behind the instructions."""


def show_regions(body: Graph) -> list[str]:
    """A line for each region of the body, without those of its loops."""
    order = _order(body.nodes) if body.regions else {}
    return [_line(region, order, list(order)) for region in body.regions if region.kind in MARKS]


def _order(nodes: Sequence[Node]) -> dict[str, int]:
    return {name: i for i, name in enumerate(n.outputs[0].name for n in nodes if n.outputs)}


def _line(region: Region, order: dict[str, int], names: list[str]) -> str:
    text = f"{WORD} {region.kind}"
    text += "".join(f" over ({', '.join(map(quote, dims))})" for dims in region.over)
    text += f" kept {show_number(region.kept)}" if region.kept != 1.0 else ""
    text += f" most {show_number(region.most)}" if region.most else ""
    text += f" copies {region.copies}" if region.copies != 1 else ""
    text += f" places {region.places}" if region.places else ""
    rows = [(names[first], names[last]) for first, last in runs([order[v] for v in region.values if v in order])]
    rows += [(v, v) for v in region.values if v not in order]  # which is no legal program; reading it says so
    return f"{text}: " + ", ".join(f"%{quote(a)}" if a == b else f"%{quote(a)}..%{quote(b)}" for a, b in rows)


def read_regions(cursor: Cursor, nodes: Sequence[Node]) -> tuple[Region, ...]:
    """The marks behind the nodes of a body. Raises E0601 where something else was expected, E0605 for shares that are
    none and rows that run backwards, E0610 for a value that no node of the body gives, E0611 for one that stands
    twice."""
    order = _order(nodes) if cursor.sees_word(WORD) else {}
    names = list(order)
    found: list[Region] = []
    while cursor.take_word(WORD):
        kind = cursor.token
        if cursor.text("a kind of region") not in MARKS:
            raise cursor.error("E0601", f"`{kind.text}` is no kind of region", kind, f"one of {', '.join(MARKS)}")
        over: list[tuple[str, ...]] = []
        while cursor.take_word("over"):
            cursor.mark("(")
            over.append(tuple(_listed(cursor)))
            cursor.mark(")")
        kept = float(cursor.number()) if cursor.take_word("kept") else 1.0
        most = float(cursor.number()) if cursor.take_word("most") else 0.0
        if not 0 <= kept <= 1 or not 0 <= most <= 1:
            raise cursor.error("E0605", "a share of the scores is from 0 to 1", kind)
        copies = cursor.natural() if cursor.take_word("copies") else 1
        if copies < 1:
            raise cursor.error("E0605", "what is sent is at least 1 of its copies", kind, "`copies 2`")
        places = cursor.natural() if cursor.take_word("places") else 0
        cursor.mark(":")
        start = cursor.token
        values = [v for row in _rows(cursor, order, names) for v in row]
        if len(set(values)) < len(values):
            raise cursor.error("E0611", "a value stands in a region twice", start, "name each of its values once")
        cursor.end_line()
        found.append(Region(RegionKind(kind.text), tuple(values), kept, tuple(over), copies, places, most))
    return tuple(found)


def _listed(cursor: Cursor) -> Iterator[str]:
    yield cursor.text("a dim")
    while cursor.take(","):
        yield cursor.text("a dim")


def _rows(cursor: Cursor, order: dict[str, int], names: list[str]) -> Iterator[list[str]]:
    while True:
        start = cursor.token
        first = _position(cursor, order)
        last = _position(cursor, order) if cursor.take("..") else first
        if last < first:
            raise cursor.error("E0605", "a row of nodes that ends before it begins", start, "name the first one first")
        yield names[first : last + 1]
        if not cursor.take(","):
            return


def _position(cursor: Cursor, order: dict[str, int]) -> int:
    start = cursor.token
    name = cursor.value_name()
    if name not in order:
        help = "a region names what instructions of its own body give, each node by its first result"
        raise cursor.error("E0610", f"no instruction here gives `%{name}`", start, help)
    return order[name]
