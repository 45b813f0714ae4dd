"""Initialisers: how weights and states begin."""

from __future__ import annotations

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import Number
from compiler.graph import BEYOND_F32
from compiler.model import Init
from dsl import ast
from dsl.diagnostics import did_you_mean, fail

_INITS = {"zeros": 0, "ones": 0, "constant": 1, "normal": 1, "uniform": 2}


def initializer(expr: ast.Expr | None, scope: Scope) -> Init:
    """`normal(0.02)`, `zeros`; the default is `normal(0.02)`."""
    if expr is None:
        return Init("normal", (0.02,))
    name = expr.function if isinstance(expr, ast.Call) else expr
    if not isinstance(name, ast.Name) or name.id not in _INITS:
        help = did_you_mean(name.id, _INITS) if isinstance(name, ast.Name) else None
        raise fail("E0311", "this is no initialiser", expr.span, help=help or f"there are {listed(_INITS)}")
    arguments = expr.arguments if isinstance(expr, ast.Call) else ()
    count = _INITS[name.id]
    if len(arguments) != count or any(a.name for a in arguments):
        message = f"`{name.id}` takes {count} number{'s' * (count != 1)}, got {len(arguments)}"
        raise fail("E0311", message, expr.span)
    numbers: list[Number] = []
    for argument in arguments:
        found = static.number(evaluate(argument.value, scope), f"an argument of `{name.id}`", argument.span)
        if abs(found) >= BEYOND_F32:
            message = f"an argument of `{name.id}` must be below {BEYOND_F32:.4g}, got {found:.6g}"
            raise fail("E0206", message, argument.span)
        numbers.append(found)
    if (name.id == "normal" and numbers[0] < 0) or (name.id == "uniform" and numbers[0] > numbers[1]):
        what = "a deviation is not negative" if name.id == "normal" else "the lower bound stands first"
        raise fail("E0311", what, expr.span)
    return Init(name.id, tuple(float(n) for n in numbers))
