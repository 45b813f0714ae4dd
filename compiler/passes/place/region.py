"""One graph (or body) being placed: which layouts each value exists in, and how a reader gets the one it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from compiler.graph import Graph, Names, Node, Type, Value
from compiler.layout import TIME, Layout, replicated
from compiler.model import State
from compiler.ops.base import Loop
from compiler.ops.comm import Relayout
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.passes.copying import renamed
from compiler.passes.place.before import ChosenBefore
from compiler.passes.place.questions import Held, even, nearest
from compiler.passes.place.rules import Rules
from compiler.relayout import plan_relayout, relayout_bytes
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics
from dsl.source import NOWHERE, Span


class Reason(StrEnum):
    """Why an axis splits what it does."""

    WRITTEN = "written by hand: the devices of an axis"
    PASSES = "the pending sum passes through"
    WEIGHT = "the weight stays where it is"
    STAYS = "the table stays where it is"
    ONLY = "the only dim that the rules allow"
    FEWEST = "fewest bytes moved"


@dataclass(frozen=True, slots=True)
class Choice:
    """Why an axis splits a loop of the op that makes `value` (for `parc explain`)."""

    value: str
    axis: str
    loop: tuple[str, ...]  # names of the loop; empty: replicated work or a pending sum passed on
    reason: Reason
    candidates: tuple[tuple[str, float], ...] = ()  # (loop, bytes moved)


@dataclass(slots=True)
class LoopAxes:
    """Axes per loop, the axes along which pending sums pass through (with the operands that carry them), and why."""

    loops: tuple[Loop, ...]
    axes: list[list[str]] = field(default_factory=list)
    passing: dict[str, frozenset[int]] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    operands: dict[int, Layout] = field(default_factory=dict)  # what follows from that, as it is asked for
    results: dict[int, Layout] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether pieces of results are results of pieces, and no more."""
        return all([not axes or loop.kind in ("pass", "minor") for loop, axes in zip(self.loops, self.axes)])


@dataclass(frozen=True, slots=True)
class RelayoutRecord:
    """A relayout: who needed it, from what to what, bytes that one device sends each time."""

    value: str
    result: str
    reader: str
    source: Layout
    target: Layout
    bytes: float


@dataclass(frozen=True, slots=True)
class GradMark:
    """A value that is (a slice of) the gradient of `weight`: the axes of its dims in the weight's compute layout."""

    weight: str
    dims: dict[str, tuple[str, ...]]


@dataclass(slots=True)
class Shared:
    """What all regions of one placement share."""

    rules: Rules
    names: Names
    diagnostics: Diagnostics
    layouts: dict[str, Layout] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    told: bool = True  # of choices, whoever wants to know of them
    before: ChosenBefore | None = None  # choices of other placings, where what is asked for says all of them
    moves: list[RelayoutRecord] = field(default_factory=list)
    plans: dict[tuple[object, ...], LoopAxes] = field(default_factory=dict)  # by all that `choose` looked at
    of_data: set[str] = field(default_factory=set)  # forward values that depend on no weight
    aside: Callable[[str], bool] = lambda name: False  # forward values that are of use to metrics only
    whole: dict[str, None] = field(default_factory=dict)  # sums of data that are needed of the whole batch
    parts: dict[str, None] = field(default_factory=dict)  # what metrics need of the whole batch
    twice: dict[str, str] = field(default_factory=dict)  # what a first pass has to compute: value -> dim
    first: Collection[str] | None = None  # what may be added to `twice`, while the forward pass is placed
    head: Collection[str] = ()  # what is made of that, and cotangents there: every micro-batch has all of it
    for_state: dict[str, State] = field(default_factory=dict)  # values that are of use to what a state contains only
    gradients: dict[str, GradMark] = field(default_factory=dict)
    contents: dict[str, Layout] = field(default_factory=dict)  # what loops leave in states, as these lie
    gradient_storage: dict[str, Layout] = field(default_factory=dict)  # by weight, where it is sharded
    functions: dict[tuple[object, ...], Graph] = field(default_factory=dict)  # as they are placed (`call`)
    once: set[int] = field(default_factory=set)  # those that were placed already, by the identity of what was placed

    def refuse(self, state: State) -> None:
        """Report that no micro-batch can make what the state contains afterwards."""
        self.diagnostics.error(
            "E0562",
            f"what the state {state.name} contains afterwards needs the whole batch, which no micro-batch has",
            state.value.span,
            help="use 1 micro-batch, give it the dim of the batch, so that each micro-batch has a part of its own, or "
            "make it of sums and means over the batch, added and scaled; or of those `per microbatch`",
        )


@dataclass(frozen=True, slots=True)
class Version:
    """A value in one layout. type: of what counts as bytes of it; None: nothing does."""

    layout: Layout
    value: Value
    type: Type | None


class GraphPlacer:
    """Values live in *versions*: layouts they were made in or brought into. Readers pull; versions are shared.

    Constants (what depends on no data and no weight) have no version until a reader asks; they are then computed in
    just the layout that it needs, which never communicates. Invariants of a loop are brought into layouts outside it.
    """

    def __init__(self, shared: Shared, cls: str, axes: Sequence[str], parent: GraphPlacer | None = None) -> None:
        self.shared, self.cls, self.axes, self.parent = shared, cls, tuple(axes), parent
        self.rules = shared.rules
        self.sizes = shared.rules.sizes
        self.nodes: list[Node] = []
        self.versions: dict[str, list[Version]] = {}
        self.undo: dict[str, tuple[Version, ...]] | None = None  # during an attempt: what versions were before it
        self.constants: set[str] = set()
        self.lazy: dict[str, Node] = {}
        self.weights: dict[str, Layout] = {}  # weights and their casts -> compute layout
        self.preferred: dict[str, Layout] = {}  # read in this layout only
        self.unpacked: dict[str, Node] = {}  # what is made of words: these are what is moved
        self.sums: set[str] = set()  # floats that are sums of integers, and such sums scaled
        self.zeros: set[str] = set()  # a loop's carries that begin as zero: they may as well be pending sums
        self.outer: dict[str, Value] = {}  # invariants: parameter -> the value outside
        self.whole: Mapping[str, Value] = {}  # values -> the same of the whole batch
        self.extra: list[tuple[Value, Value]] = []  # (outside, parameter) added by readers
        self.path: str = parent.path if parent is not None else ""  # of all values, in a function: what it is for
        known = shared.rules.before
        self.kind = 0 if known is None else known.number((cls, self.axes, shared.rules.axes))
        self.reader = ""
        self.span: Span = NOWHERE

    # --- what is there ---------------------------------------------------------------------------

    def changing(self, name: str) -> list[Version]:
        """The versions of a value, of which some are to be added or left out. An attempt can be taken back."""
        if self.undo is not None and name not in self.undo:
            self.undo[name] = tuple(self.versions.get(name, ()))
        return self.versions.setdefault(name, [])

    def attempt(self) -> None:
        """From here on it is remembered what versions were."""
        self.undo = {}

    def take_back(self) -> None:
        """Versions are what they were when the attempt began; another one begins."""
        assert self.undo is not None
        for name, before in self.undo.items():
            if before:
                self.versions[name] = list(before)
            else:
                del self.versions[name]
        self.undo = {}

    def define(self, value: Value, layout: Layout) -> None:
        """`value` exists in `layout`."""
        self.shared.layouts[value.name] = layout
        self.changing(value.name).append(Version(layout, value, value.type))
        total = self.whole.get(value.name) or self.whole.get(
            (value.origin.phase is Phase.AGAIN and value.origin.of) or ""
        )
        if total is not None:
            self.also(value, total)

    def also(self, value: Value, total: Value) -> None:
        """The value exists of the whole batch, too."""
        layout = self.shared.layouts[total.name]
        self.changing(value.name).append(Version(layout, total, total.type))

    def layouts(self, value: Value) -> list[Held]:
        """Layouts (and types whose bytes count) to reckon with when a reader's cost is compared; none for constants."""
        name = value.name
        if name in self.preferred:
            wanted = self.preferred.pop(name)
            got = self.demand(value, wanted)
            self.changing(name)[:] = [v for v in self.versions[name] if v.value is got]
        if name in self.weights:
            layout = self.weights[name]
            return [(layout, value.type)]
        if name in self.outer and name not in self.constants:
            assert self.parent is not None
            return self.parent.layouts(self.outer[name])
        return [(v.layout, v.type) for v in self.versions.get(name, ())]

    def natural(self, value: Value) -> Layout:
        """The layout in which the value was made; replicated for constants that nobody asked for yet."""
        found = self.layouts(value)
        return found[0][0] if found else replicated(len(value.type.dims))

    def declared(self, value: Value) -> Layout:
        """What the rules say of an activation (or, in the update, of an optimizer value)."""
        mark = self.shared.gradients.get(value.name)
        if mark is not None and self.cls != "optimizer":
            return Layout(tuple(mark.dims.get(d.name, ()) for d in value.type.dims))
        layout = self.rules.declared(value.name, value.type, self.cls, path=self.path or value.origin.path)
        timed = TIME in self.axes and value.name not in self.shared.head
        return layout if timed else _without(layout, TIME)

    # --- asking for a layout ---------------------------------------------------------------------

    def demand(self, value: Value, layout: Layout) -> Value:
        """The value in `layout`: an existing version, or a new one by the cheapest way."""
        name = value.name
        for v in self.versions.get(name, ()):
            if v.layout == layout:
                return v.value
        if name in self.outer and name not in self.weights:
            return self._from_outside(value, layout)
        if name in self.lazy or (name in self.unpacked and not layout.pending):
            return self._compute(self.lazy.get(name) or self.unpacked[name], value, layout)
        return self._convert(value, layout)

    def resolved(self, value: Value) -> Value:
        """Some version without pending reductions: an existing one, else the declared layout."""
        for layout, _ in self.layouts(value):
            if not layout.pending:
                return self.demand(value, layout)
        return self.demand(value, self.declared(value))

    def _from_outside(self, value: Value, layout: Layout) -> Value:
        assert self.parent is not None
        self.parent.reader, self.parent.span = self.reader, self.span
        got = self.parent.demand(self.outer[value.name], layout)
        used = {p.name for _, p in self.extra}
        name = value.name if value.name not in used else self.shared.names.fresh(value.name)
        param = value if name == value.name else renamed(value, name)
        self.extra.append((got, param))
        self.shared.layouts[name] = layout
        self.changing(value.name).append(Version(layout, param, None))
        return param

    def _compute(self, node: Node, value: Value, layout: Layout) -> Value:
        """A constant, computed in the layout that is asked for (dims that cannot be split are cut afterwards)."""
        op = node.op
        direct = layout
        if layout.pending and op.uniform() != 0:
            direct = direct.resolved()
        loops = op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
        loops = tuple([loop for loop in loops if loop.kind != "minor"])
        by_out = {loop.outs[0]: loop for loop in loops if loop.outs[0] is not None}
        dims = tuple(
            axes
            if d.name in by_out and by_out[d.name].kind == "pass" and self._even(by_out[d.name].size, axes, d.size)
            else ()
            for d, axes in zip(value.type.dims, direct.dims, strict=True)
        )
        direct = Layout(dims, direct.pending)
        if direct != layout:
            self.demand(value, direct)
            return self._convert(value, layout)
        pairs = zip(value.type.dims, dims, strict=True)
        split = {id(by_out[d.name]): axes for d, axes in pairs if d.name in by_out}
        inputs = []
        for i, operand in enumerate(node.inputs):
            walks = {loop.ins[i]: split.get(id(loop), ()) for loop in loops if loop.ins[i] is not None}
            inputs.append(self.demand(operand, Layout(tuple(walks.get(d.name, ()) for d in operand.type.dims))))
        taken = any(v.value is value for v in self.versions.get(value.name, ()))
        out = renamed(value, self.shared.names.fresh(value.name)) if taken else value
        self.nodes.append(Node(op, tuple(inputs), (out,), node.span))
        self.shared.layouts[out.name] = layout
        self.changing(value.name).append(Version(layout, out, value.type))
        return out

    def _even(self, loop_size: int, axes: Sequence[str], dim_size: int) -> bool:
        return loop_size == dim_size or self.rules.ask(even, loop_size, tuple(axes))

    def _convert(self, value: Value, layout: Layout) -> Value:
        versions = self.versions.get(value.name)
        if not versions:
            raise KeyError(f"{value.name} is read before it is placed")
        source = versions[0]
        if len(versions) > 1:
            source = versions[self.rules.ask(nearest, value.type, tuple([v.layout for v in versions]), layout)]
        for step in plan_relayout(value.type, source.layout, layout, self.sizes):
            if TIME in step.op.over() and step.op.message:
                self._whole_batch(value, source.layout)
        word = _suffix(value, source.layout, layout)
        out = renamed(value, self.shared.names.fresh(f"{value.name}.{word}"), Phase.MOVED)
        self.nodes.append(Node(Relayout(layout), (source.value,), (out,), self.span))
        self.shared.layouts[out.name] = layout
        self.changing(value.name).append(Version(layout, out, value.type))
        cost = self._cost(value, source.layout, layout)
        if cost:
            self.shared.moves.append(RelayoutRecord(value.name, out.name, self.reader, source.layout, layout, cost))
        return out

    def _whole_batch(self, value: Value, layout: Layout) -> None:
        """A reader needs what all micro-batches make together: noted where that can be had (`passes.divide`)."""
        shared, name = self.shared, value.name
        if layout.pending_on(TIME) is not None:
            if name in shared.of_data and not shared.aside(name):
                shared.whole[name] = None
                return
            if self.parent is None and shared.aside(self.reader):
                shared.parts[name] = None
                return
            behind = self._data_behind(value)
            if behind:
                shared.whole.update(dict.fromkeys(behind))
                return
        if any(d.code in ("E0502", "E0562") for d in shared.diagnostics):
            return  # it would follow from the first
        state = shared.for_state.get(self.reader)
        if state is not None:
            shared.refuse(state)
            return
        if shared.first is not None and name in shared.first:
            i = layout.dim_of(TIME)
            shared.twice[name] = "" if i is None else value.type.names[i]
            return
        shared.diagnostics.error(
            "E0502",
            f"{self.reader or name} needs the whole batch of {name}, which no micro-batch has",
            self.span,
            help="use 1 micro-batch; with more, a loss is made of sums and means over the batch, added and scaled, and "
            "of sums, means, maxima and minima over the batch of what depends on data alone; a metric of any of these. "
            + (
                ""
                if shared.rules.strategy.two_passes
                else "With `microbatches …, two passes` a loss is made of anything that needs the whole batch once. "
            )
            + "What may be taken of each micro-batch by itself: `mean(…, over b per microbatch)`",
        )

    def _data_behind(self, value: Value) -> list[str] | None:
        """Sums over data alone, by name, of which a pending sum over micro-batches is made with what is the same in all
        of them; None where it is made of others, too."""
        shared, found = self.shared, list[str]()
        made = {v.name: node for node in self.nodes for v in node.outputs}
        work = [value]
        while work:
            node = made.get(work.pop().name)
            if node is None or isinstance(node.op, Repeat):
                return None
            pending = [v for v in node.inputs if shared.layouts[v.name].pending_on(TIME) is not None]
            if not pending and not isinstance(node.op, Relayout):  # which counts in one of them only
                return None
            for v in pending:
                name = v.name if v.name in shared.of_data else v.origin.of
                if name not in shared.of_data:
                    work.append(v)
                elif shared.aside(name):
                    return None
                else:
                    found.append(name)
        return found

    def _cost(self, value: Value, source: Layout, target: Layout) -> float:
        try:
            return relayout_bytes(value.type, source, target, self.sizes)
        except ValueError:
            return float("inf")


def _without(layout: Layout, axis: str) -> Layout:
    if axis not in layout.axes:
        return layout
    return Layout(
        tuple(tuple(a for a in axes if a != axis) for axes in layout.dims),
        tuple((a, fn) for a, fn in layout.pending if a != axis),
    )


def _suffix(value: Value, source: Layout, target: Layout) -> str:
    """A word for what happens: reduced, gathered, moved, part."""
    if len(source.pending) > len(target.pending):
        return "reduced"
    if source.split_axes - target.split_axes:
        return "whole"
    return "moved" if source.split_axes == target.split_axes and source.split_axes else "part"
