"""`check`: those that need only parameters are evaluated here, the others are kept for the cost model."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.evaluate import static
from compiler.evaluate.expressions import static_value
from compiler.evaluate.modules import Module
from compiler.evaluate.session import Session, listed
from compiler.evaluate.values import Skip, Static, show_static
from dsl import ast
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class Check:
    """`check pretrain.memory.peak <= 30 GiB`: speaks of `jobs`; its other names are `params`."""

    test: ast.Expr
    span: Span
    jobs: tuple[str, ...]
    params: tuple[tuple[str, Static], ...]


def check_statics(session: Session, module: Module) -> tuple[Check, ...]:
    """The checks that speak of jobs. The others are evaluated: one that fails, or is no boolean, is an error."""
    kept = []
    for check in module.checks:
        try:
            found = _check(check, module)
        except (ParcError, Skip) as error:
            session.failed(error)
            continue
        if found is not None:
            kept.append(found)
    return tuple(kept)


def _check(check: ast.Check, module: Module) -> Check | None:
    jobs: list[str] = []
    params: dict[str, Static] = {}
    known = [e.name for e in module.of_kind("job")]
    for base, has_attribute in _names(check.test):
        if has_attribute:
            if base.id not in known:
                others = f"there are {listed(known)}" if known else "the file has none"
                message = f"there is no job `{base.id}`"
                raise fail("E0113", message, base.span, help=did_you_mean(base.id, known) or others)
            jobs.append(base.id)
        else:
            known_value = module.param(base.id)
            if known_value is not None:
                params[base.id] = known_value
            elif jobs or any(a for _, a in _names(check.test)):
                message = f"there is no parameter `{base.id}`"
                raise fail("E0101", message, base.span, help=did_you_mean(base.id, module.param_names()))
    if jobs:
        return Check(check.test, check.span, tuple(dict.fromkeys(jobs)), tuple(params.items()))
    value = static_value(check.test, module)
    if not static.boolean(value, "a check", check.test.span):
        notes = [(f"{name} = {show_static(v)}", None) for name, v in params.items()]
        raise fail("E0217", "this check does not hold", check.test.span, notes=notes)
    return None


def _names(expr: ast.Expr) -> list[tuple[ast.Name, bool]]:
    """All names of an expression (not of called functions); True for those that have an attribute taken."""
    match expr:
        case ast.Name():
            return [(expr, False)]
        case ast.Attribute():
            base: ast.Expr = expr
            while isinstance(base, ast.Attribute):
                base = base.base
            return [(base, True)] if isinstance(base, ast.Name) else _names(base)
        case ast.Unary():
            return _names(expr.operand)
        case ast.Binary():
            return _names(expr.left) + _names(expr.right)
        case ast.Conditional():
            return _names(expr.then) + _names(expr.test) + _names(expr.other)
        case ast.ListExpr():
            return [n for i in expr.items for n in _names(i)]
        case ast.Call():
            return [n for a in expr.arguments for n in _names(a.value)]
    return []


__all__ = ["Check", "check_statics"]
