"""`store caches as paged(…)`: what is kept of all positions lies in a pool of pages, of which each sequence has some.

It is a rewrite of the derived model. Of a cache `[b, t, …]` there is a pool `[b, rows, …]`, of as many rows as pages
have places together: `b` is how many parts the batch is cut into, each with a pool of its own, and a layout or
micro-batches that cut the batch cut the pool alike. Which pages a sequence has says a table that is data of each call,
`[b, pages]`: position p of a sequence lies in its page `p // slots`, at the place `p % slots` of that; -1 is no page.
What is renewed at a position is renewed in its row, what is read are whole pages, in the order of the table. Nothing
else of the model is different.

Where a strategy cuts positions into parts, each part has an equal part of every page, and so of every sequence: the
pool is `[b, t, rows, …]` then, of as many `t` as parts. Pages are read part by part, so that positions are in another
order than their own along that dim, which `page_order` follows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from compiler.graph import Builder, Dim, Graph, Names, Node, Type, Value
from compiler.incremental.by_rows import mixes, stored
from compiler.incremental.page_order import in_any_order, order_matters
from compiler.incremental.positions import unused
from compiler.model import DataInput, Model, State
from compiler.ops.base import Op
from compiler.ops.create import Iota
from compiler.ops.elementwise import Broadcast, Map, Transpose
from compiler.ops.index import Scatter, Take
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Merge, Rename, Slice, Split
from compiler.origin import Origin
from compiler.strategy import PAGES, PageRule
from compiler.walk import graph_values, walk
from dsl.data import dataclass
from dsl.diagnostics import fail

TWO = (None, None)

MOST_ROWS = 2**31 - 1
"""Of a pool: where they lie is computed in int32."""


@dataclass(frozen=True, slots=True)
class Paging:
    """How what is kept lies in pages: `pieces` pools of `pages` pages each, of `slots` positions each; a sequence has
    `each` pages at most. rows: the dim of sequences, of which there are `count`; places: how many positions there are.
    """

    rows: str
    count: int
    places: int
    slots: int
    pieces: int
    pages: int

    @property
    def each(self) -> int:
        return -(-self.places // self.slots)


def paging(model: Model, rule: PageRule, dim: str, rows: str | None = None) -> Paging:
    """What a rule makes of the caches of a model, as `infer` runs it. rows: its dim of sequences, if that is known.

    Raises ParcError (E0542) where it has none, or where the pools do not fit its batch.
    """
    span = rule.by or rule.span
    of_data = [i.value.type for i in model.inputs if i.value.type.has(dim)]
    dims = {d.name: d.size for t in of_data for d in t.dims}
    found = rows or next((n for n in dims if n != dim and _apart(model.graph, n)), None)
    if found is None:
        help = f"data `[b, {dim}]`, of sequences `b` that nothing mixes"
        raise fail("E0542", f"the model `{model.name}` has no sequences that could share pages", span, help=help)
    count, places, pieces = dims[found], dims[dim], dict(rule.pieces).get(found, 1)
    if count % pieces:
        message = f"{count} sequences along `{found}` cannot share pages in {pieces} equal parts"
        raise fail("E0542", message, span, help="each part of the batch has pages of its own: choose one that divides")
    each = -(-places // rule.slots)
    pages = count * each if rule.pages is None else rule.pages
    if pages % pieces:
        help = f"each of the {pieces} parts of the batch has a pool of its own, of as many: take a multiple"
        raise fail("E0542", f"{pages:,} pages cannot be shared out to {pieces} pools", span, help=help)
    if pages // pieces < each:
        message = f"a pool of {pages // pieces:,} pages of {rule.slots} positions does not hold one whole sequence"
        help = f"one of {places:,} positions has {each:,} pages: `pages = {each * pieces}` at least"
        raise fail("E0542", message, span, help=help)
    if rule.slots * (pages // pieces) > MOST_ROWS:
        message = f"a pool of {pages // pieces:,} pages of {rule.slots} positions has more rows than `int32` counts"
        help = f"tables are of `int32`: {MOST_ROWS // rule.slots:,} pages of so many positions in a pool at most"
        raise fail("E0542", message, span, help=help)
    return Paging(found, count, places, rule.slots, pieces, pages // pieces)


def paged(model: Model, by: Paging, rule: PageRule, position: bool = False) -> Model:
    """The model of new positions whose caches of all positions lie in pages.

    Args:
        position: its last data are the rows' positions, which stay the last: the table is put before them.

    Raises ParcError (E0542) where nothing is kept of all positions, or positions are cut.
    """
    span = rule.by or rule.span
    contents = dict(zip((s.value for s in model.states), model.graph.outputs[len(model.outputs) :], strict=True))
    made = {v: node for node in model.graph.nodes for v in node.outputs}
    readers = [v for node, _ in walk(model.graph) for v in node.inputs]
    found: dict[Value, str] = {}
    for s in model.states:
        along = stored(contents[s.value], made, by.places)
        if along is not None and s.value.type.has(by.rows) and readers.count(s.value) == 1:
            found[s.value] = along
    if not found:
        help = "attention without a window keeps all positions; windows, sums and scans have no use for pages"
        raise fail("E0542", f"nothing of `{model.name}` is kept of all positions", span, help=help)
    parts = _parts(by, rule, set(found.values()))
    names = Names(v.name for v in graph_values(model.graph))
    own = [unused(model, n) for n in ("pages", "rows", "page", "slot", "beside", "part", "new")]
    form = _Form(by, parts, frozenset(found.values()) if parts > 1 else frozenset(), *own)
    batch = Dim(by.rows, by.count)
    table = Value(names.fresh(PAGES), Type("int32", (batch, Dim(own[0], by.each))), span, Origin(PAGES))
    pools = {s.value: _pool(s, found[s.value], form) for s in model.states if s.value in found}
    top = _Graph(form, Builder(names), {v: (pools[v], dim) for v, dim in found.items()}, model.graph)
    top.table = table
    top.nodes(model.graph.nodes)
    results = [top.result(v) for v in model.graph.outputs]
    data = [*model.inputs]
    data.insert(len(data) - position, DataInput(table, -1, by.pages))
    states = [replace(s, value=pools[s.value], pool=own[1]) if s.value in pools else s for s in model.states]
    rest = model.graph.inputs[len(model.inputs) + len(model.weights) + len(model.states) :]
    inputs = (*(i.value for i in data), *(w.value for w in model.weights), *(s.value for s in states), *rest)
    graph = Graph(model.graph.name, inputs, tuple(top.builder.nodes), tuple(results))
    if parts > 1:
        in_any_order(graph, top.turned, span)
    return replace(model, inputs=tuple(data), states=tuple(states), graph=graph)


def in_pages(model: Model) -> bool:
    """Whether all that is kept of sequences lies in pages."""
    contents = model.graph.outputs[len(model.graph.outputs) - len(model.states) :]
    return all(c is s.value or s.pool is not None for s, c in zip(model.states, contents, strict=True))


def _parts(by: Paging, rule: PageRule, dims: Collection[str]) -> int:
    """Into how many parts positions are cut, each of which has an equal part of each page. Raises ParcError (E0542)
    where pages cannot be cut so."""
    span, pieces = rule.by or rule.span, dict(rule.pieces)
    counts = {pieces.get(d, 1) for d in dims}
    (parts, *others) = sorted(counts)
    if others:
        what = " and ".join(f"`{d}`" for d in sorted(dims))
        message = f"of what is kept of positions {what} are cut into {parts} and into {others[0]} parts"
        help = "all positions have the same pages: split all of these over axes of the same sizes, or none"
        raise fail("E0542", message, span, help=help)
    if parts > 1 and (by.slots % parts or by.places % by.slots):
        dim = min(dims)
        message = f"pages of {by.slots} positions are not cut into {parts} parts, of {by.places:,} positions `{dim}`"
        help = (
            f"each device has an equal part of each page: `slots` is a multiple of {parts} that divides {by.places:,}"
        )
        raise fail("E0542", message, span, help=help)
    return parts


def _apart(graph: Graph, name: str) -> bool:
    """Whether all ops keep the rows of a dim apart."""
    all = (node for node, _ in walk(graph))
    return not any(node.op.label == name if isinstance(node.op, Repeat) else mixes(node, name) for node in all)


def _pool(s: State, along: str, form: _Form) -> Value:
    """The state in the place of one of a row for each sequence."""
    by = form.by
    lines = Dim(form.rows, by.pages * form.lines)
    size = {by.rows: (Dim(by.rows, by.pieces),), along: (Dim(along, form.parts), lines) if form.parts > 1 else (lines,)}
    dims = tuple(x for d in s.value.type.dims for x in size.get(d.name, (d,)))
    return replace(s.value, type=Type(s.value.type.dtype, dims))


@dataclass(frozen=True, slots=True)
class _Form:
    """parts: into how many positions are cut, whose dims are `cut`. What dims are called: of the pages of a sequence;
    of all rows of a pool, its pages, the places of each; of the sequences that share a pool; of the parts; of new
    positions."""

    by: Paging
    parts: int
    cut: frozenset[str]
    pages: str
    rows: str
    page: str
    slot: str
    beside: str
    part: str
    new: str

    @property
    def lines(self) -> int:
        """How many positions of a page each part has."""
        return self.by.slots // self.parts

    def lies(self, dim: Dim) -> bool:
        """Whether along the dim positions lie as they do in pages."""
        return dim.name in self.cut and dim.size == self.by.places


class _Graph:
    """A graph on its way. pools: in the place of which cache which pool is there, and what positions are called in it.
    around: of a loop's body, the graph that it stands in, and what it gives the loop."""

    def __init__(
        self,
        form: _Form,
        builder: Builder,
        pools: dict[Value, tuple[Value, str]],
        graph: Graph,
        around: tuple[_Graph, Node] | None = None,
    ) -> None:
        self.form, self.builder, self.pools, self.around = form, builder, pools, around
        self.made = {v: node for node in graph.nodes for v in node.outputs}
        self.params = {v: i for i, v in enumerate(graph.inputs)}
        self.known: dict[Value, Value] = {}
        self.renewed: dict[Value, Value] = {}
        self.shared: dict[Value, Value] = {}
        self.hoisted: dict[tuple[Op, tuple[Value, ...]], Value] = {}
        self.turned: set[tuple[Value, str]] = set() if around is None else around[0].turned
        self.table: Value

    def of(self, v: Value) -> Value:
        return self.known.get(v, v)

    def result(self, v: Value) -> Value:
        """What leaves the graph in its place."""
        if v in self.pools:
            return self.pools[v][0]
        return self.renewed.get(v, self.of(v))

    def add(self, op: Op, *operands: Value, like: Value) -> Value:
        """A node that belongs to a value."""
        (type,) = op.infer(*(x.type for x in operands))
        value = Value(self.builder.names.fresh(like.name), type, like.span, like.origin)
        self.builder.nodes.append(Node(op, operands, (value,), like.span))
        return value

    def nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node.op, Repeat):
                self._loop(node, node.op)
            elif isinstance(node.op, Scatter) and node.inputs[0] in self.pools:
                self._append(node)
            elif isinstance(node.op, Iota) and self.form.lies(node.op.dim):
                self._count(node, node.op)
            else:
                self.builder.nodes.append(replace(node, inputs=tuple(map(self.of, node.inputs))))

    def _append(self, node: Node) -> None:
        """New positions, put into their rows; and whoever reads all of them reads the pages."""
        form, (pool, along) = self.form, self.pools[node.inputs[0]]
        by, out = form.by, node.output
        rows = self.add(self._in_pieces(), self.of(node.inputs[1]), like=out)
        at = self.inward(self.hoist(node.inputs[2]), "at")
        if form.parts > 1:
            rows, at = self._in_parts(rows, at, along, out)
        new = self.add(Scatter(form.rows), pool, rows, at, like=out)
        self.renewed[out] = new
        whole = self.add(Split(form.rows, (Dim(form.page, by.pages), Dim(form.slot, form.lines))), new, like=out)
        found = self.add(Take(form.page), whole, self.inward(None, "whole"), like=out)
        found = self.add(Merge((by.rows, form.beside), by.rows), found, like=out)
        first = (along,) if form.parts > 1 else ()
        found = self.add(Merge((*first, form.pages, form.slot), along), found, like=out)
        if found.type.size(along) > by.places:
            found = self.add(Slice(along, 0, by.places, along), found, like=out)
        if found.type.names != out.type.names:
            found = self.add(Transpose(out.type.names), found, like=out)
        self.known[out] = found
        self.turned.add((found, along))

    def _in_parts(self, rows: Value, at: Value, along: str, like: Value) -> tuple[Value, Value]:
        """New positions, and where they lie in each part: of one that another part has before the first row."""
        pairs = ((along, self.form.new),)
        if rows.type.has(along):
            rows = self.add(Rename(pairs), rows, like=like)
        if at.type.has(along):
            at = self.add(Rename(pairs), at, like=like)
        at = self.add(Rename(((self.form.part, along),)), at, like=at)
        return self.add(Broadcast((*rows.type.dims, Dim(along, self.form.parts))), rows, like=like), at

    def _count(self, node: Node, op: Iota) -> None:
        """Positions as they lie in the parts: the first of each page in the first part, and so on."""
        form, like = self.form, node.output
        if node.inputs or op.zigzag:
            raise order_matters(node, op.dim.name, like.span)
        whole, lines = form.by.each * form.lines, form.lines

        def count(fn: str, number: int, *given: Value) -> Value:
            return self.add(Map(fn, (None, number)), *given, like=like)

        place = self.add(op, like=like)
        first = count("mul", lines, count("floordiv", whole, place))
        rest = count("mod", whole, place)
        page = count("mul", form.by.slots, count("floordiv", lines, rest))
        found = self.add(Map("add", TWO), page, count("mod", lines, rest), like=like)
        self.known[like] = self.add(Map("add", TWO), found, first, like=like)
        self.turned.add((self.known[like], op.dim.name))

    def _in_pieces(self) -> Split:
        by = self.form.by
        return Split(by.rows, (Dim(by.rows, by.pieces), Dim(self.form.beside, by.count // by.pieces)))

    # --- what all layers share, made once outside of loops ---

    def hoist(self, v: Value) -> Value:
        """The value, which no iteration of a loop has by itself, in the outermost graph."""
        if self.around is None:
            return self.of(v)
        around, loop = self.around
        if v in self.params:
            return around.hoist(loop.inputs[self.params[v]])
        node = self.made[v]
        operands = tuple(self.hoist(x) for x in node.inputs)
        top = self._top()
        if (node.op, operands) not in top.hoisted:
            top.hoisted[node.op, operands] = top.add(node.op, *operands, like=v)
        return top.hoisted[node.op, operands]

    def _top(self) -> _Graph:
        return self if self.around is None else self.around[0]._top()

    def inward(self, place: Value | None, what: str) -> Value:
        """In which rows of a pool new positions lie (None: which pages each sequence has), as this graph is given it.
        place: the positions, of the outermost graph."""
        if self.around is not None:
            value = self.around[0].inward(place, what)
            if value not in self.shared:
                self.shared[value] = replace(value, name=self.builder.names.fresh(value.name))
            return self.shared[value]
        key = self.table if place is None else place
        if key not in self.shared:
            found = self.table if place is None else self._rows(place)
            self.shared[key] = self.add(self._in_pieces(), found, like=self.table)
        return self.shared[key]

    def _rows(self, place: Value) -> Value:
        """`[…, b]` of positions; before the first row where there is no page, or no position."""
        slots, like = self.form.by.slots, self.table
        one = self.add(Map("add", (None, 1)), like, like=like)  # an index beyond the table gives 0
        number = self.add(Map("floordiv", (None, slots)), place, like=like)
        page = self.add(Take(self.form.pages), one, number, like=like)
        page = self.add(Map("sub", (None, 1)), page, like=like)
        first = self.add(Map("mul", (None, self.form.lines)), page, like=like)
        slot = self.add(Map("mod", (None, slots)), place, like=like)
        if self.form.parts == 1:
            return self.add(Map("add", TWO), first, slot, like=like)
        line = self.add(Map("mod", (None, self.form.lines)), slot, like=like)
        line = self.add(Map("add", TWO), first, line, like=like)
        part = self.add(Map("floordiv", (None, self.form.lines)), slot, like=like)
        each = self.add(Iota(Dim(self.form.part, self.form.parts)), like=like)
        mine = self.add(Map("eq", TWO), part, each, like=like)
        return self.add(Map("where", (None, None, -1)), mine, line, like=like)

    def _loop(self, node: Node, op: Repeat) -> None:
        body = op.body
        pools: dict[Value, tuple[Value, str]] = {}
        params = [*body.inputs]
        for i, given in enumerate(node.inputs):
            if given in self.pools:
                pool, along = self.pools[given]
                type = Type(pool.type.dtype, pool.type.dims[1:])
                params[i] = replace(body.inputs[i], type=type)
                pools[body.inputs[i]] = params[i], along
        inside = _Graph(self.form, Builder(self.builder.names), pools, body, (self, node))
        inside.nodes(body.nodes)
        results = [inside.result(v) for v in body.outputs]
        graph = Graph(body.name, (*params, *inside.shared.values()), tuple(inside.builder.nodes), tuple(results))
        loop = replace(op, body=graph)
        given_all = (*(self.pools[v][0] if v in self.pools else self.of(v) for v in node.inputs), *inside.shared)
        types = loop.infer(*(x.type for x in given_all))
        outputs = tuple(v if v.type == t else replace(v, type=t) for v, t in zip(node.outputs, types, strict=True))
        self.builder.nodes.append(Node(loop, given_all, outputs, node.span))
        self.renewed.update((v, x) for v, x in zip(node.outputs, outputs) if v is not x)
