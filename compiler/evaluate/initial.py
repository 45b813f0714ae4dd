"""Initialisers: how weights and states begin."""

from __future__ import annotations

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.evaluate.values import Number
from compiler.graph import BEYOND_F32
from compiler.initial import STATED, wrong_init
from compiler.model import Init
from dsl import ast
from dsl.diagnostics import did_you_mean, fail


def initializer(expr: ast.Expr | None, scope: Scope) -> Init:
    """`normal(0.02)`, `zeros`; the default is `normal(0.02)`."""
    if expr is None:
        return Init("normal", (0.02,))
    name = expr.function if isinstance(expr, ast.Call) else expr
    if not isinstance(name, ast.Name) or name.id not in STATED:
        help = did_you_mean(name.id, STATED) if isinstance(name, ast.Name) else None
        raise fail("E0311", "this is no initialiser", expr.span, help=help or f"there are {listed(STATED)}")
    arguments = expr.arguments if isinstance(expr, ast.Call) else ()
    if any(a.name for a in arguments):
        raise fail("E0311", f"the numbers of `{name.id}` have no names", expr.span)
    numbers: list[Number] = []
    for argument in arguments:
        number = static.number(evaluate(argument.value, scope), f"an argument of `{name.id}`", argument.span)
        if abs(number) >= BEYOND_F32:
            message = f"an argument of `{name.id}` must be below {BEYOND_F32:.4g}, got {number:.6g}"
            raise fail("E0206", message, argument.span)
        numbers.append(number)
    found = Init(name.id, tuple(float(n) for n in numbers))
    problem = wrong_init(found)
    if problem is not None:
        raise fail("E0311", problem, expr.span)
    return found
