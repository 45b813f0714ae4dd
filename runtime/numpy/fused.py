"""Chains of elementwise ops as one kernel that goes through its data once, block by block.

    body = fuse(body, local)               # `local(var)`: the LocalValue of a Value

`fuse` gives a body that computes the same values, in which runs of Map, Cast, Broadcast, StopGradient, Reduce and
products of equally shaped operands (sums of x*y over rows or columns) are one instruction `Fused`, with only those
results that somebody else reads. `plan` of `runtime.numpy` knows `Fused` like any other op. So an executor calls
`fuse` once, before liveness and planning. The order of instructions changes: a group stands where its first result is
needed. Instructions with effects keep their order, but for `save`, `accumulate` and `write`, which follow the group
that computes what they store.

Which ops join: all work on one *space*, the lead axes and dims of the largest value. A value may lack dims of the
space (statistics of rows, gains of columns). The space is walked in blocks of its leading dims (`outer`); a value
computed inside must have all of those, else it would be computed again in every block. A reduction over outer dims is
added up over the blocks and can be read only after the group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from math import prod
from typing import ClassVar

from compiler.graph import Graph, Node, Type, Value, names_of
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.effects import Accumulate, Effect, Save, Write
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient
from compiler.ops.reduce import Reduce
from dsl.data import Unique, dataclass, fix
from runtime.numpy.base import Array, LocalValue, aligned, laid
from runtime.numpy.summed import Summed, inner

BLOCK = 32768
"""Elements of a block: 128 KiB of float32, so that half a dozen stay in the second-level cache."""

UNEVEN = 16
"""Blocks that are alike may be so many times smaller than they could be; else the last one is smaller than others."""

SMALLEST = 16384
"""Elements of a space below which fusing does not pay."""

LONGEST = 48
"""Instructions of a group at most."""

Local = Callable[[Value], LocalValue]


@dataclass(frozen=True, slots=True)
class Space(Unique):
    """What a group walks: lead axes and dims, `order` them outermost first, and how many of them in blocks.

    shape: sizes as they are walked, as all below. cut: (number of outer axes, size of a block along the next): axes
    before are walked one by one. outer: axes along which there is more than one block.
    """

    lead: tuple[int, ...]
    type: Type
    order: tuple[int, ...]
    shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    cut: tuple[int, int] = field(init=False, repr=False, compare=False)
    outer: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = self.lead + self.type.shape
        shape = tuple([sizes[i] for i in self.order])
        axes, part = cut = _cut(shape)
        partly = {axes} if axes < len(shape) and part < shape[axes] else set()
        fix(self, shape=shape, cut=cut, outer=frozenset({i for i in range(axes) if shape[i] > 1} | partly))

    @staticmethod
    def of(value: LocalValue, lead: tuple[int, ...]) -> Space:
        """That of a value with so many devices."""
        return Space(lead, value.type, laid(value))

    @property
    def names(self) -> tuple[str, ...]:
        return self.type.names

    def mask(self, value: LocalValue) -> tuple[bool, ...] | None:
        """Which axes (of size above 1) the value has; None where it does not fit the space."""
        own, other = self.type, value.type
        if len(value.lead) != len(self.lead) or any([n not in (1, m) for n, m in zip(value.lead, self.lead)]):
            return None
        if any([not own.has(d.name) or own.size(d.name) != d.size for d in other.dims]):
            return None
        has = [n > 1 for n in value.lead] + [other.has(n) for n in self.names]
        return tuple([has[i] and n > 1 for i, n in zip(self.order, self.shape)])

    def walked(self, value: LocalValue) -> Callable[[Array], Array] | None:
        """How to view the value's array with the axes of the space (size 1 where it lacks one); None: as it is."""
        order, view = self.order, aligned(value, self.names, len(self.lead))
        if order == tuple(range(len(order))):
            return view
        return (lambda a: a.transpose(order)) if view is None else (lambda a: view(a).transpose(order))


def _cut(shape: tuple[int, ...]) -> tuple[int, int]:
    inside = 1
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        if axis < len(shape) - 1 and inside * size > BLOCK:
            most = max(1, BLOCK // inside)
            part = max(d for d in range(1, most + 1) if size % d == 0)
            if part < most // UNEVEN:
                part = most
            return (axis, part) if part > 1 else (axis + 1, shape[axis + 1])
        inside *= size
    return 0, shape[0] if shape else 1


@dataclass(frozen=True, slots=True)
class Fused(Op):
    """`instrs` as one kernel over `space`; `locals`: the local value of every name in them."""

    mnemonic: ClassVar[str] = "fused"
    space: Space
    instrs: tuple[Node, ...]
    locals: dict[str, LocalValue] = field(compare=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(eq=False)
class _Group:
    """Instructions that wait to be emitted, and effects that follow them."""

    space: Space
    instrs: list[Node] = field(default_factory=list)
    followers: list[Node] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    added_up: set[str] = field(default_factory=set)  # complete only after the last block
    read: set[str] = field(default_factory=set)


def fuse(body: Graph, local: Local) -> Graph:
    """The body with groups of elementwise instructions as one each. Bodies of loops are left to the caller."""
    return _Fuser(body, local).run()


class _Fuser:
    def __init__(self, body: Graph, local: Local) -> None:
        self.body = body
        self.values = {v.name: local(v) for v in body.inputs}
        self.vars = {v.name: v for v in body.inputs}
        for instr in body.nodes:
            self.vars.update((v.name, v) for v in instr.outputs)
            self.values.update((v.name, local(v)) for v in instr.outputs)
        self.readers: dict[str, list[Node]] = {}
        for instr in body.nodes:
            for name in names_of(instr.inputs):
                self.readers.setdefault(name, []).append(instr)
        self.open: list[_Group] = []
        self.done: list[Node] = []

    def run(self) -> Graph:
        for instr in self.body.nodes:
            if isinstance(instr.op, Effect):
                self.effect(instr)
            elif not self.join(instr):
                self.need(names_of(instr.inputs))
                self.done.append(instr)
        while self.open:
            self.emit(self.open[0])
        return Graph(self.body.name, self.body.inputs, tuple(self.done), self.body.outputs)

    # --- order

    def effect(self, instr: Node) -> None:
        """Stores follow the group of what they store; before a second effect of one name, the first must happen."""
        name = getattr(instr.op, "name", None)
        for group in list(self.open):
            if group in self.open and any(getattr(f.op, "name", None) == name for f in group.followers):
                self.emit(group)
        makers = [g for g in self.open if g.made & set(names_of(instr.inputs))]
        if len(makers) == 1 and isinstance(instr.op, (Save, Accumulate, Write)):
            makers[0].followers.append(instr)
            return
        self.need(names_of(instr.inputs))
        self.done.append(instr)

    def need(self, names: Collection[str], but: _Group | None = None) -> None:
        """Emit the groups that make these values."""
        for group in list(self.open):
            if group is not but and group in self.open and group.made & set(names):
                self.emit(group)

    def emit(self, group: _Group) -> None:
        """Place the group: what it reads from other groups was emitted when it joined."""
        self.open.remove(group)
        inside, views = set(map(id, group.instrs)), [i for i in group.instrs if is_view(i, self.values)]
        results = names_of(self.body.outputs)
        outside = {n for n in group.made if n in results or any(id(r) not in inside for r in self.readers.get(n, ()))}
        # A view that others read is made once more outside, from its operand; its results cost nothing.
        again: list[Node] = []
        for view in reversed(views):
            if view.outputs[0].name in outside:
                outside.discard(view.outputs[0].name)
                again.insert(0, view)
                if view.inputs[0].name in group.made:
                    outside.add(view.inputs[0].name)
        steps = [i for i in group.instrs if i not in views]
        if len(steps) < 2:
            self.done += group.instrs + group.followers
            return
        outputs = tuple(o for i in group.instrs for o in i.outputs if o.name in outside)
        inputs = {v.name: v for i in group.instrs for v in i.inputs if v.name not in group.made}
        names = {v.name for i in group.instrs for v in (*i.inputs, *i.outputs)}
        fused = Fused(
            group.space,
            tuple(group.instrs),
            {n: self.values[n] for n in sorted(names)},
            tuple(inputs),
            tuple(o.name for o in outputs),
        )
        self.done.append(Node(fused, tuple(inputs.values()), outputs))
        self.done += again + group.followers

    # --- joining

    def join(self, instr: Node) -> bool:
        """Put the instruction into an open group, or open one for it; False where it cannot be fused."""
        space = _space(instr, self.values)
        if space is None:
            return False
        reads = set(names_of(instr.inputs))
        related = [g for g in self.open if g.made & reads] + [
            g for g in self.open if g.read & reads and not g.made & reads
        ]
        for group in related:
            if len(group.instrs) < LONGEST and self.fits(instr, group):
                for other in related:
                    if other is not group and other.made & reads:
                        self.merge(group, other)
                self.add(instr, group)
                return True
        if prod(space.shape) < SMALLEST:
            return False
        group = _Group(space)
        if not self.fits(instr, group):
            return False
        self.need(names_of(instr.inputs))
        self.open.append(group)
        self.add(instr, group)
        return True

    def merge(self, group: _Group, other: _Group) -> None:
        """Make two groups one, if they walk the same space. As both are open, neither reads the other's results."""
        if group.space != other.space or len(group.instrs) + len(other.instrs) >= LONGEST:
            return
        self.open.remove(other)
        group.instrs += other.instrs
        group.followers += other.followers
        group.made |= other.made
        group.read |= other.read
        group.added_up |= other.added_up

    def add(self, instr: Node, group: _Group) -> None:
        self.need(names_of(instr.inputs), but=group)
        group.instrs.append(instr)
        group.read |= set(names_of(instr.inputs))
        group.made |= {o.name for o in instr.outputs}
        if reduced_axes(instr, self.values, group.space) & group.space.outer:
            group.added_up |= {o.name for o in instr.outputs}

    def fits(self, instr: Node, group: _Group) -> bool:
        """Whether the group can compute the instruction in its blocks."""
        space = group.space
        if group.added_up & set(names_of(instr.inputs)):
            return False
        masks = [space.mask(self.values[v.name]) for v in (*instr.inputs, *instr.outputs)]
        if any(m is None for m in masks):
            return False
        out = self.values[instr.outputs[0].name]
        if out.type.names != tuple(n for n in space.names if out.type.has(n)):
            return False
        if is_view(instr, self.values):
            return True
        reduced = reduced_axes(instr, self.values, space)
        if reduced & space.outer and isinstance(instr.op, Reduce) and instr.op.fn == "max":
            return False
        walked = {i for i, has in enumerate(masks[-1] or ()) if has} | reduced
        return space.outer <= walked


def is_view(instr: Node, values: Mapping[str, LocalValue]) -> bool:
    """Ops that compute nothing."""
    if isinstance(instr.op, Cast):
        return values[instr.inputs[0].name].type.dtype == instr.op.dtype
    return isinstance(instr.op, (Broadcast, StopGradient))


def _space(instr: Node, values: Mapping[str, LocalValue]) -> Space | None:
    """The space in which the instruction works; None where it is of no kind that can be fused."""
    op = inner(instr.op)
    if not isinstance(op, (Map, Cast, Broadcast, StopGradient, Reduce, Contract)):
        return None
    ins, out = [values[v.name] for v in instr.inputs], values[instr.outputs[0].name]
    if isinstance(op, Broadcast):  # its result may be declared as split where its operand is not
        return Space.of(out, out.lead)
    lead = tuple(max(sizes) for sizes in zip(*(v.lead for v in ins)))
    summed = instr.op.leads if isinstance(instr.op, Summed) else ()
    if any(a != (1 if i in summed else n) or (i in summed and n == 1) for i, (a, n) in enumerate(zip(out.lead, lead))):
        return None
    if isinstance(op, Contract):
        if set(ins[0].type.names) != set(ins[1].type.names) or set(op.dims) == set(ins[0].type.names):
            return None
        return Space.of(ins[0], lead)
    if isinstance(op, Reduce):
        return Space.of(ins[0], lead) if op.dims else None
    return Space.of(out, lead)


def reduced_axes(instr: Node, values: Mapping[str, LocalValue], space: Space) -> set[int]:
    """Axes of the space (of size above 1) that the instruction sums over."""
    if not isinstance(inner(instr.op), (Reduce, Contract)):
        return set()
    kept, lead = instr.outputs[0].type, len(space.lead)
    gone = {n for v in instr.inputs for n in values[v.name].type.names if not kept.has(n)}
    summed = {lead + i for i, n in enumerate(space.names) if n in gone}
    summed.update(instr.op.leads if isinstance(instr.op, Summed) else ())
    return {at for at, i in enumerate(space.order) if i in summed and space.shape[at] > 1}
