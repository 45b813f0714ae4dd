"""`store weights as FORMAT`: which format is meant."""

from __future__ import annotations

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.offloads import classes_of
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.weight_format import BITS, FORMATS, GROUP, WeightFormat
from dsl import ast
from dsl.diagnostics import did_you_mean, fail

MAX_GROUP = 2**20

_GROUPED = ("int4", "int3")
"""Formats in which groups of inputs share a scale, if nothing else is said."""


WEIGHTS, CACHES = "weights", "caches"
"""What can be stored so."""

OF_CACHES = ("int8",)
"""Formats of what is kept of positions, which have one scale for each of them (and head)."""


def stored_format(statement: ast.Store, scope: Scope) -> tuple[WeightFormat, str]:
    """The format of a statement, and what it stores. Raises ParcError: E0403 for what is not stored so, E0470 for a
    format that there is not, or that has no such numbers."""
    (what,) = classes_of((statement.what,), (WEIGHTS, CACHES))
    if what == WEIGHTS:
        return _weight_format(statement, scope), what
    call = statement.format
    if call.function.id not in OF_CACHES or call.arguments:
        span = call.arguments[0].span if call.function.id in OF_CACHES else call.function.span
        help = f"write `store caches as {OF_CACHES[0]}`: each position has a scale of its own"
        more = " with such numbers" if call.function.id in OF_CACHES else ""
        raise fail("E0470", f"caches cannot be stored as `{call.function.id}`{more}", span, help=help)
    return WeightFormat(call.function.id), what


def _weight_format(statement: ast.Store, scope: Scope) -> WeightFormat:
    call = statement.format
    code = call.function.id
    if code not in FORMATS:
        help = did_you_mean(code, FORMATS) or f"there are {listed(FORMATS)}"
        raise fail("E0470", f"weights cannot be stored as `{code}`", call.function.span, help=help)
    known = {"int8": ("group", "zeros"), "fp8": ("group",)}.get(code, ("group", "zeros") if code in BITS else ())
    group, zeros = GROUP if code in _GROUPED else 0, False
    for argument in call.arguments:
        name = argument.name.id if argument.name is not None else ""
        if name not in known:
            help = f"`{code}({known[0]} = {GROUP})`" if known else f"write `{code}`"
            said = f"has no `{name}`" if name else "takes its numbers by name"
            raise fail("E0470", f"`{code}` {said}", argument.span, help=help)
        value = evaluate(argument.value, scope)
        if name == "group":
            group = static.integer(value, "`group`", argument.span)
            if not 1 <= group <= MAX_GROUP:
                message = f"`group` says how many inputs share a scale: 1 to {MAX_GROUP}, not {group}"
                raise fail("E0470", message, argument.span, help=f"`group = {GROUP}` is usual")
        else:
            zeros = static.boolean(value, "`zeros`", argument.span)
    return WeightFormat(code, group, zeros)
