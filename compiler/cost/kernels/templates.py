"""The work of functions for any sizes of axes: what strategies of one structure ask of a machine, without going through
their functions one by one.

The first time a function is met it is lifted as always (`Lifter`); the second time (or at once) with symbols in the
place of the sizes (`symbols`), which gives kernels, messages and loops whose sizes are expressions, and all that
decided how they were put together as comparisons. From then on other sizes are put in, and give the very numbers that
lifting gives; where a comparison comes out otherwise the function is lifted with symbols once more, or as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, TypeVar

from compiler.cost.kernels.again import LeftOut
from compiler.cost.kernels.drafts import Lifted
from compiler.cost.kernels.group import Lifter
from compiler.cost.kernels.rows import BY_ROW
from compiler.cost.kernels.said import Said, said, said_in_loop
from compiler.cost.kernels.symbol_types import SymbolDim, SymbolType
from compiler.cost.kernels.symbols import SizeTrace, Steps, Symbol
from compiler.cost.kernels.work import Part, Work, WorkLoop, WorkNode
from compiler.graph import Graph, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.contract import Contract
from compiler.ops.effects import Recv
from compiler.ops.repeat import Repeat
from compiler.program import MODEL_PASSES, Function, FunctionPhase, Program, StateDecl
from compiler.regions.marks import Regions, function_regions, marked
from compiler.regions.region import Region, RegionKind
from compiler.walk import graph_values, walk

KEPT = 400
"""Functions that are remembered, those that were asked for last."""

BUILT = 12
"""Works that were made of a template and are remembered, those that were asked for last."""

SHAPES = 4
"""Ways in which one is put together that are, at most."""


Fact = TypeVar("Fact")


def product_types(body: Graph) -> frozenset[str]:
    """The types of what its products give, of numbers that are not whole; where all are products of integers, of what
    else there is."""
    made = [n.outputs[0].type for n, _ in walk(body) if isinstance(n.op, Contract)]
    if made and not any(of.is_float for of in made):
        made = [v.type for n, _ in walk(body) for v in n.outputs]
    return frozenset(of.dtype for of in made if of.is_float)


class FunctionWork(NamedTuple):
    """Of a function: its work, the values that systems' kernels do not write to memory, and those that fused attention
    does not."""

    part: Part
    inside: frozenset[str]
    core: frozenset[str]


class LiftedFunction(NamedTuple):
    """What lifting a function asks for, besides the sizes of the program's axes. left: of its chunk; here: see
    `Lifter`; expand: puts what an update calls in its place, which it is lifted with."""

    program: Program
    states: Sequence[StateDecl]
    regions: Callable[[Graph], Regions]
    function: Function
    itemsize: int
    left: LeftOut
    here: Callable[[int], bool]
    expand: Callable[[Graph], Graph]

    def whole(self, op: Repeat, part: Part) -> Part:
        """See `Lifter`."""
        return self.left.loop(self.function.phase, op, part)

    @property
    def updates(self) -> bool:
        """Whether it is the optimizer's."""
        return self.function.phase is FunctionPhase.UPDATE

    def expanded(self) -> LiftedFunction:
        """As it is lifted. Of an update that is of use for this alone, and much longer: it is not kept."""
        if not self.updates:
            return self
        function = replace(self.function, body=self.expand(self.function.body))
        return self._replace(function=function, regions=function_regions)

    def lifter(self, of: type[Lifter] = Lifter) -> Lifter:
        """What lifts it, if it is expanded."""
        states, regions = {s.name: s for s in self.states}, self.regions(self.function.body)
        return of(self.program, states, regions, self.updates, self.itemsize, self.whole, self.here)

    def lift(self) -> FunctionWork:
        """As always."""
        mine = self.expanded()
        lifter = mine.lifter()
        part = lifter.part(mine.function.body)
        return FunctionWork(part, frozenset(lifter.inside), frozenset(lifter.core))


class WorkTemplates:
    """Of the functions of programs that are priced one after the other. at_once: they are lifted with symbols the first
    time, where most come again."""

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self.known: dict[object, _Met] = {}
        self.facts: dict[tuple[str, int], tuple[Graph, Any]] = {}

    def regions(self, body: Graph) -> Regions:
        """Of a function."""
        return self._once("regions", body, function_regions)

    def types(self, body: Graph) -> frozenset[str]:
        """Of what the products of a function give."""
        return self._once("types", body, product_types)

    def _once(self, name: str, body: Graph, find: Callable[[Graph], Fact]) -> Fact:
        known = self.facts.get((name, id(body)))
        if known is None:
            while len(self.facts) >= 2 * KEPT:
                del self.facts[next(iter(self.facts))]
            known = self.facts[name, id(body)] = body, find(body)
        found: Fact = known[1]
        return found

    def _said(self, body: Graph, of: LiftedFunction) -> tuple[Said, tuple[float, ...]]:
        """Of chunks' passes what they do, of all else what it is."""
        states = {s.name: s for s in of.states} if of.function.phase in MODEL_PASSES else None
        return said(body, states, lambda body: self._once("loop", body, said_in_loop))

    def work(self, of: LiftedFunction) -> FunctionWork:
        """The same as `of.lift()`."""
        body, sizes = of.function.body, of.program.sizes
        phase, axes = of.function.phase, tuple([(a.name, a.kind) for a in of.program.axes])
        (text, numbers), _ = self._once(f"text with {id(of.states)}", body, lambda b: (self._said(b, of), of.states))
        key = (text, phase, None if phase in MODEL_PASSES else id(of.states), of.itemsize, axes, _larger(sizes))
        inputs: dict[str, Any] = sizes | {f"number {i}": number for i, number in enumerate(numbers)}
        met = self.known.pop(key, None)
        alone = of.updates and not self.at_once  # what else is of the chunk does not count there
        if met is None:
            while len(self.known) >= KEPT:
                del self.known[next(iter(self.known))]
            sources = tuple({n.op.source: None for n in body.nodes if isinstance(n.op, Recv)})
            self.known[key] = met = _Met(body, of.states, sources, {}, _axes_of(body, sizes) if alone else (), {})
            if not self.at_once:
                return met.lifted(of, numbers) if alone else of.lift()
        else:
            self.known[key] = met
        if alone and (lifted := met.found.get(met.sizes(of, numbers))) is not None:
            return lifted
        of = of.expanded()
        shapes = met.shapes.setdefault(tuple([of.here(source) for source in met.sources]), [])
        found = next((work for t in shapes if (work := t.work(inputs, of)) is not None), None)
        if found is None and len(shapes) < SHAPES and (template := _traced(of, inputs)) is not None:
            shapes.append(template)
            found = template.work(inputs, of)
        return of.lift() if found is None else found


def _axes_of(body: Graph, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Those on whose sizes its work hangs; how many rows of a table are touched hangs on all."""
    if any(isinstance(node.op, BY_ROW) for node, _ in walk(body)):
        return tuple(sizes)
    return tuple(sorted({axis for v in graph_values(body) for axis in v.layout.axes}))


class _Met(NamedTuple):
    """A function that was met before. body, states: kept, for it is found by their identity; sources: of what it
    receives from other stages; shapes: its templates, by which of those are on its own devices; axes: that its values
    lie on; found: what was lifted as always, by their sizes."""

    body: Graph
    states: Sequence[StateDecl]
    sources: tuple[int, ...]
    shapes: dict[tuple[bool, ...], list[_Template]]
    axes: tuple[str, ...]
    found: dict[tuple[float, ...], FunctionWork]

    def sizes(self, of: LiftedFunction, numbers: Sequence[float]) -> tuple[float, ...]:
        """All that work hangs on of the sizes of axes, and of its regions' numbers."""
        sizes = of.program.sizes
        return (*[sizes.get(axis, 1) for axis in self.axes], *numbers)

    def lifted(self, of: LiftedFunction, numbers: Sequence[float]) -> FunctionWork:
        """As always; remembered."""
        work = self.found[self.sizes(of, numbers)] = of.lift()
        return work


class _Built(NamedTuple):
    """What was made of a template. loops: of its bodies, as they were built; before: keeps what stood before them."""

    work: FunctionWork
    loops: list[tuple[Repeat, Part]]
    before: tuple[tuple[Repeat, Part], ...]


class _Template(NamedTuple):
    """used: the numbers that its nodes have; built: what was made of them, by these."""

    steps: Steps
    nodes: tuple[_Node, ...]
    inside: frozenset[str]
    core: frozenset[str]
    used: tuple[int, ...]
    built: dict[tuple[object, ...], _Built]

    def work(self, inputs: Mapping[str, Any], of: LiftedFunction) -> FunctionWork | None:
        """None if with these inputs the function is put together otherwise. With the same numbers it is the same
        object."""
        values = self.steps.run(inputs)
        if values is None:
            return None
        body = of.function.body
        key = (tuple([values[i] for i in self.used]), of.left.before)
        known = self.built.pop(key, None)
        if known is None:
            while len(self.built) >= BUILT:
                del self.built[next(iter(self.built))]
            before, loops = tuple(of.left.known.values()), list[tuple[Repeat, Part]]()

            def whole(op: Repeat, part: Part) -> Part:
                loops.append((op, part))
                return of.whole(op, part)

            part = _built(self.nodes, values, body, whole)
            known = _Built(FunctionWork(part, self.inside, self.core), loops, before)
        else:
            for op, part in known.loops:
                of.left.note(of.function.phase, op, part)
        self.built[key] = known
        return known.work


class _Node(NamedTuple):
    """work: how it is made; loop: in the place of that, what is in it."""

    name: str
    deps: tuple[int, ...]
    carried: tuple[int, ...]
    work: _Made | None
    loop: tuple[_Node, ...] = ()


class _Made(NamedTuple):
    """An object and its fields: (a number's place, or the field itself; of what kind it is)."""

    of: Callable[..., Any]
    fields: tuple[tuple[Any, str], ...]


FIXED, NUMBER, OBJECTS = "fixed", "number", "objects"


def _larger(sizes: Mapping[str, int]) -> tuple[bool, ...]:
    """Which axes have more than one device: what the others send is no message."""
    return tuple([n > 1 for n in sizes.values()])


# --- with symbols -----------------------------------------------------------------------------------------------------


class _SymbolLifter(Lifter):
    """Lifts a function with symbols for the sizes of axes."""

    trace: SizeTrace
    pieces: dict[tuple[Type, Layout], tuple[Any, Any, Any]]

    def begin(self, inputs: Mapping[str, Any], body: Graph) -> None:
        """inputs: sizes of axes, and the numbers of the body's regions."""
        self.trace, self.pieces = SizeTrace(inputs), {}
        self.sizes = self.trace.sizes
        numbers = iter([symbol for name, symbol in self.trace.sizes.items() if name.startswith("number ")])
        self.regions = replace(self.regions, attention=_numbered(body, numbers))
        self.whole = lambda _, part: part  # done to what is built

    def value(self, var: Value) -> Lifted:
        key = var.type, var.layout
        known = self.pieces.get(key)
        if known is None:
            local: Any = self._local(*key)
            known = self.pieces[key] = local, local.bytes, local.elements
        return Lifted(*known, var.name)

    def _local(self, type: Type, layout: Layout) -> Type | SymbolType:
        """As `local_type`."""
        if not layout.split_axes:
            return type
        sizes: list[Any] = [d.size for d in type.dims]
        for i in {*layout._dim_of.values()}:
            sizes[i] = -(-sizes[i] // prod([self.sizes[a] for a in layout.dims[i]]))
        for i, left, right in layout.halo:
            sizes[i] = sizes[i] + left + right
        dims = tuple([SymbolDim(d.name, size) for d, size in zip(type.dims, sizes, strict=True)])
        return SymbolType(type.dtype, dims, prod(sizes))


def _numbered(body: Graph, numbers: Iterator[Any]) -> dict[Node, Region]:
    """As of `Regions.attention`, with these numbers, in the order of `_text`."""
    found: dict[Node, Region] = {}
    for node in body.nodes:
        if isinstance(node.op, Repeat):
            found |= _numbered(node.op.body, numbers)
    for region, nodes in marked(body):
        if region.kind is RegionKind.ATTENTION:
            found |= dict.fromkeys(nodes, replace(region, kept=next(numbers), most=next(numbers)))
    return found


def _traced(of: LiftedFunction, inputs: Mapping[str, Any]) -> _Template | None:
    """None of what asks more of sizes than symbols answer."""
    lifter = of.lifter(_SymbolLifter)
    assert isinstance(lifter, _SymbolLifter)
    lifter.begin(inputs, of.function.body)
    try:
        nodes = tuple(_nodes(lifter.part(of.function.body)))
    except (TypeError, AttributeError):
        return None
    used = tuple(sorted({*_used(nodes)}))
    return _Template(lifter.trace.steps, nodes, frozenset(lifter.inside), frozenset(lifter.core), used, {})


def _used(nodes: Sequence[_Node]) -> Iterator[int]:
    """Places of the numbers in nodes."""
    for node in nodes:
        yield from _used(node.loop) if node.work is None else _in(node.work)


def _in(made: _Made) -> Iterator[int]:
    for field, kind in made.fields:
        if kind is NUMBER:
            yield field
        elif kind is OBJECTS:
            for inner in field:
                yield from _in(inner)


def _nodes(part: Part) -> Iterator[_Node]:
    for node in part.nodes:
        if isinstance(node.work, WorkLoop):
            yield _Node(node.name, node.deps, node.carried, None, tuple(_nodes(node.work.body)))
        else:
            yield _Node(node.name, node.deps, node.carried, _made(node.work))


def _made(work: Work) -> _Made:
    fields: list[tuple[Any, str]] = []
    for name in work.__slots__:
        value = getattr(work, name)
        if isinstance(value, Symbol):
            fields.append((value.at, NUMBER))
        elif name == "beside":
            fields.append((tuple([_made(product) for product in value]), OBJECTS))
        else:
            fields.append((value, FIXED))
    return _Made(type(work), tuple(fields))


def _built(nodes: Sequence[_Node], values: Sequence[int], body: Graph, whole: Callable[[Repeat, Part], Part]) -> Part:
    """body: of the function, or of the loop. Its loops are built in their order in it."""
    inner = {node.name: node.loop for node in nodes if node.work is None}
    loops: dict[str, WorkLoop] = {}
    for instr in body.nodes:
        op = instr.op
        if isinstance(op, Repeat):
            name = (instr.outputs or instr.inputs)[0].name
            loops[name] = WorkLoop(op.count, whole(op, _built(inner[name], values, op.body, whole)))
    return Part(
        tuple(
            [
                WorkNode(n.name, loops[n.name] if n.work is None else _object(n.work, values), n.deps, n.carried)
                for n in nodes
            ]
        )
    )


def _object(made: _Made, values: Sequence[int]) -> Any:
    fields = [
        values[field] if kind is NUMBER else field if kind is FIXED else tuple([_object(m, values) for m in field])
        for field, kind in made.fields
    ]
    return made.of(*fields)
