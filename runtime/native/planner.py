"""Plans ops as numpy does, but for chains: those are C. What was planned before the first call is compiled at once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from compiler.ops.base import Op
from dsl.data import dataclass
from runtime.native.build import library, toolchain
from runtime.native.emit import emitted
from runtime.native.expressions import Unsupported
from runtime.native.prelude import PRELUDE
from runtime.numpy import STORAGE, CallContext, Env, Into, Kernel, LocalValue, plan
from runtime.numpy.base import Array, inverse
from runtime.numpy.fused import Fused
from runtime.numpy.fused_plan import scratch


class NativePlanner:
    """A `runtime.backend.Planner` for the stacked executor. Raises ParcError (E0731) where there is no C compiler."""

    def __init__(self) -> None:
        toolchain()
        self._waiting: dict[str, str] = {}  # name -> function that is not compiled yet
        self._functions: dict[str, Any] = {}

    def __call__(self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], env: Env) -> Kernel:
        """A closure that computes `op`; KeyError for ops that are not computation."""
        other = plan(op, ins, outs, env)
        if not isinstance(op, Fused):
            return other
        assert isinstance(other, Into)
        return _chain(op, other, self._compiled)

    def _compiled(self, op: Fused, alike: Mapping[str, frozenset[int]]) -> _Compiled | None:
        try:
            made = emitted(op, alike)
        except Unsupported:
            return None
        return _Compiled(self._later(made.text), made.scratch)

    def _later(self, text: str) -> Callable[[Any], None]:
        name = f"f{sha256(text.encode()).hexdigest()[:24]}"
        if name not in self._functions:
            self._waiting[name] = text.replace("NAME", name)

        def call(pointers: Any) -> None:
            found = self._functions.get(name)
            if found is None:
                self._compile()
                found = self._functions[name]
            found(pointers)

        return call

    def _compile(self) -> None:
        """Compile what waits. Texts are put in order, so that the same program has the same code whatever was first."""
        names = sorted(self._waiting)
        loaded = library("\n".join([PRELUDE, *(self._waiting[n] for n in names)]) + "\n")
        for name in names:
            function = getattr(loaded, name)
            function.argtypes, function.restype = [ctypes.c_void_p], None
            self._functions[name] = function
        self._waiting = {}


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A chain: called with an array of pointers; bytes of scratch memory."""

    call: Callable[[Any], None]
    scratch: int


def _chain(op: Fused, other: Into, compiled: Callable[[Fused, Mapping[str, frozenset[int]]], _Compiled | None]) -> Into:
    """The compiled chain; numpy's (`other`) where it has no C, or arrays are not as declared.

    Where an operand repeats what it has once along an axis (its stride is 0), it has a chain of its own.
    """
    space, locals = op.space, op.locals
    views = [space.walked(locals[n]) for n in op.inputs]
    shapes = [locals[n].shape for n in op.inputs]
    storages = [np.dtype(STORAGE[locals[n].type.dtype]) for n in op.inputs]
    results = [_Result(op, name) for name in op.outputs]
    addresses = ctypes.c_void_p * (len(op.inputs) + len(results) + 1)
    nowhere = (None,) * len(results)
    made: dict[tuple[frozenset[int], ...], _Compiled | None] = {}
    plain = made[(frozenset(),) * len(op.inputs)] = compiled(op, {})
    if plain is None:
        return other

    def run(ctx: CallContext, *arrays: Array, out: Sequence[Array | None] | None = None) -> Any:
        if any(a.shape != s or a.dtype != t for a, s, t in zip(arrays, shapes, storages)):
            return other.run(ctx, *arrays, out=out)
        chain = plain
        operands = [a if v is None else v(a) for a, v in zip(arrays, views)]
        if not all(x.flags.c_contiguous for x in operands):
            alike = tuple(map(_alike, operands))
            if alike not in made:
                made[alike] = compiled(op, dict(zip(op.inputs, alike)))
            found = made[alike]
            if found is None:
                return other.run(ctx, *arrays, out=out)
            chain = found
            operands = [np.ascontiguousarray(_once(x, axes)) for x, axes in zip(operands, alike)]
        places = [r.place(ctx, given) for r, given in zip(results, out or nowhere)]
        work = scratch(np.uint8, (chain.scratch,), 0) if chain.scratch else None
        pointers = [*map(_address, operands), *(_address(a) for a, _ in places)]
        chain.call(addresses(*pointers, 0 if work is None else _address(work)))
        shown = tuple(r.shown(a) if given is None else given for r, (a, given) in zip(results, places))
        return shown if len(shown) != 1 else shown[0]

    return Into(run)


def _alike(x: Array) -> frozenset[int]:
    """The axes along which an array repeats itself."""
    return frozenset(i for i, (n, step) in enumerate(zip(x.shape, x.strides)) if n > 1 and step == 0)


def _once(x: Array, axes: frozenset[int]) -> Array:
    return x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))] if axes else x


def _address(x: Array) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


class _Result:
    """Where a result of a chain is put, and how it is handed on."""

    def __init__(self, op: Fused, name: str) -> None:
        value, space = op.locals[name], op.space
        mask = space.mask(value)
        assert mask is not None
        self.walked = space.walked(value)
        self.shape = tuple(n if has else 1 for n, has in zip(space.shape, mask))
        self.storage, self.whole, self.back = STORAGE[value.type.dtype], value.shape, inverse(space.order)

    def place(self, ctx: CallContext, given: Array | None) -> tuple[Array, Array | None]:
        """Memory in one piece, as it is walked; and what was given, if it is that."""
        if given is not None:
            seen = given if self.walked is None else self.walked(given)
            if seen.flags.c_contiguous:
                return seen, given
        return ctx.empty(self.shape, self.storage), None

    def shown(self, x: Array) -> Array:
        """The result as an array of the value."""
        return x.transpose(self.back).reshape(self.whole)
