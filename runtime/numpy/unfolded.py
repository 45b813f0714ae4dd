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
from math import prod
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from compiler.graph import Dim, Graph, Node, Type, Value
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.neighbours import HaloAdd
from compiler.ops.window import Fold
from dsl.data import dataclass
from runtime.numpy.base import STORAGE, Array, CallContext, Env, Into, Kernel, LocalValue, inverse, laid
from runtime.numpy.contract import plan_product
from runtime.numpy.summed import Summed, inner

WIDE = ("f32", "f64")


@dataclass(frozen=True, slots=True)
class Folded:
    """A fold of a dim: local values of its operand and its result; joined: the axes whose devices have pieces of it
    that stand one behind the other in memory, so that what each has of its neighbours' elements is added there."""

    op: Fold
    before: LocalValue
    after: LocalValue
    joined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfolded(Op):
    """`product`, and the folds of its result."""

    mnemonic: ClassVar[str] = "unfolded"
    product: Op
    folds: tuple[Folded, ...]


def unfold(body: Graph, local: Callable[[Value], LocalValue]) -> Graph:
    """The body with products that are only folded as one instruction each, borders that go to neighbours with them.
    Bodies of loops are left to the caller."""
    readers: dict[str, list[Node]] = {}
    for n in body.nodes:
        for v in n.inputs:
            readers.setdefault(v.name, []).append(n)
    kept = {v.name for v in body.outputs}

    def only(v: Value) -> Node | None:
        found = readers.get(v.name, [])
        return found[0] if len(found) == 1 and v.name not in kept else None

    def fold_of(v: Value) -> Node | None:
        fold = only(v)
        return fold if fold is not None and isinstance(fold.op, Fold) and fold.op.stride == 1 else None

    made: dict[int, Node] = {}  # where the last of them stands
    gone: set[int] = set()
    for n in body.nodes:
        if not isinstance(inner(n.op), Contract) or n.output.type.dtype not in WIDE:
            continue
        folds: list[Node] = []
        steps: list[Folded] = []
        taken = [n]
        while (fold := fold_of(taken[-1].output)) is not None and _fits(n, fold, folds):
            assert isinstance(fold.op, Fold)
            folds.append(fold)
            taken.append(fold)
            step = Folded(fold.op, local(fold.inputs[0]), local(fold.output))
            added = only(fold.output)
            if added is not None and isinstance(added.op, HaloAdd):
                step = _joined(n, step, added.op, local(added.output), local) or step
            if step.joined and added is not None:
                taken.append(added)
            steps.append(step)
        if folds:
            made[id(taken[-1])] = Node(Unfolded(n.op, tuple(steps)), n.inputs, taken[-1].outputs, n.span)
            gone |= {id(x) for x in taken[:-1]}
    if not made:
        return body
    return replace(body, nodes=tuple(made.get(id(n), n) for n in body.nodes if id(n) not in gone))


def _joined(
    product: Node, fold: Folded, added: HaloAdd, after: LocalValue, local: Callable[[Value], LocalValue]
) -> Folded | None:
    """The fold with the addition of its borders, where pieces are even and each device has those of the windows."""
    op, name = fold.op, fold.op.dim.name
    i, x = after.type.index(name), next(v for v in map(local, product.inputs) if v.type.has(op.out))
    piece, count = after.type.size(name), after.logical.size(name) // after.type.size(name)
    if added.dim != name or piece * count != after.logical.size(name) or added.axes != after.axes[i]:
        return None
    if x.axes[x.type.index(op.out)] != added.axes or x.type.size(op.out) != piece:
        return None
    if added.left != op.pad or fold.after.type.size(name) != piece + added.left + added.right:
        return None
    return Folded(op, fold.before, after, added.axes)


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
    at = 0 if ins[0].type.has(op.folds[0].op.out) else 1
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
    x: LocalValue, folds: Sequence[Folded], env: Env
) -> tuple[Callable[[CallContext, Array], Array], LocalValue]:
    """What makes the view, and the view as a local value: each folded dim becomes the result's and the kernel's."""
    lead, shape = env.lead, list(x.shape)
    start = [0] * len(shape)  # where x begins in the memory with zeros around it
    first, steps = list(start), dict[int, tuple[int, int, int]]()
    pieces: dict[int, tuple[int, int]] = {}  # lead axis -> the dim along which its pieces stand, elements of a piece
    dims: list[tuple[Dim, ...]] = [(d,) for d in x.type.dims]
    axes: list[tuple[tuple[str, ...], ...]] = [(a,) for a in x.axes]
    for fold in folds:
        op = fold.op
        i, name = x.type.index(op.out), op.dim.name
        kernel, size = fold.before.type.size(op.kernel), fold.after.type.size(name)
        own, count = fold.after.axes[fold.after.type.index(name)], 1
        for axis in reversed(fold.joined):
            along = env.lead_axes.index(axis)
            pieces[along] = lead + i, count * size
            count *= x.lead[along]
            shape[along] = 1
        low = 0 if own and not fold.joined else op.pad  # a piece of a split dim keeps its borders, if nobody adds them
        around = max(0, (kernel - 1) * op.dilation - low)
        start[lead + i], first[lead + i] = around, low + around
        shape[lead + i] = around + max(x.type.dims[i].size * count, size * count + low)
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
    begin = tuple(slice(s, None) for s in first)
    middle = tuple(slice(s, None) for s in start)
    borders = []
    for i in steps:
        stop = start[i] + x.shape[i] * prod(x.shape[k] for k, (at, _) in pieces.items() if at == i)
        borders += [(*(slice(None),) * i, slice(0, start[i])), (*(slice(None),) * i, slice(stop, None))]

    def windows(ctx: CallContext, a: Array) -> Array:
        padded = ctx.empty(there, storage).transpose(back)
        for border in borders:
            padded[border] = 0
        strides = list(padded.strides)
        for i, (at, n) in pieces.items():
            strides[i] = strides[at] * n
        as_strided(padded[middle], x.shape, strides)[...] = a
        sizes: list[int] = []
        walked: list[int] = []
        for i, (n, step) in enumerate(zip(x.shape, strides)):
            size, kernel, dilation = steps.get(i, (n, 0, 0))
            sizes += [size, kernel] if i in steps else [size]
            walked += [step, -step * dilation] if i in steps else [step]
        return as_strided(padded[begin], tuple(sizes), tuple(walked), writeable=False)

    return windows, view
