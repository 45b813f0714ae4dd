"""The derivative of a convolution by its input: a product that windows are added up of, as a product of windows.

    p[b,yo,ky,xo,kx,c] = dy[b,yo,xo,co] w[ky,kx,c,co];  fold p by kx into x;  fold by ky into y
    =  x[b,y,x,c] = (windows of dy, backwards)[b,y,ky,x,kx,co] w[ky,kx,c,co]

The first has a result as many times larger than its operand as a kernel has elements, which is then added up with
strides; the second takes windows block by block (`patches`). Of stride 1, and not of 16 bits, in which the product is
rounded before it is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.window import Fold
from dsl.data import dataclass
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Into, Kernel, LocalValue, inverse, laid
from runtime.numpy.contract import plan_product
from runtime.numpy.summed import Summed, inner

WIDE = ("f32", "f64")


@dataclass(frozen=True, slots=True)
class Unfolded(Op):
    """`product`, and the folds of its result: (op, local values of operand and result)."""

    mnemonic: ClassVar[str] = "unfolded"
    product: Op
    folds: tuple[tuple[Fold, LocalValue, LocalValue], ...]


def unfold(body: Graph, local: Callable[[Value], LocalValue]) -> Graph:
    """The body with products that are only folded as one instruction each. Bodies of loops are left to the caller."""
    readers: dict[str, list[Node]] = {}
    for n in body.nodes:
        for v in n.inputs:
            readers.setdefault(v.name, []).append(n)
    kept = {v.name for v in body.outputs}

    def only(v: Value) -> Node | None:
        found = readers.get(v.name, [])
        fold = found[0] if len(found) == 1 and v.name not in kept else None
        return fold if fold is not None and isinstance(fold.op, Fold) and fold.op.stride == 1 else None

    made: dict[int, Node] = {}  # where the last fold stands
    gone: set[int] = set()
    for n in body.nodes:
        if not isinstance(inner(n.op), Contract) or n.output.type.dtype not in WIDE:
            continue
        folds: list[Node] = []
        while (fold := only(folds[-1].output if folds else n.output)) is not None and _fits(n, fold, folds):
            folds.append(fold)
        if folds:
            steps = tuple((f.op, local(f.inputs[0]), local(f.output)) for f in folds if isinstance(f.op, Fold))
            made[id(folds[-1])] = Node(Unfolded(n.op, steps), n.inputs, folds[-1].outputs, n.span)
            gone |= {id(n), *(id(f) for f in folds[:-1])}
    if not made:
        return body
    return replace(body, nodes=tuple(made.get(id(n), n) for n in body.nodes if id(n) not in gone))


def _fits(product: Node, fold: Node, before: Sequence[Node]) -> bool:
    """Whether one operand has the places of the windows, the same as before, and the other the kernel's."""
    op = fold.op
    assert isinstance(op, Fold)
    first = before[0].op if before else op
    assert isinstance(first, Fold)
    if any(v.type.has(op.out) != v.type.has(first.out) for v in product.inputs):
        return False
    has = [(v.type.has(op.out), v.type.has(op.kernel)) for v in product.inputs]
    return sorted(has) == [(False, True), (True, False)] and not any(v.type.has(op.dim.name) for v in product.inputs)


def plan_unfolded(op: Unfolded, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
    """Plans the product of windows: a view of one operand with zeros around it."""
    (out,) = outs
    at = 0 if ins[0].type.has(op.folds[0][0].out) else 1
    windows, view = _plan_windows(ins[at], op.folds, env)
    operands = [view if i == at else v for i, v in enumerate(ins)]
    summed = op.product.leads if isinstance(op.product, Summed) else ()
    lead = tuple(1 if i in summed else n for i, n in enumerate(np.broadcast_shapes(*(v.lead for v in ins))))
    product = plan_product(operands, out, lead, env)
    into = product.run if isinstance(product, Into) else None

    def run(ctx: CallContext, x: Array, y: Array, out: Sequence[Array | None] | None = None) -> Array:
        x, y = (windows(ctx, x), y) if at == 0 else (x, windows(ctx, y))
        found: Array = product(ctx, x, y) if into is None else into(ctx, x, y, out=out)
        return found

    return Into(run) if into is not None else run


def _plan_windows(
    x: LocalValue, folds: Sequence[tuple[Fold, LocalValue, LocalValue]], env: Env
) -> tuple[Callable[[CallContext, Array], Array], LocalValue]:
    """What makes the view, and the view as a local value: each folded dim becomes the result's and the kernel's."""
    lead, shape = env.lead, list(x.shape)
    start = [0] * len(shape)  # where x begins in the memory with zeros around it
    first, steps = list(start), dict[int, tuple[int, int, int]]()
    dims: list[tuple[Dim, ...]] = [(d,) for d in x.type.dims]
    axes: list[tuple[tuple[str, ...], ...]] = [(a,) for a in x.axes]
    for op, before, after in folds:
        i, name = x.type.index(op.out), op.dim.name
        kernel, size = before.type.size(op.kernel), after.type.size(name)
        own = after.axes[after.type.index(name)]
        low = 0 if own else op.pad  # a piece of a split dim keeps its borders
        around = max(0, (kernel - 1) * op.dilation - low)
        start[lead + i], first[lead + i] = around, low + around
        shape[lead + i] = around + max(x.type.dims[i].size, size + low)
        steps[lead + i] = size, kernel, op.dilation
        dims[i] = Dim(name, size), Dim(op.kernel, kernel)
        axes[i] = own, ()
    places: list[list[int]] = [[i] for i in range(lead)]
    count = lead
    for d in dims:
        places.append([*range(count, count + len(d))])
        count += len(d)
    order = tuple(k for i in laid(x) for k in places[i])
    type = Type(x.type.dtype, tuple(d for group in dims for d in group))
    view = LocalValue(type, x.lead, type, tuple(a for group in axes for a in group), order if x.order else ())
    there, back, storage = tuple(shape[i] for i in laid(x)), inverse(laid(x)), STORAGE[x.type.dtype]
    middle = tuple(slice(s, s + n) for s, n in zip(start, x.shape))
    begin = tuple(slice(s, None) for s in first)

    def windows(ctx: CallContext, a: Array) -> Array:
        padded = ctx.empty(there, storage).transpose(back)
        padded.fill(0)
        padded[middle] = a
        sizes: list[int] = []
        strides: list[int] = []
        for i, (n, step) in enumerate(zip(padded.shape, padded.strides)):
            size, kernel, dilation = steps.get(i, (n, 0, 0))
            sizes += [size, kernel] if i in steps else [size]
            strides += [step, -step * dilation] if i in steps else [step]
        return as_strided(padded[begin], tuple(sizes), tuple(strides), writeable=False)

    return windows, view
