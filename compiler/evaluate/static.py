"""Arithmetic of static values. Total: every operation gives a value or a coded error, in bounded time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from compiler.evaluate import limits
from compiler.evaluate.values import Bound, Number, Static, kind_of, plain
from compiler.ops.functions import FUNCTIONS
from dsl.diagnostics import ParcError, fail
from dsl.source import Span
from dsl.units import Dimension, DimensionError, Quantity

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def is_number(value: object) -> bool:
    """Says whether a static value is a number; bools are none here, unlike Python's."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def binary(op: str, left: Static, right: Static, span: Span) -> Static:
    """`left op right` of two static values; `and` and `or` too."""
    if op in ("and", "or"):
        if isinstance(left, bool) and isinstance(right, bool):
            return (left and right) if op == "and" else (left or right)
        raise _types(op, left, right, span)
    if op in _COMPARE:
        return _compare(op, left, right, span)
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        return _quantities(op, left, right, span)
    if not (is_number(left) and is_number(right)):
        raise _types(op, left, right, span)
    assert isinstance(left, (int, float)) and isinstance(right, (int, float))
    return bounded(_numbers(op, left, right, span), span)


def _numbers(op: str, a: Number, b: Number, span: Span) -> Number:
    try:
        match op:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "/":
                # 8 / 2 is the integer 4, so that sizes can be written either way
                return a // b if isinstance(a, int) and isinstance(b, int) and b and a % b == 0 else a / b
            case "//":
                return a // b
            case "%":
                return a % b
            case "**":
                return _power(a, b, span)
    except ZeroDivisionError:
        raise fail("E0211", "division by zero", span) from None
    except OverflowError:
        raise fail("E0211", "the result is too large for a float", span) from None
    raise fail(
        "E0211", f"`{op}` needs tensors, not numbers", span, help="numbers multiply with `*`" if op == "@" else None
    )


def _power(a: Number, b: Number, span: Span) -> Number:
    if isinstance(a, int) and isinstance(b, int) and b >= 0:
        if a.bit_length() * b > 4 * limits.MAX_INTEGER_BITS and abs(a) > 1:
            raise fail("E0909", f"{a} ** {b} is too large", span)
        return int(a**b) if abs(a) > 1 or b < 2 else a ** (b % 2 + 2)
    result = float(a) ** b
    if isinstance(result, complex):
        raise fail("E0211", "a root of a negative number", span)
    return result


def bounded(value: Number, span: Span | None) -> Number:
    """The value, if it is not too large and not `nan`."""
    if isinstance(value, int):
        if value.bit_length() > limits.MAX_INTEGER_BITS:
            raise fail("E0909", f"an integer of more than {limits.MAX_INTEGER_BITS} bits", span)
    elif not math.isfinite(value):
        raise fail("E0211", "the result is no finite number", span)
    return value


def _compare(op: str, left: Static, right: Static, span: Span) -> bool:
    try:
        if isinstance(left, Quantity) or isinstance(right, Quantity):
            if op in ("==", "!="):  # they check the dimensions only when ordered
                _quantities("-", left, right, span)
            return bool(_COMPARE[op](left, right))
        if is_number(left) and is_number(right):
            return bool(_COMPARE[op](left, right))
        if type(left) is type(right) and (op in ("==", "!=") or isinstance(left, str)):
            return bool(_COMPARE[op](left, right))
    except DimensionError as error:
        raise fail("E0212", str(error), span) from None
    raise _types(op, left, right, span)


def _quantities(op: str, left: Static, right: Static, span: Span) -> Static:
    operations: dict[str, Callable[[Any, Any], Any]] = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
    }
    if op not in operations or not all(is_number(v) or isinstance(v, Quantity) for v in (left, right)):
        raise _types(op, left, right, span)
    try:
        result = operations[op](left, right)
    except DimensionError as error:
        raise fail("E0212", str(error), span) from None
    except ZeroDivisionError:
        raise fail("E0211", "division by zero", span) from None
    except OverflowError:
        raise fail("E0211", "the result is too large for a float", span) from None
    bounded(result.value if isinstance(result, Quantity) else result, span)
    return result  # type: ignore[no-any-return]


def negated(value: Static, span: Span) -> Static:
    """`-value`."""
    if isinstance(value, Quantity):
        return -value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return -value
    raise fail("E0210", f"`-` needs a number, got {kind_of(value)}", span)


def function(name: str, args: tuple[Number, ...], span: Span) -> Number:
    """An elementwise function of numbers."""
    if name == "pow":
        return bounded(_numbers("**", args[0], args[1], span), span)
    try:
        value = FUNCTIONS[name].value
        assert value is not None
        return bounded(value(*args), span)
    except (ValueError, ZeroDivisionError, OverflowError):
        shown = ", ".join(map(str, args))
        raise fail("E0211", f"{name}({shown}) is not defined", span) from None


# --- what is expected -------------------------------------------------------------------------------------


def integer(value: Bound, what: str, span: Span, low: int | None = None, high: int | None = None) -> int:
    """The value as an integer in [low, high]."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        help = (
            f"write `{int(value)}`" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else None
        )
        shown = f", got {kind_of(value)}" + (f" ({value})" if isinstance(value, float) else "")
        raise fail("E0210", f"{what} must be an integer{shown}", span, help=help)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise fail("E0206", f"{what} must be {bounds}, got {value}", span)
    return value


def number(value: Bound, what: str, span: Span) -> Number:
    """The value as a plain number."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail("E0210", f"{what} must be a number, got {kind_of(value)}", span)
    return value


def boolean(value: Bound, what: str, span: Span) -> bool:
    """The value as a boolean."""
    if not isinstance(value, bool):
        raise fail("E0210", f"{what} must be known when the file is evaluated, a boolean; got {kind_of(value)}", span)
    return value


def quantity(value: Bound, dimension: Dimension, what: str, span: Span) -> float:
    """The value in base units."""
    value = plain(value)
    if isinstance(value, Quantity):
        try:
            return float(value.expect(dimension))
        except DimensionError:
            raise fail("E0212", f"{what} must be {dimension}, got {value}, {value.dimension}", span) from None
    raise fail("E0212", f"{what} must be {dimension}, got {kind_of(value)}", span, help="write its unit")


def _types(op: str, left: Static, right: Static, span: Span) -> ParcError:
    return fail("E0210", f"`{op}` is not defined for {kind_of(left)} and {kind_of(right)}", span)
