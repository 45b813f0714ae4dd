"""Chains of elementwise functions, block by block: what one block needs stays near the processor.

The steps of a block write into places that all chains share, or into the results; a product that is only added to
something is added in one step.
"""

from __future__ import annotations

from collections.abc import Collection
from math import nan, sqrt
from typing import Any

import torch
from torch import Tensor

from compiler.graph import Graph, Node, Value
from compiler.ops.elementwise import Cast, Map
from compiler.regions.adamw import AdamW, adamw
from runtime.backend import Kernel, LocalValue, Slicewise
from runtime.torch.base import STORAGE, Standpoint, Values, kernel, number
from runtime.torch.fusing.ops import FusedChain, FusedSquare
from runtime.torch.kernels.elementwise import map_function, plan_cast

BLOCK = 1 << 15
"""Elements of a block on a CPU: eight of f32 are 1 MiB, about what a core's own memory holds."""

INTO = {"add", "sub", "mul", "div", "sqrt", "rsqrt", "exp", "neg", "maximum", "minimum", "pow", "log"}
"""Functions that torch has under this name, with a place for the result."""

_places: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}


def _place(dtype: torch.dtype, device: torch.device, i: int) -> Tensor:
    """Place `i` for the steps of a block. Nothing in it outlives a block."""
    key = dtype, device, i
    if key not in _places:
        _places[key] = torch.empty(BLOCK, dtype=dtype, device=device)
    return _places[key]


@kernel(FusedChain)
def plan_chain(op: FusedChain, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans a chain; its results are renewed operands, or new."""
    if where.device.type != "cpu":
        return _whole(op.body)
    if (found := adamw(op.body)) is not None and len({v.type.dtype for v in (*ins, *outs)}) == 1:
        return _adamw(found, [i for _, i in op.renewed])
    return _Text(op, outs, where.device).run()


def _adamw(of: AdamW, renewed: Collection[int]) -> Kernel:
    """PyTorch's own AdamW, which corrects both means by numbers of steps.

    With endless steps it corrects nothing: w' = w (1 - rate decay) - rate m' / (sqrt(v') + eps) then is what is wanted
    for a rate of rate sqrt(second) / first, an eps of eps sqrt(second) and a decay of decay first / sqrt(second).
    """
    run, steps = torch.ops.aten._fused_adamw_.default, torch.full((), torch.inf)
    places = of.w, of.m, of.v
    order = [of.results.index(k) for k in range(3)]

    def update(ctx: object, *given: Tensor) -> tuple[Tensor, ...]:
        first = 1.0 if of.first is None else given[of.first].item() or nan
        root = 1.0 if of.second is None else sqrt(given[of.second].item()) or nan
        factor = 1.0 if of.factor is None else given[of.factor].item()
        rate = of.rate if isinstance(of.rate, float) else given[of.rate].item()
        g = given[of.g]
        w, m, v = (_own(given[i], i in renewed) for i in places)
        parts = (
            [[w], [g.contiguous()], [m], [v]]
            if isinstance(g, Tensor)
            else [w.unbind(), [x.contiguous() for x in g], m.unbind(), v.unbind()]
        )
        ws, gs, ms, vs = parts
        run(
            ws, gs if factor == 1.0 else torch._foreach_mul(gs, factor), ms, vs, [], [steps] * len(gs),
            lr=rate * root / first, beta1=of.beta1, beta2=of.beta2,
            weight_decay=of.decay * first / root, eps=of.eps * root, amsgrad=False, maximize=False,
        )  # fmt: skip
        found = w, m, v
        return tuple(found[i] for i in order)

    return Slicewise(update, frozenset([of.g]))


def _own(x: Tensor, mine: bool) -> Tensor:
    """The tensor itself, if it may be written into; else a copy."""
    return x.contiguous() if mine and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)


def _whole(body: Graph) -> Kernel:
    """Step by step on whole tensors."""
    steps = [(n, _function(n)) for n in body.nodes]

    def run(ctx: object, *given: Tensor) -> Any:
        values = dict(zip(body.inputs, given, strict=True))
        for node, f in steps:
            values[node.output] = f(*(values[v] for v in node.inputs))
        found = tuple(values[v] for v in body.outputs)
        return found if len(found) > 1 else found[0]

    return run


def _function(node: Node) -> Any:
    if isinstance(node.op, Map):
        return map_function(node.op, node.inputs[-1].type.dtype)
    assert isinstance(node.op, Cast)
    ins = [LocalValue.whole(v.type) for v in node.inputs]
    cast = plan_cast(node.op, ins, [], None)
    return lambda x: cast(None, x)


class _Text:
    """Writes the function of a chain."""

    def __init__(self, op: FusedChain, outs: Values, device: torch.device) -> None:
        self.op, self.body, self.device = op, op.body, device
        self.shape = outs[0].type.shape
        self.names: dict[str, Any] = {"torch": torch, "empty": torch.empty}
        self.variables = {v: f"x{i}" for i, v in enumerate(self.body.inputs)}
        self.lines: list[str] = []
        self.free: dict[str, list[int]] = {}
        self.most: dict[str, int] = {}
        self.places: dict[Value, tuple[str, int]] = {}

    def run(self) -> Kernel:
        absorbed = self._absorbed()
        steps = [n for n in self.body.nodes if n not in absorbed.values()]
        reads = {n: [v for x in n.inputs for v in self._behind(n, x, absorbed)] for n in steps}
        last = {v: i for i, n in enumerate(steps) for v in reads[n]}
        renewed = {self.body.outputs[k]: self.body.inputs[i] for k, i in self.op.renewed}
        for i, n in enumerate(steps):
            self._step(i, n, absorbed.get(n), last, renewed)
            for v in {*reads[n], n.output}:
                if v in self.places and last.get(v, i) <= i and v not in self.body.outputs:
                    kind, place = self.places[v]
                    self.free[kind].append(place)
        late = [v for v in self.body.outputs if v in self.places]
        self.lines += [f"{self._result(v)}.copy_({self.variables[v]})" for v in late]
        return self._compiled(renewed)

    def _result(self, v: Value) -> str:
        return f"r{self.body.outputs.index(v)}"

    def _behind(self, node: Node, v: Value, absorbed: dict[Node, Node]) -> tuple[Value, ...]:
        inner = absorbed.get(node)
        return inner.inputs if inner is not None and inner.output is v else (v,)

    def _absorbed(self) -> dict[Node, Node]:
        """By sum, the product or quotient that is added to, or taken from, the other operand and nothing else."""
        made = {n.output: n for n in self.body.nodes}
        count: dict[Value, int] = dict.fromkeys(self.body.outputs, 2)
        for n in self.body.nodes:
            for v in n.inputs:
                count[v] = count.get(v, 0) + 1
        found: dict[Node, Node] = {}
        for n in self.body.nodes:
            if not isinstance(n.op, Map) or n.op.fn not in ("add", "sub") or n.op.slots != (None, None):
                continue
            for other, v in (n.inputs, n.inputs[::-1])[: 2 if n.op.fn == "add" else 1]:
                inner = made.get(v)
                fits = inner is not None and count[v] == 1 and other.type.dims and other.type.dtype == v.type.dtype
                if fits and inner is not None and _joins(inner) and inner not in found and n.output.type == other.type:
                    found[n] = inner
                    break
        return found

    def _step(
        self, i: int, node: Node, inner: Node | None, last: dict[Value, int], renewed: dict[Value, Value]
    ) -> None:
        out = node.output
        target = None
        if out in self.body.outputs:
            old = renewed.get(out)
            if old is None or last.get(old, -1) <= i:
                target = self._result(out)
        text = self._sum(node, inner) if inner is not None else self._call(node)
        if target is None:
            kind = node.output.type.dtype
            free = self.free.setdefault(kind, [])
            if not free:
                free.append(self.most.get(kind, 0))
                self.most[kind] = self.most.get(kind, 0) + 1
            place = free.pop()
            self.places[out] = kind, place
            target = f"t_{kind}_{place}"
        self.variables[out] = target
        if text is not None:
            self.lines.append(f"{text}, out={target})")
        else:
            key = f"f{len(self.names)}"
            self.names[key] = _function(node)
            self.lines.append(f"{target}.copy_({key}({', '.join(self.variables[v] for v in node.inputs)}))")

    def _sum(self, node: Node, inner: Node) -> str:
        """a ± factor x, a ± x y, a ± x / y."""
        assert isinstance(node.op, Map) and isinstance(inner.op, Map)
        sign = -1 if node.op.fn == "sub" else 1
        (other,) = [v for v in node.inputs if v is not inner.output]
        a = self.variables[other]
        literals = [s for s in inner.op.slots if s is not None]
        if literals:
            factor = sign * number(literals[0], node.output.type.dtype)
            return f"torch.add({a}, {self.variables[inner.inputs[0]]}, alpha={factor!r}"
        x, y = (self.variables[v] for v in inner.inputs)
        return f"torch.addc{inner.op.fn}({a}, {x}, {y}, value={sign}"

    def _call(self, node: Node) -> str | None:
        """The call up to its result; None where torch has none with a place for that."""
        op = node.op
        if not isinstance(op, Map) or op.fn not in INTO or op.slots[0] is not None and op.fn not in ("add", "mul"):
            return None
        dtype = node.inputs[0].type.dtype
        if op.fn in ("maximum", "minimum") and None not in op.slots[1:]:
            return None
        if any(v.type.dtype != dtype for v in node.inputs):
            return None
        given = iter(node.inputs)
        slots = op.slots if op.slots[0] is None else op.slots[::-1]
        parts = [self.variables[next(given)] if s is None else repr(number(s, dtype)) for s in slots]
        return f"torch.{op.fn}({', '.join(parts)}"

    def _compiled(self, renewed: dict[Value, Value]) -> Kernel:
        inputs, outputs = self.body.inputs, self.body.outputs
        size = 1
        for n in self.shape:
            size *= n
        wholes = [v for v in inputs if v.type.dims]
        text = [f"def run(ctx, {', '.join(f'x{i}' for i in range(len(inputs)))}):"]
        for v in wholes:
            x = f"x{inputs.index(v)}"
            text.append(f"    if not {x}.is_contiguous(): {x} = {x}.contiguous()")
        for k, v in enumerate(outputs):
            self.names[f"d{k}"] = STORAGE[v.type.dtype]
            old = renewed.get(v)
            made = f"x{inputs.index(old)}" if old is not None else f"empty(shape, dtype=d{k}, device=device)"
            text.append(f"    y{k} = {made}")
        self.names.update(shape=self.shape, device=self.device)
        names = [f"x{inputs.index(v)}" for v in wholes] + [f"r{k}" for k in range(len(outputs))]
        sources = [f"x{inputs.index(v)}" for v in wholes] + [f"y{k}" for k in range(len(outputs))]
        for kind, count in self.most.items():
            for i in range(count):
                self.names[f"p_{kind}_{i}"] = _place(STORAGE[kind], self.device, i)
        length = min(size, BLOCK)
        places = [f"{kind}_{i}" for kind, count in self.most.items() for i in range(count)]
        text += [f"    t_{p} = p_{p}[:{length}]" for p in places]
        parts = ", ".join(f"{s}.view(-1).split({BLOCK})" for s in sources)
        text.append(f"    for {', '.join(names)}, in zip({parts}):")
        if size % BLOCK and size > BLOCK:
            inside = "; ".join(f"t_{p} = p_{p}[:{size % BLOCK}]" for p in places)
            text += [f"        if {names[0]}.numel() != {BLOCK}: {inside}"] if places else []
        text += [f"        {line}" for line in self.lines] or ["        pass"]
        text.append(f"    return {', '.join(f'y{k}' for k in range(len(outputs)))}")
        exec(compile("\n".join(text), f"<chain {self.body.name}>", "exec"), self.names)
        run: Kernel = self.names["run"]
        return run


def _joins(node: Node) -> bool:
    """Whether it is a product or a quotient that a sum can take in."""
    op = node.op
    if not isinstance(op, Map) or op.fn not in ("mul", "div") or not node.output.type.dims:
        return False
    if op.fn == "div":
        return op.slots == (None, None)
    return True


@kernel(FusedSquare)
def plan_square(op: FusedSquare, ins: Values, outs: Values, where: Standpoint) -> Kernel:
    """Plans the sum of all squares."""

    def square(ctx: object, x: Tensor | list[Tensor]) -> Tensor:
        if isinstance(x, list):
            return torch.stack([square(ctx, y) for y in x]).sum()
        x = x.reshape(-1)
        return torch.dot(x, x)

    return Slicewise(square, frozenset([0]))
