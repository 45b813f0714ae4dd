"""`check`: those that need only parameters are evaluated with the file, the others when their jobs are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, fields, is_dataclass, replace
from typing import TypeVar

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate, static_of, static_value
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import Session, listed
from compiler.evaluate.values import Skip, Static, show_static
from compiler.memory.tiers import EXAMPLES
from compiler.model import DECODING
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span
from dsl.units import (
    BYTES,
    FLOP,
    FLOP_PER_SECOND,
    NONE,
    SECONDS,
    UNITS,
    Dimension,
    Quantity,
    count_in,
    show_both,
    show_in,
)

RESULTS: dict[str, Dimension] = {
    "parameters": NONE,
    "parameters.total": NONE,
    "devices": NONE,
    "samples": NONE,
    "tokens": NONE,
    "flops": FLOP,
    "hardware_flops": FLOP,
    "memory.peak": BYTES,
    "memory.reserved": BYTES,
    "memory.needed": BYTES,
    "memory.total": BYTES,
    "memory.capacity": BYTES,
    **{f"{kind}_memory.{what}": BYTES for kind in EXAMPLES for what in ("peak", "capacity")},
    "program_memory.peak": BYTES,
    "program_memory.total": BYTES,
    "peak_flops": FLOP_PER_SECOND,
    "step_time": SECONDS,
    "update_time": SECONDS,
    "exposed": SECONDS,
    "tokens_per_second": NONE,
    "samples_per_second": NONE,
    "mfu": NONE,
    "hfu": NONE,
    "bubble": NONE,
    **{f"{entry}.step_time": SECONDS for entry in DECODING},
    **{f"{entry}.tokens_per_second": NONE for entry in DECODING},
    **{f"{entry}.memory.needed": BYTES for entry in DECODING},
}
"""What a check can ask of a job: of its program, of the memory of its devices, and what `parc cost` tells of a step.

`memory` is that of the software of the job's cluster: allocated at the peak, `reserved` for that, and `needed` with the
driver's, which has to fit; `program_memory` that of the program's own values. Without a cluster they are the same.
`host_memory` and the like are a device's part of other memories, in the server that needs most."""

FAMILIES: dict[str, Dimension] = {"memory": BYTES, "program_memory": BYTES, "exposed": SECONDS, "sent": BYTES}
"""Results of which a job has several: by role (`memory.optimizer`), or by axis (`exposed.tp`, `sent.dp`)."""

Ask = Callable[[str, str], int | float]
"""The result of a job, by the names of both, in base units. Raises ParcError where the job cannot tell."""

ValueOf = Callable[[ast.Expr], Static]

_T = TypeVar("_T")
_COMPARED = ("<", "<=", ">", ">=", "==", "!=")
_LITERALS = {BYTES: "B", SECONDS: "s", FLOP: "FLOP", FLOP_PER_SECOND: "FLOP/s"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check that was evaluated. text: as written; found: the same with values, `21.4 GiB <= 32 GB`."""

    text: str
    found: str
    holds: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Check:
    """`check pretrain.memory.peak <= 30 GiB`: speaks of `jobs`; its other names are `params`."""

    test: ast.Expr
    span: Span
    jobs: tuple[str, ...]
    params: tuple[tuple[str, Static], ...]
    module: Module = field(repr=False, compare=False)

    def require(self, ask: Ask, told: Callable[[CheckResult], None] | None = None) -> None:
        """Evaluate it with what `ask` tells, and tell what came out. Raises ParcError: E0217 where it does not hold."""
        seen: dict[str, Static] = {}

        def known(expr: ast.Attribute) -> ast.Expr:
            job, path = _path(expr)
            dimension = _dimension(path)
            assert dimension is not None, "checked before"
            try:
                value = ask(job.id, path)
            except ParcError as error:
                raise ParcError(*(replace(d, span=d.span or expr.span) for d in error.diagnostics)) from None
            seen[f"{job.id}.{path}"] = value if dimension == NONE else Quantity(value, dimension)
            unit = _LITERALS.get(dimension)
            return ast.Quantity(value, unit, span=expr.span) if unit else ast.Number(value, span=expr.span)

        try:
            test = _with_results(self.test, known) if self.jobs else self.test
            holds = static.boolean(static_value(test, self.module), "a check", self.test.span)
            shown: list[tuple[Quantity, str]] = []
            found = ""
            if told is not None or not holds:
                found = _evaluated(test, self.test, lambda e: static_value(e, self.module), shown)
        except Skip:
            raise ParcError(*self.module.session.diagnostics) from None
        if told is not None:
            text = self.module.source.text[self.test.span.start : self.test.span.end]
            told(CheckResult(" ".join(text.split()), found, holds, self.span))
        if not holds:
            notes = [(f"{name} = {_as_shown(v, shown)}", None) for name, v in (*seen.items(), *self.params)]
            raise fail("E0217", f"this check does not hold: {found}", self.test.span, notes=notes)


def _evaluated(expr: ast.Expr, written: ast.Expr, value_of: ValueOf, shown: list[tuple[Quantity, str]]) -> str:
    """The expression with the values of what it compares: only of what its value depends on.

    written: the same, before results stood in it; shown: gets the quantities, with how they are told.
    """
    if isinstance(expr, ast.Binary) and isinstance(written, ast.Binary) and expr.op in ("and", "or"):
        left = _evaluated(expr.left, written.left, value_of, shown)
        if value_of(expr.left) is (expr.op == "or"):
            return left
        return f"{left} {expr.op} {_evaluated(expr.right, written.right, value_of, shown)}"
    if isinstance(expr, ast.Unary) and isinstance(written, ast.Unary) and expr.op == "not":
        return f"not {_evaluated(expr.operand, written.operand, value_of, shown)}"
    if isinstance(expr, ast.Binary) and isinstance(written, ast.Binary) and expr.op in _COMPARED:
        units = [side.unit for side in (written.right, written.left) if isinstance(side, ast.Quantity)]
        values = value_of(expr.left), value_of(expr.right)
        left, right = _both(*values, units[0] if units else None)
        pairs = zip(values, (left, right), strict=True)
        shown += [(value, text) for value, text in pairs if isinstance(value, Quantity)]
        return f"{left} {expr.op} {right}"
    return _value(value_of(expr))


def _both(left: Static, right: Static, unit: str | None) -> tuple[str, str]:
    """Two sides that are compared: in one unit (the one that is written there, if one is), and told apart."""
    if isinstance(left, Quantity) and isinstance(right, Quantity) and left.dimension == right.dimension:
        return show_both(left, right, unit)
    digits, shown = 5, (_value(left), _value(right))
    while shown[0] == shown[1] and left != right and digits < 17:
        digits += 1
        shown = _value(left, digits), _value(right, digits)
    return shown


def _as_shown(value: Static, shown: Sequence[tuple[Quantity, str]]) -> str:
    """A value beside a message: as the message tells it, or in a unit that it uses if that is good to read."""
    if isinstance(value, Quantity):
        alike = [(other, text) for other, text in shown if other.dimension == value.dimension]
        for other, text in alike:
            if other.value == value.value:
                return text
        for _, text in alike:
            _, _, unit = text.partition(" ")
            if unit in UNITS and 1e-3 <= abs(count_in(value, unit)) < 1e6:
                return show_in(value, unit)
    return show_static(value)


def _value(value: Static, digits: int = 5) -> str:
    """As it would be written, floats rounded."""
    return f"{value:.{digits}g}" if isinstance(value, float) else show_static(value)


def _dimension(path: str) -> Dimension | None:
    """Of a result; None if there is no such."""
    family, _, one = path.partition(".")
    return RESULTS.get(path) or (FAMILIES.get(family) if one and "." not in one else None)


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
    """All checks. Those that speak of no job are evaluated: one that fails, or is no boolean, is an error."""
    kept = []
    jobs = [e.name for e in module.of_kind("job")]
    for check in module.checks:
        if session.diagnostics.full:
            break
        try:
            found = _check(check, module, jobs)
            if not found.jobs:
                found.require(_no_job)
        except (ParcError, Skip) as error:
            session.failed(error)
            continue
        kept.append(found)
    return tuple(kept)


def require_here(check: ast.Check, scope: Scope) -> None:
    """A `check` in a body: of what is known there. Raises ParcError: E0217 where it does not hold."""

    def value_of(expr: ast.Expr) -> Static:
        return static_of(evaluate(expr, scope), expr.span)

    if not static.boolean(value_of(check.test), "a check", check.test.span):
        shown: list[tuple[Quantity, str]] = []
        text = " ".join(scope.module.source.text[check.test.span.start : check.test.span.end].split())
        message = f"`{text}` does not hold: {_evaluated(check.test, check.test, value_of, shown)}"
        names = dict.fromkeys(n.id for n, _ in _names(check.test))
        values = {n: value_of(ast.Name(n, span=check.test.span)) for n in names}
        notes = [(f"{n} = {_as_shown(v, shown)}", None) for n, v in values.items()]
        raise fail("E0217", message, check.test.span, notes=notes)


def _no_job(job: str, name: str) -> int:
    raise AssertionError(f"a check that speaks of no job asks {job} for {name}")


def _check(check: ast.Check, module: Module, known: list[str]) -> Check:
    """known: the jobs of the file."""
    jobs: list[str] = []
    params: dict[str, Static] = {}
    names = _names(check.test)
    for base, attribute in names:
        if attribute:
            if base.id not in known:
                others = f"there {'is' if len(known) == 1 else 'are'} {listed(known)}" if known else "the file has none"
                message = f"there is no job `{base.id}`"
                raise fail("E0113", message, base.span, help=did_you_mean(base.id, known) or others)
            if _dimension(attribute) is None:
                raise no_result(attribute, RESULTS, check.test.span)
            jobs.append(base.id)
        else:
            known_value = module.param(base.id)
            if known_value is not None:
                params[base.id] = known_value
            elif any(a for _, a in names):
                message = f"there is no parameter `{base.id}`"
                raise fail("E0101", message, base.span, help=did_you_mean(base.id, module.param_names()))
    return Check(check.test, check.span, tuple(dict.fromkeys(jobs)), tuple(params.items()), module)


def no_result(name: str, known: Iterable[str], span: Span | None = None) -> ParcError:
    """E0101 for a result that a job does not have."""
    known = list(known)
    help = did_you_mean(name, known) or f"there are {listed(known, len(known))}"
    return fail("E0101", f"a job has no result `{name}`", span, help=help)


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


__all__ = ["FAMILIES", "RESULTS", "Ask", "Check", "CheckResult", "check_statics", "no_result", "require_here"]
