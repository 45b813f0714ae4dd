"""The kernel of `Fused`: Python text with one line per step, each writing into a block-sized buffer or a result.

Views of the operands with the axes of the space (size 1 where they lack one) are cut block by block; buffers are taken
from a pool that all kernels of a thread share, and are used again as soon as nobody reads what is in them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from compiler.graph import Node, names_of
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce
from runtime.numpy import blocks
from runtime.numpy.base import (
    STORAGE,
    Array,
    CallContext,
    Env,
    Into,
    LocalValue,
    inverse,
    literal,
    rounded,
)
from runtime.numpy.elementwise import operand_dtype
from runtime.numpy.fused import Fused, is_view, reduced_axes
from runtime.numpy.select import BITS, select
from runtime.numpy.summed import inner
from runtime.numpy.sums import sum_over

Mask = tuple[bool, ...]

_pool = threading.local()


def scratch(dtype: Any, shape: tuple[int, ...], number: int) -> Array:
    """Buffer `number` of this type and shape of this thread. Kernels do not call one another, so they can share."""
    found: dict[Any, Array] = _pool.__dict__.setdefault("buffers", {})
    key = (np.dtype(dtype).char, prod(shape), number)
    if key not in found:
        found[key] = np.empty(prod(shape), dtype)
    return found[key].reshape(shape)


def plan_fused(op: Fused, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Into:
    """Plans a chain of elementwise ops, block by block, so that what lies between them stays in the cache."""
    from runtime.numpy import plan

    fast = _Writer(op, env).compile()
    shapes = [op.locals[n].shape for n in op.inputs]
    steps = [
        (i, plan(i.op, [op.locals[v.name] for v in i.inputs], [op.locals[o.name] for o in i.outputs], env))
        for i in op.instrs
    ]

    def one_by_one(ctx: CallContext, *arrays: Array) -> tuple[Array, ...]:
        values = dict(zip(op.inputs, arrays))
        for instr, kernel in steps:
            values[instr.outputs[0].name] = kernel(ctx, *(values[v.name] for v in instr.inputs))
        return tuple(values[n] for n in op.outputs)

    nowhere = (None,) * len(op.outputs)

    def fused(ctx: CallContext, *arrays: Array, out: Sequence[Array | None] | None = None) -> Any:
        if any(a.shape != s for a, s in zip(arrays, shapes)):
            # Where an operand is the same on devices that might differ, it is repeated (a view). Where it differs on
            # devices that should not, ops broadcast, but the blocks do not.
            wide = [np.broadcast_shapes(a.shape, s) for a, s in zip(arrays, shapes)]
            if wide != shapes:
                results = one_by_one(ctx, *arrays)
                return results if len(results) != 1 else results[0]
            arrays = tuple(np.broadcast_to(a, s) for a, s in zip(arrays, shapes))
        results = fast(ctx.empty, out or nowhere, *arrays)
        return results if len(results) != 1 else results[0]

    return Into(fused)


class _Value:
    """A value in the text: the expression that names its block, its mask, and the buffer that it occupies."""

    def __init__(self, expr: str, mask: Mask, storage: Any, buffer: Any = None) -> None:
        self.expr, self.mask, self.storage, self.buffer = expr, mask, storage, buffer


class _Writer:
    def __init__(self, op: Fused, env: Env) -> None:
        self.op, self.env, self.space = op, env, op.space
        self.axes, self.part = op.space.cut
        self.names: dict[str, Any] = {"np": np}
        self.setup: list[str] = []
        self.smaller: list[str] = []  # buffers for last blocks, which are smaller than the others
        self.lines: list[str] = []
        self.values: dict[str, _Value] = {}
        self.free: dict[tuple[Any, Mask], list[str]] = {}
        self.buffers: dict[tuple[Any, tuple[int, ...]], int] = {}
        self.cuts: dict[Mask, str] = {}  # mask of the outer axes -> name of the index
        self.last = {v.name: i for i, instr in enumerate(op.instrs) for v in instr.inputs}
        self.alias: dict[str, str] = {}
        self.after: list[str] = []

    # --- pieces

    def bind(self, thing: Any, stem: str = "k") -> str:
        name = f"{stem}{len(self.names)}"
        self.names[name] = thing
        return name

    def mask(self, name: str) -> Mask:
        found = self.space.mask(self.op.locals[name])
        assert found is not None
        return found

    @property
    def rest(self) -> int:
        """The size of the last block along the axis that is cut, if it is smaller; else 0."""
        return self.space.shape[self.axes] % self.part if self.axes < len(self.space.shape) else 0

    def block_shape(self, mask: Mask, part: int = 0) -> tuple[int, ...]:
        """Of a block with this mask. part: its size along the axis that is cut, if it is not that of most."""
        shape = self.space.shape
        sizes = [part or self.part if i == self.axes else n for i, n in enumerate(shape)][self.axes :]
        return tuple(n if has else 1 for n, has in zip(sizes, mask[self.axes :]))

    def cut(self, mask: Mask) -> str:
        key = mask[: self.axes + 1]
        return self.cuts.setdefault(key, f"at{len(self.cuts)}")

    def indices(self, key: Mask) -> list[tuple[Any, ...]]:
        """The index of every block into an array with this mask."""
        shape, part = self.space.shape, self.part
        outer = [range(n) if has else (0,) * n for n, has in zip(shape[: self.axes], key)]
        if self.axes == len(shape):
            return list(product(*outer))
        n = shape[self.axes]
        inner = [slice(i, i + part) if key[self.axes] else slice(None) for i in range(0, n, part)]
        return list(product(*outer, inner))

    # --- buffers

    def buffer(self, storage: Any, mask: Mask) -> str:
        free = self.free.setdefault((storage, mask), [])
        if free:
            return free.pop()
        shape = self.block_shape(mask)
        number = self.buffers.get((storage, (prod(shape),)), 0)
        self.buffers[storage, (prod(shape),)] = number + 1
        name = f"t{len(self.names)}"
        self.names[name] = None
        made = f"{name} = {self.bind(scratch)}({self.bind(storage)}, "
        self.setup.append(f"{made}{shape}, {number})")
        if self.rest:
            self.smaller.append(f"{made}{self.block_shape(mask, self.rest)}, {number})")
        return name

    def release(self, index: int, names: Sequence[str], but: Any = None) -> None:
        """Give back the buffers of values whose last reader was instruction `index`."""
        for name in dict.fromkeys(self.root(n) for n in names):
            value = self.values[name]
            if value.buffer is not None and self.lifetime(name) <= index and value.buffer is not but:
                self.free.setdefault((value.storage, value.mask), []).append(value.buffer)
                value.buffer = None

    def root(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def lifetime(self, name: str) -> int:
        ends = [self.last.get(n, -1) for n in (name, *(a for a in self.alias if self.root(a) == name))]
        return max(ends)

    # --- text

    def compile(self) -> Any:
        op = self.op
        for i, name in enumerate(op.inputs):
            view = self.space.walked(op.locals[name])
            if view is not None:
                self.setup.append(f"a{i} = {self.bind(view)}(a{i})")
            mask = self.mask(name)
            self.lines.append(f"b{i} = a{i}[{self.cut(mask)}]")
            self.values[name] = _Value(f"b{i}", mask, STORAGE[op.locals[name].type.dtype])
        for i, instr in enumerate(op.instrs):
            name = instr.outputs[0].name
            if is_view(instr, op.locals):
                self.alias[name] = instr.inputs[0].name
                continue
            self.step(i, instr)
        index = [f"{a}" for a in self.cuts.values()]
        walk = list(zip(*(self.indices(key) for key in self.cuts)))
        operands = [f"a{i}" for i in range(len(op.inputs))]
        text = [f"def run({', '.join(['empty', 'into', *operands])}):", *("    " + s for s in self.setup)]
        for blocks_here, setup in self.split(walk):
            text += ["    " + s for s in setup]
            text.append(f"    for {', '.join(index)}, in {self.bind(blocks_here)}:")
            text += ["        " + s for s in self.lines]
        text += ["    " + s for s in self.after]
        text.append(f"    return ({''.join(f'{self.results[n]}, ' for n in op.outputs)})")
        exec(compile("\n".join(text), f"<{op.outputs[0] if op.outputs else ''} fused>", "exec"), self.names)
        return self.names["run"]

    def split(self, walk: list[Any]) -> list[tuple[list[Any], list[str]]]:
        """The blocks that are alike, and those that are smaller, with what is to be set up for them."""
        if not self.rest:
            return [(walk, [])]
        number = -(-self.space.shape[self.axes] // self.part)  # along the axis that is cut, which comes last
        last = [(i + 1) % number == 0 for i in range(len(walk))]
        return [
            ([at for at, small in zip(walk, last) if not small], []),
            ([at for at, small in zip(walk, last) if small], self.smaller),
        ]

    @property
    def results(self) -> dict[str, str]:
        return {n: f"o{i}" for i, n in enumerate(self.op.outputs)}

    def target(self, i: int, instr: Node, added: bool, reuse: Sequence[str]) -> _Value:
        """Where the instruction writes: a slice of a result, a dying operand's buffer of the same kind, or a buffer."""
        name = instr.outputs[0].name
        value, mask = self.op.locals[name], self.mask(name)
        storage = STORAGE[value.type.dtype]
        if name in self.results:
            out = self.results[name]
            shape = tuple(n if has else 1 for n, has in zip(self.space.shape, mask))
            given = f"into[{self.op.outputs.index(name)}]"
            view = self.space.walked(value)
            seen = given if view is None else f"{self.bind(view)}({given})"
            new = f"empty({shape}, {self.bind(storage)})"
            self.setup.append(f"{out} = {new} if {given} is None else {seen}")
            if added:
                self.setup.append(f"{out}.fill(0)")
            self.lines.append(f"r{i} = {out}[{self.cut(mask)}]")
            if added and value.type.dtype in ("bf16", "f16"):
                self.after.append(f"{out}[...] = {self.bind(rounded)}({out}, {value.type.dtype!r})")
            back = "" if view is None else f".transpose({inverse(self.space.order)})"
            self.after.append(f"{out} = {out}{back}.reshape({value.shape}) if {given} is None else {given}")
            found = _Value(f"r{i}", mask, storage)
        else:
            found = _Value("", mask, storage)
            for operand in reuse:
                old = self.values[self.root(operand)]
                if (
                    old.buffer is not None
                    and (old.storage, old.mask) == (storage, mask)
                    and self.lifetime(self.root(operand)) <= i
                ):
                    found.buffer, old.buffer = old.buffer, None
                    break
            else:
                found.buffer = self.buffer(storage, mask)
            found.expr = found.buffer
        self.values[name] = found
        return found

    def args(self, instr: Node) -> list[str]:
        return [self.values[self.root(v.name)].expr for v in instr.inputs]

    def step(self, i: int, instr: Node) -> None:
        op, name = inner(instr.op), instr.outputs[0].name
        dtype = self.op.locals[name].type.dtype
        added = bool(reduced_axes(instr, self.op.locals, self.space) & self.space.outer)
        if isinstance(op, Map):
            self.map(i, instr, op)
        elif isinstance(op, Cast):
            self.cast(i, instr, op)
        elif isinstance(op, Reduce):
            self.reduce(i, instr, op.fn, self.full(instr, 0), added)
        elif isinstance(op, Contract):
            self.dot(i, instr, added)
        if dtype in ("bf16", "f16") and not added:
            self.lines.append(f"{self.bind(getattr(blocks, dtype))}({self.values[name].expr})")
        self.release(i, names_of(instr.inputs))

    def cast(self, i: int, instr: Node, op: Cast) -> None:
        (x,) = self.args(instr)
        out = self.target(i, instr, False, names_of(instr.inputs))
        if op.dtype == "bool":
            self.lines.append(f"{self.bind(np.not_equal)}({x}, 0, {out.expr})")
        elif x != out.expr:
            self.lines.append(f"{self.bind(np.copyto)}({out.expr}, {x}, 'unsafe')")

    def map(self, i: int, instr: Node, op: Map) -> None:
        fn = op.fn
        dtype = operand_dtype(op, [self.op.locals[v.name] for v in instr.inputs])
        number = STORAGE[dtype]
        operands = iter(self.args(instr))
        args = [next(operands) if s is None else self.bind(literal(s, dtype)) for s in op.slots]
        if fn == "where":
            self.where(i, instr, op, args, number)
            return
        if fn == "pow" and op.slots[0] is None and op.slots[1] in (2, 3, 0.5):
            fn = {2: "square", 3: "cube", 0.5: "sqrt"}[op.slots[1]]
            args = args[:1]
        if fn in blocks.TEMPLATES:
            function, spares = blocks.TEMPLATES[fn]
            out = self.target(i, instr, False, () if spares and fn != "erf" else names_of(instr.inputs))
            temporary = [self.buffer(out.storage, out.mask) for _ in range(spares)]
            self.lines.append(f"{self.bind(function)}({', '.join([*args, out.expr, *temporary])})")
            self.free.setdefault((out.storage, out.mask), []).extend(temporary)
            return
        f = np.square if fn == "square" else blocks.ufunc(fn)
        out = self.target(i, instr, False, names_of(instr.inputs))
        if not isinstance(f, np.ufunc):
            self.lines.append(f"{out.expr}[...] = {self.bind(f)}({', '.join(args)})")
            return
        keyword = "out=" if fn in blocks.KEYWORD_OUT else ""
        self.lines.append(f"{self.bind(f)}({', '.join(args)}, {keyword}{out.expr})")

    def where(self, i: int, instr: Node, op: Map, args: list[str], number: Any) -> None:
        condition = self.values[self.root(instr.inputs[0].name)]
        item = np.dtype(number).itemsize
        if item not in BITS:
            out = self.target(i, instr, False, ())
            self.lines.append(f"{out.expr}[...] = {self.bind(np.where)}({', '.join(args)})")
            return
        # The result may take the place of the first alternative, never of the second.
        reuse = [instr.inputs[1].name] if op.slots[1] is None else []
        if op.slots[2] is None and self.root(instr.inputs[-1].name) in map(self.root, reuse):
            reuse = []
        out = self.target(i, instr, False, reuse)
        small, bits = self.buffer(np.int8, condition.mask), self.buffer(BITS[item], condition.mask)
        self.lines.append(f"{self.bind(select)}({', '.join([*args, out.expr, small, bits])})")
        self.free.setdefault((np.int8, condition.mask), []).append(small)
        self.free.setdefault((BITS[item], condition.mask), []).append(bits)

    # --- sums

    def full(self, instr: Node, k: int) -> _Value:
        """The operand; made full where it is a view that repeats elements along a dim."""
        name = instr.inputs[k].name
        value, mask = self.values[self.root(name)], self.mask(name)
        if value.mask == mask:
            return value
        wide = _Value("", mask, value.storage, self.buffer(value.storage, mask))
        wide.expr = wide.buffer
        self.lines.append(f"{self.bind(np.copyto)}({wide.expr}, {value.expr})")
        self.spare = wide
        return wide

    spare: _Value | None = None

    def drop_spare(self) -> None:
        if self.spare is not None:
            self.free.setdefault((self.spare.storage, self.spare.mask), []).append(self.spare.buffer)
            self.spare = None

    def block_axes(self, instr: Node) -> tuple[int, ...]:
        axes = reduced_axes(instr, self.op.locals, self.space)
        return tuple(sorted(a - self.axes for a in axes if a >= self.axes))

    def reduce(self, i: int, instr: Node, fn: str, x: _Value, added: bool) -> None:
        out, axes = self.target(i, instr, added, ()), self.block_axes(instr)
        if added:
            total = f"{self.bind(sum_over)}({x.expr}, {axes})" if axes else x.expr
            self.lines.append(f"{out.expr} += {total}" if out.expr.startswith("r") else f"{out.expr}[...] = {total}")
        elif not axes:
            self.lines.append(f"{self.bind(np.copyto)}({out.expr}, {x.expr})")
        elif fn == "max":
            self.lines.append(f"{self.bind(np.maximum.reduce)}({x.expr}, {axes}, None, {out.expr}, True)")
        elif ones := self.ones(axes, x):
            self.lines.append(f"{self.bind(blocks.row_sum)}({x.expr}, {out.expr}, {ones})")
        else:
            self.lines.append(f"{out.expr}[...] = {self.bind(sum_over)}({x.expr}, {axes})")
        self.drop_spare()

    def ones(self, axes: tuple[int, ...], x: _Value) -> str | None:
        """A column of ones, if the sum is over the last axis of floats, all of it in the block."""
        shape = self.block_shape(x.mask)
        if axes != (len(shape) - 1,) or len(shape) < 2 or x.storage not in (np.float32, np.float64):
            return None
        return self.bind(np.ones((shape[-1], 1), x.storage))

    def dot(self, i: int, instr: Node, added: bool) -> None:
        x, y = (self.values[self.root(v.name)] for v in instr.inputs)
        axes = self.block_axes(instr)
        mask = tuple(a or b for a, b in zip(self.mask(instr.inputs[0].name), self.mask(instr.inputs[1].name)))
        spare = _Value("", mask, x.storage, self.buffer(x.storage, mask))
        spare.expr = spare.buffer
        ones = self.ones(axes, spare)
        if not added and ones and x.mask == y.mask == mask:
            out = self.target(i, instr, added, ())
            self.lines.append(f"{self.bind(blocks.row_dot)}({x.expr}, {y.expr}, {out.expr}, {spare.expr}, {ones})")
        else:
            self.lines.append(f"{self.bind(np.multiply)}({x.expr}, {y.expr}, {spare.expr})")
            self.reduce(i, instr, "sum", spare, added)
        self.free.setdefault((spare.storage, spare.mask), []).append(spare.buffer)
