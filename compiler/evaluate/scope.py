"""Where names mean something: a module's definitions, and the variables and dims of one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple

from compiler.evaluate import limits
from compiler.evaluate.frame import Frame
from compiler.evaluate.frozen import Patterns
from compiler.evaluate.modules import Module
from compiler.evaluate.ranges import Extent, extents
from compiler.evaluate.session import Session, listed
from compiler.evaluate.values import AUTO, BROKEN, Bound, Broken, DimList, Skip, WeightVar, kind_of
from compiler.graph import DTYPES, FLOATS, Dim, Names, Type, Value
from compiler.loop_pieces import InnerLoop
from compiler.model import STEP_DTYPE, DataInput, LoopPiece, Precision, State, Weight
from compiler.ops.base import Misuse, Op, OpError
from compiler.ops.create import Full
from compiler.ops.elementwise import Cast
from compiler.ops.numbers import expect_numbers
from compiler.origin import last
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.evaluate.states import StateVar
    from compiler.evaluate.written import ByHand

TRAINING = "training"
"""The static value that is true in `train_step` alone."""


class CallSite(NamedTuple):
    """Where something is named: the open calls and the place in the text, and what it would like to be called."""

    what: str
    spans: tuple[Span, ...]
    name: str


@dataclass(eq=False)
class Called:
    """A model that another one calls. given: its inputs, and where they are given; outputs: what it puts out."""

    given: Mapping[str, tuple[Value, Span]]
    read: set[str] = field(default_factory=set)
    outputs: list[tuple[str, Value]] = field(default_factory=list)


class Making:
    """What is being made: a model's (or an optimizer's) graph, its interface, and the names that are taken.

    before: the same model, as it was evaluated for `train_step`; this is then for an entry that trains nothing.
    """

    def __init__(
        self,
        session: Session,
        names: Names,
        precision: Precision,
        kind: str,
        frozen: Patterns | None = None,
        before: Making | None = None,
    ) -> None:
        self.session = session
        self.names = names
        self.known = before.sites if before is not None else {}
        self.sites: dict[CallSite, str] = {}
        self.carried: set[str] = set()  # what loops carry, by the path of the parameter
        self.carried_before = before.carried if before is not None else frozenset[str]()
        self.scopes, self.labels = (Names(self._given(what)) for what in ("scope", "label"))
        self.streams = Names()
        self.training = before is None  # what `training` stands for
        self.still = False  # but in models that are called and frozen
        self.lacking: Mapping[
            str, tuple[str, Span]
        ] = {}  # inputs that a call does not give: its model, where it stands
        self.asks_training = False  # whether the model does
        self.infers = False  # for its outputs alone: it needs no loss
        self.precision = precision
        self.kind = kind  # "model" | "optimizer" | "static" | "implementation"
        self.frozen = frozen
        self.owner = ""  # of an optimizer: the weight that it renews
        self.gradient: Value | None = None  # of that
        self.rows = ""  # of that: the dim of its rows
        self.taken = False  # whether rows of it are taken
        self.touched: Value | None = None  # which are, in a step
        self.inputs: list[DataInput] = []
        self.weights: list[tuple[WeightVar, Weight]] = []
        self.states: dict[str, State] = {}  # by what the optimizer calls them
        self.pieces: dict[str, LoopPiece] = {}  # of loops that are cut, by path
        self.apart: Apart | None = None  # the iteration by itself in which this is
        self.inner_labels: set[str] = set()  # of loops in such iterations
        self.model_states: list[StateVar] = []
        self.counts: dict[str, Value] = {}  # of dims with a run-time size: how many positions count
        self.used_dims: set[str] = set()  # names of all dims that tensors have
        self.masks: dict[tuple[Frame, str], Value] = {}  # of such a dim, in a graph
        self.loss: tuple[Value, Span] | None = None
        self.metrics: list[tuple[str, Value]] = []
        self.outputs: list[tuple[str, Value]] = []
        self.loop_labels: dict[str, Span] = {}
        self.dim_names: set[str] = set()
        self.of_step: set[Value] = set()  # in an optimizer: what depends on the step alone, while it is f64
        self.extents: dict[Value, Extent] = {}  # what is known of the numbers of tensors
        self.rounded: dict[Value, Value] = {}  # such a value -> in master precision
        self.calls: dict[str, Any] = {}  # of functions, by path (`calls.CallRecord`)
        self.by_hand: ByHand | None = None  # of an implementation

    def _given(self, what: str) -> list[str]:
        return [name for site, name in self.known.items() if site.what == what]

    def named(self, what: str, name: str, span: Span, names: Names) -> str:
        """A name (of a scope, of a loop, of a weight) that nothing else has.

        Where the model has been evaluated before, for another entry, it is the one that was given at the same place.
        """
        site = CallSite(what, (*(c.span for c in self.session.stack), span), name)
        found = self.known.get(site)
        self.sites[site] = names.fresh(name) if found is None else found
        return self.sites[site]

    def dtypes(self) -> dict[str, str]:
        """The words that name a dtype: all of them, and the job's `compute` and `master`.

        Where another precision than the job's was asked for, the job's own types stand for those of that one.
        """
        written = {d: self.session.replaced.get(d, d) for d in DTYPES}
        return {"compute": self.precision.compute, "master": self.precision.master} | written


@dataclass(slots=True)
class Apart:
    """An iteration that stands by itself while it is evaluated. inner: the loops in it."""

    piece: LoopPiece
    inner: list[InnerLoop] = field(default_factory=list)


class Scope:
    """The variables and dims of one call (or of a repeat's body in it). Values and dims have names of their own."""

    def __init__(self, module: Module, making: Making, frame: Frame, path: str, what: str) -> None:
        self.module = module
        self.making = making
        self.session = making.session
        self.frame = frame
        self.path = path
        self.what = what  # "function" | "model" | "optimizer"
        self.vars: dict[str, Bound] = {}
        self.dims: dict[str, Dim] = {}
        self.states: dict[str, StateVar] = {}  # of the model, declared in this scope
        self.rest: dict[str, None] = {}  # actual names of the dims that `...` in patterns stands for
        self.in_repeat = False  # at any depth, callers included
        self.in_loop = False  # directly, in this function
        self.called: Called | None = None  # of a model that another calls

    # --- names ----------------------------------------------------------------------------------------

    def lookup(self, name: ast.Name) -> Bound:
        """What the name stands for in an expression."""
        id = name.id
        if id in self.vars:
            value = self.vars[id]
        elif id in self.dims:
            value = self.dims[id]
        elif (param := self.module.param(id)) is not None:
            value = param
        elif id == TRAINING and self.making.kind == "model":
            self.making.asks_training |= not self.making.still
            value = self.making.training and not self.making.still
        else:
            raise self._unknown(name)
        if isinstance(value, Broken):
            raise Skip
        return value

    def _unknown(self, name: ast.Name) -> ParcError:
        if name.id in self.making.lacking:
            model, span = self.making.lacking[name.id]
            message = f"`{model}` needs its input `{name.id}`"
            return fail(
                "E0110", message, span, notes=[("it is read here", name.span)], help=f"`{name.id} = …`, a tensor"
            )
        kinds = self.module.kinds(name.id)
        if kinds:
            return fail("E0114", f"`{name.id}` is a {kinds[0]}, not a value", name.span)
        if name.id == AUTO:
            how = "`parc plan` finds numbers of a strategy (its mesh, micro-batches, chunks, arguments of tactics) and "
            how += "parameters, and writes the file with them; `-D` sets a parameter"
            return fail("E0134", "`auto` leaves this open", name.span, help=how)
        known = [*self.vars, *self.dims, *self.module.param_names()]
        help = did_you_mean(name.id, known)
        return fail("E0101", f"there is no `{name.id}` here", name.span, help=help)

    def dim(self, name: ast.Name, near: Mapping[str, Bound] | None = None) -> Dim:
        """The dim that a name stands for where dims are expected. `near`: what else may be meant to have it."""
        found = self.find_dim(name.id)
        if found is not None:
            return found
        value = self.vars.get(name.id)
        if isinstance(value, Broken):
            raise Skip
        if value is not None:
            message = f"`{name.id}` is {kind_of(value)}, not a dim"
            raise fail("E0209", message, name.span, help=f"declare it: `dim {name.id} = …`")
        dims = list(self.dims)
        help = self._undeclared(name.id, {**self.vars, **(near or {})}) or did_you_mean(name.id, dims)
        help = help or (f"known here: {listed(dims)}" if dims else f"`dim {name.id} = …`")
        raise fail("E0209", f"there is no dim `{name.id}` here", name.span, help=help)

    def _undeclared(self, dim: str, values: Mapping[str, Bound]) -> str | None:
        """What to do about a dim that tensors here have, though nothing here says so."""
        for name, value in values.items():
            if isinstance(value, Value) and value.type.has(dim):
                stack = self.session.stack if self.what == "function" else ()
                if stack and any(p.target.name.id == name for p in stack[-1].entry.item.parameters):
                    return f"`{name}` has it; a parameter `{name}[{', '.join(value.type.names)}]` makes its dims known"
                size = value.type.size(dim)
                return (
                    f"`{name}` has it from a function, whose dims have no names here: declare it, `dim {dim} = {size}`"
                )
        return None

    def find_dim(self, name: str) -> Dim | None:
        """As `dim`, or None."""
        if name in self.dims:
            return self.dims[name]
        value = self.vars.get(name)
        return value if isinstance(value, Dim) else None

    def knows_dim(self, name: ast.Name) -> bool:
        """Whether `dim` gives a dim, or fails because of an error reported before."""
        return self.find_dim(name.id) is not None or isinstance(self.vars.get(name.id), Broken)

    def dim_list(self, names: Iterable[ast.Name], near: Mapping[str, Bound] | None = None) -> tuple[Dim, ...]:
        """Dims in a list, such as after `over`; a name may stand for several that were passed together."""
        found: list[Dim] = []
        for name in names:
            value = self.vars.get(name.id)
            if name.id not in self.dims and isinstance(value, DimList):
                found.extend(value.dims)
            else:
                found.append(self.dim(name, near))
        return tuple(found)

    def new_name(self, name: ast.Name) -> str:
        """The actual name of the dim that something becomes: a known dim's, or this one itself."""
        known = self.find_dim(name.id)
        if known is None:
            self.making.dim_names.add(name.id)
        return known.name if known else name.id

    def learn(self, name: ast.Name, size: int) -> None:
        """A dim came into being by its use: from now on it is known here."""
        if self.find_dim(name.id) is None:
            self.making.dim_names.add(name.id)
            self.dims[name.id] = Dim(name.id, size)

    def child_path(self, name: str, span: Span) -> str:
        """The path of a new scope in this one, which stands at `span`."""
        return self.making.named("scope", f"{self.path}.{name}" if self.path else name, span, self.making.scopes)

    def assign(self, name: str, value: Bound) -> None:
        self.vars[name] = value

    def poison(self, names: Iterable[str]) -> None:
        """After an error: these names have no value, and using them is no further error."""
        for name in names:
            self.vars[name] = BROKEN

    # --- nodes ----------------------------------------------------------------------------------------

    def emit(self, op: Op, *inputs: Value, span: Span, name: str | None = None) -> Value:
        """Append a node with one result."""
        (value,) = self.emit_many(op, *inputs, span=span, name=name)
        return value

    def emit_many(self, op: Op, *inputs: Value, span: Span, name: str | None = None) -> tuple[Value, ...]:
        """Append a node. Its types are checked and bounded; its operands are imported where they are outer values."""
        self.session.spend_node(span)
        if self.making.by_hand is not None:
            span = self.session.outside(span)
        if self.making.counts:
            inputs = self._masked(op, inputs, span)
        frame, of_step = self.frame, self.making.of_step
        alone = bool(inputs) and all(v in of_step for v in inputs)
        if of_step and not alone:
            inputs = tuple(self.in_master(v, span) for v in inputs)
        operands = [frame.local(v) for v in inputs]
        builder = frame.builder
        builder.scope = self.path
        try:
            expect_numbers(op)
            types = op.infer(*(v.type for v in operands))
            for t in types:
                check_size(t, "", span)
                self.making.used_dims.update(t.names)
            if self.making.counts:
                self._check_made(op, operands, types, span)
            known = self.making.extents
            found = extents(op, [known.get(v) for v in inputs], [t.dtype for t in types])
            values = builder.add_many(op, *operands, name=name, span=span, types=types)
        except Misuse:
            raise
        except OpError as error:
            help = (error.code == "E0202" and self._widened(operands)) or error.help
            if error.code == "E0203":
                help = self._pieces(operands) or help
            raise fail(error.code, error.message, span, help=help) from None
        frame.own.update(values)
        for value, extent in zip(values, found, strict=True):
            if extent is not None:
                known[value] = extent
        if alone:
            of_step.update(v for v in values if v.type.dtype != self.making.precision.master)
        return values

    def _check_made(self, op: Op, operands: Sequence[Value], types: Sequence[Type], span: Span) -> None:
        from compiler.evaluate.run_time import check_made

        check_made(op, operands, types, self, span)

    def _masked(self, op: Op, inputs: tuple[Value, ...], span: Span) -> tuple[Value, ...]:
        """The operands, of which nothing counts beyond the run-time size of a dim."""
        from compiler.evaluate.run_time import masked

        try:
            return tuple(masked(op, inputs, self, span))
        except OpError:
            return inputs  # told where the node is made

    def _pieces(self, operands: Sequence[Value]) -> str | None:
        """The help where a piece of a dim meets another, or all of it, in an implementation."""
        from compiler.evaluate.written import pieces_meet

        by_hand, frame = self.making.by_hand, self.frame
        return pieces_meet(operands, by_hand, frame.builder.nodes) if by_hand and frame.parent is None else None

    def _widened(self, operands: Sequence[Value]) -> str | None:
        """The help where scalars of two float types meet: they are sums, such as losses, so the narrower is cast."""
        floats = sorted((v for v in operands if v.type.is_float), key=lambda v: FLOATS.index(v.type.dtype))
        if not floats or any(v.type.dims for v in operands) or floats[0].type.dtype == floats[-1].type.dtype:
            return None
        wide, narrow = floats[0].type.dtype, floats[-1]
        if wide not in ("f64", "f32"):
            return None  # neither of the two of 16 bits holds the other
        word = "master" if wide == self.making.precision.master else wide
        if narrow not in self.frame.carried:
            return f"there is no implicit cast: `cast(x, {word})` of what is {narrow.type.dtype}, to round nothing"
        name, before = self.frame.carried[narrow]
        outer = self.frame.parent.builder.nodes if self.frame.parent else ()
        zeros = any(before in n.outputs and n.op == Full(0.0, before.type.dtype, ()) for n in outer)
        begun = f"zeros(dtype = {word})" if zeros else f"cast({name}, {word})"
        return f"there is no implicit cast: before the loop, write `{name} = {begun}`"

    def in_master(self, value: Value, span: Span) -> Value:
        """The value, for what is no function of the step alone: in an optimizer such functions are computed in f64
        (`1 - beta ** step` would lose most digits in f32), and cast once, where they meet a tensor."""
        making = self.making
        if value not in making.of_step or value.type.dtype != STEP_DTYPE:
            return value
        if value not in making.rounded:
            stem = last(value.origin.path)
            making.rounded[value] = self.emit(Cast(making.precision.master), value, span=span, name=stem)
        return making.rounded[value]

    def read(self, weight: WeightVar, span: Span) -> Value:
        """The weight in the compute dtype."""
        weight.read = True
        compute = self.making.precision.compute
        if weight.raw.type.dtype == compute:
            return weight.raw
        frame = self.frame.home
        if frame not in weight.casts:
            stem = last(weight.declared.origin.path)
            at = self if frame is self.frame else Scope(self.module, self.making, frame, frame.path, self.what)
            weight.casts[frame] = at.emit(Cast(compute), weight.raw, span=span, name=stem)
        return weight.casts[frame]


def check_size(type: Type, what: str, span: Span | None) -> None:
    """Refuse tensors beyond the bounds. what: how the message calls it, "" for its type."""
    if len(type.dims) > limits.MAX_DIMS:
        message = f"{what or 'this'} has {len(type.dims)} dims, the most is {limits.MAX_DIMS}"
        raise fail("E0908", message, span, help="put dims of size 1 away, or several into one")
    if type.elements > limits.MAX_ELEMENTS:
        raise limits.beyond(f"{what or type} has more than 2^56 elements", span)


def check_dim(size: int, name: str, span: Span | None) -> None:
    """Refuse sizes that no dim can have."""
    if size < 1:
        raise fail("E0206", f"dim `{name}` would have size {size}; sizes are at least 1", span)
    if size > limits.MAX_DIM:
        raise limits.beyond(f"dim `{name}` would have size {size}, the most is 2^40", span)
