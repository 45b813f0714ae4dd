"""What a file leaves open: `auto` in the place of a parameter's default or of a number in the job's strategy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass

from compiler.evaluate.values import AUTO
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.parser import parse
from dsl.source import Source, Span
from parc.planning.space import ZERO, divisors
from parc.planning.text import edited

CHUNKS = (1, 2, 3, 4)
"""Of a device, under an interleaved schedule."""


@dataclass(frozen=True, slots=True)
class Hole:
    """name: of the parameter, or of what is open in the strategy; values: that are tried, in their order; param:
    whether it is a parameter."""

    name: str
    span: Span
    values: tuple[int, ...]
    param: bool = False


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file with holes. mesh: of the strategy's axes the size, or the hole that is it; None if one is neither; plain:
    whether no strategy of it can have what bounds do not hold for, whatever the values."""

    source: Source
    holes: tuple[Hole, ...]
    mesh: tuple[int | Hole, ...] | None
    touched: frozenset[str]
    """Names that what is not the strategy's or the cluster's speaks of: a hole among them may change the model."""
    plain: bool = False

    def filled(self, values: Mapping[Hole, int]) -> Source:
        """The text with numbers in the place of the holes."""
        edits = [(h.span.start, h.span.end, str(values[h])) for h in self.holes]
        return Source(self.source.name, edited(self.source.text, edits), self.source.path)


def open_file(
    source: Source, params: Mapping[str, str], job: str | None, strategy: str | None, devices: int, batch: int
) -> OpenFile:
    """The holes, but for parameters that are set. devices, batch: numbers whose divisors are tried.

    Raises ParcError (E0134) for an `auto` of which nothing says what it may be.
    """
    file = parse(source.text, source.name)
    by_devices, by_batch = divisors(devices), divisors(batch)
    holes = [h for p in _params(file) if p.name.id not in params and (h := _open_param(p, devices, batch))]
    item = _strategy(file, job, strategy)
    mesh: tuple[int | Hole, ...] | None = None
    if item is not None:
        named = {h.name: h for h in holes}
        numbers = {p.name.id: p.default.value for p in _params(file) if isinstance(p.default, ast.Number)}
        numbers |= {name: int(text) for name, text in params.items() if text.isdecimal()}
        for where, name, kind in _open_numbers(item):
            values = {"mesh": by_devices, "microbatches": by_batch, "chunks": CHUNKS, "zero": ZERO}[kind]
            holes.append(Hole(name, where, values))
        mesh = _mesh(item, named, {h.span: h for h in holes}, numbers)
    no_model = ast.Use | ast.Strategy | ast.Tactic | ast.Cluster | ast.Param | ast.Check
    others = [i for i in file.items if not isinstance(i, no_model)]
    return OpenFile(source, tuple(holes), mesh, _closure(file, others), item is not None and _plain(file, item))


def open_params(source: Source, job: str | None, strategy: str | None, params: Collection[str]) -> tuple[Hole, ...]:
    """The parameters that a job without a strategy leaves open: with each of their values another one is the best.
    Raises ParcError (E0134) for one that does not say which values it may have."""
    file = parse(source.text, source.name)
    if _named(file, job, strategy) is not None:
        return ()
    holes = []
    for param in _params(file):
        if _is_open(param.default) and param.name.id not in params:
            choices = param.choices
            hole = _open_param(param, 1, 1) if choices is not None else None
            if (
                hole is None
                or not hole.values
                or (isinstance(choices, ast.Range) and len(hole.values) < _length(choices))
            ):
                help = f"the values that it may have: `param {param.name.id} = auto in {{256, 512}}`"
                raise fail("E0134", f"`{param.name.id}` is left open, and may have any value", param.span, help=help)
            holes.append(hole)
    return tuple(holes)


def _length(choices: ast.Range) -> int:
    low, high = _number(choices.low), _number(choices.high)
    return MOST_OF_A_RANGE + 1 if low is None or high is None else high - low


def has_holes(source: Source, job: str | None, strategy: str | None, params: Collection[str]) -> bool:
    """Whether anything is left open."""
    file = parse(source.text, source.name)
    item = _strategy(file, job, strategy)
    return any(_is_open(p.default) and p.name.id not in params for p in _params(file)) or bool(
        item is not None and any(_is_open(e) for e in _walk(item))
    )


def _params(file: ast.File) -> list[ast.Param]:
    return [i for i in file.items if isinstance(i, ast.Param)]


def _is_open(value: object) -> bool:
    return isinstance(value, ast.Name) and value.id == AUTO


def _open_param(param: ast.Param, devices: int, batch: int) -> Hole | None:
    if not _is_open(param.default):
        return None
    usual = tuple(sorted({*divisors(devices), *divisors(batch)}))
    choices = param.choices
    if isinstance(choices, ast.Range):
        low, high = _number(choices.low), _number(choices.high)
        if low is not None and high is not None:
            few = high - low <= MOST_OF_A_RANGE
            usual = tuple(range(low, high)) if few else tuple(n for n in usual if low <= n < high)
    elif choices is not None:
        found = [_number(c) for c in choices]
        if None in found:
            help = "the values that it may have are whole numbers: `param tp = auto in {1, 2, 4}`"
            raise fail("E0134", f"`{param.name.id}` is left open, and not a number", param.span, help=help)
        usual = tuple(n for n in found if n is not None)
    return Hole(param.name.id, param.default.span, usual, True)


MOST_OF_A_RANGE = 8
"""Values of a range that are all tried; of a longer one those that divide the devices or the batch."""


BESIDE_BOUNDS = (ast.Implement, ast.Offload, ast.PlaceDecl, ast.RunOn, ast.Store)
"""Statements by which a strategy does other work, or elsewhere, or in another form. No tactic of the standard library
has them."""


def _plain(file: ast.File, item: ast.Strategy) -> bool:
    """Whether neither the strategy nor a tactic that it can name has such statements."""
    if any(isinstance(i, ast.Use) and not str(i.module).startswith("std.") for i in file.items):
        return False
    tactics = [i for i in file.items if isinstance(i, ast.Tactic)]
    return not any(isinstance(part, BESIDE_BOUNDS) for of in (item, *tactics) for part in _walk(of))


def _number(expr: ast.Expr) -> int | None:
    return expr.value if isinstance(expr, ast.Number) and isinstance(expr.value, int) else None


def _named(file: ast.File, job: str | None, strategy: str | None) -> str | None:
    """The job's strategy, by name."""
    name = strategy
    for item in file.items:
        if name is None and isinstance(item, ast.Job) and job in (None, item.name.id):
            name = next((s.strategy.id for s in item.body if isinstance(s, ast.Task) and s.strategy), None)
    return name


def _strategy(file: ast.File, job: str | None, strategy: str | None) -> ast.Strategy | None:
    name = _named(file, job, strategy)
    return next((i for i in file.items if isinstance(i, ast.Strategy) and i.name.id == name), None)


def _open_numbers(item: ast.Strategy) -> Iterator[tuple[Span, str, str]]:
    """Place, name and kind of each `auto` of a strategy. Raises ParcError (E0134) for one where no number can be."""
    known: set[Span] = set()
    for statement in _walk(item):
        found: list[tuple[ast.Expr, str, str]] = []
        if isinstance(statement, ast.Mesh):
            found = [(expr, name.id, "mesh") for name, expr in statement.axes]
        elif isinstance(statement, ast.Microbatches):
            found = [(statement.count, "microbatches", "microbatches")]
        elif isinstance(statement, ast.Pipeline) and statement.schedule is not None:
            for at, argument in enumerate(statement.schedule.arguments):
                name = argument.name.id if argument.name else "microbatches" if at == 0 else ""
                if name in ("microbatches", "chunks"):
                    found.append((argument.value, name, name))
        elif isinstance(statement, ast.Apply):
            found = [(a.value, a.name.id if a.name else "zero", "zero") for a in statement.call.arguments]
        for expr, name, kind in found:
            if _is_open(expr):
                known.add(expr.span)
                yield expr.span, name, kind
    for part in _walk(item):
        if isinstance(part, ast.Name) and _is_open(part) and part.span not in known:
            help = "sizes of the mesh, micro-batches, chunks and stages of ZeRO can be; all else by a parameter"
            raise fail("E0134", "nothing says what `auto` may be here", part.span, help=help)


def _mesh(
    item: ast.Strategy, named: Mapping[str, Hole], at: Mapping[Span, Hole], numbers: Mapping[str, object]
) -> tuple[int | Hole, ...] | None:
    for statement in item.body:
        if isinstance(statement, ast.Mesh):
            found: list[int | Hole] = []
            for _, expr in statement.axes:
                name = expr.id if isinstance(expr, ast.Name) else ""
                value = at.get(expr.span) or named.get(name) or _number(expr) or numbers.get(name)
                if not isinstance(value, int | Hole):
                    return None
                found.append(value)
            return tuple(found)
    return None


def _walk(value: object) -> Iterator[object]:
    """The node and all nodes below it."""
    if isinstance(value, tuple):
        for part in value:
            yield from _walk(part)
    elif is_dataclass(value) and not isinstance(value, Span):
        yield value
        for f in fields(value):
            yield from _walk(getattr(value, f.name))


def _closure(file: ast.File, items: list[ast.Item]) -> frozenset[str]:
    """Names that items speak of, and what parameters among them are made of. A job's cluster is left out."""
    names = set()
    for item in items:
        clusters = {s.cluster for s in item.body if isinstance(s, ast.Task)} if isinstance(item, ast.Job) else set()
        inside = {id(n) for c in clusters for n in _walk(c)}
        own = {p.target.name.id for p in item.parameters} if isinstance(item, ast.Definition) else set()
        names |= {n.id for n in _walk(item) if isinstance(n, ast.Name) and id(n) not in inside} - own
    defaults = {p.name.id: p.default for p in _params(file)}
    todo = list(names & defaults.keys())
    while todo:
        more = {n.id for n in _walk(defaults[todo.pop()]) if isinstance(n, ast.Name)} - names
        names |= more
        todo += [n for n in more if n in defaults]
    return frozenset(names)
