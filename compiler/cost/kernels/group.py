"""From instructions to work: which are kernels, which go together in one, what they wait for, and what is free.

Free are views, constants, slices of what is there, `save` and `load` within device memory (the kernel before or after
does the moving), and casts of weights to the compute type (training systems keep a copy, made once per step).
Element-wise work and reductions join the kernel of an operand where its other operands are there before that kernel
starts; so a loop-free run of them is one `Vector`. Collectives of weights, and of gradients, of one body go as one
message, as all systems do that shard them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from compiler.cost.kernels.drafts import Draft, Lifted, dims_of, gather
from compiler.cost.kernels.rows import rows_elsewhere, rows_work
from compiler.cost.kernels.scaling import scaled, typed, unpacked
from compiler.cost.kernels.sized import Sized
from compiler.cost.kernels.work import Collective, Copy, Meet, Part, Post, Product, Vector, Wait, Work, WorkLoop
from compiler.graph import ITEMSIZE, Graph, Node, Type, Value
from compiler.in_place import Reuses, reuses_of
from compiler.layout import Layout, local_type
from compiler.memory.tiers import FIRST
from compiler.ops import comm, effects
from compiler.ops.base import Movement, Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast
from compiler.ops.move import Move
from compiler.ops.reduce import Reduce
from compiler.ops.repeat import Repeat
from compiler.ops.rows import ReadRows
from compiler.origin import Role
from compiler.program import Program, StateDecl
from compiler.regions.marks import Regions
from compiler.regions.sunk import GROUPED
from compiler.row_caches import for_others

LATE = -2
"""In the place of an owner: nobody here reads the message."""
NARROW = 2
"""Bytes of the types that weights are cast to before they are gathered, by systems that compute in them."""
SCALAR = 64
"""Elements up to which a value is no traffic to speak of."""
TAINTS = {Role.WEIGHT: "weights", Role.GRADIENT: "gradients", Role.STATISTIC: "statistics"}
"""By the role of a buffer, what is read of it or added to it."""


class Lifter:
    """Of one function of one class."""

    def __init__(
        self,
        program: Program,
        states: Mapping[str, StateDecl],
        regions: Regions,
        update: bool,
        itemsize: int = 8,
        whole: Callable[[Repeat, Part], Part] = lambda _, part: part,
        here: Callable[[int], bool] = lambda source: False,
    ) -> None:
        """whole: what becomes of the work of a loop's body; here: whether a stage so far away is on these devices."""
        self.regions, self.whole, self.here = regions, whole, here
        self.sizes, self.states, self.update = program.sizes, states, update
        self.mesh = [a.name for a in program.axes if a.kind == "mesh" and a.size > 1]
        self.computes = itemsize
        self.itemsize = 8 if update else itemsize
        self.microbatches, self.accumulates = program.microbatches, program.microbatches > 1
        self.reuses: Reuses = {}
        self.known: dict[tuple[Type, Layout], tuple[Type, int, int]] = {}  # a device's piece, its bytes and elements
        self.inside: set[str] = set()
        self.core: set[str] = set()

    def part(self, body: Graph) -> Part:
        """The work of a function."""
        self.reuses = reuses_of(body, self.states.values(), self.microbatches)
        return _Lift(self, body, {}).part()

    def value(self, var: Value) -> Lifted:
        key = var.type, var.layout
        known = self.known.get(key)
        if known is None:
            local = local_type(var.type, var.layout, self.sizes)
            elements = local.elements
            known = self.known[key] = local, elements * ITEMSIZE[local.dtype], elements
        return Lifted(*known, var.name)


class _Lift:
    """Of one body: a function's or a loop's."""

    def __init__(self, lifter: Lifter, body: Graph, given: Mapping[str, Lifted]) -> None:
        self.lifter, self.body = lifter, body
        self.values: dict[str, Lifted] = dict(given)
        self.drafts: list[Draft] = []
        self.views: dict[int, list[Lifted]] = {}  # of what a kernel makes
        self.sunk = lifter.regions.sunk[id(body)]
        self.carries = sum(v.carried is not None for v in given.values())
        self.adding = self.moved_out = -1
        self.grown: set[int] = set()  # those that others have joined
        self.buckets: dict[tuple[str, tuple[str, ...], str, int], int] = {}

    # --- instructions ----------------------------------------------------------------------------------------

    def part(self) -> Part:
        for instr in self.body.nodes:
            self.lift(instr)
        lifter = self.lifter
        of = (lifter.itemsize, lifter.sizes, lifter.regions, lifter.inside, lifter.core)
        return Sized(self.body, self.values, self.drafts, self.sunk, self.carries, *of).part(lifter.update)

    def lift(self, instr: Node) -> None:
        if rows_elsewhere(instr):  # of a table in another memory: beside computation
            self.rows(instr)
            return
        op = type(instr.op)
        way = _WAYS.get(op)
        if way is None:
            way = _WAYS[op] = _way(op)
        way(self, instr)

    def rows(self, instr: Node) -> None:
        """Rows of a table in another memory. With a cache a part of them moves; all are read, or renewed, here.

        What the device has looked up is there when the update renews it: of weights what others have is fetched then.
        """
        nodes, sizes, table = self.body.nodes, self.lifter.sizes, self.values[instr.inputs[0].name]
        if table.missed is None:
            self.add(instr, rows_work(instr, nodes, sizes))
            return
        of_weights = isinstance(instr.op, ReadRows) and table.taint == "weights"
        share = table.missed * (1 - 1 / (1 + for_others(instr, nodes, sizes)) if of_weights else 1)
        if share:
            self.add(instr, rows_work(instr, nodes, sizes, share))
        fetched = {len(self.drafts) - 1} if share and instr.op.renews is None else set()
        self.vector(instr)
        draft = self.drafts[-1]
        draft.deps |= fetched
        draft.memory = FIRST
        self.values[instr.output.name].missed = table.missed if instr.op.renews == 0 else None

    def leaf(self, instr: Node) -> None:
        self.define(instr.outputs[0], -1, "constant")

    def cast(self, instr: Node) -> None:
        (self.view if self.is_free_cast(instr) else self.vector)(instr)

    def message(self, instr: Node) -> None:
        """To neighbours."""
        op = instr.op
        assert isinstance(op, comm.Comm)
        source, target = self.values[instr.inputs[0].name].type, self.lifter.value(instr.outputs[0]).type
        rows = op.volume(source, target, self.lifter.sizes)
        self.add(instr, Collective(op.mnemonic, op.over(), rows, ITEMSIZE[source.dtype], "activations", aside=op.aside))

    def is_free_cast(self, instr: Node) -> bool:
        source = self.values[instr.inputs[0].name]
        return not self.lifter.update and (source.taint == "weights" or instr.outputs[0].name in self.sunk)

    def define(self, var: Value, owner: int, taint: str = "") -> Lifted:
        value = self.lifter.value(var)
        value.owner, value.taint = owner, taint
        self.values[var.name] = value
        return value

    def view(self, instr: Node) -> None:
        ins = [self.values[v.name] for v in instr.inputs]
        if instr.op.unpacks:
            value = unpacked(self, instr, ins)
        else:
            value = self.define(instr.outputs[0], ins[0].owner, ins[0].taint)
            value.root, value.carried, value.state = ins[0].root, ins[0].carried, ins[0].state
            value.missed = ins[0].missed
        self.views.setdefault(value.owner, []).append(value)

    def add(self, instr: Node, work: Work | None = None) -> Draft:
        """A node of its own; its results hang on it."""
        name = (instr.outputs or instr.inputs)[0].name
        draft = Draft(name, [instr], work)
        self.drafts.append(draft)
        self.wait(draft, [v.name for v in instr.inputs])
        for var in instr.outputs:
            self.define(var, len(self.drafts) - 1)
        return draft

    def wait(self, draft: Draft, names: Iterable[str]) -> None:
        for name in names:
            value = self.values[name]
            if value.owner >= 0:
                draft.deps.add(value.owner)
            elif value.carried is not None:
                draft.carries.add(value.carried)

    def contract(self, instr: Node) -> None:
        left, right = (self.values[v.name].type for v in instr.inputs)
        result = self.lifter.value(instr.outputs[0]).type
        work = Product.of(left, right, result)
        if (
            work is None or 1 in (work.m, work.n) or instr.output.memory != FIRST
        ):  # a matrix times a vector is read once, for one addition each
            self.vector(instr)
            return
        typed(self, instr, work)

    def vector(self, instr: Node) -> None:
        """Join the kernel of an operand if all others are there before it; else begin a kernel."""
        if scaled(self, instr):
            return
        joins = instr.op.joins or isinstance(instr.op, Contract)
        ins = [self.values[v.name] for v in instr.inputs]
        if all([v.taint == "constant" for v in ins]):  # masks: made once
            for var in instr.outputs:
                self.define(var, -1, "constant")
            return
        outs = [self.lifter.value(v) for v in instr.outputs]
        size = max([v.elements for v in (*ins, *outs)], default=0)
        if self.lifter.update and joins:
            gather(ins, size, self.drafts, self.values, self.views, self.grown)
        owners = {v.owner for v in ins if v.owner >= 0}
        carries = {v.carried for v in ins if v.owner < 0 and v.carried is not None}
        at = max(owners, default=-1)
        draft = self.drafts[at] if at >= 0 else None
        fits = (
            joins
            and draft is not None
            and draft.joins
            and draft.memory == instr.outputs[0].memory
            and (size == draft.size or (size < draft.size and dims_of(ins, outs) <= draft.dims))
            and not (draft.closed and any(v.name in draft.closed for v in instr.inputs))
        )
        if fits and draft is not None:
            draft.instrs.append(instr)
            draft.deps |= owners
            draft.deps.discard(at)
            draft.carries |= carries
        else:
            draft = Draft(instr.outputs[0].name, [instr], None, owners, carries, joins, size, dims_of(ins, outs))
            draft.memory = instr.outputs[0].memory
            self.drafts.append(draft)
            at = len(self.drafts) - 1
        for k, value in enumerate(outs):
            value.owner, value.state = at, (id(instr), k) in self.lifter.reuses
            self.values[value.root] = value
        if isinstance(instr.op, Reduce) and ins[0].type.dims and ins[0].type.dims[0].name in instr.op.dims:
            draft.closed.add(instr.outputs[0].name)  # complete only when the kernel has ended

    def collective(self, instr: Node) -> None:
        op = instr.op
        assert isinstance(op, comm.Comm)
        source, var = self.values[instr.inputs[0].name], instr.outputs[0]
        target = self.lifter.value(var)
        role = source.taint or "activations"
        if role == "activations" and var.name in self.sunk:
            role = "weights" if self.lifter.update else "gradients"
        elements = op.volume(source.type, target.type, self.lifter.sizes)
        itemsize = ITEMSIZE[source.type.dtype]
        whole = self.lifter.computes > NARROW
        work = Collective(op.mnemonic, op.over(), elements, itemsize, role, whole)
        late = var.name in self.sunk  # nobody here reads it: the message can wait for what comes after
        key = (op.mnemonic, op.over(), role, LATE if late else source.owner)
        into = self.buckets.get(key)
        if into is not None and not (late and self._waits(source.owner, into)):
            draft = self.drafts[into]
            assert isinstance(draft.work, Collective)
            total = draft.work.elements * draft.work.itemsize + elements * itemsize
            draft.work = Collective(op.mnemonic, op.over(), -(-total // itemsize), itemsize, role, whole)
            draft.count += 1
            draft.others.append(instr)
            self.grown.add(into)
            draft.name = f"{draft.count} {role}"
            self.wait(draft, (v.name for v in instr.inputs))
            self.define(var, into)
        else:
            self.add(instr, work)
            if role != "activations":
                self.buckets[key] = len(self.drafts) - 1
        self.values[var.name].taint = source.taint

    def _waits(self, at: int, bucket: int) -> bool:
        """Whether a node waits for a message that nobody here reads, directly or through others of that kind."""
        seen: set[int] = set()
        stack = [at]
        while stack:
            at = stack.pop()
            if at == bucket:
                return True
            if at < 0 or at in seen:
                continue
            seen.add(at)
            draft = self.drafts[at]
            if any(v.name in self.sunk for instr in draft.instrs for v in instr.outputs):  # others wait for none such
                stack += draft.deps
        return False

    def move(self, instr: Node) -> None:
        """A copy beside computation, of what the operand is. What is moved in takes the room of what was moved out."""
        op = instr.op
        assert isinstance(op, Move)
        source = self.values[instr.inputs[0].name]
        draft = self.add(instr, Copy(source.bytes, op.source, op.target, op.ahead))
        if op.source == FIRST:
            self.moved_out = len(self.drafts) - 1
        elif op.target == FIRST and self.moved_out >= 0:
            draft.deps.add(self.moved_out)
        self.values[instr.outputs[0].name].taint = source.taint

    def effect(self, instr: Node) -> None:
        op = instr.op
        if isinstance(op, (effects.Read, effects.Load)):
            state = self.lifter.states.get(op.name)
            taint = TAINTS.get(state.role, "") if state else ""
            var = instr.outputs[0]
            value = self.define(var, -1, taint)
            value.state = state is not None and state.role is Role.STATE
            if state is not None and state.cache is not None:
                value.missed = 1 - state.cache.hit(value.type.dims[0].size)
        elif isinstance(op, effects.Accumulate):
            value = self.values[instr.inputs[0].name]
            memory = instr.inputs[0].memory
            if self.lifter.accumulates and memory != FIRST:  # its own processors read both and write the sum
                self.add(instr, Copy(3 * value.bytes, memory, memory))
            elif self.lifter.accumulates and value.elements > SCALAR:
                self.accumulate(instr, value)
        elif isinstance(op, effects.Recv):
            self.receive(instr, op)
        elif isinstance(op, effects.Send):
            source = instr.inputs[0]
            self.add(instr, Post(op.name, op.to, self.values[source.name].bytes, self.alike(source)))
        elif isinstance(op, effects.StageReduce):
            self.add(instr, Meet(op.key, op.groups, self.values[instr.inputs[0].name].bytes))
            self.values[instr.outputs[0].name].taint = self.values[instr.inputs[0].name].taint
        elif isinstance(op, effects.Input):
            self.define(instr.outputs[0], -1)

    def alike(self, var: Value) -> tuple[str, ...]:
        """Axes along which devices have the same of it."""
        return tuple([a for a in self.lifter.mesh if a not in var.layout.axes])

    def receive(self, instr: Node, op: effects.Recv) -> None:
        """What comes from another stage, and the gathering of it, where devices get parts."""
        self.add(instr, Wait(op.name, op.source))
        (var,) = instr.outputs
        axes, value = self.alike(var), self.values[var.name]
        if axes and not self.lifter.here(op.source):
            whole = Collective("all_gather", axes, value.elements, ITEMSIZE[value.type.dtype], "stages", True)
            self.drafts.append(Draft(var.name, [instr], whole, {len(self.drafts) - 1}))
            value.owner = len(self.drafts) - 1

    def accumulate(self, instr: Node, value: Lifted) -> None:
        """One kernel adds all gradients to their buffers: with the products, or (loose) from their results."""
        moved, flops = 2 * value.bytes, value.elements
        loose = moved + min(value.bytes, self.values.get(value.root, value).bytes)
        if self.adding < 0:
            self.add(instr, Vector(moved, loose, 1, flops, value.type.dtype))
            self.adding = len(self.drafts) - 1
            assert isinstance(instr.op, effects.Accumulate)
            state = self.lifter.states.get(instr.op.name)
            self.drafts[-1].name = f"accumulation of {TAINTS.get(state.role, '') if state else ''}".removesuffix(" of ")
            return
        self.grown.add(self.adding)
        draft = self.drafts[self.adding]
        assert isinstance(draft.work, Vector)
        old = draft.work
        draft.work = Vector(old.bytes + moved, old.loose + loose, old.ops + 1, old.flops + flops, old.dtype)
        self.wait(draft, (v.name for v in instr.inputs))

    def loop(self, instr: Node) -> None:
        """The loop as one node; inside, only carries are waited for, all else is there when it starts."""
        op = instr.op
        assert isinstance(op, Repeat)
        given: dict[str, Lifted] = {}
        for i, (outer, param) in enumerate(zip(instr.inputs, op.body.inputs)):
            value = self.lifter.value(param)
            value.taint, value.state = self.values[outer.name].taint, self.values[outer.name].state
            value.carried = i if i < op.carries else None
            given[param.name] = value
        inner = _Lift(self.lifter, op.body, given)
        self.add(instr, WorkLoop(op.count, self.lifter.whole(op, inner.part())))


_WAYS: dict[type[Op], Callable[[_Lift, Node], None]] = {}
"""How instructions of each op are lifted; filled as ops are met."""


def _way(op: type[Op]) -> Callable[[_Lift, Node], None]:
    if issubclass(op, effects.Effect):
        return _Lift.effect
    if issubclass(op, Repeat):
        return _Lift.loop
    if issubclass(op, Move):
        return _Lift.move
    if op.leaf:
        return _Lift.leaf
    if op.movement is not Movement.NO or op.unpacks:
        return _Lift.view
    if issubclass(op, Cast):
        return _Lift.cast
    if issubclass(op, Contract):
        return _Lift.contract
    if issubclass(op, comm.Comm) and op.message:
        return _Lift.collective if op.pattern in GROUPED else _Lift.message
    return _Lift.vector
