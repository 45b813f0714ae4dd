"""Elementwise functions and casts as C expressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isinf, isnan
from typing import Any

from compiler.ops.elementwise import Cast, Map
from runtime.numpy.base import STORAGE, LocalValue, literal
from runtime.numpy.elementwise import operand_dtype

C_TYPES = {"f64": "f64", "f32": "f32", "bf16": "f32", "int32": "i32", "uint32": "u32", "bool": "b8"}

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=="}
_SIGNS |= {"ne": "!=", "and": "&", "or": "|"}
_CALLS = {"maximum": "max", "minimum": "min"} | {fn: fn for fn in ("abs", "sign", "floordiv", "mod")}
_OF_FLOATS: tuple[str, ...] = ("exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "log1p", "erfc", "sin", "cos")
_OF_FLOATS += ("floor", "round", "relu", "pow")


class Unsupported(Exception):
    """The chain has something that has no C."""


def mapped(op: Map, ins: Sequence[LocalValue], operands: Sequence[str]) -> str:
    """The function of operands that are expressions. Raises Unsupported."""
    dtype = operand_dtype(op, ins)
    if dtype not in C_TYPES:
        raise Unsupported(dtype)
    given: Iterator[str] = iter(operands)
    args = [next(given) if x is None else _number(literal(x, dtype), dtype) for x in op.slots]
    kind, fn = C_TYPES[dtype], op.fn
    if fn == "pow" and op.slots[0] is None and op.slots[1] in (2, 3, 0.5):
        x = args[0]
        return {2: f"({x}) * ({x})", 3: f"({x}) * ({x}) * ({x})", 0.5: f"sqrt_{kind}({x})"}[op.slots[1]]
    if fn == "where":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    if fn in _SIGNS:
        return f"{args[0]} {_SIGNS[fn]} {args[1]}"
    if fn == "neg":
        return f"-({args[0]})"
    if fn == "not":
        return f"!({args[0]})"
    if (fn in _OF_FLOATS and kind in ("f32", "f64")) or (fn in _CALLS and _has(fn, kind)):
        return f"{_CALLS.get(fn, fn)}_{kind}({', '.join(args)})"
    raise Unsupported(f"{fn} of {dtype}")


def cast(op: Cast, source: str, x: str) -> str:
    """An expression of dtype `source` in that of the cast. Raises Unsupported."""
    if op.dtype == "bool":
        return f"({x}) != 0"
    if op.dtype == "uint32" and source in ("f32", "f64", "bf16"):
        raise Unsupported("a cast of a float to uint32")
    return f"({C_TYPES[op.dtype]})({x})"


def _has(fn: str, kind: str) -> bool:
    if fn in ("floordiv", "mod"):
        return kind == "i32"
    return kind in ("f32", "f64", "i32") or (kind == "u32" and fn in ("maximum", "minimum"))


def _number(x: Any, dtype: str) -> str:
    """A literal in C, exactly."""
    if STORAGE[dtype] is STORAGE["bool"]:
        return "1" if x else "0"
    if dtype in ("int32", "uint32"):
        return f"((u32){int(x)}u)" if dtype == "uint32" else f"((i32){int(x)}LL)"
    x = float(x)
    if isnan(x):
        return f"(({C_TYPES[dtype]})NAN)"
    if isinf(x):
        return f"(({C_TYPES[dtype]}){'' if x == inf else '-'}INFINITY)"
    return f"({x.hex()}{'f' if dtype != 'f64' else ''})"
