"""`check`: those that need only parameters are evaluated with the file, the others when their jobs are compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TypeVar

from compiler.evaluate import static
from compiler.evaluate.expressions import static_value
from compiler.evaluate.modules import Module
from compiler.evaluate.session import Session, listed
from compiler.evaluate.values import Skip, Static, show_static
from dsl import ast
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span
from dsl.units import BYTES, NONE, SECONDS, Dimension, Quantity

RESULTS: dict[str, Dimension] = {
    "memory.peak": BYTES,
    "step_time": SECONDS,
    "tokens_per_second": NONE,
    "samples_per_second": NONE,
    "mfu": NONE,
    "hfu": NONE,
    "bubble": NONE,
}
"""What a check can ask of a job: device memory of the fullest device, and what `parc cost` tells of a step."""

Ask = Callable[[str, str], int | float]
"""The result of a job, by the names of both, in base units. Raises ParcError where the job cannot tell."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """`check pretrain.memory.peak <= 30 GiB`: speaks of `jobs`; its other names are `params`."""

    test: ast.Expr
    span: Span
    jobs: tuple[str, ...]
    params: tuple[tuple[str, Static], ...]
    module: Module = field(repr=False, compare=False)

    def require(self, ask: Ask) -> None:
        """Evaluate it with what `ask` tells. Raises ParcError: E0217 where it does not hold."""
        seen: dict[str, Static] = {}

        def known(expr: ast.Attribute) -> ast.Expr:
            job, path = _path(expr)
            value, dimension = ask(job.id, path), RESULTS[path]
            seen[f"{job.id}.{path}"] = value if dimension == NONE else Quantity(value, dimension)
            unit = {BYTES: "B", SECONDS: "s"}.get(dimension)
            return ast.Quantity(value, unit, span=expr.span) if unit else ast.Number(value, span=expr.span)

        try:
            value = static_value(_with_results(self.test, known), self.module)
        except Skip:
            raise ParcError(*self.module.session.diagnostics) from None
        if not static.boolean(value, "a check", self.test.span):
            told = [(f"{name} = {show_static(v)}", None) for name, v in (*seen.items(), *self.params)]
            raise fail("E0217", "this check does not hold", self.test.span, notes=told)


def _path(expr: ast.Attribute) -> tuple[ast.Name, str]:
    """`fit`, `memory.peak` of `fit.memory.peak`."""
    names, base = [expr.name], expr.base
    while isinstance(base, ast.Attribute):
        names.append(base.name)
        base = base.base
    if not isinstance(base, ast.Name):
        raise fail("E0210", "only jobs have attributes", expr.span, help="`check pretrain.memory.peak <= 30 GiB`")
    return base, ".".join(reversed(names))


def _with_results(node: _T, known: Callable[[ast.Attribute], ast.Expr]) -> _T:
    """The expression with a literal in place of each attribute."""
    if isinstance(node, ast.Attribute):
        return known(node)  # type: ignore[return-value]
    if isinstance(node, tuple):
        return tuple(_with_results(part, known) for part in node)  # type: ignore[return-value]
    if isinstance(node, ast.Syntax) and is_dataclass(node):
        parts = {f.name: getattr(node, f.name) for f in fields(node)}
        changed = {n: new for n, part in parts.items() if (new := _with_results(part, known)) is not part}
        return replace(node, **changed)
    return node


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
    for base, attribute in _names(check.test):
        if attribute:
            if base.id not in known:
                others = f"there are {listed(known)}" if known else "the file has none"
                message = f"there is no job `{base.id}`"
                raise fail("E0113", message, base.span, help=did_you_mean(base.id, known) or others)
            if attribute not in RESULTS:
                message = f"a job has no result `{attribute}`"
                raise fail(
                    "E0101",
                    message,
                    check.test.span,
                    help=did_you_mean(attribute, RESULTS) or f"there are {listed(RESULTS)}",
                )
            jobs.append(base.id)
        else:
            known_value = module.param(base.id)
            if known_value is not None:
                params[base.id] = known_value
            elif jobs or any(a for _, a in _names(check.test)):
                message = f"there is no parameter `{base.id}`"
                raise fail("E0101", message, base.span, help=did_you_mean(base.id, module.param_names()))
    if jobs:
        return Check(check.test, check.span, tuple(dict.fromkeys(jobs)), tuple(params.items()), module)
    value = static_value(check.test, module)
    if not static.boolean(value, "a check", check.test.span):
        notes = [(f"{name} = {show_static(v)}", None) for name, v in params.items()]
        raise fail("E0217", "this check does not hold", check.test.span, notes=notes)
    return None


def _names(expr: ast.Expr) -> list[tuple[ast.Name, str]]:
    """All names of an expression (not of called functions), with what is asked of them, if they are jobs."""
    match expr:
        case ast.Name():
            return [(expr, "")]
        case ast.Attribute():
            return [_path(expr)]
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


__all__ = ["RESULTS", "Ask", "Check", "check_statics"]
