"""One device at speed: its functions as straight-line Python, one variable per value, planned once.

It computes what `Rank` does, on any backend and network, but measures nothing and copies nothing: values are never
changed once they are defined, so that a view of one may be kept as it is. Three things are changed, and belong to this
device alone: the parts of accumulators that were made here (`owned`), the list of what was sent, and the cells in which
states lie, whose contents are replaced (programs that share a state share its cell).

A stack of a loop's results is a list of its slices as long as nobody reads it as a whole: what a forward pass saves for
the iterations of the backward pass is never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compiler.graph import Graph, Node, Value, names_of
from compiler.layout import TIME
from compiler.liveness import liveness, unrolled, variables
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, Function, Program
from runtime.backend import Array, Backend, Position
from runtime.comm import Handle, Network, Then, Wait
from runtime.rank.buffers import HeldArray, RankBuffer
from runtime.rank.collectives import Here, start_collective
from runtime.rank.interpreter import Rank


class Pending:
    """A value that is not there yet."""

    __slots__ = ("handle", "value")

    def __init__(self, handle: Handle[Array]) -> None:
        self.handle: Handle[Array] | None = handle
        self.value: Array = None

    def get(self) -> Array:
        """The value; the process waits for it."""
        if self.handle is not None:
            self.value, self.handle = finished(self.handle), None
        return self.value


def finished(handle: Handle[Any]) -> Any:
    """What a handle of a network gives whose calls block."""
    waiting = handle.wait()
    try:
        next(waiting)
    except StopIteration as end:
        return end.value
    raise AssertionError("calls block here: there is nothing to yield for")


class CompiledRank(Rank):
    """A `Rank` of a network whose calls block, compiled when it is made."""

    def __init__(
        self,
        program: Program,
        cls: DeviceClass,
        group: int,
        at: Mapping[str, int],
        network: Network,
        backend: Backend,
    ) -> None:
        super().__init__(program, cls, group, at, network, backend)
        self.owned: dict[str, set[int]] = {}
        self.contexts = [backend.context(m, program.seed) for m in range(program.microbatches)]
        self.order = list(unrolled(program, cls.schedule, group))
        self.compiled = {(f.name, f.chunk): _Writer(self, f).run() for f in cls.functions}

    def step(self) -> Wait[None]:
        """The device's schedule, up to the point where all that it sent has left."""
        yield from ()
        for name, chunk, micro in self.order:
            self.doing = f"{name}.{chunk} of micro-batch {micro}" if name.per_microbatch else name
            self.compiled[name, chunk](self, micro, self.contexts[micro])
        for handle in self.sent:
            finished(handle)
        self.sent = []

    def end_step(self) -> None:
        """Let go of inputs, of accumulated values, and of the outputs that micro-batches have saved."""
        super().end_step()
        self.owned = {}

    def share(self, name: str, other: Rank) -> None:
        """Let a state lie in the same cell as that of another program's device."""
        self.states[name] = other.states[name]

    # --- what the text calls

    def cell(self, value: Any) -> HeldArray:
        """A place for a value; nothing is counted."""
        return HeldArray(value, _UNCOUNTED)

    def whole(self, value: Any, dtype: str) -> Array:
        """A stack in one piece."""
        if not isinstance(value, list):
            return value
        out = self.backend.empty((len(value), *self.backend.shape(value[0])), dtype)
        for i, slice_ in enumerate(value):
            self.backend.assign(self.backend.element(out, i), slice_)
        return out

    def write(self, name: str, value: Array) -> None:
        """New contents of a state."""
        if name in self.states:
            self.states[name].array = value
        else:
            self.states[name] = self.cell(value)

    def read(self, name: str) -> Array:
        """In one piece from now on, if it was a stack of slices."""
        cell = self.states[name]
        if isinstance(cell.array, list):
            cell.array = self.whole(cell.array, self.declared[name].type.dtype)
            self.owned[name] = {_ALL}
        return cell.array

    def kept(self, name: str, micro: int) -> Array:
        return self.whole(self.saved[name, micro].array, self.declared[name].type.dtype)

    def accumulate(self, name: str, value: Any, fn: str, dtype: str) -> None:
        """Add to an accumulator. A step's first value is only kept; what is added to in place was made here."""
        if name not in self.states:
            self.states[name] = self.cell(value)
            return
        cell = self.states[name]
        if isinstance(cell.array, list) and isinstance(value, list):
            for i, slice_ in enumerate(value):
                self.add(name, i, slice_, fn, dtype)
            return
        old, value, owned = self.read(name), self.whole(value, dtype), self.owned.setdefault(name, set())
        if _ALL not in owned:
            old = self.backend.copy(old)
            owned.add(_ALL)
        cell.array = self._combined(old, value, fn, dtype)

    def add(self, name: str, i: int, value: Array, fn: str, dtype: str) -> None:
        """Add to a slice of an accumulator that is there."""
        cell, owned = self.states[name], self.owned.setdefault(name, set())
        if not isinstance(cell.array, list):
            if _ALL not in owned:
                cell.array = self.backend.copy(cell.array)
                owned.add(_ALL)
            part = self.backend.element(cell.array, i)
            combined = self._combined(part, value, fn, dtype)
            if combined is not part:
                self.backend.assign(part, combined)
            return
        if i not in owned:
            cell.array[i] = self.backend.copy(cell.array[i])
            owned.add(i)
        cell.array[i] = self._combined(cell.array[i], value, fn, dtype)

    def _combined(self, into: Array, value: Array, fn: str, dtype: str) -> Array:
        self.backend.accumulate(into, value, fn)
        return self.backend.rounded(into, dtype)

    def post(self, op: Send, chunk: int, micro: int, value: Array) -> None:
        """Send to another stage."""
        own = self.program.homes.stage(self.group, chunk)
        tag = op.name, micro, own, own + op.to
        everyone = self.network.between(range(self.program.groups))
        self.sent.append(everyone.send(value, self.program.homes.group(own + op.to), tag))

    def fetch(self, op: Recv, chunk: int, micro: int, shape: tuple[int, ...], dtype: str) -> Pending:
        """Receive from another stage."""
        own = self.program.homes.stage(self.group, chunk)
        tag = op.name, micro, own + op.source, own
        everyone = self.network.between(range(self.program.groups))
        return Pending(everyone.recv(self.program.homes.group(own + op.source), tag, shape, dtype))

    def reduce_stages(self, op: StageReduce, value: Array, dtype: str) -> Pending:
        """Reduce over stages."""
        total = self.network.between(op.groups).all_reduce(value, op.fn)
        return Pending(Then(total, lambda x: self.backend.rounded(x, dtype)))

    def start(self, op: Comm, heres: Sequence[Here], micro: int, value: Array) -> Pending:
        """Start a collective."""
        return Pending(start_collective(op, value, heres[micro]))


class _Uncounted(RankBuffer):
    """Where bytes are not counted."""

    def __init__(self) -> None:
        self.coming = None

    def hold(self) -> RankBuffer:
        return self

    def drop(self) -> None:
        return None


_UNCOUNTED = _Uncounted()
_ALL = -1
"""Of an accumulator in one piece: all of it was made here."""


class _Writer:
    """Writes the text of one function."""

    def __init__(self, rank: CompiledRank, function: Function) -> None:
        self.rank, self.function, self.backend = rank, function, rank.backend
        self.names: dict[str, Any] = {"Pending": Pending}
        self.lines: list[str] = []
        self.count = 0
        self.maybe: set[str] = set()
        """Variables that may hold something that is not there yet."""
        self.stacked: dict[str, str] = {}
        """Variables that may hold a list of slices, with their dtype."""
        self.sunk: set[str] = set()
        self.pending = {v.name: fn for i in function.body.nodes for v in i.outputs if (fn := v.layout.pending_on(TIME))}

    def run(self) -> Callable[[CompiledRank, int, Any], None]:
        rank, function = self.rank, self.function
        rank.chunk = function.chunk
        self.body(function.body, {}, 1)
        text = "\n".join(["def run(d, micro, ctx):", *(self.lines or ["    pass"])])
        exec(compile(text, f"<{rank.program.name} {function.name}.{function.chunk}>", "exec"), self.names)
        return self.names["run"]  # type: ignore[no-any-return]

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def bind(self, thing: Any) -> str:
        """A global name for a planned closure or constant."""
        name = f"k{len(self.names)}"
        self.names[name] = thing
        return name

    def put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def there(self, name: str, depth: int, whole: bool = True) -> str:
        """The variable, behind lines that wait for its value and (if `whole`) put a stack in one piece."""
        if name in self.maybe:
            self.put(depth, f"if {name}.__class__ is Pending: {name} = {name}.get()")
        if whole and name in self.stacked:
            self.put(depth, f"if {name}.__class__ is list: {name} = d.whole({name}, {self.stacked[name]!r})")
        return name

    # --- bodies

    def body(
        self,
        body: Graph,
        names: dict[str, str],
        depth: int,
        carries: int = 0,
        stacks: Mapping[str, list[tuple[str, str, str]]] | None = None,
    ) -> None:
        """Write the instructions. `names`: value -> variable; `stacks`: value -> (list of slices, index, sink)."""
        scope, live = variables(body), liveness(body, carries)
        for instr, dying in zip(body.nodes, live.after, strict=True):
            if isinstance(instr.op, Repeat):
                self.loop(instr, instr.op, names, depth, live.sinks)
            else:
                self.instr(instr, scope, names, depth)
            for out in instr.outputs:
                self.fill(stacks or {}, out.name, names, depth)
            gone = [names[n] for n in dying if n in names]
            for name in gone:
                if name in self.maybe:
                    self.there(name, depth, whole=False)  # nothing is let go while it is under way
            if gone:
                self.put(depth, " = ".join(gone) + " = None")

    def fill(
        self, stacks: Mapping[str, list[tuple[str, str, str]]], name: str, names: dict[str, str], depth: int
    ) -> None:
        """Put a value where the loop's results go."""
        for slices, index, sink in stacks.get(name, ()):
            value = self.there(names[name], depth)
            if sink:
                self.put(depth, f"if {slices} is None: {sink.format(index=index, value=value)}")
                self.put(depth, f"else: {slices}[{index}] = {value}")
            else:
                self.put(depth, f"{slices}[{index}] = {value}")

    def instr(self, instr: Node, scope: Mapping[str, Value], names: dict[str, str], depth: int) -> None:
        op, rank, chunk = instr.op, self.rank, self.function.chunk
        if isinstance(op, Accumulate) and instr.inputs[0].name in self.sunk:
            name = names[instr.inputs[0].name]
            self.put(depth, f"if {name} is not None: {self.accumulated(op.name, instr.inputs[0].name, name)}")
            return
        keeps = isinstance(op, Save | Accumulate)
        args = [self.there(names[v.name], depth, whole=not keeps) for v in instr.inputs]
        for out in instr.outputs:
            names[out.name] = self.fresh()
        result = ", ".join(names[o.name] for o in instr.outputs)
        match op:
            case Input():
                key = self.bind((op.name, instr.outputs[0].layout))
                micro = "micro" if TIME in instr.outputs[0].layout.axes else "0"
                self.put(depth, f"{result} = d.inputs[{key}][{micro}].array")
            case Read():
                self.put(depth, f"{result} = d.read({op.name!r})")
            case Write():
                self.put(depth, f"d.write({op.name!r}, {args[0]})")
            case Accumulate():
                self.put(depth, self.accumulated(op.name, instr.inputs[0].name, args[0]))
            case Save():
                self.put(depth, f"d.saved[{op.name!r}, micro] = d.cell({args[0]})")
            case Load():
                key = f"{op.name!r}, micro"
                self.put(
                    depth, f"{result} = d.saved.pop(({key})).array" if op.last else f"{result} = d.saved[{key}].array"
                )
                self.stacked[result] = instr.outputs[0].type.dtype
            case Send():
                self.put(depth, f"d.post({self.bind(op)}, {chunk}, micro, {args[0]})")
            case Recv():
                local = rank.local(instr.outputs[0])
                self.put(
                    depth, f"{result} = d.fetch({self.bind(op)}, {chunk}, micro, {local.shape!r}, {local.dtype!r})"
                )
                self.maybe.add(result)
            case StageReduce():
                self.put(
                    depth, f"{result} = d.reduce_stages({self.bind(op)}, {args[0]}, {instr.outputs[0].type.dtype!r})"
                )
                self.maybe.add(result)
            case Comm():
                var, (out,) = scope[instr.inputs[0].name], instr.outputs
                heres = [
                    Here(var.type, var.layout, out.layout, rank.mesh, {**rank.at, TIME: m}, rank.network, self.backend)
                    for m in range(rank.program.microbatches)
                ]
                self.put(depth, f"{result} = d.start({self.bind(op)}, {self.bind(heres)}, micro, {args[0]})")
                self.maybe.add(result)
            case _:
                ins, outs = [rank._value(scope[v.name]) for v in instr.inputs], [rank._value(v) for v in instr.outputs]
                position = Position(rank.program.sizes, rank.at, rank._start(op))
                kernel = self.bind(self.backend.plan(op, ins, outs, position))
                self.put(depth, f"{result} = {kernel}({', '.join(['ctx', *args])})")

    def accumulated(self, name: str, value: str, variable: str) -> str:
        fn, dtype = self.combination(name, value)
        return f"d.accumulate({name!r}, {variable}, {fn!r}, {dtype!r})"

    def combination(self, name: str, value: str) -> tuple[str, str]:
        """How micro-batches add up (by the reduction that they leave pending over them), and the accumulator's type."""
        return self.pending.get(value, "sum"), self.rank.declared[name].type.dtype

    def loop(self, instr: Node, op: Repeat, names: dict[str, str], depth: int, sinks: Mapping[str, str]) -> None:
        """A `for` over the slices; carries pass from round to round in variables, lists of results are filled."""
        carries, last = op.carries, op.carries + op.stacks
        given, results = names_of(instr.inputs), names_of(op.body.outputs)
        for k, name in enumerate(given):
            if k >= carries or names[name] in self.stacked:
                self.there(names[name], depth, whole=not carries <= k < last)
        inner = {p.name: self.fresh() for p in op.body.inputs}
        inside = [inner[p.name] for p in op.body.inputs]
        for variable, name in zip(inside[:carries], given, strict=False):
            self.put(depth, f"{variable} = {names[name]}")
            self.maybe.add(variable)
        i = self.fresh()
        filled: dict[str, list[tuple[str, str, str]]] = {}
        for out, name in zip(instr.outputs[carries:], results[carries:], strict=True):
            slices = names[out.name] = self.fresh()
            self.stacked[slices] = out.type.dtype
            sink, unless = "", ""
            if out.name in sinks:
                self.sunk.add(out.name)
                buffer = sinks[out.name]
                fn, dtype = self.combination(buffer, out.name)
                sink = f"d.add({buffer!r}, {{index}}, {{value}}, {fn!r}, {dtype!r})"
                unless = f" if {buffer!r} not in d.states else None"
            self.put(depth, f"{slices} = [None] * {op.count}{unless}")
            filled.setdefault(name, []).append((slices, i, sink))
        order = f"range({op.count - 1}, -1, -1)" if op.reverse else f"range({op.count})"
        self.put(depth, f"for {i} in {order}:")
        self.put(depth + 1, "pass")
        for variable, name in zip(inside[carries:last], given[carries:last], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}[{i}]")
        for variable, name in zip(inside[last:], given[last:], strict=True):
            self.put(depth + 1, f"{variable} = {names[name]}")  # each time: the body lets go of it at its last use
        for p in op.body.inputs:
            self.fill(filled, p.name, inner, depth + 1)
        self.body(op.body, inner, depth + 1, carries, filled)
        if carries:
            for name in results[:carries]:
                if inner[name] in self.stacked:
                    self.there(inner[name], depth + 1)
            self.put(depth + 1, f"{', '.join(inside[:carries])} = {', '.join(inner[n] for n in results[:carries])}")
        for out, variable in zip(instr.outputs[:carries], inside[:carries], strict=True):
            names[out.name] = self.fresh()
            self.maybe.add(names[out.name])
            self.put(depth, f"{names[out.name]} = {variable}")
        if inner:
            self.put(depth, " = ".join(inner.values()) + " = None")
