"""One function of a program as a function of Python: a statement per instruction, repeats as loops, effects as what
it takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from compiler.graph import Graph, Node, Value
from compiler.layout import TIME
from compiler.ops.base import Movement, Op
from compiler.ops.comm import Comm
from compiler.ops.effects import Accumulate, Effect, Input, Load, Read, Recv, Save, Send, StageReduce, Write
from compiler.ops.elementwise import Cast
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import LASTING, Function
from compiler.program import listed as in_parts
from compiler.regions.adamw import AdamW, adamw
from compiler.text.printer import show_type
from dsl.data import dataclass
from parc.exporting.torch.fused import fused
from parc.exporting.torch.products import Products, together
from parc.exporting.torch.reading import FusedCall
from parc.exporting.torch.writer import EMIT, Identifiers, Writer, number, prose, string

WIDTH = 96
"""Columns from which a type stands on no line of its own any more: it is left out."""


@dataclass(slots=True)
class Written:
    """A function's text, and what it asks of whoever runs it.

    inputs: the key under which it is given -> the data input and the axes that split each of its dims.
    loads: what is loaded -> whether for the last time. receives: key -> (name, stages ahead, shape, dtype) of messages.
    highest: accumulators in which not the sum but the maximum counts.
    """

    lines: list[str]
    inputs: dict[str, tuple[str, Value]] = field(default_factory=dict)
    loads: dict[str, bool] = field(default_factory=dict)
    receives: dict[str, tuple[str, int, Value]] = field(default_factory=dict)
    highest: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Results:
    """What a function returns, by its kind: dict entries."""

    add: dict[str, list[str]] = field(default_factory=dict)
    part: dict[str, str] = field(default_factory=dict)
    save: dict[str, str] = field(default_factory=dict)
    put: dict[str, str] = field(default_factory=dict)
    send: dict[str, str] = field(default_factory=dict)


class FunctionWriter:
    """listed: saved buffers that hold a list of tensors, one per iteration of a loop; loss: what is differentiated, if
    PyTorch is to do it."""

    def __init__(self, writer: Writer, listed: set[str], loss: Value | None = None) -> None:
        self.w, self.listed, self.loss = writer, listed, loss
        self.lasting = {s.name for s in writer.cls.states if s.role in LASTING}
        self.parted = {s.name for s in writer.cls.states if in_parts(s)}  # a list of tensors, one per micro-batch
        timed = {s.name: TIME in s.layout.split_axes for s in writer.cls.states if s.role is Role.STATE}
        several = writer.program.microbatches > 1
        self.states = {name: several and not own for name, own in timed.items()}
        self.per_microbatch = False
        self.written = Written([])
        self.unbound: set[Value] = set()
        self.results = _Results()
        self.made: set[str] = set()  # variables that there are
        self.own: set[Value] = set()  # values that are nobody else's memory

    def write(self, f: Function, name: str, indent: str = "") -> Written:
        """The function under this name."""
        self.per_microbatch = f.per_microbatch
        for g in _called(f.body):
            if id(g) not in self.w.called:
                self._function(g, indent)
        stage = "" if f.phase.of_chunk and not f.chunk else f" {f.chunk}" if f.chunk else ""
        self.line(indent, f"def {name}(i, given, state, saved):")
        self.line(indent + "    ", f'"""{f.phase.words.capitalize()}{stage}, of micro-batch i."""')
        self.nodes(f.body, indent + "    ")
        if self.loss is not None:
            self.results.save["loss"] = self.w.ref(self.loss)
        self._returned(indent + "    ")
        return self.written

    def line(self, indent: str, text: str, value: Value | None = None) -> None:
        """A line, with the type and layout of what it defines."""
        made = f"{indent}{text}"
        if value is not None:
            made = f"{made}  # {show_type(value.type, value.layout, self.w.program.sizes)}"
        self.w.lines.append(made)
        self.written.lines.append(made)

    # --- instructions

    def nodes(self, body: Graph, indent: str) -> None:
        """A statement for each node; what PyTorch computes as one is a call."""
        calls = fused(body, body.regions)
        needed = _needed(body, calls)
        self.unbound |= _only_by_layer(body, needed)
        groups = together(body.nodes, needed, calls) if self.w.derived else {}
        done = {node for group in groups.values() for pair in group for node in pair}
        kept = {n for n in body.nodes if isinstance(n.op, Write) and n.op.name in self.lasting}
        self.own |= _own(body)
        last = _last_reads(body, calls, needed, kept)
        for at, node in enumerate(body.nodes):
            if node in groups:
                self._products(groups[node], indent)
            elif node in calls and node not in done:
                self.assign(node.output, calls[node].text(self.w), indent)
            elif node in needed and node not in done:
                self.node(node, indent)
                if node in kept:
                    self._let_go(body.nodes[: at + 1], last, at, indent)

    def _let_go(self, nodes: Sequence[Node], last: Mapping[Value, int], at: int, indent: str) -> None:
        """Deletes variables that nothing reads any more: an update would keep several times its weights."""
        alive: dict[str, bool] = {}
        large = (v for node in nodes for v in node.outputs if v.type.dims and v.name in self.w.names.taken)
        for v in large:
            name = self.w.names.taken[v.name]
            alive[name] = alive.get(name, False) or last.get(v, -1) > at
        dead = [name for name, needed in alive.items() if not needed and name in self.made]
        if dead:
            self.line(indent, f"del {', '.join(dead)}")
            self.made -= set(dead)

    def node(self, node: Node, indent: str) -> None:
        w, op = self.w, node.op
        if isinstance(op, Repeat):
            self.loop(node, op, indent)
        elif (body := called_body(op)) is not None:
            self._call(node, body, indent)
        elif isinstance(op, Input | Load | Read | Recv):
            self.assign(node.output, self._source(op, node.output), indent)
        elif isinstance(op, Accumulate) and op.name in self.parted:
            self.results.part[op.name] = w.ref(node.inputs[0])
        elif isinstance(op, Accumulate):
            value = node.inputs[0]
            if value.layout.pending_on(TIME) == "max":
                self.written.highest.append(op.name)
            self.results.add.setdefault(op.name, []).append(w.ref(value))
        elif isinstance(op, Save):
            listed = op.name in self.listed
            self.results.save[op.name] = w.names.of(node.inputs[0].name) if listed else w.ref(node.inputs[0])
        elif isinstance(op, Send):
            self.results.send[f"{op.name} to {op.to}"] = w.ref(node.inputs[0])
        elif isinstance(op, Write):
            text = w.ref(node.inputs[0])
            own = node.inputs[0] in self.own
            if op.name in self.states:  # never in place: what was read of it may have been saved
                shared = self.per_microbatch and self.states[op.name]
                if shared:  # by micro-batches, all of which read what it was before the step
                    self.line(indent, f"if i == {w.program.microbatches - 1}:")
                new = text if own else f"{text}.clone()"
                self.line(indent + "    " * shared, f"state[{string(op.name)}] = {new}")
            elif op.name in self.lasting and own and op.name not in w.trained:
                self.line(indent, f"state[{string(op.name)}] = {text}")
            elif op.name in self.lasting:
                self.line(indent, f"state[{string(op.name)}].copy_({text})")
            else:
                self.results.put[op.name] = text
        elif isinstance(op, StageReduce):
            groups = f"({', '.join(map(str, op.groups))},)"
            call = f"{w.use('stage_reduce')}({w.ref(node.inputs[0])}, {string(op.fn)}, {groups})"
            self.assign(node.output, call, indent)
        else:
            text = EMIT[type(op)](op, node, w)
            if len(node.outputs) == 1:
                self.assign(node.output, text, indent)
            else:
                self.line(indent, f"{', '.join(w.names.of(v.name) for v in node.outputs)} = {text}", node.outputs[0])

    def assign(self, value: Value, text: str, indent: str) -> None:
        """`name = text`; a value that is another one under a new name has that one's."""
        if text.isidentifier() and value.name not in self.w.names.taken:
            self.w.names.taken[value.name] = text
        else:
            self.line(indent, f"{self.w.names.of(value.name)} = {text}", value)
            self.made.add(self.w.names.of(value.name))

    def _source(self, op: Input | Load | Read | Recv, value: Value) -> str:
        found = self.written
        if isinstance(op, Read) and op.name in self.parted:
            return f"torch.stack(state[{string(op.name)}])"
        if isinstance(op, Read):
            return f"state[{string(op.name)}]{'.unbind()' * (value in self.unbound)}"
        if isinstance(op, Load):
            found.loads[op.name] = op.last or found.loads.get(op.name, False)
            if op.name in self.listed:
                self.w.lists.add(value.name)
            return f"saved[{string(op.name)}]"
        if isinstance(op, Recv):
            key = f"{op.name} from {op.source}"
            found.receives[key] = op.name, op.source, value
        else:
            key = op.name
            while key in found.inputs and found.inputs[key][1].layout != value.layout:
                key += "'"
            found.inputs[key] = op.name, value
            self.w.inputs[value.name] = op.name
        return f"given[{string(key)}]"

    def _products(self, group: Products, indent: str) -> None:
        """Products of the same rows as one product; PyTorch derives them as one, too."""
        w, first = self.w, group[0][0]
        x, given = first.inputs[0], list[str]()
        for node, adds in group:
            bias = [v for v in adds.inputs if v is not node.output] if adds is not None else []
            given.append(f"({w.ref(node.inputs[1])}, {w.ref(bias[0]) if bias else None})")
        made = ", ".join(w.names.of((adds or node).output.name) for node, adds in group)
        summed = (len(first.inputs[1].type.dims) - len(first.output.type.dims) + len(x.type.dims)) // 2
        self.line(indent, f"{made} = {w.use('products')}({w.ref(x)}, {summed}, {', '.join(given)})", first.output)

    # --- functions of values

    def _function(self, g: Graph, indent: str) -> None:
        """A function that others call, before them; its variables are its own."""
        w = self.w
        outer, w.names = w.names, Identifiers()
        name = w.called[id(g)] = w.functions.fresh(g.name)
        given = ", ".join(w.names.of(v.name) for v in g.inputs)
        self.line(indent, f"def {name}({given}):")
        self.line(indent + "    ", f'"""{prose(g.name)}, of the pieces of a device."""')
        known = adamw(g)
        ordered = known is not None and known.results == (0, 1, 2)
        if known is not None and ordered and len({v.type.dtype for v in (*g.inputs, *g.outputs)}) == 1:
            self.line(indent + "    ", f"return {self._adamw(g, known)}")
        else:
            self.nodes(g, indent + "    ")
            self.line(indent + "    ", f"return {', '.join(w.ref(v) for v in g.outputs)}")
        self.written.lines += ["", ""]
        w.names = outer

    def _adamw(self, g: Graph, of: AdamW) -> str:
        """The update by the library's function, which gives the weight, then both means."""

        def ref(i: int | None) -> str:
            return "1.0" if i is None else self.w.ref(g.inputs[i])

        gradient = ref(of.g) if of.factor is None else f"{ref(of.g)} * {ref(of.factor)}"
        rate = number(of.rate) if isinstance(of.rate, float) else ref(of.rate)
        given = [ref(of.w), gradient, ref(of.m), ref(of.v), rate, ref(of.first), ref(of.second)]
        given += [f"{k}={number(getattr(of, k))}" for k in ("beta1", "beta2", "eps", "decay")]
        return f"{self.w.use('adamw')}({', '.join(given)})"

    def _call(self, node: Node, body: Graph, indent: str) -> None:
        w = self.w
        call = f"{w.space}{w.called[id(body)]}({', '.join(map(w.ref, node.inputs))})"
        made = [w.names.of(v.name) for v in node.outputs]
        self.line(indent, f"{', '.join(made)} = {call}", node.outputs[0])
        self.made.update(made)

    # --- loops

    def loop(self, node: Node, op: Repeat, indent: str) -> None:
        """A loop; stacks of results are lists, which are stacked where a tensor is read."""
        w, names, carries, stacks = self.w, self.w.names, op.carries, op.carries + op.stacks
        body, inner = op.body, indent + "    "
        for param, given in zip(body.inputs[:carries], node.inputs, strict=False):
            self.line(indent, f"{names.of(param.name)} = {w.ref(given)}", param)
        for param, given in zip(body.inputs[stacks:], node.inputs[stacks:], strict=True):
            names.taken[param.name] = w.ref(given)
        results = list(zip(node.outputs[carries:], body.outputs[carries:], strict=True))
        for out, _ in results:
            w.lists.add(out.name)
        if results:
            made = ", ".join(names.of(out.name) for out, _ in results)
            empty = f"[None] * {op.count}"
            text = empty if len(results) == 1 else f"({empty} for _ in range({len(results)}))"
            self.line(indent, f"{made} = {text}")
        count = f"range({op.count})"
        n = names.fresh("n_" + op.label)
        self.line(indent, f"for {n} in {f'reversed({count})' if op.reverse else count}:  # {op.label}")
        for param, given in zip(body.inputs[carries:stacks], node.inputs[carries:stacks], strict=True):
            self.line(inner, f"{names.of(param.name)} = {names.of(given.name)}[{n}]", param)
        self.nodes(body, inner)
        for out, result in results:
            self.line(inner, f"{names.of(out.name)}[{n}] = {w.ref(result)}")
        self._carried(body, carries, inner)
        for out, param in zip(node.outputs[:carries], body.inputs[:carries], strict=True):
            names.taken[out.name] = names.of(param.name)

    def _carried(self, body: Graph, carries: int, indent: str) -> None:
        pairs = [(self.w.names.of(p.name), self.w.ref(r)) for p, r in zip(body.inputs[:carries], body.outputs)]
        pairs = [(p, r) for p, r in pairs if p != r]
        if pairs:
            self.line(indent, f"{', '.join(p for p, _ in pairs)} = {', '.join(r for _, r in pairs)}")

    # --- results

    def _returned(self, indent: str) -> None:
        found = self.results
        add = {name: " + ".join(values) for name, values in found.add.items()}
        groups = {"add": add, "part": found.part, "save": found.save, "put": found.put, "send": found.send}
        self.line(indent, "return dict(")
        for kind, entries in groups.items():
            if entries:
                self.line(indent, f"    {kind}={{")
                for name, text in entries.items():
                    self.line(indent, f"        {string(name)}: {text},")
                self.line(indent, "    },")
        self.line(indent, ")")


def _own(body: Graph) -> set[Value]:
    """Values that are new memory, of a body and of the functions that it calls."""
    found = {v for n in body.nodes if called_body(n.op) is None and _makes(n.op) for v in n.outputs}
    for node in body.nodes:
        if (inner := called_body(node.op)) is not None:
            made = _own(inner)
            found |= {v for v, r in zip(node.outputs, inner.outputs, strict=True) if r in made}
    return found


def _makes(op: Op) -> bool:
    """Whether what it gives is new memory."""
    return not isinstance(op, Effect | Repeat) and op.movement is Movement.NO and not isinstance(op, Cast | Move | Comm)


def _last_reads(
    body: Graph, calls: Mapping[Node, FusedCall], needed: set[Node], lasting: set[Node]
) -> dict[Value, int]:
    """Value -> where it is read last; what is returned is read behind the last node. lasting: writes to buffers."""
    found = dict.fromkeys(body.outputs, len(body.nodes))
    for at, node in enumerate(body.nodes):
        if node in needed:
            ends = isinstance(node.op, Effect) and not node.outputs and node not in lasting
            for v in calls[node].reads if node in calls else node.inputs:
                found[v] = max(found.get(v, -1), len(body.nodes) if ends else at)
    return found


def _needed(body: Graph, calls: dict[Node, FusedCall]) -> set[Node]:
    """The nodes that are to be written; calls whose insides are needed all the same are taken out."""
    while True:
        wanted, needed = set(body.outputs), set[Node]()
        for node in reversed(body.nodes):
            kept = isinstance(node.op, Effect) and not isinstance(node.op, Read | Input)
            if kept or any(v in wanted for v in node.outputs):
                needed.add(node)
                wanted.update(calls[node].reads if node in calls else node.inputs)
        idle = [n for n, call in calls.items() if n not in needed or call.core in needed]
        if not idle:
            return needed
        for node in idle:
            del calls[node]


def called_body(op: Op) -> Graph | None:
    """The function of values that an op calls."""
    found = getattr(op, "body", None)
    return found if isinstance(found, Graph) and not isinstance(op, Repeat) else None


def _called(body: Graph) -> list[Graph]:
    """The functions that a body calls, each once."""
    found = (called_body(node.op) for node in body.nodes)
    return list({id(g): g for g in found if g is not None}.values())


def _only_by_layer(body: Graph, needed: set[Node]) -> set[Value]:
    """Values of which loops alone read, a slice for each iteration: the derivative of all slices is one stack."""
    by_layer: set[Value] = set()
    others: set[Value] = set(body.outputs)
    for node in needed:
        op = node.op
        stacks = range(op.carries, op.carries + op.stacks) if isinstance(op, Repeat) else range(0)
        for at, v in enumerate(node.inputs):
            (by_layer if at in stacks else others).add(v)
    return by_layer - others


def listed_buffers(functions: Sequence[Function]) -> set[str]:
    """Saved buffers that hold what a loop stacks."""
    found: set[str] = set()
    for f in functions:
        stacks = {v for n in f.body.nodes if isinstance(n.op, Repeat) for v in n.outputs[n.op.carries :]}
        found |= {n.op.name for n in f.body.nodes if isinstance(n.op, Save) and n.inputs[0] in stacks}
    return found
